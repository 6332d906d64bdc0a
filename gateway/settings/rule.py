"""Risk rules as the settings say them."""

from __future__ import annotations

from typing import Self

import re2
from pydantic import Field, model_validator

from gateway.routing.risk import LabelRule, MissingRule, RangeRule, Rule, TextRule, ValueRule
from gateway.settings.part import Name, Part
from gateway.types import FieldValue

# What a rule looks at -> the keys that say what it looks for there.
_CONDITIONS = {"text": (), "field": ("above", "below", "values", "missing"), "head": ("labels",)}


class RuleSettings(Part):
    """A risk rule: a name and one condition, on the text, a field, or the student's labels."""

    name: Name
    text: str | None = Field(default=None, description="RE2 pattern, found anywhere in the text")
    field: str | None = None
    above: float | None = None
    below: float | None = None
    values: tuple[FieldValue, ...] | None = Field(
        default=None, min_length=1, description="of the field"
    )
    missing: bool = Field(default=False, description="the field is absent or null")
    head: str | None = None
    labels: tuple[str, ...] | None = Field(default=None, description="of the head")

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        self.rule()
        return self

    def rule(self) -> Rule:
        """The rule that this describes. Raises ValueError when it is not one condition."""
        subjects = [self.text is not None, self.field is not None, self.head is not None]
        if sum(subjects) != 1:
            raise ValueError("a rule looks at one of: text, field, head")
        subject = next(name for name in _CONDITIONS if getattr(self, name) is not None)
        if idle := self.model_fields_set - {"name", subject, *_CONDITIONS[subject]}:
            raise ValueError(f"a rule on a {subject} does not read {', '.join(sorted(idle))}")
        if self.text is not None:
            try:
                return TextRule(self.name, re2.compile(self.text))
            except re2.error as error:
                raise ValueError(f"not an RE2 pattern: {error}") from error
        if self.head is not None:
            if not self.labels:
                raise ValueError("a rule on a head names its labels")
            return LabelRule(self.name, self.head, frozenset(self.labels))
        return self._field_rule(str(self.field))

    def _field_rule(self, field: str) -> Rule:
        ranged = self.above is not None or self.below is not None
        if sum([ranged, self.values is not None, self.missing]) != 1:
            raise ValueError("a rule on a field needs one of: above/below, values, missing")
        if ranged:
            return RangeRule(self.name, field, self.above, self.below)
        if self.values is not None:
            return ValueRule(self.name, field, frozenset(self.values))
        return MissingRule(self.name, field)

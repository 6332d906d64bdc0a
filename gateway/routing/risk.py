"""Risk rules: what is never the student's to answer. Pure.

A rule looks at the text (RE2, linear in the text's length), at a field, or at what the student
said. Its name is what a client, a record and a metric see.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import re2

from gateway.types import FieldValue, Instance, Prediction


class Rule(Protocol):
    """A named condition on an instance and on what the student said of it, if it said anything."""

    @property
    def name(self) -> str:
        """What is reported when the rule holds."""

    def holds(self, instance: Instance, prediction: Prediction | None) -> bool:
        """Whether the request is risky by this rule."""


@dataclass(frozen=True, slots=True)
class TextRule:
    """Holds when the pattern is found in the text."""

    name: str
    pattern: re2._Regexp

    def holds(self, instance: Instance, prediction: Prediction | None) -> bool:  # noqa: ARG002
        """Search the whole text."""
        return self.pattern.search(instance.text) is not None


@dataclass(frozen=True, slots=True)
class RangeRule:
    """Holds when a field is a number above or below a bound; a value that is no number holds too.

    A missing field does not hold; use MissingRule for that.
    """

    name: str
    field: str
    above: float | None = None
    below: float | None = None

    def holds(self, instance: Instance, prediction: Prediction | None) -> bool:  # noqa: ARG002
        """Compare the field; what cannot be compared is treated as risky."""
        value = instance.fields.get(self.field)
        if value is None:
            return False
        if isinstance(value, bool | str) or math.isnan(value):
            return True
        return (self.above is not None and value > self.above) or (
            self.below is not None and value < self.below
        )


@dataclass(frozen=True, slots=True)
class ValueRule:
    """Holds when a field has one of these values."""

    name: str
    field: str
    values: frozenset[FieldValue]

    def holds(self, instance: Instance, prediction: Prediction | None) -> bool:  # noqa: ARG002
        """Look the field's value up."""
        return instance.fields.get(self.field) in self.values


@dataclass(frozen=True, slots=True)
class MissingRule:
    """Holds when a field is absent or null."""

    name: str
    field: str

    def holds(self, instance: Instance, prediction: Prediction | None) -> bool:  # noqa: ARG002
        """Look the field up."""
        return instance.fields.get(self.field) is None


@dataclass(frozen=True, slots=True)
class LabelRule:
    """Holds when the student says one of these labels for a head."""

    name: str
    head: str
    labels: frozenset[str]

    def holds(self, instance: Instance, prediction: Prediction | None) -> bool:  # noqa: ARG002
        """Look at the student's labels; no prediction, no hit."""
        return prediction is not None and any(
            head.head == self.head and not self.labels.isdisjoint(head.labels)
            for head in prediction.heads
        )


def first(rules: Iterable[Rule], instance: Instance, prediction: Prediction | None) -> Rule | None:
    """The first rule that holds."""
    return next((rule for rule in rules if rule.holds(instance, prediction)), None)

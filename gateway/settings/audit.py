"""Which confident answers the teacher is shown as well."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.settings.part import Part
from gateway.shadow.account import Audited

_Word = Annotated[str, Field(min_length=1, max_length=64)]
_Fields = Annotated[tuple[_Word, ...], Field(max_length=8)]
_Values = Annotated[tuple[_Word, ...], Field(max_length=64)]


class AuditSettings(Part):
    """The share of confident answers that also goes to the teacher, after the reply."""

    share: float = Field(default=0.02, ge=0.0, le=1.0, description="the same for all of them")
    targeted: float = Field(
        default=0.0, ge=0.0, le=1.0, description="more, most at a score of one half"
    )
    slices: _Fields | Annotated[dict[_Word, _Values], Field(max_length=8)] = Field(
        default=(),
        description="fields by whose value errors are shown; with a list of its values a field is "
        "in /metrics too, and no other value is told apart",
    )

    def audited(self) -> Audited:
        """As those who measure want it."""
        return Audited(
            any=self.share > 0.0 or self.targeted > 0.0,
            fields=self.slices if isinstance(self.slices, dict) else dict.fromkeys(self.slices, ()),
        )

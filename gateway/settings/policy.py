"""When the teacher is asked, and what happens when it cannot answer."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from gateway import document
from gateway.errors import SettingsError
from gateway.routing.unavailable import ByRisk, Instead, Unavailable
from gateway.settings.part import Part
from gateway.settings.rule import RuleSettings


def _not_the_student(chosen: Instead) -> Instead:
    if chosen is Instead.STUDENT:
        raise ValueError(
            "a request of high risk is never the student's to answer: name abstain or error"
        )
    return chosen


_NotStudent = Annotated[Instead, AfterValidator(_not_the_student)]


class SeveritySettings(Part):
    """What mistakes cost. Heads that `costs` does not name cost 1 for a mistake."""

    costs: dict[str, Path | dict[str, dict[str, float]]] = Field(
        default={}, description="head -> a CSV, or true label -> said label -> units of loss"
    )
    teacher: dict[str, dict[str, Annotated[float, Field(ge=0.0)]]] = Field(
        default={}, description="head -> true label -> the teacher's expected loss there"
    )
    usd_per_unit: Decimal = Field(gt=0, description="what one unit of loss costs")
    right_may_cost: bool = Field(default=False, description="a right answer may have a cost too")


class CriticalSettings(Part):
    """Labels that must not be missed."""

    labels: dict[str, tuple[str, ...]] = Field(min_length=1, description="head -> its labels")
    threshold: float | None = Field(
        default=None, ge=0.0, le=1.0, description="of their summed probability"
    )


class PolicySettings(Part):
    """When the teacher is asked, and what happens when it cannot answer."""

    rules: tuple[RuleSettings, ...] = ()
    on_unavailable: Instead = Instead.STUDENT
    on_unavailable_high_risk: _NotStudent = Instead.ABSTAIN
    on_exhausted: Instead = Field(
        default=Instead.STUDENT, description="the same where the budget is used up"
    )
    on_exhausted_high_risk: _NotStudent = Instead.ABSTAIN
    threshold: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="replaces the certified threshold; of a bundle's certificate only a higher one "
        "keeps it, and a policy's own certificate holds for the one that it was issued with",
    )
    severity: SeveritySettings | None = None
    critical: CriticalSettings | None = None
    certificate: Path | None = Field(
        default=None, description="of the whole policy; without the file everything is escalated"
    )
    out_of_domain: Annotated[float, Field(gt=0.0, lt=1.0)] | Literal["auto"] | None = Field(
        default="auto",
        description="share of ordinary texts that may be escalated as strange; null: off; "
        "auto: 0.01 where the bundle can tell",
    )

    def unavailable(self) -> Unavailable:
        """As the routing room wants it."""
        return Unavailable(
            failed=ByRisk(self.on_unavailable, self.on_unavailable_high_risk),
            exhausted=ByRisk(self.on_exhausted, self.on_exhausted_high_risk),
        )

    def anchored(self, folder: Path) -> Self:
        """The same with files that no longer depend on the current folder."""
        severity = self.severity and self.severity.model_copy(
            update={
                "costs": {
                    head: folder / costs if isinstance(costs, Path) else costs
                    for head, costs in self.severity.costs.items()
                }
            }
        )
        certificate = self.certificate and folder / self.certificate
        return self.model_copy(
            update={
                name: value
                for name, value in (("severity", severity), ("certificate", certificate))
                if value is not None
            }
        )


def read_policy(path: Path) -> PolicySettings:
    """Read a file that holds what may stand under a task's `policy`. Raises SettingsError."""
    policy = document.read(path, PolicySettings, SettingsError)
    return policy.anchored(path.parent.absolute())

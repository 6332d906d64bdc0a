"""How a candidate comes to serve: by which steps, with whose word, and what stands below it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Self

from pydantic import Field, model_validator

from gateway.routing.risk import Rule
from gateway.routing.severity import Critical
from gateway.settings.alarms import AlarmSettings
from gateway.settings.part import Part
from gateway.settings.rule import RuleSettings
from gateway.shadow.ladder import Ladder, Step
from gateway.shadow.streams import Stream, Terms

_DAY_S = 86_400.0  # seconds


class StepSettings(Part):
    """One step of a canary: its share, and what must have passed before the next one."""

    share: float = Field(gt=0.0, le=1.0, description="of all keys")
    minimum_s: float = Field(default=3600.0, ge=0.0, description="that it lasts at least")
    rows: int = Field(
        default=200, ge=0, description="texts that the canary answers in it at least, over replicas"
    )


# An hour shows what breaks at once; the last step, with all traffic, sees a whole day.
_STEPS = (
    StepSettings(share=0.01),
    StepSettings(share=0.05),
    StepSettings(share=0.25),
    StepSettings(share=1.0, minimum_s=_DAY_S),
)


class SafetyNetSettings(Part):
    """What the teacher sees of a new student's high-risk requests, whatever the student says."""

    share: float = Field(gt=0.0, le=1.0, description="of those requests")
    days: float = Field(gt=0.0, description="from the student's first request on")
    rules: tuple[RuleSettings, ...] = Field(
        default=(), description="which are of high risk here; none: all are"
    )

    def caught(self) -> tuple[Rule, ...]:
        """The rules as the routing room wants them."""
        return tuple(rule.rule() for rule in self.rules)

    def until(self, launched: float) -> float:
        """When it ends, where the student began at that time; both in seconds since the epoch."""
        return launched + self.days * _DAY_S


class CanaryAlarmSettings(Part):
    """What sends a canary back by itself: a share above its limit, now."""

    disagreement: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        default=0.1, description="with the teacher, in its audited answers; null: not watched"
    )
    failures: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        default=0.01, description="of the requests of a second that it fails on; null: not watched"
    )
    apart: float = Field(
        default=10_000.0, gt=1.0, description="rows between two false alarms, in the mean"
    )

    def terms(self, serving: AlarmSettings, critical: Critical | None) -> Terms:
        """When a canary goes back, under a policy with these critical labels.

        What it misses and how late it is, it may as often as the student that serves.
        """
        limits = {
            Stream.ERROR: self.disagreement,
            Stream.CRITICAL: serving.critical,
            Stream.FAILURES: self.failures,
            Stream.LATENCY: serving.latency,
        }
        return replace(
            serving.terms(critical),
            limits={stream: limit for stream, limit in limits.items() if limit is not None},
            apart=self.apart,
        )


class PromotionSettings(Part):
    """How a candidate comes to serve."""

    steps: Annotated[tuple[StepSettings, ...], Field(min_length=1, max_length=16)] = _STEPS
    key: str | None = Field(
        default=None, description="field whose value keeps to one student; null: the text does"
    )
    automatic: bool = Field(default=False, description="a candidate that is proved begins itself")
    second_person: bool = Field(default=False, description="another key must approve first")
    safety_net: SafetyNetSettings | None = None
    alarm: CanaryAlarmSettings = CanaryAlarmSettings()

    def ladder(self) -> Ladder:
        """The steps as those who take them want them."""
        return Ladder([Step(each.share, each.minimum_s, each.rows) for each in self.steps])

    @model_validator(mode="after")
    def _leads_upwards(self) -> Self:
        shares = [step.share for step in self.steps]
        if shares != sorted(set(shares)) or shares[-1] < 1.0:
            said = ", ".join(f"{share:g}" for share in shares)
            raise ValueError(
                f"promotion.steps {said}: let each share be above the one before, and the last 1"
            )
        return self

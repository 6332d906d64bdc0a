"""One task: who answers it, when, and for how much."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from gateway.contract.manifest import Head, HeadKind
from gateway.routing.budget import Limits
from gateway.settings.alarms import AlarmSettings, DriftSettings
from gateway.settings.audit import AuditSettings
from gateway.settings.money import BudgetSettings, PriceSettings
from gateway.settings.part import Name, Part
from gateway.settings.policy import PolicySettings
from gateway.settings.promotion import PromotionSettings
from gateway.settings.shadow import ShadowSettings
from gateway.settings.student import StudentSettings
from gateway.settings.teacher import TeacherSettings


class HeadSettings(Part):
    """One decision of the task."""

    kind: HeadKind = HeadKind.CHOICE
    labels: tuple[str, ...] = Field(min_length=1)


class TaskSettings(Part):
    """One task: its student, its teacher, its policy.

    `heads` says what it decides where no bundle does: before there is a student.
    """

    student: StudentSettings = StudentSettings()
    heads: dict[Name, HeadSettings] | None = Field(default=None, min_length=1)
    teacher: TeacherSettings
    policy: PolicySettings = PolicySettings()
    audit: AuditSettings = AuditSettings()
    shadow: ShadowSettings = ShadowSettings()
    alarms: AlarmSettings = AlarmSettings()
    drift: DriftSettings = DriftSettings()
    promotion: PromotionSettings = PromotionSettings()
    prices: PriceSettings = PriceSettings()
    budget: BudgetSettings = BudgetSettings()
    deadline_ms: float | None = Field(
        default=None, gt=0.0, description="of a request that names none"
    )

    @property
    def limits(self) -> Limits:
        """What its teacher may cost."""
        return self.budget.limits(self.prices)

    @model_validator(mode="after")
    def _heads_can_be_decided(self) -> Self:
        self.decides()
        return self

    def decides(self) -> tuple[Head, ...] | None:
        """The heads as the settings say them; None: a bundle does."""
        if self.heads is None:
            return None
        return tuple(
            Head(name=name, kind=head.kind, labels=head.labels) for name, head in self.heads.items()
        )

    @model_validator(mode="after")
    def _what_is_critical_is_said(self) -> Self:
        if self.shadow.gates.critical is not None and self.policy.critical is None:
            raise ValueError(
                "shadow.gates.critical counts missed labels of policy.critical, and there are "
                "none; name them there, or leave the gate out"
            )
        return self

    @model_validator(mode="after")
    def _what_is_not_priced_has_no_budget(self) -> Self:
        """An unknown price is not 0, so that no sum of it can be held against a limit."""
        key = self.budget.in_usd
        if key and self.budget.usd_per_call is None and self.prices.teacher_usd_per_1000 is None:
            raise ValueError(
                f"budget.{key} cannot be kept, as it is not known what a call of the teacher may "
                "cost; set prices.teacher_usd_per_1000 or budget.usd_per_call, or limit only "
                "budget.requests_per_second"
            )
        return self

    @model_validator(mode="after")
    def _a_reservation_outlives_its_call(self) -> Self:
        """One that expired while its call ran would be spent twice."""
        if self.budget.in_usd and self.budget.expiry_s <= self.teacher.timeout_s:
            raise ValueError(
                f"budget.expiry_s {self.budget.expiry_s:g} must be above teacher.timeout_s "
                f"{self.teacher.timeout_s:g}: what is reserved for a call is held until it ends"
            )
        return self

    def anchored(self, folder: Path) -> Self:
        """The same with paths that no longer depend on the current folder."""
        return self.model_copy(
            update={
                "student": self.student.anchored(folder),
                "teacher": self.teacher.anchored(folder),
                "policy": self.policy.anchored(folder),
            }
        )

"""The decision to escalate. Pure: no clock, no randomness, no I/O.

The first reason that holds is the decision's reason; all that hold are kept for the record. A risk
rule also beats a caller who asks for the student: what it names is never the student's to answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from gateway.routing.risk import Rule, first
from gateway.types import Decision, Instance, Prediction, Reason, Wish


@dataclass(frozen=True)
class EscalationPolicy:
    """When the teacher is asked.

    The student answers when its score is at or above `threshold`. None means that no threshold is
    certified: then everything is escalated.
    """

    threshold: float | None
    rules: tuple[Rule, ...] = ()

    def decide(
        self, instance: Instance, prediction: Prediction | None, wish: Wish = Wish.AUTO
    ) -> Decision:
        """Decide on one instance. `prediction` is None when the student failed."""
        rule = first(self.rules, instance, prediction) if self.rules else None
        if rule is None and wish is Wish.AUTO and self._trusts(prediction):
            return self._confident  # most requests end here
        gates = (
            (wish is Wish.TEACHER, Reason.REQUESTED),
            (prediction is not None and prediction.truncated, Reason.TRUNCATED),
            (prediction is None, Reason.STUDENT_FAILED),
            (rule is not None, Reason.HIGH_RISK),
        )
        hard = tuple(reason for holds, reason in gates if holds)
        unsure = () if prediction is None else self._doubts(prediction)
        if wish is Wish.STUDENT and not hard:
            return Decision(
                escalate=False,
                reason=Reason.REQUESTED,
                reasons=(Reason.REQUESTED, *unsure),
                threshold=self.threshold,
            )
        reasons = hard + unsure
        return Decision(
            escalate=True,
            reason=reasons[0],
            reasons=reasons,
            detail=rule.name if rule else "",
            threshold=self.threshold,
        )

    @cached_property
    def _confident(self) -> Decision:
        reason = Reason.CONFIDENT
        return Decision(escalate=False, reason=reason, reasons=(reason,), threshold=self.threshold)

    def _trusts(self, prediction: Prediction | None) -> bool:
        """Whether the student's own word is no reason to ask the teacher."""
        return prediction is not None and not prediction.truncated and not self._doubts(prediction)

    def _doubts(self, prediction: Prediction) -> tuple[Reason, ...]:
        if self.threshold is None:
            return (Reason.NO_CERTIFICATE,)
        # A score that is not a number is not at or above anything, so it escalates.
        return () if prediction.score >= self.threshold else (Reason.LOW_CONFIDENCE,)

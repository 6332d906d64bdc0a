"""What becomes of a request whose teacher gave no answer: decided here and nowhere else. Pure.

The student's answer never stands in for the teacher's where the risk is high, by a risk rule or by
what a mistake would cost: that is not the student's to answer, whatever has become of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import BudgetExhausted, Unanswered
from gateway.types import Decision, Prediction, Reason, Route

_RISKY = frozenset({Reason.HIGH_RISK, Reason.SEVERITY})


class Instead(StrEnum):
    """What happens in place of the teacher's answer."""

    STUDENT = "student"  # the student's answer stands, marked as a fallback
    ABSTAIN = "abstain"  # nobody answers, and the reply says so
    ERROR = "error"  # the request fails


@dataclass(frozen=True, slots=True)
class ByRisk:
    """What happens instead, where the risk is high and where it is not.

    Raises ValueError where the student is to answer at high risk.
    """

    ordinary: Instead = Instead.STUDENT
    high_risk: Instead = Instead.ABSTAIN

    def __post_init__(self) -> None:
        if self.high_risk is Instead.STUDENT:
            raise ValueError("a request of high risk is never the student's to answer")


@dataclass(frozen=True, slots=True)
class Unavailable:
    """What happens where the teacher fails, and where its budget is exhausted."""

    failed: ByRisk = ByRisk()
    exhausted: ByRisk = ByRisk()

    def instead(self, decision: Decision, failure: str) -> Instead:
        """By the code of the error that kept the teacher from answering."""
        told = self.exhausted if failure == BudgetExhausted.code else self.failed
        return told.ordinary if _RISKY.isdisjoint(decision.reasons) else told.high_risk

    def route(self, decision: Decision, student: Prediction | None, failure: str) -> Route:
        """Who answers: the student where it may and can, else nobody. Raises Unanswered."""
        instead = self.instead(decision, failure)
        if instead is Instead.ERROR:
            raise Unanswered(
                f"the request went to the teacher ({decision.reason}), which could not answer "
                f"({failure})",
                mend="send the request again later",
            )
        stands = instead is Instead.STUDENT and student is not None
        return Route.FALLBACK if stands else Route.ABSTAIN

"""What becomes of a request whose teacher gave no answer."""

from __future__ import annotations

import pytest

from gateway.errors import Unanswered
from gateway.routing.unavailable import ByRisk, Instead, Unavailable
from gateway.types import Decision, Prediction, Reason, Route

STUDENT = Prediction(heads=(), score=0.6, truncated=False, bundle="b")
DOWN, EXHAUSTED = "teacher_unavailable", "budget_exhausted"


def escalated(*reasons: Reason) -> Decision:
    return Decision(escalate=True, reason=reasons[0], reasons=reasons)


UNSURE = escalated(Reason.LOW_CONFIDENCE)
RISKY = escalated(Reason.HIGH_RISK, Reason.LOW_CONFIDENCE)
DEAR = escalated(Reason.SEVERITY)


def test_by_default_the_student_answers_what_is_not_risky() -> None:
    told = Unavailable()
    for failure in (DOWN, EXHAUSTED):
        assert told.route(UNSURE, STUDENT, failure) is Route.FALLBACK
        assert told.route(RISKY, STUDENT, failure) is Route.ABSTAIN
        assert told.route(DEAR, STUDENT, failure) is Route.ABSTAIN


def test_a_student_that_failed_too_cannot_stand_in() -> None:
    assert Unavailable().route(UNSURE, None, DOWN) is Route.ABSTAIN


def test_an_exhausted_budget_has_an_answer_of_its_own_for_each_class_of_risk() -> None:
    told = Unavailable(exhausted=ByRisk(Instead.ABSTAIN, Instead.ERROR))
    assert told.route(UNSURE, STUDENT, EXHAUSTED) is Route.ABSTAIN
    assert told.route(UNSURE, STUDENT, DOWN) is Route.FALLBACK
    assert told.route(RISKY, STUDENT, DOWN) is Route.ABSTAIN
    with pytest.raises(Unanswered, match=r"\(high_risk\), which could not answer \(budget_exh"):
        told.route(RISKY, STUDENT, EXHAUSTED)


def test_the_student_cannot_be_named_for_what_is_risky() -> None:
    with pytest.raises(ValueError, match="never the student's to answer"):
        ByRisk(high_risk=Instead.STUDENT)

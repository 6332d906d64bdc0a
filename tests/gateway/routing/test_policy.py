"""The decision to escalate, over every way in which its reasons can meet."""

from __future__ import annotations

import math
from itertools import product

import pytest
import re2

from gateway.routing.policy import EscalationPolicy
from gateway.routing.risk import Rule, TextRule
from gateway.types import Decision, Instance, Prediction, Reason, Wish

THRESHOLD = 0.8
RISKY = Instance("I will call my lawyer")
PLAIN = Instance("where is my parcel")
RULES: tuple[Rule, ...] = (
    TextRule("theft", re2.compile("stolen")),
    TextRule("legal", re2.compile("lawyer")),
    TextRule("also legal", re2.compile("call my")),
)


def said(score: float = 0.9, *, truncated: bool = False) -> Prediction:
    return Prediction(heads=(), score=score, truncated=truncated, bundle="b" * 64)


def decide(
    prediction: Prediction | None,
    *,
    instance: Instance = PLAIN,
    wish: Wish = Wish.AUTO,
    threshold: float | None = THRESHOLD,
) -> Decision:
    return EscalationPolicy(threshold=threshold, rules=RULES).decide(instance, prediction, wish)


def test_a_sure_answer_to_a_plain_request_is_the_students() -> None:
    assert decide(said()) == Decision(
        escalate=False, reason=Reason.CONFIDENT, reasons=(Reason.CONFIDENT,), threshold=THRESHOLD
    )


@pytest.mark.parametrize(
    ("score", "escalate"),
    [
        (1.0, False),
        (0.8, False),  # equal to the threshold is sure enough
        (math.nextafter(0.8, 0.0), True),
        (0.0, True),
        (math.nan, True),
    ],
)
def test_the_score_is_held_against_the_threshold(score: float, escalate: bool) -> None:  # noqa: FBT001
    decision = decide(said(score))
    assert decision.escalate is escalate
    assert decision.reason is (Reason.LOW_CONFIDENCE if escalate else Reason.CONFIDENT)


def test_a_threshold_of_zero_lets_the_student_answer_everything() -> None:
    assert not decide(said(0.0), threshold=0.0).escalate
    assert decide(said(math.nan), threshold=0.0).escalate


def test_without_a_certified_threshold_everything_is_escalated() -> None:
    decision = decide(said(1.0), threshold=None)
    assert decision.escalate
    assert decision.reasons == (Reason.NO_CERTIFICATE,)
    assert decision.threshold is None


@pytest.mark.parametrize(
    ("wish", "failed", "truncated", "risky", "unsure", "certified"),
    list(product(Wish, *[(False, True)] * 5)),
)
def test_every_meeting_of_reasons(
    wish: Wish,
    *,
    failed: bool,
    truncated: bool,
    risky: bool,
    unsure: bool,
    certified: bool,
) -> None:
    """The reasons in their fixed order; the caller's wish for the student beats only doubts."""
    decision = decide(
        None if failed else said(0.5 if unsure else 0.9, truncated=truncated),
        instance=RISKY if risky else PLAIN,
        wish=wish,
        threshold=THRESHOLD if certified else None,
    )
    hard = [
        reason
        for reason, holds in {
            Reason.REQUESTED: wish is Wish.TEACHER,
            Reason.TRUNCATED: truncated and not failed,
            Reason.STUDENT_FAILED: failed,
            Reason.HIGH_RISK: risky,
        }.items()
        if holds
    ]
    doubts = []
    if not failed and not certified:
        doubts = [Reason.NO_CERTIFICATE]
    elif not failed and unsure:
        doubts = [Reason.LOW_CONFIDENCE]
    if wish is Wish.STUDENT and not hard:
        expected = [Reason.REQUESTED, *doubts]
        assert not decision.escalate
    else:
        expected = [*hard, *doubts] or [Reason.CONFIDENT]
        assert decision.escalate is bool(hard or doubts)
    assert decision.reasons == tuple(expected)
    assert decision.reason is expected[0]
    asked_for_the_student = wish is Wish.STUDENT and not hard
    assert decision.detail == ("legal" if risky and not asked_for_the_student else "")


def test_the_first_rule_that_holds_is_named() -> None:
    assert decide(said(), instance=RISKY).detail == "legal"


def test_a_policy_without_rules_finds_nothing_risky() -> None:
    assert not EscalationPolicy(threshold=THRESHOLD).decide(RISKY, said()).escalate

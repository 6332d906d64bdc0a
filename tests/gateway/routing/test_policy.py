"""The decision to escalate, over every way in which its reasons can meet."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import re2

from gateway.contract.certificate import Fault
from gateway.contract.manifest import Head, HeadKind
from gateway.routing.policy import EscalationPolicy, Warrant
from gateway.routing.risk import Rule, TextRule
from gateway.routing.severity import Severity, costs_of, critical_of
from gateway.types import Decision, HeadPrediction, Instance, Prediction, Reason, Wish

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


def spoken(fraud: float, *, score: float = 0.9) -> Prediction:
    """Says refund; so probable is fraud."""
    chances = np.array([1.0 - fraud, fraud], np.float32)
    head = HeadPrediction("intent", ("refund",), 1.0 - fraud, chances)
    return Prediction(heads=(head,), score=score, truncated=False, bundle="b" * 64)


INTENT = Head(name="intent", kind=HeadKind.CHOICE, labels=("refund", "fraud"))
CRITICAL = critical_of((INTENT,), {"intent": ["fraud"]}, 0.25, where="here")
SEVERITY = Severity(
    (costs_of(INTENT, {"fraud": {"refund": 8.0}}, {}, where="here", right_may_cost=False),), bar=1.0
)
EVERYTHING = EscalationPolicy(
    threshold=THRESHOLD, rules=RULES, critical=CRITICAL, severity=SEVERITY
)


@pytest.mark.parametrize(
    ("fraud", "reasons", "detail"),
    [
        (0.5, (Reason.SEVERITY,), "critical"),  # the loss is 4 units as well
        (0.25, (Reason.SEVERITY,), "critical"),
        (0.1875, (Reason.SEVERITY,), "intent"),  # 1.5 units
        (0.125, (Reason.CONFIDENT,), ""),  # 1 unit, just the price
    ],
)
def test_critical_labels_come_before_expected_losses(
    fraud: float, reasons: tuple[Reason, ...], detail: str
) -> None:
    decision = EVERYTHING.decide(PLAIN, spoken(fraud))
    assert (decision.reasons, decision.detail) == (reasons, detail)
    assert decision.escalate is (Reason.SEVERITY in reasons)


def test_all_gates_that_hold_are_kept_in_their_order() -> None:
    decision = EVERYTHING.decide(RISKY, spoken(0.5, score=0.1))
    assert decision.reasons == (Reason.HIGH_RISK, Reason.SEVERITY, Reason.LOW_CONFIDENCE)
    assert decision.detail == "legal"


def test_a_caller_who_asks_for_the_student_gets_it_past_all_doubts() -> None:
    decision = EVERYTHING.decide(PLAIN, spoken(0.5, score=0.1), Wish.STUDENT)
    assert not decision.escalate
    assert decision.reasons == (Reason.REQUESTED, Reason.SEVERITY, Reason.LOW_CONFIDENCE)
    assert decision.detail == ""


@pytest.mark.parametrize(
    ("fraud", "score", "now"),
    list(product([0.0, 0.125, 0.1875, 0.25, math.nan], [0.5, 0.8, math.nan], [0.0, 99.0, 100.0])),
)
def test_the_decision_is_that_of_its_gates(fraud: float, score: float, now: float) -> None:
    """The confident are decided without looking gate by gate, and must not be decided otherwise."""
    policy = replace(EVERYTHING, warrant=Warrant(None, None, expires=100.0))
    prediction = spoken(fraud, score=score)
    held = [gate for gate in policy.gates(PLAIN, prediction, now=now) if gate.holds]
    decision = policy.decide(PLAIN, prediction, now=now)
    assert decision.escalate is bool(held)
    assert decision.reason is (held[0].reason if held else Reason.CONFIDENT)


@pytest.mark.parametrize(
    ("fault", "now", "detail"),
    [(Fault.OTHER_STUDENT, 0.0, "other student"), (None, 100.0, "expired"), (None, 99.0, "")],
)
def test_a_void_certificate_escalates_everything_and_is_named(
    fault: Fault | None, now: float, detail: str
) -> None:
    policy = EscalationPolicy(threshold=0.8, warrant=Warrant(None, fault, expires=100.0))
    decision = policy.decide(PLAIN, said(1.0), now=now)
    assert decision.escalate is bool(detail)
    assert decision.detail == detail
    assert decision.reason is (Reason.NO_CERTIFICATE if detail else Reason.CONFIDENT)


def test_while_traffic_drifts_each_answer_has_to_keep_the_promise_alone() -> None:
    """A promise of 2 %: an answer needs a score of 0.98, though 0.8 was enough in the mean."""
    policy = EscalationPolicy(threshold=THRESHOLD, rules=RULES, promise=0.02)
    strict = policy.strict
    assert (strict.threshold, strict.rules, strict.promise) == (0.98, RULES, 0.02)
    assert not strict.decide(PLAIN, said(0.98)).escalate
    doubted = strict.decide(PLAIN, said(math.nextafter(0.98, 0.0)))
    assert (doubted.reason, doubted.threshold) == (Reason.LOW_CONFIDENCE, 0.98)
    assert replace(policy, threshold=0.99).strict.threshold == 0.99  # never below its own
    for nothing in (replace(policy, promise=None), replace(policy, threshold=None)):
        assert nothing.strict is nothing

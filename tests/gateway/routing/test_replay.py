"""A policy on traffic that has passed: the same decisions as when it was served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import re2

from gateway.contract.certificate import Fault
from gateway.contract.labelled import Labelled
from gateway.contract.manifest import Head, HeadKind
from gateway.contract.measures import binomial_cdf
from gateway.routing import replay, severity
from gateway.routing.policy import EscalationPolicy, Warrant
from gateway.routing.replay import Rows, Step, Targets
from gateway.routing.risk import TextRule
from gateway.routing.severity import Severity
from gateway.types import HeadPrediction, Instance, Prediction, Reason

INTENT = Head(name="intent", kind=HeadKind.CHOICE, labels=("refund", "fraud"))
CRITICAL = severity.critical_of((INTENT,), {"intent": ["fraud"]}, 0.25, where="here")
COSTS = severity.costs_of(INTENT, {"fraud": {"refund": 8}}, {}, where="here", right_may_cost=False)
POLICY = EscalationPolicy(
    threshold=0.75,
    rules=(TextRule("court", re2.compile("court")),),
    critical=CRITICAL,
    severity=Severity((COSTS,), bar=2.8),
)


def said(fraud: float, *, truncated: bool = False) -> Prediction:
    label = "fraud" if fraud > 0.5 else "refund"
    chances = np.array([1 - fraud, fraud], np.float32)
    head = HeadPrediction("intent", (label,), float(chances.max()), chances)
    return Prediction((head,), float(chances.max()), truncated, "b" * 64)


def row(truth: str | None, text: str = "a") -> Labelled:
    return Labelled(text, {}, None if truth is None else {"intent": (truth,)})


ROWS = [
    row("refund"),
    row("fraud"),
    row("refund", "a court"),
    row("fraud"),
    row(None),
    row("fraud"),
]
SAID = [said(0.0), said(0.125), said(0.0), said(0.375), said(0.0), said(0.125, truncated=True)]


def test_each_row_is_looked_at_as_the_policy_does() -> None:
    """The third is barred by its rule, the fourth by its loss: 3/8 * 8 units; the last is cut."""
    seen = replay.replay(POLICY, ROWS, SAID)
    assert seen.barred.tolist() == [False, False, True, True, False, True]
    assert seen.score.tolist() == [1.0, 0.875, 1.0, 0.625, 1.0, 0.875]
    assert seen.mass.tolist() == [0.0, 0.125, 0.0, 0.375, 0.0, 0.125]
    assert seen.labelled.tolist() == [True, True, True, True, False, True]
    assert seen.wrong.tolist() == [False, True, False, True, False, True]
    assert seen.concerned.tolist() == [False, True, False, True, False, True]
    assert seen.missed.tolist() == [False, True, False, True, False, True]
    assert seen.loss.tolist() == [0.0, 8.0, 0.0, 8.0, 0.0, 8.0]


@pytest.mark.parametrize("threshold", [0.0, 0.7, 0.875, 0.9])
@pytest.mark.parametrize("limit", [0.125, 0.2, 1.0])
def test_any_pair_of_thresholds_gives_the_policys_own_decisions(
    threshold: float, limit: float
) -> None:
    tried = replace(POLICY, threshold=threshold, critical=replace(CRITICAL, threshold=limit))
    answered = replay.replay(POLICY, ROWS, SAID).answered(Step(threshold, limit), critical=True)
    assert answered.tolist() == [
        not tried.decide(Instance(each.text), prediction).escalate
        for each, prediction in zip(ROWS, SAID, strict=True)
    ]


def test_an_outcome_counts_what_the_policy_did() -> None:
    found = replay.outcome(POLICY, ROWS, SAID, delta=0.05, now=0.0)
    assert (found.rows, found.escalated, found.labelled, found.undetected) == (6, 3, 5, 1)
    assert found.reasons == {Reason.HIGH_RISK: 1, Reason.SEVERITY: 1, Reason.TRUNCATED: 1}
    strictest, loosest = found.frontier[0], found.frontier[-1]
    assert strictest.escalation == pytest.approx(4 / 6)
    assert strictest.undetected == 0.0
    assert (loosest.escalation, loosest.undetected) == (0.5, 0.2)


def test_other_limits_of_familiarity_are_tried_beside_all_other_gates() -> None:
    """The fourth row, strange or not, goes for its loss; the second is wrong and half strange."""
    known = [0.5, 0.01, 0.5, 0.001, None, 0.5]
    seen = [replace(each, familiarity=p) for each, p in zip(SAID, known, strict=True)]
    tried = replace(POLICY, min_familiarity=0.1)
    found = replay.outcome(tried, ROWS, seen, delta=0.05, now=0.0)
    bars = {bar.least: bar for bar in found.bars}
    # Not known is strange at any limit; 0.01 is not below 0.01.
    assert [bars[p].strange * 6 for p in (0.001, 0.01, 0.02)] == pytest.approx([1, 2, 3])
    # Three are escalated by others, and the one whose familiarity is not known.
    assert [bars[p].escalation * 6 for p in (0.001, 0.01, 0.02)] == pytest.approx([4, 4, 5])
    assert [bars[p].undetected for p in (0.01, 0.02)] == [0.2, 0.0]
    assert found.escalated == bars[0.1].escalation * 6
    assert replay.outcome(POLICY, ROWS, SAID, delta=0.05, now=0.0).bars == ()


def test_rows_that_were_labelled_by_their_escalation_give_no_share_of_errors() -> None:
    chosen = [replace(ROWS[0], chosen=True), *ROWS[1:]]
    found = replay.outcome(POLICY, chosen, SAID, delta=0.05, now=0.0)
    assert (found.chosen, found.bound, found.undetected) == (True, None, 1)
    assert {point.undetected for point in found.frontier} == {None}
    assert replay.outcome(POLICY, ROWS, SAID, delta=0.05, now=0.0).bound is not None


def test_under_a_void_certificate_an_outcome_is_that_everything_is_escalated() -> None:
    void = replace(POLICY, warrant=Warrant(None, Fault.MISSING))
    assert replay.outcome(void, ROWS, SAID, delta=0.05, now=0.0).escalated == 6


def rows(*, wrong: int, right: int, critical: int = 0) -> Rows:
    """Sure rows: some wrong, some right; the last `critical` ones of the right are critical."""
    total = wrong + right
    nothing, none = np.zeros(total), np.zeros(total, bool)
    mistakes = np.arange(total) < wrong
    concerned = np.arange(total) >= total - critical
    return Rows(
        none, np.full(total, 0.9), nothing, ~none, mistakes, concerned, none, mistakes.astype(float)
    )


@pytest.mark.parametrize("wrong", range(6))
def test_a_policy_is_proven_where_the_binomial_tail_is_within_delta(wrong: int) -> None:
    found = replay.prove(
        rows(wrong=wrong, right=200 - wrong), [Step(0.5)], Targets(alpha=0.02, delta=0.25)
    )
    assert (found is not None) is (binomial_cdf(wrong, 200, 0.02) <= 0.25)
    if found is not None:
        assert (found.rows, found.undetected, found.escalation) == (200, wrong, 0.0)


def test_no_rows_prove_nothing() -> None:
    assert replay.prove(rows(wrong=0, right=0), [Step(0.5)], Targets(0.1, 0.05)) is None


def test_a_claim_on_critical_rows_needs_critical_rows() -> None:
    targets = Targets(alpha=0.1, delta=0.05, critical=0.1)
    assert replay.prove(rows(wrong=0, right=99), [Step(0.5)], targets) is None
    assert replay.prove(rows(wrong=0, right=99, critical=28), [Step(0.5)], targets) is None
    found = replay.prove(rows(wrong=0, right=99, critical=29), [Step(0.5)], targets)
    assert found is not None  # 0.9 ** 29 is 0.047
    assert found.critical is not None
    assert (found.critical.rows, found.critical.missed) == (29, 0)


def test_a_claim_on_losses_is_in_units_of_the_costs() -> None:
    targets = Targets(alpha=0.9, delta=0.05, severity=0.5, largest=4.0)
    found = replay.prove(rows(wrong=4, right=396), [Step(0.5)], targets)
    assert found is not None
    assert found.severity is not None
    assert found.severity.mean == pytest.approx(0.01)
    assert 0.01 < found.severity.upper_bound <= 0.5
    strict = replace(targets, severity=0.005)
    assert replay.prove(rows(wrong=4, right=396), [Step(0.5)], strict) is None


def test_a_claim_on_losses_does_not_hang_on_the_order_of_the_rows() -> None:
    """2,000 rows that lose 0.02 on average, all of it at the end: no bound is below that."""
    seen = rows(wrong=40, right=1960)
    last = seen.part(np.arange(len(seen))[::-1])
    barely = Targets(alpha=0.9, delta=0.05, severity=0.021)
    assert replay.prove(last, [Step(0.5)], barely) is None
    found = replay.prove(last, [Step(0.5)], replace(barely, severity=0.05))
    assert found is not None
    assert found.severity is not None
    assert found.severity.mean == pytest.approx(0.02)
    assert found.severity.mean < found.severity.upper_bound < 0.05


@pytest.mark.parametrize("wrong", [0, 4, 40])
def test_a_bound_is_never_below_what_was_measured(wrong: int) -> None:
    for right in range(200, 210):
        seen = rows(wrong=wrong, right=right)
        found = replay.prove(seen, [Step(0.5)], Targets(0.9, 0.4, severity=0.9))
        assert found is not None
        assert found.severity is not None
        assert found.severity.upper_bound >= found.severity.mean


def test_no_mean_loss_below_the_measured_one_is_proven_however_lucky_the_order_was() -> None:
    """4 of 204 rows lose 1: by the capital alone, 0.0108 would be a bound at this level."""
    targets = Targets(0.9, 0.4, severity=0.018)
    assert replay.prove(rows(wrong=4, right=200), [Step(0.5)], targets) is None


def test_thresholds_that_are_given_stay_and_others_loosen_together() -> None:
    seen = rows(wrong=0, right=50)
    spread = replace(seen, score=np.linspace(0, 1, 50), mass=np.linspace(0, 1, 50))
    both = replay.steps(spread, threshold=None, critical=None)
    assert len(both) == 50
    assert both[-1] == Step(0.0, 1.0)
    assert [step.threshold for step in both] == sorted((s.threshold for s in both), reverse=True)
    assert [step.critical for step in both] == sorted(step.critical for step in both)
    assert {step.critical for step in replay.steps(spread, threshold=None, critical=0.3)} == {0.3}
    assert {step.threshold for step in replay.steps(spread, threshold=0.7, critical=None)} == {0.7}
    assert replay.steps(spread, threshold=0.7, critical=0.3) == (Step(0.7, 0.3),)


def test_a_fifth_of_the_rows_makes_the_sequence_and_the_rest_tests_it() -> None:
    seen = replace(rows(wrong=0, right=50), score=np.arange(50.0))
    first, rest = replay.parted(seen)
    assert (len(first), len(rest)) == (10, 40)
    assert sorted([*first.score, *rest.score]) == list(range(50))

"""What a compared request says at each gate, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.shadow.pairing import Labels, Measure, Sight, seen
from gateway.shadow.promotion import Pair
from gateway.types import Comparison, Lapse, Source
from tests.gateway.telemetry.answers import escalated, prediction

MEASURE = Measure(slow_s=0.05, critical={"intent": frozenset({"fraud"})})


def said(intent: str) -> Labels:
    return {"intent": frozenset({intent})}


# The candidate and the serving student keep the request, and both say what the teacher says.
ALIKE = Sight(
    labels=said("refund"),
    escalates=False,
    seconds=0.01,
    serving=said("refund"),
    serving_escalates=False,
    serving_seconds=0.01,
    teacher=said("refund"),
    second=None,
    by_chance=True,
    wished=False,
)
PAIR = Pair(
    differs=False,
    serving_differs=False,
    escalates=False,
    serving_escalates=False,
    slow=False,
    serving_slow=False,
)


@pytest.mark.parametrize(
    ("sight", "pair"),
    [
        (ALIKE, PAIR),
        # Another label counts where it would be served, and not where the teacher would be asked.
        (replace(ALIKE, labels=said("login")), replace(PAIR, differs=True)),
        (replace(ALIKE, labels=said("login"), escalates=True), replace(PAIR, escalates=True)),
        (
            replace(ALIKE, serving=said("login"), serving_escalates=True),
            replace(PAIR, serving_escalates=True),
        ),
        (replace(ALIKE, serving=said("login")), replace(PAIR, serving_differs=True)),
        # A teacher that contradicts itself counts on the rows that the candidate keeps.
        (replace(ALIKE, second=said("login")), replace(PAIR, teacher_differs=True)),
        (replace(ALIKE, second=said("refund")), replace(PAIR, teacher_differs=False)),
        (
            replace(ALIKE, second=said("login"), escalates=True),
            replace(PAIR, teacher_differs=False, escalates=True),
        ),
        # What is not there by chance says nothing of labels.
        (
            replace(ALIKE, labels=said("login"), by_chance=False),
            replace(PAIR, differs=None, serving_differs=None),
        ),
        (replace(ALIKE, teacher=None), replace(PAIR, differs=None, serving_differs=None)),
        # A candidate that failed would escalate, and was slow.
        (
            replace(ALIKE, labels=None, escalates=True, seconds=None),
            replace(PAIR, escalates=True, slow=True),
        ),
        (replace(ALIKE, seconds=0.06, serving_seconds=0.05), replace(PAIR, slow=True)),
        # Critical: kept and missed, kept and found, left to the teacher.
        (
            replace(ALIKE, teacher=said("fraud")),
            replace(PAIR, differs=True, serving_differs=True, missed=True),
        ),
        (
            replace(ALIKE, teacher=said("fraud"), labels=said("fraud"), serving=said("fraud")),
            replace(PAIR, missed=False),
        ),
        (
            replace(ALIKE, teacher=said("fraud"), serving=said("fraud"), escalates=True),
            replace(PAIR, escalates=True, missed=False),
        ),
        (replace(ALIKE, wished=True), Pair()),  # the caller chose
    ],
)
def test_what_counts_is_what_would_be_served(sight: Sight, pair: Pair) -> None:
    assert MEASURE.pair(sight) == pair


def test_a_comparison_is_seen_as_it_is() -> None:
    teacher = prediction("login")
    answer = escalated(1, student=prediction(), teacher=teacher)
    comparison = Comparison(
        answer=answer, candidate="tickets-1", prediction=None, escalates=True, propensity=0.1,
        lapse=Lapse.HUNG, teacher=teacher, source=Source.ESCALATED, by_chance=True,
        serving_escalates=True,
    )  # fmt: skip
    sight = seen(comparison)
    assert sight.labels is None
    assert sight.teacher == {"intent": frozenset({"login"}), "risk": frozenset()}
    assert (sight.serving_escalates, sight.by_chance, sight.wished) == (True, True, False)
    # What counts is not whether it was escalated but whether its policy says so.
    assert seen(replace(comparison, serving_escalates=False)).serving_escalates is False

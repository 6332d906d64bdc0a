"""The course of the evidence, told again from what was stored, and the page that shows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gateway.shadow.course import courses, footing_of
from gateway.shadow.page import Trialled, page
from gateway.shadow.pairing import Labels, Measure, Sight
from gateway.shadow.promotion import Footing, Gate, Standing, Terms, Trial
from gateway.shadow.slices import Slices
from gateway.store.comparisons import Disagreement
from tests.gateway.shadow.test_slices import ONE

SAID: Labels = {"intent": frozenset({"refund"})}
TERMS = Terms(limits={Gate.DISAGREEMENT: 0.05, Gate.NOISE: 0.01, Gate.ESCALATION: 0.02})
MEASURE = Measure(slow_s=0.05)


def rows() -> Iterable[tuple[float, Sight]]:
    """Three hundred requests, a second apart, on which all agree."""
    for number in range(300):
        yield 1000.0 + number, Sight(
            labels=SAID, escalates=False, seconds=0.01, serving=SAID, serving_escalates=False,
            serving_seconds=0.01, teacher=SAID, second=None, by_chance=True, wished=False,
        )  # fmt: skip


def test_the_course_ends_where_the_trial_itself_does() -> None:
    found = courses(rows, terms=TERMS, measure=MEASURE)
    trial = Trial(TERMS, began=1000.0)
    for _, sight in rows():
        trial.add(MEASURE.pair(sight))
    last = {each.gate: each for each in trial.verdict().findings}
    assert {gate: points[-1].finding for gate, points in found.items()} == last
    points = found[Gate.DISAGREEMENT]
    assert [point.rows for point in points] == list(range(3, 301, 3))  # at most 120 points
    assert points[0].at == 1002.0
    uppers = [point.finding.upper for point in points]
    assert uppers == sorted(uppers, reverse=True)  # without a disagreement the bound only falls
    assert last[Gate.DISAGREEMENT].standing is Standing.PASSED


def test_the_course_is_that_of_the_footing_that_held_last() -> None:
    def moved() -> Iterable[tuple[float, Sight]]:
        for number, (at, sight) in enumerate(rows()):
            yield at, replace(sight, policy="p", serves="s" if number < 100 else "t")

    found = courses(moved, terms=TERMS, measure=MEASURE)
    pairs = {gate: points[-1].finding.pairs for gate, points in found.items()}
    assert pairs == {Gate.DISAGREEMENT: 300, Gate.NOISE: 0, Gate.ESCALATION: 200}


def test_a_course_is_judged_by_the_alpha_that_the_candidate_may_spend() -> None:
    """Of 20 rivals each has a twentieth of it, so that its bounds are wider."""
    found = courses(rows, terms=TERMS, measure=MEASURE, rivals=20)
    last = found[Gate.DISAGREEMENT][-1].finding
    trial = Trial(TERMS, began=1000.0)
    for _, sight in rows():
        trial.add(MEASURE.pair(sight))
    (alone, *_), (among, *_) = (trial.verdict(rivals=each).findings for each in (1, 20))
    assert last.upper == among.upper > alone.upper


def test_the_footing_of_rows_is_that_of_the_last_also_where_a_canary_answered_it() -> None:
    seen = [
        (at, replace(sight, policy="p", serves="s", serving_policy="q")) for at, sight in rows()
    ]
    canary = replace(seen[0][1], serving_policy=None)
    where = Footing("p", "s", "q", MEASURE.slow_s)
    assert footing_of([*seen, (2000.0, canary)], MEASURE) == (301, where)
    other = replace(canary, policy="another")
    assert footing_of([*seen, (2000.0, other)], MEASURE) == (301, replace(where, policy="another"))
    assert footing_of([(1.0, canary)], MEASURE) == (1, replace(where, serving_policy=""))


def test_of_nothing_there_is_no_course() -> None:
    found = courses(list, terms=TERMS, measure=MEASURE)
    assert set(found.values().__iter__().__next__()) == set()


def test_the_page_stands_alone_and_shows_texts_as_texts() -> None:
    slices = Slices()
    slices.add(ONE)
    worst = Disagreement(
        "1", 1_700_000_000.0, {"intent": ["login"]}, 0.9, {"intent": ["refund"]}, None,
        "<script>alert(1)</script>", None,
    )  # fmt: skip
    kept_nowhere = Disagreement("2", 1.0, {"intent": ["login"]}, 0.8, None, None, None, None)
    shown = page(
        "tickets <b>",
        [
            Trialled(
                "tickets-1",
                0.0125,
                courses(rows, terms=TERMS, measure=MEASURE),
                slices,
                (worst, kept_nowhere),
            )
        ],
    )
    assert shown.count("<svg") == 2  # of noise no row is known
    assert '<span class="passed">passed</span>' in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "<script" not in shown
    assert "tickets &lt;b&gt;" in shown
    assert "not kept" in shown
    assert "may spend 0.0125 of alpha" in shown
    assert "100.00%" in shown  # of one request, one differs from who serves
    assert "http" not in shown

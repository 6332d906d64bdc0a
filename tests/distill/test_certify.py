"""Temperatures and certified thresholds, against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from distill.certify import (
    Candidates,
    all_right,
    candidates,
    certify,
    fit_temperatures,
    plug_in,
    right,
    rowwise,
)
from gateway.contract.calibration import Calibration, HeadReading
from gateway.contract.manifest import Head, HeadCalibration, HeadKind, OperatingPoint, Task

CHOICE = Head(name="intent", kind=HeadKind.CHOICE, labels=("a", "b"))
FLAGS = Head(name="flags", kind=HeadKind.FLAGS, labels=("x", "y"))
TASK = Task(name="t", heads=(CHOICE, FLAGS))
EVERYTHING = Candidates((0.0,))


def issue(
    sequence: Candidates,
    scores: NDArray[np.float32],
    wrong: NDArray[np.bool_],
    *,
    alpha: float = 0.02,
    delta: float = 0.05,
) -> OperatingPoint:
    return certify(
        sequence, scores, wrong, alpha=alpha, delta=delta, labels="gold", issued_at="today"
    )


def scores_of(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_the_temperature_of_a_choice_makes_its_confidence_its_accuracy() -> None:
    # Every row says 4 : 0 for `a`, and three of four are right: sigmoid(4 / t) = 3/4.
    task = Task(name="t", heads=(CHOICE,))
    logits = np.tile(np.array([4.0, 0.0], np.float32), (40, 1))
    (part,) = fit_temperatures(task, logits, [np.array([0, 0, 0, 1] * 10)])
    assert part.temperature == pytest.approx(4 / math.log(3), rel=1e-3)
    assert (part.head, part.rows) == ("intent", 40)
    assert part.ece_before == pytest.approx(1 / (1 + math.exp(-4)) - 0.75, abs=0.05)
    assert part.ece_after is not None
    assert part.ece_before is not None
    assert part.ece_after < part.ece_before


def test_the_temperature_of_flags_makes_each_flag_as_sure_as_it_is_right() -> None:
    task = Task(name="t", heads=(FLAGS,))
    logits = np.tile(np.array([-6.0, 6.0], np.float32), (40, 1))
    gold = np.tile(np.array([0.0, 1.0], np.float32), (40, 1))
    gold[:10] = 1.0 - gold[:10]  # both flags are wrong on a quarter of the rows
    (part,) = fit_temperatures(task, logits, [gold])
    assert part.temperature == pytest.approx(6 / math.log(3), rel=1e-3)


def test_each_head_has_its_own_temperature_on_its_own_logits() -> None:
    logits = np.tile(np.array([4.0, 0.0, -6.0, 6.0], np.float32), (40, 1))
    flags = np.tile(np.array([0.0, 1.0], np.float32), (40, 1))
    flags[::4] = 1.0 - flags[::4]
    parts = fit_temperatures(TASK, logits, [np.array([0, 0, 0, 1] * 10), flags])
    assert [part.head for part in parts] == ["intent", "flags"]
    assert [part.temperature for part in parts] == pytest.approx(
        [4 / math.log(3), 6 / math.log(3)], rel=1e-3
    )


def test_a_head_that_is_never_wrong_ends_at_the_coldest_temperature() -> None:
    task = Task(name="t", heads=(CHOICE,))
    logits = np.tile(np.array([1.0, 0.0], np.float32), (10, 1))
    (part,) = fit_temperatures(task, logits, [np.zeros(10, np.int64)])
    assert 0.05 <= part.temperature <= 0.051


def test_a_head_that_is_always_wrong_ends_at_the_hottest_temperature() -> None:
    task = Task(name="t", heads=(CHOICE,))
    logits = np.tile(np.array([1000.0, 0.0], np.float32), (10, 1))
    (part,) = fit_temperatures(task, logits, [np.ones(10, np.int64)])
    assert 19.9 <= part.temperature <= 20.0


def test_a_row_is_right_when_every_head_and_every_flag_is() -> None:
    neutral = [HeadCalibration(head=head.name, temperature=1.0, rows=0) for head in TASK.heads]
    logits = np.array([[1, 0, 1, -1], [1, 0, 1, -1], [1, 0, 1, -1]], np.float32)
    readings, _ = Calibration(TASK, neutral).read(logits)
    gold = (np.array([0, 1, 0]), np.array([[1, 0], [1, 0], [1, 1]], np.float32))
    assert right(readings[0], gold[0]).tolist() == [True, False, True]
    assert right(readings[1], gold[1]).tolist() == [True, True, False]
    assert all_right(readings, gold).tolist() == [True, False, False]


def test_no_flag_on_is_right_where_none_is_gold() -> None:
    reading = HeadReading(
        np.zeros((2, 2), bool), np.zeros((2, 2), np.float32), np.ones(2, np.float32)
    )
    gold = np.array([[0, 0], [0, 1]], np.float32)
    assert right(reading, gold).tolist() == [True, False]
    assert rowwise(np.array([True, False])).tolist() == [True, False]


def test_the_sequence_covers_two_percent_more_at_each_step_and_ends_with_everything() -> None:
    scores = (np.arange(1, 1001) / 1000).astype(np.float32)
    sequence = candidates(scores).thresholds
    assert len(sequence) == 50
    assert list(sequence) == sorted(sequence, reverse=True)
    covered = [float((scores >= threshold).mean()) for threshold in sequence]
    assert covered == pytest.approx([step / 50 for step in range(1, 51)], abs=0.0011)
    assert sequence[-1] == 0.0


def test_the_last_certified_threshold_is_kept() -> None:
    # 149 rows without an error are the fewest that certify 2 % at 95 %.
    scores = scores_of(*[0.9] * 149)
    point = issue(Candidates((0.95, 0.9, 0.0)), scores, np.zeros(149, bool))
    assert point.threshold == 0.0
    assert (point.name, point.coverage, point.undetected_error) == ("default", 1.0, 0.0)
    assert point.certificate is not None
    assert point.certificate.upper_bound == pytest.approx(1 - 0.05 ** (1 / 149))
    assert (point.certificate.rows, point.certificate.undetected_errors) == (149, 0)
    assert (point.certificate.alpha, point.certificate.delta) == (0.02, 0.05)
    assert (point.certificate.labels, point.certificate.issued_at) == ("gold", "today")


def test_one_row_too_few_certifies_nothing() -> None:
    point = issue(EVERYTHING, scores_of(*[0.9] * 148), np.zeros(148, bool))
    assert point == OperatingPoint(
        name="default", threshold=None, coverage=0.0, undetected_error=0.0, certificate=None
    )


def test_errors_below_the_threshold_are_not_undetected() -> None:
    scores = scores_of(*[0.75] * 200, *[0.25] * 100)
    wrong = np.arange(300) >= 200
    point = issue(Candidates((0.75, 0.25, 0.0)), scores, wrong)
    assert point.threshold == 0.75
    assert point.coverage == pytest.approx(2 / 3)
    assert point.undetected_error == 0.0


def test_the_errors_that_stay_are_counted_and_bounded() -> None:
    scores = scores_of(*[0.9] * 500)
    wrong = np.arange(500) < 3
    point = issue(EVERYTHING, scores, wrong)
    # P(X <= 3; 500, 0.02) = 0.0101 <= 0.05, while 6 errors give 0.1294.
    assert point.undetected_error == pytest.approx(0.006)
    assert point.certificate is not None
    assert 0.006 < point.certificate.upper_bound < 0.02
    assert issue(EVERYTHING, scores, np.arange(500) < 6).threshold is None


def test_the_walk_ends_at_the_first_that_fails() -> None:
    """A later one may look better by luck; testing on would break the guarantee."""
    scores = scores_of(*[0.75] * 500)
    wrong = np.arange(500) < 40
    assert issue(Candidates((0.75, 0.875)), scores, wrong).threshold is None
    assert issue(Candidates((0.875, 0.75, 0.9375)), scores, wrong).threshold == 0.875


def test_all_wrong_certifies_only_to_answer_nothing() -> None:
    scores = scores_of(*np.linspace(0, 1, 500))
    point = issue(candidates(scores), scores, np.ones(500, bool))
    assert point.threshold is None or point.coverage <= 0.02


def test_no_rows_certify_nothing() -> None:
    assert issue(EVERYTHING, scores_of(), np.zeros(0, bool)).threshold is None


def test_a_score_that_is_not_a_number_is_never_accepted() -> None:
    scores = scores_of(*[0.9] * 200, math.nan)
    point = issue(EVERYTHING, scores, np.arange(201) == 200)
    assert point.threshold == 0.0
    assert point.coverage == pytest.approx(200 / 201)


def test_scores_are_compared_as_serving_compares_them() -> None:
    """A float32 of 0.9 lies below the double 0.9, and a served score is a double."""
    scores = scores_of(*[0.9] * 500)
    assert not float(scores[0]) >= 0.9
    point = issue(Candidates((0.9,)), scores, np.zeros(500, bool))
    assert point.coverage == 0.0


def test_a_stricter_delta_or_alpha_never_covers_more() -> None:
    draw = np.random.default_rng(3)
    scores = draw.random(1000).astype(np.float32)
    wrong = draw.random(1000) > scores**0.2
    sequence = candidates(draw.random(500).astype(np.float32))
    covers = [
        issue(sequence, scores, wrong, alpha=alpha, delta=delta).coverage
        for alpha, delta in [(0.01, 0.05), (0.02, 0.05), (0.04, 0.05), (0.04, 0.2)]
    ]
    assert covers == sorted(covers)
    assert covers[0] < covers[-1]


def test_the_plug_in_threshold_takes_all_it_can_of_the_sample() -> None:
    scores = scores_of(0.9, 0.8, 0.7, 0.6)
    wrong = np.array([False, True, False, True])
    assert plug_in(scores, wrong, 0.25) == pytest.approx(0.7)
    assert plug_in(scores, wrong, 0.24) == pytest.approx(0.9)
    assert plug_in(scores, wrong, 0.5) == pytest.approx(0.6)
    assert plug_in(scores[1:2], wrong[1:2], 0.5) is None
    assert plug_in(scores_of(), np.zeros(0, bool), 0.5) is None


def test_the_plug_in_threshold_takes_equal_scores_together() -> None:
    scores = scores_of(0.9, 0.5, 0.5, 0.5)
    wrong = np.array([False, False, True, True])
    # At 0.5 all four rows are accepted and two are wrong, in whatever order they stand.
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert plug_in(scores[order], wrong[order], 0.3) == pytest.approx(0.9)
        assert plug_in(scores[order], wrong[order], 0.5) == pytest.approx(0.5)

"""The yardstick against scikit-learn, SciPy, and figures worked out by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import f1_score

from gateway.contract import measures

SCORE = np.array([0.9, 0.8, 0.7, 0.6])
WRONG = np.array([False, True, False, True])

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_macro_f1_of_a_choice_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    said, true = zip(*pairs, strict=True)
    theirs = f1_score(true, said, average="macro")
    assert measures.macro_f1(said, true, 5) == pytest.approx(theirs)


@given(st.integers(0, 1_000), st.integers(1, 30))
def test_macro_f1_of_flags_is_that_of_scikit_learn_over_the_labels_that_occur(
    seed: int, rows: int
) -> None:
    draw = np.random.default_rng(seed)
    said, true = draw.random((2, rows, 4)) < [0.0, 0.2, 0.5, 0.9]
    present = (said | true).any(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        each = f1_score(true, said, average=None, zero_division=0.0)
    expected = each[present].mean() if present.any() else 0.0
    assert measures.macro_f1(said, true, 4) == pytest.approx(expected)


def test_macro_f1_by_hand() -> None:
    # Label 0: tp 1, fp 1, fn 0 -> 2/3. Label 1: tp 1, fp 0, fn 1 -> 2/3. Label 2 is nowhere.
    assert measures.macro_f1([0, 0, 1], [0, 1, 1], 3) == pytest.approx(2 / 3)
    assert measures.macro_f1([0, 0], [1, 1], 2) == 0.0  # all wrong
    assert measures.macro_f1([], [], 3) == 0.0


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.9, 0.6, 0.5, 0.8])
    right = np.array([True, False, True, True])
    # Two bins of two: (0.5, 0.6) says 0.55 and is 0.5; (0.8, 0.9) says 0.85 and is 1.
    assert measures.calibration_error(confidence, right, bins=2) == pytest.approx(0.10)
    # As many bins as rows: 0.1, 0.6, 0.5, 0.2.
    assert measures.calibration_error(confidence, right) == pytest.approx(1.4 / 4)
    assert measures.calibration_error(np.array([]), np.array([], bool)) == 0.0


def test_a_perfectly_calibrated_bin_has_no_error() -> None:
    confidence = np.full(8, 0.75)
    right = np.array([True, True, True, False] * 2)
    assert measures.calibration_error(confidence, right, bins=1) == pytest.approx(0.0)


def test_the_risk_coverage_curve_by_hand() -> None:
    coverage, undetected = measures.risk_coverage(SCORE[::-1], WRONG[::-1])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert undetected.tolist() == [0.0, 0.25, 0.25, 0.5]
    assert measures.augrc(SCORE, WRONG) == pytest.approx(0.25)
    assert measures.augrc(np.array([]), np.array([], bool)) == 0.0


def test_a_curve_of_a_useless_score_is_worse() -> None:
    assert measures.augrc(-SCORE, WRONG) == pytest.approx((0.25 + 0.25 + 0.5 + 0.5) / 4)


def test_the_least_sure_rows_go_to_the_teacher() -> None:
    student, teacher = ~WRONG, np.ones(4, bool)
    shares = [0.0, 0.24, 0.25, 0.75, 1.0]
    found = [measures.system_accuracy(SCORE, student, teacher, share) for share in shares]
    assert found == [0.5, 0.5, 0.75, 1.0, 1.0]


def test_a_share_of_rows_is_not_lost_to_rounding() -> None:
    # 0.29 * 100 is 28.999999999999996 in doubles, and 29 rows are meant.
    score = np.arange(100) / 100
    taught = measures.system_accuracy(score, np.zeros(100, bool), np.ones(100, bool), 0.29)
    assert taught == pytest.approx(0.29)


@given(counts, st.floats(0.0, 1.0, allow_subnormal=False))
def test_the_binomial_tail_is_that_of_scipy(pair: tuple[int, int], probability: float) -> None:
    successes, trials = pair
    theirs = stats.binom.cdf(successes, trials, probability)
    assert measures.binomial_cdf(successes, trials, probability) == pytest.approx(theirs, abs=1e-10)


@pytest.mark.parametrize(
    ("successes", "trials", "probability", "expected"),
    [
        (0, 5, 0.5, 1 / 32),
        (1, 5, 0.5, 6 / 32),
        (5, 5, 0.5, 1.0),
        (0, 5, 0.0, 1.0),
        (4, 5, 1.0, 0.0),
        (5, 5, 1.0, 1.0),
        (-1, 5, 0.5, 0.0),
        (-1, 5, 0.0, 0.0),
        (0, 0, 0.5, 1.0),
        (0, 148, 0.02, 0.98**148),
        (0, 1_000_000, 0.5, 0.0),  # far below the smallest double
    ],
)
def test_the_binomial_tail_at_its_edges(
    successes: int, trials: int, probability: float, expected: float
) -> None:
    assert measures.binomial_cdf(successes, trials, probability) == pytest.approx(expected)


@settings(max_examples=50)
@given(counts, st.sampled_from([0.01, 0.05, 0.2]))
def test_the_upper_bound_is_that_of_clopper_and_pearson(
    pair: tuple[int, int], delta: float
) -> None:
    successes, trials = pair
    theirs = (
        1.0 if successes == trials else stats.beta.ppf(1 - delta, successes + 1, trials - successes)
    )
    assert measures.upper_bound(successes, trials, delta) == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=50)
@given(counts)
def test_the_interval_is_that_of_clopper_and_pearson(pair: tuple[int, int]) -> None:
    successes, trials = pair
    exact = stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert measures.interval(successes, trials) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_bounds_by_hand() -> None:
    # No error in n rows: the bound p solves (1 - p)^n = delta. 149 rows certify 2 % at 5 %.
    assert measures.upper_bound(0, 149, 0.05) == pytest.approx(1 - 0.05 ** (1 / 149))
    assert measures.upper_bound(0, 149, 0.05) < 0.02 < measures.upper_bound(0, 148, 0.05)
    assert measures.upper_bound(3, 3, 0.05) == 1.0
    assert measures.upper_bound(0, 0, 0.05) == 1.0
    assert measures.interval(0, 0) == (0.0, 1.0)


@given(counts, st.floats(0.001, 0.999))
def test_the_bound_and_the_tail_give_the_same_verdict(pair: tuple[int, int], alpha: float) -> None:
    """Testing "above alpha" by the tail and comparing the bound with alpha is one decision."""
    successes, trials = pair
    bound = measures.upper_bound(successes, trials, 0.05)
    if abs(bound - alpha) > 1e-9 and successes < trials:
        passes = measures.binomial_cdf(successes, trials, alpha) <= 0.05
        assert passes == (bound < alpha)


@given(st.integers(0, 10_000))
def test_the_undetected_error_never_falls_as_more_is_answered(seed: int) -> None:
    draw = np.random.default_rng(seed)
    wrong: NDArray[np.bool_] = draw.random(50) < 0.3
    coverage, undetected = measures.risk_coverage(draw.random(50), wrong)
    assert (np.diff(undetected) >= 0).all()
    assert undetected[-1] == pytest.approx(wrong.mean())
    assert coverage[-1] == 1.0


def test_losses_of_nothing_are_bounded_by_bets_that_always_win() -> None:
    """The stake is sqrt(2 ln 20 / (n v)), v the variance so far, begun at 1/4; at most 1."""
    losses = np.zeros(100)
    mean = 0.05
    stake_on_the_first = math.sqrt(2 * math.log(20) / (100 * 0.25))
    first = measures.betting_p_value(losses[:1], mean)
    assert first == pytest.approx(1 / (1 + min(1.0, stake_on_the_first * 10) * mean))
    assert measures.betting_p_value(losses, mean) <= 0.05
    assert measures.betting_p_value(losses, 0.01) > 0.05


def test_losses_above_the_mean_prove_nothing() -> None:
    assert measures.betting_p_value(np.full(100, 0.5), 0.4) == 1.0
    assert measures.betting_p_value(np.ones(3), 0.0) == 1.0
    assert measures.betting_p_value(np.zeros(0), 0.5) == 1.0
    assert measures.betting_bound(np.zeros(0), 0.05) == 1.0


def test_the_bound_of_losses_is_where_their_p_value_is_delta() -> None:
    losses = np.tile([0.0, 0.0, 0.25, 0.0], 100)
    bound = measures.betting_bound(losses, 0.05)
    assert 0.0625 < bound < 0.11  # the mean is 1/16
    assert measures.betting_p_value(losses, bound + 1e-6) <= 0.05
    assert measures.betting_p_value(losses, bound - 1e-6) > 0.05

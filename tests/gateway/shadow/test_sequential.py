"""Bounds by betting: their edges by hand, and that they hold whenever one looks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from gateway.contract import measures
from gateway.shadow.sequential import Bounds, ConfidenceSequence, bounds

DELTA = 0.05
REPEATS = 500
# More broken repeats than this come about once in a thousand simulations of a bound that is right.
ALLOWED = int(stats.binom.ppf(0.999, REPEATS, DELTA))  # 41


Arrays = NDArray[np.float64]
World = Callable[[np.random.Generator], tuple[Arrays, Arrays]]


def seen(*values: float, times: int = 1) -> ConfidenceSequence:
    sequence = ConfidenceSequence()
    for value in values:
        sequence.add(value, times=times)
    return sequence


def test_nothing_seen_bounds_nothing() -> None:
    assert ConfidenceSequence().bounds(DELTA) == Bounds(0.0, 1.0)
    assert ConfidenceSequence().mean is None
    assert bounds([], DELTA) == []


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_an_observation_out_of_its_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        ConfidenceSequence().add(value)


def test_the_bounds_are_where_the_capital_is_twentyfold() -> None:
    found = seen(0.0, times=200).bounds(DELTA)
    # Nothing but zeros: bet a has (1 - a m)^-200, and the mixture weighs the bets by 1/2, 1/3, ...
    bets = 0.99 * 0.6 ** np.arange(14)
    weights = 1 / np.arange(2.0, 16.0)
    capital = (weights / weights.sum() * (1 - bets * found.upper) ** -200.0).sum()
    assert capital == pytest.approx(20.0, rel=1e-6)
    assert found.lower == 0.0


def test_zeros_and_ones_mirror_each_other() -> None:
    low, high = seen(0.0, 0.0, 1.0, times=40), seen(1.0, 1.0, 0.0, times=40)
    below, above = bounds([low, high], DELTA)
    assert below.lower == pytest.approx(1 - above.upper, abs=1e-9)
    assert below.upper == pytest.approx(1 - above.lower, abs=1e-9)
    assert below.lower < 1 / 3 < below.upper
    assert low.mean == pytest.approx(1 / 3)


def test_many_at_once_are_as_one_after_the_other() -> None:
    together, apart = seen(0.25, times=30), seen(*[0.25] * 30)
    assert together.bounds(DELTA) == pytest.approx(apart.bounds(DELTA))


def test_more_observations_bring_the_bounds_together_and_a_smaller_delta_apart() -> None:
    few, many = seen(0.0, 1.0, times=20), seen(0.0, 1.0, times=2000)
    near, far = bounds([many, few], DELTA)
    assert far.lower < near.lower < 0.5 < near.upper < far.upper
    assert many.bounds(0.001).upper > near.upper


def test_looking_at_all_times_costs_less_than_a_fifth_over_looking_once() -> None:
    # 64 errors in 400,000 rows. For one look they are bounded by half of the 95 % quantile of the
    # chi-square distribution with 2 (64 + 1) degrees of freedom: 78.8.
    once = measures.upper_bound(64, 400_000, DELTA) * 400_000
    sequence = seen(1.0, times=64)
    sequence.add(0.0, times=399_936)
    always = sequence.bounds(DELTA).upper * 400_000
    assert once == pytest.approx(stats.chi2.ppf(0.95, 130) / 2, rel=1e-3)
    assert once < always < 1.2 * once


def broken(observed: Arrays, means: Arrays) -> tuple[bool, bool]:
    """Whether the lower and the upper bound are ever wrong, looking after every observation."""
    average = np.cumsum(means) / np.arange(1, len(means) + 1)
    moments = []
    sequence = ConfidenceSequence()
    for value in observed:
        sequence.add(float(value))
        copy = ConfidenceSequence()
        copy.count, copy.total = sequence.count, sequence.total
        copy.falls, copy.rises = sequence.falls.copy(), sequence.rises.copy()
        moments.append(copy)
    found = np.array(bounds(moments, DELTA))
    return bool((found[:, 0] > average).any()), bool((found[:, 1] < average).any())


def rare(draw: np.random.Generator) -> tuple[Arrays, Arrays]:
    means = np.full(400, 0.03)
    return (draw.random(400) < means).astype(float), means


def even(draw: np.random.Generator) -> tuple[Arrays, Arrays]:
    means = np.full(200, 0.5)
    return (draw.random(200) < means).astype(float), means


def bounded(draw: np.random.Generator) -> tuple[Arrays, Arrays]:
    return draw.beta(0.4, 1.6, 200), np.full(200, 0.2)


def drifting(draw: np.random.Generator) -> tuple[Arrays, Arrays]:
    """Good for long, then bad, and good again."""
    means = np.repeat([0.01, 0.3, 0.02], [150, 100, 150])
    return (draw.random(400) < means).astype(float), means


@pytest.mark.simulation
@pytest.mark.no_cover
@pytest.mark.parametrize(
    "world",
    [
        pytest.param(rare, marks=pytest.mark.soak),
        even,
        pytest.param(bounded, marks=pytest.mark.soak),
        pytest.param(drifting, marks=pytest.mark.soak),
    ],
)
def test_each_bound_holds_at_all_times_together(world: World) -> None:
    draw = np.random.default_rng(20)
    outcomes = [broken(*world(draw)) for _ in range(REPEATS)]
    lower, upper = np.sum(outcomes, axis=0)
    assert lower <= ALLOWED
    assert upper <= ALLOWED


@pytest.mark.simulation
@pytest.mark.no_cover
def test_a_bound_for_one_look_does_not_hold_at_all_times() -> None:
    """What the bets are for: the exact fixed bound (Clopper and Pearson) is broken by looking."""
    draw, wrong = np.random.default_rng(20), 0
    counts = np.arange(1, 4001)
    for _ in range(REPEATS):
        errors = np.cumsum(draw.random(4000) < 0.03)
        wrong += bool((stats.beta.ppf(1 - DELTA, errors + 1, counts - errors) < 0.03).any())
    assert wrong > 2 * ALLOWED

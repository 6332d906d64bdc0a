"""Bounds by coins of changing probability: their edges by hand, and a spy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from gateway.shadow.sequential import Bounds
from gateway.shadow.weighted import Looked, bounds

DELTA = 0.05
REPEATS = 500
# More broken repeats than this come about once in a thousand simulations of a bound that is right.
ALLOWED = int(stats.binom.ppf(0.999, REPEATS, DELTA))  # 41
BETS = 0.99 * 0.6 ** np.arange(24)
WEIGHTS = 1 / np.arange(2.0, 26.0) / (1 / np.arange(2.0, 26.0)).sum()


def found(rows: int, *, first: float, least: float, **wrong: int) -> Bounds:
    """The bounds after so many rows; `wrong` by the share, as in at_0_5=3."""
    seen = Counter(
        {float(name.removeprefix("at_").replace("_", ".")): each for name, each in wrong.items()}
    )
    (only,) = bounds([Looked(rows, seen, first, least)], DELTA)
    return only


def test_nothing_seen_bounds_nothing() -> None:
    assert bounds([], DELTA) == []
    assert bounds([Looked()], DELTA) == [Bounds(0.0, 1.0)]


def test_the_upper_bound_is_where_the_bets_that_may_be_made_have_twentyfold() -> None:
    upper = found(500, first=1.0, least=0.5, at_0_5=2, at_1_0=1).upper
    bets, weights = BETS[2:], WEIGHTS[2:]  # 0.99 and 0.594 are more than a row of 0.5 may lose
    gains = (1 - bets / 0.5) ** 2 * (1 - bets) * (1 - bets * upper) ** -500.0
    assert (weights * gains).sum() == pytest.approx(20.0, rel=1e-6)


def test_the_lower_bound_needs_no_bet_to_be_given_up() -> None:
    lower = found(500, first=1.0, least=0.5, at_0_5=20, at_1_0=10).lower
    odds = BETS / (1 - BETS)
    gains = (1 + odds / 0.5) ** 20 * (1 + odds) ** 10 * (1 + odds * lower) ** -500.0
    assert (WEIGHTS * gains).sum() == pytest.approx(20.0, rel=1e-6)


def test_the_bounds_lie_around_the_weighted_mean() -> None:
    mixed = found(10_000, first=0.1, least=0.02, at_0_1=30, at_0_02=4)
    mean = (30 / 0.1 + 4 / 0.02) / 10_000
    assert 0.4 * mean < mixed.lower < mean < mixed.upper < 2.5 * mean
    assert mean == Looked(10_000, Counter({0.1: 30, 0.02: 4})).total / 10_000


def test_all_wrong_is_bounded_from_below_alone() -> None:
    everything = found(300, first=1.0, least=1.0, at_1_0=300)
    assert everything.upper == 1.0
    assert 0.95 < everything.lower < 1.0


@pytest.mark.no_cover  # a loop that tracing would double
def test_the_bounds_hold_though_somebody_who_sees_all_figures_moves_the_share() -> None:
    """The share falls to a tenth while the figures flatter, and rises again when they do not.

    Errors get more frequent meanwhile, from 2 % to 6 %. The bounds are held against the average of
    the rows so far, at 24 looks in each of 500 lives.
    """
    draw = np.random.default_rng(7)
    looks, block = 24, 250
    errors = np.linspace(0.02, 0.06, looks)
    rows = np.arange(1, looks + 1) * block
    true = np.cumsum(errors * block) / rows
    high, low = 0.2, 0.02
    shares = np.full(REPEATS, high)
    seen = {high: np.zeros(REPEATS, int), low: np.zeros(REPEATS, int)}
    least = np.full(REPEATS, high)
    broken = np.zeros((2, REPEATS), bool)
    for look in range(looks):
        least = np.minimum(least, shares)
        for share in seen:
            fell = draw.binomial(block, errors[look] * share, REPEATS)
            seen[share] += np.where(shares == share, fell, 0)
        told = [
            Looked(int(rows[look]), +Counter({high: int(a), low: int(b)}), high, float(c))
            for a, b, c in zip(seen[high], seen[low], least, strict=True)
        ]
        both = np.array(bounds(told, DELTA))
        broken |= np.array([both[:, 0] > true[look], both[:, 1] < true[look]])
        flatters = np.array([each.total for each in told]) < true[look] * rows[look]
        shares = np.where(flatters, low, high)
    assert (least == low).mean() > 0.9  # nearly all of them saw it lowered
    assert broken[0].sum() <= ALLOWED
    assert broken[1].sum() <= ALLOWED
    # It is a bound of use: not far above the error, and never one that says nothing.
    assert np.median(both[:, 1]) < 4 * true[-1]

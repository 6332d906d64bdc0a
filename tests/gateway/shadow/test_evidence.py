"""Evidence by betting: its numbers by hand, its edges, and that it is kept as it was."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gateway.errors import DataError
from gateway.shadow.evidence import Evidence, Kind, above, below

DELTA = 0.05
BETS = (np.arange(20) + 0.5) / 20
WEIGHTS = BETS**2 * (1 - BETS) / (BETS**2 * (1 - BETS)).sum()


def rate(ones: int, zeros: int) -> Evidence:
    evidence = Evidence(Kind.RATE)
    evidence.add(1.0, times=ones)
    evidence.add(0.0, times=zeros)
    return evidence


def difference(minus: int, zero: int, plus: int) -> Evidence:
    evidence = Evidence(Kind.DIFFERENCE)
    for value, times in ((-1.0, minus), (0.0, zero), (1.0, plus)):
        evidence.add(value, times=times)
    return evidence


def test_of_a_rate_it_is_the_mixture_of_the_exact_ratios_of_likelihoods() -> None:
    # The alternative of bet a has 1 - a times the odds of 2 %, which are 1 to 49.
    odds = (1 - BETS) / 49
    rates = odds / (1 + odds)
    ratios = (rates / 0.02) ** 3 * ((1 - rates) / 0.98) ** 397
    assert rate(3, 397).below(0.02) == pytest.approx(math.log(WEIGHTS @ ratios))


def test_of_a_difference_each_row_multiplies_the_capital_by_a_fair_factor() -> None:
    # In units of [0, 1] the values -1, 0, 1 are 0, 1/2, 1 and the limit 1 % is 0.505.
    factors = [(1 - BETS * y) / (1 - BETS * 0.505) for y in (0.0, 0.5, 1.0)]
    capital = factors[0] ** 9 * factors[1] ** 200 * factors[2] ** 4
    assert difference(9, 200, 4).below(0.01) == pytest.approx(math.log(WEIGHTS @ capital))
    # Where the mean is at the limit, a row is worth what it costs: 1.5 % up, 0.5 % down, 98 % even.
    expected = 0.005 * factors[0] + 0.98 * factors[1] + 0.015 * factors[2]
    assert expected == pytest.approx(np.ones(20))


def test_nothing_seen_proves_nothing() -> None:
    for kind in Kind:
        evidence = Evidence(kind)
        assert evidence.below(0.5) == pytest.approx(0.0)
        assert evidence.above(0.5) == pytest.approx(0.0)
        assert evidence.bounds(DELTA) == (kind.low, 1.0)
        assert evidence.mean is None
        assert evidence.needed(0.5, DELTA) is None


def test_the_bound_is_at_the_limit_when_the_evidence_is_at_the_bar() -> None:
    for evidence in (rate(3, 397), difference(9, 200, 4)):
        lower, upper = evidence.bounds(DELTA)
        assert evidence.below(upper) == pytest.approx(math.log(20), abs=1e-6)
        assert evidence.above(lower) == pytest.approx(math.log(20), abs=1e-6)
        mean = evidence.mean
        assert mean is not None
        assert lower < mean < upper


def test_both_sides_mirror_each_other() -> None:
    assert rate(3, 7).above(0.4) == pytest.approx(rate(7, 3).below(0.6))
    assert difference(3, 5, 7).above(0.1) == pytest.approx(difference(7, 5, 3).below(-0.1))
    low, high = rate(3, 7).bounds(DELTA), rate(7, 3).bounds(DELTA)
    assert low.lower == pytest.approx(1 - high.upper)


def test_many_at_once_are_as_one_by_one() -> None:
    counts = np.array([[397.0, 3.0], [380.0, 20.0]])
    assert below(Kind.RATE, counts, 0.02)[0] == pytest.approx(rate(3, 397).below(0.02))
    assert above(Kind.RATE, counts, 0.02)[1] == pytest.approx(rate(20, 380).above(0.02))


def test_a_value_between_two_counts_as_parts_of_both_and_proves_less() -> None:
    evidence = Evidence(Kind.DIFFERENCE)
    evidence.add(-0.25, times=40)
    assert evidence.saved() == [10.0, 30.0, 0.0]
    assert evidence.mean == pytest.approx(-0.25)
    exact = ((1 - BETS * 0.375) / (1 - BETS * 0.505)) ** 40
    assert 0 < evidence.below(0.01) < math.log(WEIGHTS @ exact)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("value", [-1.01, 1.01, math.nan, math.inf])
def test_a_value_out_of_range_is_refused(kind: Kind, value: float) -> None:
    with pytest.raises(ValueError, match="an observation lies between"):
        Evidence(kind).add(value)


def test_a_forecast_says_how_many_more_of_the_same_it_takes() -> None:
    evidence = rate(3, 297)
    needed = evidence.needed(0.02, DELTA)
    assert needed is not None
    enough = (300 + needed) / 300
    assert below(Kind.RATE, enough * evidence.counts, 0.02) >= math.log(20)
    assert below(Kind.RATE, (enough - 1 / 300) * evidence.counts, 0.02) < math.log(20)


def test_a_forecast_is_nothing_once_it_is_proved_and_never_where_it_is_not_so() -> None:
    assert rate(0, 1000).needed(0.02, DELTA) == 0
    assert rate(3, 97).needed(0.02, DELTA) is None
    assert difference(0, 97, 3).needed(0.02, DELTA) is None


def test_saved_evidence_goes_through_json_and_goes_on() -> None:
    evidence = difference(2, 90, 1)
    copy = Evidence.restored(Kind.DIFFERENCE, json.loads(json.dumps(evidence.saved())))
    copy.add(-1.0)
    evidence.add(-1.0)
    assert copy.below(0.01) == evidence.below(0.01)
    assert copy.rows == 94


@pytest.mark.parametrize("counts", [[1.0], [1.0, 2.0, 3.0], [1.0, -1.0], [1.0, math.nan]])
def test_evidence_of_another_shape_is_refused(counts: list[float]) -> None:
    with pytest.raises(DataError, match="saved evidence"):
        Evidence.restored(Kind.RATE, counts)

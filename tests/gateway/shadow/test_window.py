"""Windows: a change is seen, with its time, and steady traffic is left alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gateway.errors import DataError
from gateway.shadow.window import Moments, State, Window


def window(*stretches: tuple[float, int], seed: int = 0) -> Window:
    """Zeros and ones of those rates, at the times 0, 1, 2, ..."""
    made, draw = Window(), np.random.default_rng(seed)
    rates = np.repeat([rate for rate, _ in stretches], [rows for _, rows in stretches])
    for at, one in enumerate(draw.random(len(rates)) < rates):
        made.add(float(one), float(at))
    return made


def test_nothing_seen_is_steady() -> None:
    fresh = window()
    assert (fresh.state, fresh.mean, fresh.since, fresh.rows) == (State.STEADY, None, None, 0)


def test_a_window_keeps_every_row_in_few_buckets() -> None:
    made = Window()
    for at in range(1000):
        made.add(at % 4 / 4, float(at))
    assert (made.rows, made.mean, made.since) == (1000, 0.375, 0.0)
    sizes = [bucket.rows for bucket in made._buckets]
    assert sum(sizes) == 1000
    assert sizes == sorted(sizes, reverse=True)
    # Sizes are powers of two, each at most five times, and no larger one comes without four.
    assert all(sizes.count(size) in (4, 5) for size in set(sizes) - {max(sizes)})
    assert max(sizes) == 128


def test_a_rate_that_doubles_is_seen_with_its_time() -> None:
    made = window((0.2, 3000), (0.4, 1500))
    assert made.state is State.DRIFTING
    assert made.before is not None
    assert made.before.mean == pytest.approx(0.2, abs=0.03)
    assert made.mean == pytest.approx(0.4, abs=0.04)
    assert made.since == pytest.approx(3000, abs=300)


def test_a_small_change_takes_more_rows_than_a_large_one() -> None:
    """Rows after 4,000 at 20 % until it drifts; at 30 % and at 60 %."""
    found = []
    for rate in (0.3, 0.6):
        draw, made, rows = np.random.default_rng(1), window((0.2, 4000)), 0
        while made.state is State.STEADY and rows < 4000:
            made.add(float(draw.random() < rate), float(4000 + rows))
            rows += 1
        found.append(rows)
    assert found[1] <= 96 < found[0] < 1000


def test_what_comes_back_is_steady_again() -> None:
    made = window((0.2, 3000), (0.5, 1000), (0.2, 3000))
    assert made.state is State.STEADY
    assert made.before is None
    assert made.since == pytest.approx(4000, abs=300)


def test_a_slow_rise_is_seen_too() -> None:
    draw, made = np.random.default_rng(3), Window()
    for at in range(8000):
        made.add(float(draw.random() < 0.1 + 0.3 * at / 8000), float(at))
    assert made.state is State.DRIFTING
    assert made.mean is not None
    assert made.mean > 0.3


def test_before_is_what_it_was_before_the_first_change_and_not_before_the_last() -> None:
    made = window((0.1, 3000), (0.3, 3000), (0.6, 3000))
    assert made.before is not None
    assert made.before.mean == pytest.approx(0.1, abs=0.03)


@pytest.mark.simulation
@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("rate", "rows"), [(0.1, 3000), pytest.param(0.02, 100_000, marks=pytest.mark.soak)]
)
def test_steady_traffic_is_left_alone(rate: float, rows: int) -> None:
    """A look at every 32nd row of 20 windows: at most one of them is ever cut."""
    assert sum(window((rate, rows), seed=seed).rows < rows for seed in range(20)) <= 1


@pytest.mark.simulation
@pytest.mark.no_cover
def test_an_ordinary_day_is_no_drift() -> None:
    """15 % with a rhythm of 2 points to either side, 50,000 rows a day, three days."""
    rows = 50_000
    day = 0.15 + 0.02 * np.sin(2.0 * np.pi * np.arange(3 * rows) / rows)
    moved = []
    for seed in range(2):
        made, draw = Window(least=0.15), np.random.default_rng(seed)
        for at, one in enumerate(draw.random(len(day)) < day):
            made.add(float(one), float(at))
            moved.append(made.state is State.DRIFTING)
    assert np.mean(moved) < 0.05


def test_what_is_too_small_to_matter_is_no_change_however_many_rows_show_it() -> None:
    """From 20 % to 24 %: 0.1 standard deviations, and far more than chance allows."""
    least = Window(least=0.15)
    for at in range(20_000):
        least.add(float(at % 25 < (5 if at < 10_000 else 6)), float(at))
    assert (least.before, least.rows) == (None, 20_000)
    for at in range(20_000, 30_000):
        least.add(float(at % 25 < 9), float(at))
    assert least.before is not None
    for at in range(30_000, 60_000):  # half as far away is back
        least.add(float(at % 25 < 5), float(at))
    assert least.before is None


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_a_value_that_is_no_share_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Window().add(value, 0.0)


def test_the_distance_that_chance_allows_is_that_of_the_paper() -> None:
    # 400 and 100 rows of variance 0.09 about 0.1, and so nearly as much together; at delta 0.05
    # the doubt is ln(2 ln(500) / 0.05) = 5.515 and 1/n + 1/m = 0.0125: the square root of
    # 2 * 0.0125 * 0.09 * 5.515 = 0.1114, and 2/3 * 0.0125 * 5.515 = 0.0460, together 0.157.
    before = Moments(400, 0.1, 0.09)
    assert not before.differs(Moments(100, 0.25, 0.09), 0.05)
    assert before.differs(Moments(100, 0.28, 0.09), 0.05)


def test_small_steps_are_held_against_where_they_began() -> None:
    """Steps of 3 points, each too small to be seen by itself; ten seeds."""
    steps = [(0.06 + 0.03 * step, 700) for step in range(7)]
    for seed in range(10):
        made = window(*steps, seed=seed)
        assert made.state is State.DRIFTING
        assert made.before is not None
        assert made.before.mean < 0.12


def test_what_is_steady_again_is_one_stretch_with_what_was_before() -> None:
    made = window((0.2, 3000), (0.5, 1000), (0.2, 3000))
    assert made.rows > 5000
    assert made.restore(made.saved()).rows == made.rows


@pytest.mark.parametrize(
    "changed",
    [
        {"before": (0.0, 0.5, 0.1)},
        {"before": (10.0, math.nan, 0.1)},
        {"buckets": [(1, math.nan, 0.0, 0.0)]},
        {"buckets": [(1, 1.0, 1.0, math.nan)]},
        {"buckets": [(1e999, 1.0, 1.0, 0.0)]},
        {"needed": -1},
        {"buckets": 3},
    ],
)
def test_what_is_no_window_is_refused(changed: dict[str, Any]) -> None:
    kept: Any = window((0.2, 64)).saved() | changed
    with pytest.raises(DataError, match="saved window"):
        Window().restore(kept)

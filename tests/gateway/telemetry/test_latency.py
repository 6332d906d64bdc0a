"""The sketch keeps its promised error, adds up, and forgets what is too old."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.telemetry.latency import LARGEST, SMALLEST, Sketch, SlidingSketch
from tests.gateway.telemetry.clock import Clock


def filled(values: np.ndarray) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(float(value))
    return sketch


def test_quantiles_are_within_one_percent_of_the_exact_ones() -> None:
    durations = np.random.default_rng(7).lognormal(mean=-6.0, sigma=1.5, size=5000)
    sketch = filled(durations)
    for q in (0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0):
        exact = float(np.quantile(durations, q, method="lower"))
        assert sketch.quantile(q) == pytest.approx(exact, rel=0.01 + 1e-9)


def test_a_merge_equals_the_sketch_of_the_union() -> None:
    first, second = np.random.default_rng(8).lognormal(-5.0, 1.0, (2, 300))
    merged = filled(first)
    merged.merge(filled(second))
    union = filled(np.concatenate([first, second]))
    shares = [0.0, 0.25, 0.5, 0.75, 0.95, 1.0]
    assert merged.count == 600
    assert merged.quantiles(shares) == union.quantiles(shares)


def test_quantiles_come_in_the_order_in_which_they_were_asked() -> None:
    sketch = filled(np.array([0.001] * 9 + [1.0]))
    high, low = sketch.quantiles([1.0, 0.5])
    assert high == pytest.approx(1.0, rel=0.01)
    assert low == pytest.approx(0.001, rel=0.01)


def test_an_empty_sketch_has_no_quantiles() -> None:
    assert Sketch().quantile(0.5) is None


def test_a_share_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Sketch().quantile(1.5)


@pytest.mark.parametrize(
    ("value", "counted_as"),
    [(0.0, SMALLEST), (-1.0, SMALLEST), (math.nan, SMALLEST), (math.inf, LARGEST)],
)
def test_odd_values_count_at_the_ends(value: float, counted_as: float) -> None:
    assert filled(np.array([value])).quantile(0.5) == pytest.approx(counted_as, rel=0.01)


def test_values_leave_the_short_window_first() -> None:
    clock = Clock(1000.0)
    sliding = SlidingSketch(clock)
    sliding.add(0.010)
    clock.now += 120.0
    sliding.add(0.500)
    assert sliding.window(60.0).sketch.count == 1
    assert sliding.window(60.0).sketch.quantile(0.5) == pytest.approx(0.5, rel=0.01)
    assert sliding.window(600.0).sketch.count == 2
    assert sliding.window(600.0).sketch.quantile(0.0) == pytest.approx(0.01, rel=0.01)
    clock.now += 4000.0
    assert sliding.window(3600.0).sketch.count == 0


def test_a_value_stays_for_the_whole_window() -> None:
    clock = Clock(1000.0)
    sliding = SlidingSketch(clock)
    sliding.add(0.010)
    clock.now += 60.0
    assert sliding.window(60.0).sketch.count == 1


def test_a_part_is_cleared_when_its_time_comes_round_again() -> None:
    clock = Clock(1000.0)
    sliding = SlidingSketch(clock, windows=[12.0])  # parts of 1 s, 13 of them
    sliding.add(0.010)
    clock.now += 13.0
    sliding.add(0.020)
    assert sliding.window(12.0).sketch.count == 1


def test_the_rate_counts_only_the_time_that_was_watched() -> None:
    clock = Clock(1000.0)
    sliding = SlidingSketch(clock, windows=[12.0])
    assert sliding.window(12.0).per_second == 0.0
    for _ in range(8):
        sliding.add(0.010)
    clock.now += 4.0
    assert sliding.window(12.0).per_second == 2.0
    clock.now += 8.5  # 1012.5: parts from 1000 on still count, for 12.5 s
    assert sliding.window(12.0).per_second == 8 / 12.5

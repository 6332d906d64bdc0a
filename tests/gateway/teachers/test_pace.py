"""How long the last answers took."""

from __future__ import annotations

from gateway.teachers.pace import Pace
from tests.gateway.telemetry.clock import Clock


def test_without_answers_nothing_is_known() -> None:
    assert Pace().median == 0.0
    assert Pace().p95 is None


def test_half_of_the_answers_took_longer_than_the_median() -> None:
    pace = Pace()
    for seconds in (9.0, 1.0, 5.0):
        pace.took(seconds)
    assert pace.median == 5.0


def test_a_95th_percentile_needs_twenty_answers() -> None:
    pace = Pace()
    for seconds in range(1, 20):
        pace.took(float(seconds))
    assert pace.p95 is None
    pace.took(20.0)
    assert pace.p95 == 20.0  # the twentieth of twenty: one in twenty took that long
    for seconds in range(21, 41):
        pace.took(float(seconds))
    assert pace.p95 == 39.0  # two in forty took that long


def test_only_the_last_answers_count() -> None:
    pace = Pace()
    for seconds in (100.0,) * 64 + (1.0,) * 64:
        pace.took(seconds)
    assert (pace.median, pace.p95) == (1.0, 1.0)


def test_what_took_long_a_minute_ago_is_forgotten() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    for _ in range(20):
        pace.took(9.0)
    clock.now += 59.0
    pace.took(1.0)
    assert (pace.median, pace.p95) == (9.0, 9.0)
    clock.now += 1.0
    assert (pace.median, pace.p95) == (1.0, None)
    clock.now += 59.0
    assert pace.median == 0.0

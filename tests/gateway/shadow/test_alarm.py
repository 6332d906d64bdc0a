"""The alarm: its statistic by hand, its levels, and that it is kept as it was."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gateway.errors import DataError
from gateway.shadow.alarm import Alarm, Level, bets
from gateway.shadow.evidence import Kind

RISES = np.geomspace(1.5, 6.0, 7)


def audits(*, apart: float = 20_000.0, streams: int = 1) -> Alarm:
    return Alarm(Kind.RATE, 0.02, apart=apart, streams=streams)


def test_an_error_pays_the_ratio_of_the_rates_and_each_row_begins_a_bet() -> None:
    alarm = audits()
    alarm.add(1.0)
    assert alarm.statistic == pytest.approx(RISES.mean())
    alarm.add(0.0)
    right = (1 - 0.02 * RISES) / 0.98
    assert alarm.statistic == pytest.approx(((RISES + 1) * right).mean())


def test_no_row_costs_all_of_the_capital() -> None:
    high = 1 + bets(Kind.RATE, 0.5) * (0.0 - 0.5)  # six times a half is no rate
    assert high.min() == pytest.approx(0.05)
    worst = 1 + bets(Kind.DIFFERENCE, 0.01) * (-1.0 - 0.01)
    assert worst.min() == pytest.approx(1 - 0.8 * 0.95)


def test_it_warns_at_the_square_root_of_the_bar_and_rings_at_the_bar() -> None:
    alarm = audits(apart=300.0)  # it warns at 17.3
    seen = [(alarm.add(1.0), alarm.statistic) for _ in range(4)]
    assert [statistic for _, statistic in seen] == pytest.approx([3.3, 16.7, 78, 384], rel=0.02)
    assert [level for level, _ in seen] == [Level.CALM, Level.CALM, Level.WARN, Level.ALARM]
    assert alarm.raised == 4


def test_an_alarm_stays_until_somebody_resets_it() -> None:
    alarm = audits(apart=10.0)
    for _ in range(3):
        alarm.add(1.0)
    for _ in range(500):
        assert alarm.add(0.0) is Level.ALARM
    alarm.reset()
    assert (alarm.level, alarm.rows, alarm.raised, alarm.statistic) == (Level.CALM, 0, None, 0.0)


def test_a_warning_fades_with_rows_that_are_right() -> None:
    alarm = audits()
    assert [alarm.add(1.0) for _ in range(4)][-1] is Level.WARN
    assert [alarm.add(0.0) for _ in range(600)][-1] is Level.CALM


def test_more_streams_raise_the_bar_of_each() -> None:
    assert audits(apart=1000.0, streams=5).bar == 5000.0


def test_a_difference_that_rises_rings_and_one_that_falls_does_not() -> None:
    worse, better = (Alarm(Kind.DIFFERENCE, 0.01, apart=1000.0) for _ in range(2))
    for _ in range(60):
        worse.add(1.0)
        better.add(-1.0)
    assert worse.level is Level.ALARM
    assert better.level is Level.CALM


def test_a_saved_alarm_goes_through_json_and_goes_on() -> None:
    alarm = audits()
    for value in (0.0, 1.0, 0.0):
        alarm.add(value)
    copy = audits().restore(json.loads(json.dumps(alarm.saved())))
    alarm.add(1.0)
    copy.add(1.0)
    assert copy.saved() == alarm.saved()
    assert copy.rows == 4


@pytest.mark.parametrize("capitals", [[1.0], [-1.0] * 7, [math.nan] * 7])
def test_another_state_is_refused(capitals: list[float]) -> None:
    with pytest.raises(DataError, match="saved alarm"):
        audits().restore({"limit": 0.02, "capitals": capitals, "rows": 1, "raised": None})


def test_the_state_of_another_limit_is_refused() -> None:
    with pytest.raises(DataError, match=r"for a limit of 0.02 are expected, not .* for 0.05"):
        audits().restore(Alarm(Kind.RATE, 0.05, apart=100.0).saved())


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_an_observation_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="an observation lies between"):
        audits().add(value)


def test_a_limit_or_a_bar_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="a limit lies between"):
        Alarm(Kind.RATE, 0.0, apart=100.0)
    with pytest.raises(ValueError, match="the bar is above 1"):
        Alarm(Kind.RATE, 0.02, apart=1.0)

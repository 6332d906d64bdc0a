"""Drift: which signals of traffic moved and since when, and shifts by hand and by repeats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gateway.errors import DataError
from gateway.shadow.drift import Drift, Movement, Signal, Traffic
from gateway.shadow.mix import OTHERS, shift
from gateway.shadow.window import State
from gateway.types import HeadPrediction


def movement(drift: Drift, signal: Signal) -> Movement:
    return next(each for each in drift.movements if each.signal is signal)


def test_no_traffic_is_steady() -> None:
    assert Traffic().drift().state is State.STEADY


def test_traffic_drifts_in_the_signals_that_move() -> None:
    traffic, draw = Traffic(), np.random.default_rng(4)
    changed = [
        traffic.answered(
            score=0.9,
            familiarity=0.01 if draw.random() < (0.05 if at < 2000 else 0.25) else 0.5,
            escalated=at % 10 == 0,
            at=float(at),
        )
        for at in range(4000)
    ]
    found = traffic.drift()
    assert found.state is State.DRIFTING
    moved = movement(found, Signal.UNFAMILIAR)
    assert moved.state is State.DRIFTING
    assert moved.before == pytest.approx(0.05, abs=0.02)
    assert moved.mean == pytest.approx(0.25, abs=0.04)
    assert moved.since == pytest.approx(2000, abs=200)
    for signal, mean in ((Signal.SCORE, 0.9), (Signal.ESCALATED, 0.1)):
        still = movement(found, signal)
        assert (still.state, still.before, still.rows) == (State.STEADY, None, 4000)
        assert still.mean == pytest.approx(mean)
    assert not any(changed[:2000])
    assert any(changed[2000:])
    traffic.forget(Signal.UNFAMILIAR)
    assert [each.rows for each in traffic.movements] == [4000, 0, 4000]
    assert traffic.drift().state is State.STEADY


def test_beside_the_signals_stand_the_mix_and_the_accuracy_since_traffic_changed() -> None:
    traffic, draw = Traffic(), np.random.default_rng(4)

    def hear(count: int, score: float, *, right: bool) -> None:
        for _ in range(count):
            label = "refund" if draw.random() < score else "login"
            said = HeadPrediction("intent", (label,), score, np.zeros(2, np.float32))
            traffic.answered(
                score=score, familiarity=None, escalated=False, at=0.0, heads=[said], served=True
            )
            traffic.audited(score, right=right)

    hear(2500, 0.9, right=True)
    found = traffic.drift()
    assert found.accuracy is not None
    assert found.accuracy.estimated == pytest.approx(0.9)
    assert found.accuracy.audited == 1.0
    assert found.accuracy.audits == 2500
    assert found.mixes["intent"].shift.state is State.STEADY
    assert found.mixes["intent"].shift.rows == 500
    hear(1000, 0.5, right=False)
    found = traffic.drift()
    assert found.accuracy is not None
    assert found.accuracy.audits < 1000  # what was right before speaks of what is over
    assert (found.accuracy.audited, found.accuracy.recalibrate) == (0.0, True)
    assert found.mixes["intent"].shift.state is State.DRIFTING
    again = Traffic().restore(traffic.saved()).drift()
    assert (again.mixes, again.accuracy) == (found.mixes, found.accuracy)
    unreadable: list[Any] = [3, {"mixes": 3}, {"trust": {}}, {"mixes": {"intent": {}}}]
    for broken in unreadable:
        with pytest.raises(DataError):
            Traffic().restore(broken)


def test_a_student_without_familiarity_has_the_other_signals() -> None:
    traffic = Traffic()
    traffic.answered(score=0.5, familiarity=None, escalated=True, at=7.0)
    found = traffic.drift()
    assert movement(found, Signal.UNFAMILIAR).rows == 0
    assert movement(found, Signal.ESCALATED).mean == 1.0
    assert movement(found, Signal.SCORE).since == 7.0


def test_a_shift_is_summed_by_hand() -> None:
    # With half a row added to each count: 800.5 and 200.5 of 1001, 400.5 and 100.5 of 501.
    same = shift({"a": 800, "b": 200}, {"a": 400, "b": 100})
    assert same.psi == pytest.approx(0.0, abs=1e-6)
    moved = shift({"a": 800, "b": 200}, {"a": 300, "b": 200})
    a, b = (800.5 / 1001, 300.5 / 501), (200.5 / 1001, 200.5 / 501)
    psi = (a[0] - a[1]) * math.log(a[0] / a[1]) + (b[0] - b[1]) * math.log(b[0] / b[1])
    assert moved.psi == pytest.approx(psi)
    # (1/1000 + 1/500) times the 99 % quantile of chi-square with one degree: 6.635.
    assert moved.limit == pytest.approx(0.003 * 6.635, rel=0.01)
    assert (same.state, moved.state) == (State.STEADY, State.DRIFTING)
    assert (moved.moved, moved.rows) == ("b", 500)


def test_the_limit_of_a_shift_knows_how_many_rows_there_are() -> None:
    """3 of 10 against 2 of 10 is nothing on 60 rows, and much on 6,000."""
    few = shift({"a": 80, "b": 20}, {"a": 42, "b": 18})
    many = shift({"a": 8000, "b": 2000}, {"a": 4200, "b": 1800})
    assert (few.state, many.state) == (State.STEADY, State.DRIFTING)


@pytest.mark.parametrize("names", [2, 10, 77])
def test_without_a_change_a_shift_is_beyond_its_limit_about_once_in_a_hundred(names: int) -> None:
    draw = np.random.default_rng(5)
    shares = draw.dirichlet(np.full(names, 3.0))
    labels = [str(name) for name in range(names)]
    beyond = sum(
        shift(
            dict(zip(labels, draw.multinomial(5000, shares).tolist(), strict=True)),
            dict(zip(labels, draw.multinomial(2000, shares).tolist(), strict=True)),
        ).state
        is State.DRIFTING
        for _ in range(500)
    )
    assert 0 < beyond <= stats.binom.ppf(0.999, 500, 0.01)


def test_names_that_come_too_seldom_count_as_one() -> None:
    often = {"a": 500, "b": 500}
    found = shift({**often, "c": 1, "d": 1}, {**often, "e": 60})
    assert (found.state, found.moved) == (State.DRIFTING, "e")
    assert shift({**often, "c": 1}, {**often, "d": 2}).state is State.STEADY
    rare = shift({**often, **{str(each): 2 for each in range(40)}}, often)
    assert (rare.state, rare.moved) == (State.DRIFTING, OTHERS)


def test_nothing_to_compare_is_no_shift() -> None:
    for reference, present in (({}, {"a": 1}), ({"a": 1}, {}), ({"a": 900}, {"a": 900})):
        found = shift(reference, present)
        assert (found.psi, found.limit, found.moved) == (0.0, None, None)
        assert found.state is State.STEADY

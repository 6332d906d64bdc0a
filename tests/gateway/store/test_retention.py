"""Retention: old records go, a page at a time, between the writer's commits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy import Engine

from gateway.store import comparisons, trials
from gateway.store.database import writing
from gateway.store.intake import keep
from gateway.store.records import Counts, Selection, count, each
from gateway.store.retention import Retention
from gateway.store.writer import Account, RecordWriter
from tests.gateway.store.conftest import SOON, Locked
from tests.gateway.store.test_comparisons import compared
from tests.gateway.store.test_trials import NAME, segment
from tests.gateway.store.times import DAY, NOON, at
from tests.gateway.telemetry.answers import audit, prediction
from tests.patience import until


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def stored(engine: Engine, ages: Sequence[float]) -> None:
    """Keep an audited answer for each age, in days before noon."""
    answers = [at(NOON - age * DAY) for age in ages]
    with writing(engine).begin() as connection:
        keep(connection, answers, [audit(each, prediction()) for each in answers], text="hash")


def ages(engine: Engine) -> list[float]:
    return [(NOON - record.at) / DAY for record in each(engine, Selection())]


def test_records_go_with_their_audits_when_their_days_are_over(engine: Engine) -> None:
    stored(engine, [31, 30.5, 29.5, 1])
    Retention(engine, 30, clock=lambda: NOON).turn()
    assert ages(engine) == [29.5, 1]
    assert count(engine, Selection()) == Counts(records=2, audits=2)


def test_a_turn_deletes_one_page_and_the_next_is_due_soon(engine: Engine) -> None:
    stored(engine, [45, 44, 43, 42, 41, 1])
    clock = Clock()
    retention = Retention(engine, 30, page=2, clock=lambda: NOON, ticks=clock)
    retention.turn()
    assert ages(engine) == [43, 42, 41, 1]
    assert retention.wait() == pytest.approx(0.1)
    retention.turn()  # too early
    assert ages(engine) == [43, 42, 41, 1]
    clock.now += 0.1
    retention.turn()
    clock.now += 0.1
    retention.turn()
    assert ages(engine) == [1]
    assert retention.wait() == pytest.approx(600)


def test_a_round_that_was_cut_off_goes_on_after_a_restart(engine: Engine) -> None:
    stored(engine, [45, 44, 43, 1])
    Retention(engine, 30, page=2, clock=lambda: NOON).turn()
    Retention(engine, 30, page=2, clock=lambda: NOON).turn()
    assert ages(engine) == [1]


def test_a_database_that_is_locked_is_asked_again_in_the_next_round(
    engine: Engine, locked: Locked
) -> None:
    stored(engine, [45])
    clock = Clock()
    retention = Retention(engine, 30, clock=lambda: NOON, ticks=clock)
    with locked():
        retention.turn()
    assert retention.wait() == 600
    clock.now += 600
    retention.turn()
    assert ages(engine) == []


def test_the_writer_purges_and_stores_at_once(engine: Engine) -> None:
    stored(engine, [45 + age / 100 for age in range(50)])
    retention = Retention(engine, 30, page=20, clock=lambda: NOON)
    writer = RecordWriter(engine, retention=retention)
    for number in range(100):
        writer.answered(at(NOON + number))
    until(lambda: not count(engine, Selection(until=NOON)).records)
    writer.close(SOON)
    assert writer.records == Account(offered=100, stored=100, dropped=0)
    assert count(engine, Selection()) == Counts(records=100, audits=0)


def test_the_days_may_change_while_it_runs(engine: Engine) -> None:
    stored(engine, [45, 20, 1])
    clock = Clock()
    retention = Retention(engine, None, clock=lambda: NOON, ticks=clock)
    retention.turn()
    assert ages(engine) == [45, 20, 1]
    retention.keep_for(10)
    clock.now += retention.wait()
    retention.turn()
    assert ages(engine) == [1]


def test_comparisons_without_records_and_old_slices_go_too(engine: Engine) -> None:
    with writing(engine).begin() as connection:
        comparisons.keep(
            connection, [compared(each, answer=at(NOON - each * DAY)) for each in (1, 45)]
        )
    old = segment("old", began=NOON - 45 * DAY)
    trials.save(engine, "tickets", [old, segment("new", began=NOON - DAY)], known=frozenset())
    Retention(engine, 30, clock=lambda: NOON).turn()
    assert [each.at for each in comparisons.each(engine, "tickets", NAME)] == [NOON - DAY]
    kept = {each.segment: each for each in trials.counted(engine, ["old", "new"])}
    assert kept["old"].slices is None
    assert kept["new"].slices is not None

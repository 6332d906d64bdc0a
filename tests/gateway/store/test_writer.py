"""The write-behind observer: what it is offered arrives, or is counted."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, event, func, select

from gateway.store import tables
from gateway.store.records import Selection, latest
from gateway.store.writer import Account, RecordWriter
from gateway.types import Answer
from tests.gateway.store.conftest import SOON, Locked, commit_of, failure_of
from tests.gateway.telemetry.answers import audit, confident, identity, prediction


def audits_of(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(select(func.count()).select_from(tables.audits)) or 0)


def unstorable(number: int) -> Answer:
    """An answer whose text is no Unicode: it can be neither hashed nor stored."""
    return confident(number, text="\ud800")


def test_all_that_is_offered_is_stored_by_the_close(engine: Engine) -> None:
    writer = RecordWriter(engine, batch=7)
    for number in range(50):
        writer.answered(confident(number))
    writer.close(SOON)
    assert writer.records == Account(offered=50, stored=50, dropped=0)
    assert len(latest(engine, Selection(), 100)) == 50
    assert not writer.alive


def test_an_answer_is_stored_without_a_close(engine: Engine) -> None:
    committed = commit_of(engine)
    writer = RecordWriter(engine)
    writer.answered(confident(1))
    assert committed.wait(SOON)
    assert writer.alive
    writer.close(SOON)
    assert len(latest(engine, Selection(), 100)) == 1


def test_what_waits_together_is_committed_together(engine: Engine, locked: Locked) -> None:
    failed = failure_of(engine)
    writer = RecordWriter(engine, batch=100)
    with locked() as release:
        writer.answered(confident(0))
        assert failed.wait(SOON)  # the thread now holds a batch of one and tries again
        for number in range(1, 61):
            writer.answered(confident(number))
        commits: list[object] = []
        event.listen(engine, "commit", commits.append)
        release()
        writer.close(SOON)
    assert len(latest(engine, Selection(), 100)) == 61
    assert len(commits) == 2


def test_a_locked_database_delays_records_and_loses_none(engine: Engine, locked: Locked) -> None:
    failed = failure_of(engine)
    writer = RecordWriter(engine)
    with locked() as release:
        for number in range(20):
            writer.answered(confident(number))
        assert failed.wait(SOON)
        assert writer.records == Account(offered=20, stored=0, dropped=0)
        assert writer.records.waiting == 20
        release()
        writer.close(SOON)
    assert writer.records == Account(offered=20, stored=20, dropped=0)
    assert len(latest(engine, Selection(), 100)) == 20


def test_a_full_queue_drops_and_counts_what_does_not_fit(engine: Engine, locked: Locked) -> None:
    writer = RecordWriter(engine, capacity=3)
    with locked() as release:
        for number in range(5):
            writer.answered(confident(number))
        writer.audited(audit(confident(0), prediction()))
        assert writer.records == Account(offered=5, stored=0, dropped=2)
        assert writer.audits == Account(offered=1, stored=0, dropped=1)
        release()
        writer.close(SOON)
    assert writer.records == Account(offered=5, stored=3, dropped=2)
    assert [record.id for record in latest(engine, Selection(), 9)] == [
        identity(n) for n in (2, 1, 0)
    ]


def test_a_close_out_of_time_counts_what_it_gives_up(engine: Engine, locked: Locked) -> None:
    failed = failure_of(engine)
    writer = RecordWriter(engine, batch=2)
    with locked():
        for number in range(5):
            writer.answered(confident(number))
        writer.audited(audit(confident(0), prediction()))
        assert failed.wait(SOON)
        writer.close(0.05)
        assert writer.records == Account(offered=5, stored=0, dropped=5)
        assert writer.audits == Account(offered=1, stored=0, dropped=1)
        writer._thread.join(SOON)
    assert not writer.alive
    assert len(latest(engine, Selection(), 100)) == 0


def test_what_comes_after_the_close_is_dropped_and_counted(engine: Engine) -> None:
    writer = RecordWriter(engine)
    writer.close(SOON)
    writer.answered(confident(1))
    writer.close(SOON)
    assert writer.records == Account(offered=1, stored=0, dropped=1)
    assert len(latest(engine, Selection(), 100)) == 0


def test_an_id_that_comes_twice_is_one_row(engine: Engine) -> None:
    writer = RecordWriter(engine)
    writer.answered(confident(1))
    writer.answered(confident(1))
    writer.close(SOON)
    assert writer.records == Account(offered=2, stored=2, dropped=0)
    assert len(latest(engine, Selection(), 100)) == 1


def test_audits_have_their_own_account(engine: Engine) -> None:
    writer = RecordWriter(engine)
    answer = confident(1)
    writer.answered(answer)
    writer.audited(audit(answer, prediction("login")))
    writer.audited(audit(confident(2), prediction()))  # its answer was never stored
    writer.close(SOON)
    assert writer.records == Account(offered=1, stored=1, dropped=0)
    assert writer.audits == Account(offered=2, stored=1, dropped=1)
    assert audits_of(engine) == 1


def test_a_value_that_cannot_be_stored_is_dropped_alone(engine: Engine, locked: Locked) -> None:
    failed = failure_of(engine)
    writer = RecordWriter(engine)
    with locked() as release:
        writer.answered(confident(0))
        assert failed.wait(SOON)
        for answer in (confident(1), unstorable(2), confident(3)):
            writer.answered(answer)
        writer.audited(audit(confident(3), prediction()))
        release()
        writer.close(SOON)
    assert writer.records == Account(offered=4, stored=3, dropped=1)
    assert writer.audits == Account(offered=1, stored=1, dropped=0)
    assert [record.id for record in latest(engine, Selection(), 9)] == [
        identity(n) for n in (3, 1, 0)
    ]


def test_a_value_that_the_database_refuses_is_dropped_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON records WHEN new.task = 'bad' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            if engine.dialect.name == "sqlite"
            else "ALTER TABLE records ADD CHECK (task <> 'bad')"
        )
    writer = RecordWriter(engine)
    for number, task in enumerate(["tickets", "bad", "tickets"]):
        writer.answered(confident(number, task=task))
    writer.close(SOON)
    assert writer.records == Account(offered=3, stored=2, dropped=1)
    assert len(latest(engine, Selection(task="tickets"), 100)) == 2


@pytest.mark.parametrize(("kept", "text"), [("none", None), ("hash", None), ("full", "hello")])
def test_text_is_kept_as_asked_at_the_start(engine: Engine, kept: str, text: str | None) -> None:
    writer = RecordWriter(engine, store_text=kept)  # type: ignore[arg-type]
    writer.answered(confident(1, text="hello"))
    writer.close(SOON)
    assert latest(engine, Selection(), 1)[0].text == text


def test_the_text_is_not_kept_unless_asked(engine: Engine) -> None:
    writer = RecordWriter(engine)
    writer.answered(confident(1, text="hello"))
    writer.close(SOON)
    (record,) = latest(engine, Selection(), 1)
    assert record.text is None
    assert record.text_sha256 is not None


def test_what_is_refused_is_found_by_halving(engine: Engine, locked: Locked) -> None:
    failed = failure_of(engine)
    writer = RecordWriter(engine)
    with locked() as release:
        writer.answered(confident(100))
        assert failed.wait(SOON)
        for number in range(63):
            writer.answered(confident(number))
        writer.answered(unstorable(63))
        commits: list[object] = []
        event.listen(engine, "commit", commits.append)
        release()
        writer.close(SOON)
    assert writer.records == Account(offered=65, stored=64, dropped=1)
    assert len(commits) == 7  # the one before them, then 32, 16, 8, 4, 2, 1 of the 64

"""A gateway whose database is locked or gone answers on, counts what it drops, and recovers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.conftest import Starter
from tests.acceptance.process import Process
from tests.acceptance.sender import Notes, send
from tests.factories import CONFIDENT
from tests.patience import until
from tests.postgres import Cluster, cluster

__all__ = ["cluster"]

pytestmark = pytest.mark.acceptance

RATE = 200.0  # requests a second
BUSY_S = 60.0  # for whoever writes as the gateway starts
POOL = 3  # connections of a gateway: what it lost it does not keep
LONG = [
    pytest.param(200, id="short"),
    pytest.param(6000, id="long", marks=pytest.mark.soak),  # half a minute at that rate
]


@pytest.mark.parametrize("replies", LONG)
def test_a_lock_held_by_another_process_costs_no_request(
    start: Starter, tmp_path: Path, replies: int
) -> None:
    process = start(records={"path": "records.db", "queue": replies // 2})
    with locked(tmp_path / "records.db"):
        notes = loaded(process, replies)
    account = recovered(process)
    assert account["dropped"] > 0
    assert_exact(process, notes, account)
    with closing(sqlite3.connect(tmp_path / "records.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("replies", LONG)
def test_a_server_that_is_away_costs_no_request(
    start: Starter, cluster: Cluster, replies: int
) -> None:
    url = cluster.new_database()
    process = start(records={"url": url, "queue": replies // 2})
    notes, dropped, seen = Notes(), 0, set[tuple[int, datetime]]()
    for _ in range(2):  # what one outage leaves behind must not add up
        seen |= connections(url)
        cluster.stop()
        try:
            notes.statuses += loaded(process, replies).statuses
        finally:
            cluster.start()
        account = recovered(process)
        assert account["dropped"] > dropped
        dropped = account["dropped"]
        # One that was given up ends in the server's own time.
        until(lambda: len(connections(url)) <= POOL)
        assert connections(url).isdisjoint(seen)
    assert len(seen) > 1  # of the start, and of the first recovery
    assert_exact(process, notes, account)


@pytest.mark.soak
def test_a_queue_full_of_long_texts_does_not_outgrow_its_bound(
    start: Starter, tmp_path: Path
) -> None:
    process = start(
        records={"path": "records.db", "queue": 1_000_000, "text": "full"},
    )
    resident = "process_resident_memory_bytes"
    text = f"{CONFIDENT} " + "x" * 90_000
    warm = loaded(process, 200, text=text)
    recovered(process)
    before = process.metric(resident)
    with locked(tmp_path / "records.db"):
        notes = loaded(process, 2000, text=text)  # 180 MB of texts
        assert process.metric(resident) - before < 80e6
    account = recovered(process)
    assert account["dropped"] > 0
    warm.statuses += notes.statuses
    assert_exact(process, warm, account)


def loaded(process: Process, replies: int, *, text: str = CONFIDENT) -> Notes:
    """What came back until there were so many replies."""
    notes = Notes()

    def enough() -> bool:
        return notes.statuses.total() >= replies

    asyncio.run(send(process.url, notes, text=text, rate=RATE, until=enough))
    return notes


def recovered(process: Process) -> dict[str, int]:
    """The account of the records when none waits any more."""
    account: dict[str, int] = {}

    def written() -> bool:
        account.update(process.stats()["records"])
        return not account["waiting"] and not account["degraded"]

    until(written)
    return account


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While another process would have the only lock of the records."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield
        holder.rollback()


def connections(url: str) -> set[tuple[int, datetime]]:
    """The connections of gateways to that server: the process there, and when it began."""
    with closing(psycopg.connect(url)) as connection:
        found = connection.execute(
            "SELECT pid, backend_start FROM pg_stat_activity WHERE application_name = 'understudy'"
        )
        return {(pid, began) for pid, began in found}


def assert_exact(process: Process, notes: Notes, account: dict[str, int]) -> None:
    """Every request was answered, and each answer is stored or counted as dropped."""
    assert set(notes.statuses) == {200}
    assert notes.statuses[200] == account["stored"] + account["dropped"]
    assert process.leave() == 0
    assert len(process.records(100_000)) == account["stored"]

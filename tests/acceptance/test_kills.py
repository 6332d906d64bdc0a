"""A gateway that is killed under load keeps every record that it said was durable."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing

import pytest

from gateway.types import RecordState
from tests.acceptance.conftest import Starter
from tests.acceptance.process import Process
from tests.acceptance.sender import Notes, send
from tests.factories import CONFIDENT
from tests.postgres import Cluster, cluster

__all__ = ["cluster"]

pytestmark = pytest.mark.acceptance

RATE = 200.0  # requests a second
KILLS = [
    pytest.param(2, id="few"),
    pytest.param(50, id="many", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
]
MOMENTS = range(20, 300)  # a kill comes after that many replies of its gateway
WAITS = {"group_wait_ms": 10_000, "strict_wait_ms": 60_000}  # the most that settings let it be
STRICT = pytest.param("strict", marks=pytest.mark.soak)
GROUP = pytest.param("group", marks=pytest.mark.soak)


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("ack", ["strict", GROUP])
def test_no_durable_record_is_lost_and_none_is_there_twice(
    start: Starter, ack: str, kills: int
) -> None:
    process, notes = killed(start, {"path": "records.db", "ack": ack, **WAITS}, kills)
    stored = [record.id for record in process.records(100_000)]
    compare(notes, stored, ack=ack)
    with closing(sqlite3.connect(process.config.with_name("records.db"))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("ack", [STRICT, "group"])
def test_no_durable_record_is_lost_on_a_shared_server(
    start: Starter, cluster: Cluster, ack: str, kills: int
) -> None:
    records = {"url": cluster.new_database(), "ack": ack, **WAITS}
    process, notes = killed(start, records, kills)
    compare(notes, [record.id for record in process.records(100_000)], ack=ack)


def killed(start: Starter, records: dict[str, object], kills: int) -> tuple[Process, Notes]:
    """Kill a gateway under load again and again, at moments that are the same in every run."""
    moments = random.Random(kills)
    process = start(records=records)
    notes = Notes()
    for _ in range(kills):
        asyncio.run(load_and_kill(process, notes, after=moments.choice(MOMENTS)))
        assert process.ended() == -signal.SIGKILL
        process = start(config=process.config)
    assert process.leave() == 0
    return process, notes


async def load_and_kill(process: Process, notes: Notes, *, after: int) -> None:
    """Kill the process as soon as it has given so many more replies."""
    wanted = notes.statuses.total() + after

    def is_killed() -> bool:
        if notes.statuses.total() < wanted:
            return False
        process.send(signal.SIGKILL)
        return True

    await send(process.url, notes, text=CONFIDENT, rate=RATE, until=is_killed)


def compare(notes: Notes, stored: Sequence[str], *, ack: str) -> None:
    """What the client was told, beside what is there."""
    durable = notes.told(RecordState.DURABLE)
    assert set(notes.statuses) == {200}
    assert durable
    if ack == "strict":  # a group goes on without its commit, once it has waited for long
        assert durable == set(notes.ids)
    assert durable - set(stored) == set()
    assert len(stored) == len(set(stored))

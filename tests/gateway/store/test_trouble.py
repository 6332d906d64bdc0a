"""Records in trouble: a queue that is full in bytes, a disk that is full, a server that is gone."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from gateway.store.database import open_database
from gateway.store.records import Selection, latest
from gateway.store.writer import Account, RecordWriter
from gateway.types import Answer, Instance
from tests.gateway.store.conftest import SOON, Locked, failure_of
from tests.gateway.telemetry.answers import audit, confident, prediction
from tests.patience import until
from tests.postgres import Cluster

LONG = "x" * 10_000
PAGE = 4096  # bytes; of SQLite
DISK = 1 << 20  # bytes


def bare(number: int, text: str = "") -> Answer:
    """An answer without fields, whose weight is that of its text and 3,000 bytes."""
    return replace(confident(number), instance=Instance(text))


def weight(text: str) -> int:
    return 3000 + sys.getsizeof(text)


def test_a_queue_that_is_full_in_bytes_drops_and_counts(engine: Engine, locked: Locked) -> None:
    writer = RecordWriter(engine, max_bytes=2 * weight(LONG) + weight(""))
    with locked():
        for number in range(3):
            writer.answered(bare(number, LONG))
        assert writer.records == Account(offered=3, stored=0, dropped=1)
        writer.answered(bare(3))  # there is room for a short one
        writer.answered(bare(4))
        assert writer.records == Account(offered=5, stored=0, dropped=2)
    writer.close(SOON)
    assert writer.records == Account(offered=5, stored=3, dropped=2)


def test_what_is_stored_makes_room_again(engine: Engine, locked: Locked) -> None:
    failed = failure_of(engine)
    writer = RecordWriter(engine, max_bytes=weight(LONG))
    with locked():
        writer.answered(bare(1, LONG))
        assert failed.wait(SOON)
        writer.answered(bare(2))
        assert writer.records.dropped == 1
    until(lambda: writer.settled == 1)  # that it is stored is known before its room is free
    writer.answered(bare(3, LONG))
    writer.close(SOON)
    assert writer.records == Account(offered=3, stored=2, dropped=1)


def test_fields_and_audits_weigh_too(engine: Engine, locked: Locked) -> None:
    heavy = replace(confident(1), instance=Instance("", {"note": LONG}))
    writer = RecordWriter(engine, max_bytes=weight(LONG))
    with locked():
        writer.answered(heavy)
        writer.audited(audit(replace(heavy, instance=Instance(LONG * 2)), prediction()))
        assert writer.records.dropped == 1  # for the names of its fields
        assert writer.audits.dropped == 1
    writer.close(SOON)


def test_the_writer_knows_while_the_database_takes_nothing(engine: Engine, locked: Locked) -> None:
    failed = failure_of(engine)
    writer = RecordWriter(engine)
    assert not writer.degraded
    with locked():
        writer.answered(confident(1))
        assert failed.wait(SOON)
        failed.clear()
        assert failed.wait(SOON)
        assert writer.degraded
    writer.close(SOON)
    assert not writer.degraded


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder on a disk of 1 MiB, most of it taken; and what gives the space back."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        (folder / "other").write_bytes(bytes(DISK // 2))
        yield folder, (folder / "other").unlink
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def overflow(engine: Engine, make_room: Callable[[], None]) -> None:
    """More than the disk holds is offered; after a while there is room for it."""
    failed = failure_of(engine)
    writer = RecordWriter(engine, capacity=40, batch=10, store_text="full")
    for number in range(100):
        writer.answered(bare(number, LONG))  # a megabyte in all
    assert failed.wait(SOON)
    until(lambda: writer.degraded)
    assert writer.alive
    make_room()
    writer.close(SOON)
    account = writer.records
    assert (account.offered, account.waiting) == (100, 0)
    assert account.dropped > 0
    assert not writer.degraded
    stored = latest(engine, Selection(), 100)
    assert len(stored) == account.stored >= 40
    assert all(record.text == LONG for record in stored)
    engine.dispose()


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
    return str(found)


def test_a_full_disk_delays_records_until_there_is_room(
    full_disk: tuple[Path, Callable[[], None]],
) -> None:
    folder, make_room = full_disk
    overflow(open_database(folder / "records.db"), make_room)
    assert integrity(folder / "records.db") == "ok"


def test_a_full_database_delays_records_until_there_is_room(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "records.db")
    engine.dispose()
    pages = [DISK // 4 // PAGE]
    event.listen(
        engine,
        "checkout",
        lambda connection, *_: connection.execute(f"PRAGMA max_page_count={pages[0]}"),
    )
    overflow(engine, lambda: pages.insert(0, pages[0] * 8))
    assert integrity(tmp_path / "records.db") == "ok"


def test_a_server_that_goes_and_comes_back_gets_every_record(cluster: Cluster) -> None:
    engine = open_database(cluster.new_database())
    failed = failure_of(engine)
    writer = RecordWriter(engine)
    writer.answered(confident(1))
    until(lambda: not writer.records.waiting)
    cluster.stop()
    try:
        for number in range(2, 30):
            writer.answered(confident(number))
        assert failed.wait(SOON)
    finally:
        cluster.start()
    writer.close(SOON)
    assert writer.records == Account(offered=29, stored=29, dropped=0)
    assert len(latest(engine, Selection(), 100)) == 29
    engine.dispose()

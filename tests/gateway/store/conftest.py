"""Fixtures of the store: an empty database of each kind, and what keeps a writer from writing."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, event

from gateway.store.database import open_database
from tests.postgres import Cluster, cluster

__all__ = ["cluster"]

SOON = 120.0  # seconds; far beyond what any wait here takes
PATIENT_S = 60.0  # for a lock whose holder may be kept from the processors

Locked = Callable[[], AbstractContextManager[Callable[[], None]]]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """Where an empty database is; each test that asks runs once for each kind."""
    if request.param == "sqlite":
        return tmp_path / "records.db"
    server: Cluster = request.getfixturevalue("cluster")
    return server.new_database()


@pytest.fixture
def engine(database: str | Path) -> Iterator[Engine]:
    """A new database that says at once when it is locked."""
    engine = open_database(database, busy_s=0.01)
    yield engine
    engine.dispose()


@pytest.fixture
def locked(database: str | Path) -> Locked:
    """Another process holds the database while in the block; the block's value lets it go."""

    @contextmanager
    def hold() -> Iterator[Callable[[], None]]:
        if isinstance(database, Path):
            holding = sqlite3.connect(database, isolation_level=None, timeout=PATIENT_S)
            with closing(holding) as holder:
                holder.execute("BEGIN EXCLUSIVE")
                yield holder.rollback
        else:
            with closing(psycopg.connect(database)) as other:
                other.execute("LOCK TABLE records IN EXCLUSIVE MODE")
                yield other.rollback
                other.rollback()  # a server lets go of what a mere close leaves in its own time

    return hold


def failure_of(engine: Engine) -> threading.Event:
    """Is set when the database has refused a statement."""
    failed = threading.Event()
    event.listen(engine, "handle_error", lambda _: failed.set())
    return failed


def gate_of(engine: Engine) -> threading.Event:
    """Until it is set, no transaction begins."""
    gate = threading.Event()
    event.listen(engine, "begin", lambda _: gate.wait(SOON), insert=True)
    return gate


def commit_of(engine: Engine) -> threading.Event:
    """Is set when something has been committed."""
    committed = threading.Event()
    event.listen(engine, "commit", lambda _: committed.set())
    return committed

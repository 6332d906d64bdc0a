"""Opening a database: its file, its settings, its tables, and what is refused."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, event, inspect
from sqlalchemy.pool import QueuePool

from gateway.errors import SettingsError
from gateway.store import tables
from gateway.store.database import migrate, open_database
from gateway.store.records import Selection, latest
from tests.postgres import Cluster

TABLES = [
    "alembic_version", "audits", "budgets", "changes", "changes_end", "comparisons", "records",
    "reservations", "spending", "trials", "verdicts",
]  # fmt: skip


def opened(where: str | Path) -> None:
    """Open a database and let it go."""
    open_database(where).dispose()


def pragma(engine: Engine, name: str) -> object:
    with engine.connect() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def test_a_missing_file_and_its_folder_are_made(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "new" / "records.db")
    assert (tmp_path / "new" / "records.db").is_file()
    assert latest(engine, Selection(), 1) == []
    engine.dispose()


def test_a_url_opens_the_same_file_as_its_path(tmp_path: Path) -> None:
    opened(f"sqlite:///{tmp_path}/records.db")
    assert (tmp_path / "records.db").is_file()


def test_commits_are_durable_and_readers_do_not_wait(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "records.db", busy_s=1.5)
    assert pragma(engine, "journal_mode") == "wal"
    assert pragma(engine, "synchronous") == 2  # FULL
    assert pragma(engine, "foreign_keys") == 1
    assert pragma(engine, "busy_timeout") == 1500  # milliseconds
    engine.dispose()


def test_the_migrations_lead_to_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "records.db")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_a_database_that_is_up_to_date_is_left_alone(tmp_path: Path) -> None:
    opened(tmp_path / "records.db")
    engine = open_database(tmp_path / "records.db")
    seen: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *call: seen.append(str(call[2])))
    migrate(engine)
    assert "BEGIN IMMEDIATE" in seen
    assert not [each for each in seen if each.startswith(("CREATE", "INSERT", "UPDATE", "DROP"))]
    engine.dispose()


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "records.db")) as connection:
        connection.execute("CREATE TABLE audits (id)")  # the second table of the first step
    with pytest.raises(SettingsError, match="table audits already exists"):
        opened(tmp_path / "records.db")
    with closing(sqlite3.connect(tmp_path / "records.db")) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert found == [("audits",)]


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "records.db")
    with closing(sqlite3.connect(tmp_path / "records.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(SettingsError, match="a schema that is not known here") as caught:
        opened(tmp_path / "records.db")
    assert "newer" in caught.value.mend


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"records\.path.*file/records\.db") as caught:
        opened(tmp_path / "file" / "records.db")
    assert "may write" in caught.value.mend


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unable to open database file"):
        opened(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "records.db").write_text("these are the notes of last summer, and no database")
    with pytest.raises(SettingsError, match="file is not a database"):
        opened(tmp_path / "records.db")


def test_a_database_that_another_process_holds_is_refused_after_a_wait(tmp_path: Path) -> None:
    opened(tmp_path / "records.db")
    with closing(sqlite3.connect(tmp_path / "records.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SettingsError, match="database is locked"):
            open_database(tmp_path / "records.db", busy_s=0.01)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="keeps nothing"):
        open_database(url)


@pytest.mark.parametrize("url", ["nosuch://user:secret@host/name", "://", "sqlite+nosuch:///x"])
def test_a_url_of_no_known_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="no URL of a database") as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


def test_the_tables_are_those_of_the_contract(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "records.db")
    assert sorted(inspect(engine).get_table_names()) == TABLES
    engine.dispose()


def test_a_guest_leaves_the_checkpoints_to_the_owner(tmp_path: Path) -> None:
    owner = open_database(tmp_path / "records.db")
    guest = open_database(tmp_path / "records.db", guest=True)
    assert pragma(owner, "wal_autocheckpoint") != 0
    assert pragma(guest, "wal_autocheckpoint") == 0
    owner.dispose()
    guest.dispose()


def test_replicas_that_start_at_once_migrate_one_after_the_other(cluster: Cluster) -> None:
    url = cluster.new_database()
    with ThreadPoolExecutor(8) as replicas:
        engines = list(replicas.map(open_database, [url] * 8))
    assert sorted(inspect(engines[0]).get_table_names()) == TABLES
    for engine in engines:
        engine.dispose()


def test_the_migrations_lead_to_the_same_tables_on_a_server(cluster: Cluster) -> None:
    engine = open_database(cluster.new_database())
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


@pytest.mark.parametrize(("guest", "statement"), [(False, "20s"), (True, "0")])
def test_no_statement_on_a_server_may_wait_without_end(
    cluster: Cluster,
    guest: bool,  # noqa: FBT001  pytest gives it by name
    statement: str,
) -> None:
    engine = open_database(cluster.new_database(), busy_s=1.5, guest=guest)
    with engine.connect() as connection:
        shown = [
            connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("lock_timeout", "statement_timeout", "application_name")
        ]
    assert shown == ["1500ms", statement, "understudy"]
    engine.dispose()


def test_a_replica_never_holds_more_than_three_connections(cluster: Cluster) -> None:
    engine = open_database(cluster.new_database())
    with engine.connect(), engine.connect(), engine.connect():
        assert isinstance(engine.pool, QueuePool)
        assert engine.pool.checkedout() == 3
        assert (engine.pool.size(), engine.pool._max_overflow) == (3, 0)
    engine.dispose()


def test_a_server_that_is_not_there_is_told_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"records\.url.*cannot be opened") as caught:
        open_database(f"postgresql://user:secret@/name?host={tmp_path}")
    assert "secret" not in str(caught.value)
    assert "server runs" in caught.value.mend


def test_a_database_of_another_make_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"records\.url") as caught:
        open_database("mssql+pymssql://user:secret@host/name")
    assert "secret" not in str(caught.value)

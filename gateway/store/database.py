"""Opens the database and brings its tables up to date. Knows no table by name.

SQLite by default, one file: WAL, so that readers never wait for the writer, and a full sync at each
commit, so that what is committed survives a loss of power. PostgreSQL where several replicas share
their records: few connections, each statement bounded in time, a lost server found again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import orjson
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from gateway.errors import RecordsUnavailable, SettingsError

Database: TypeAlias = Engine  # what other rooms call it: they hold it, and hand it to the store

BUSY_S = 5.0  # how long a statement waits for another process's lock; a commit takes milliseconds

_MIGRATIONS = "gateway.store:migrations"
_BEGIN = "understudy_begin"  # the execution option that says how a SQLite transaction begins
_POOL = 3  # connections of a replica: the writer's, the ledger's, and one for who looks
_CONNECT_S = 5  # for a server to take a connection; one that is there answers in milliseconds
_STATEMENT_S = 20  # a commit of a thousand rows takes a tenth of a second
_SILENT_S = 10  # after which a server that acknowledges nothing counts as gone
_MIGRATE_S = 120  # how long a replica waits while another brings the tables up to date
_MIGRATION_LOCK = 0x756E646572737479  # "understy": the key of the advisory lock on migrations


def open_database(where: str | Path, *, busy_s: float = BUSY_S, guest: bool = False) -> Engine:
    """Open a database by the path of a SQLite file or by URL, and migrate it.

    A file that is missing is made, its folder too. A `guest` works beside the gateway that owns the
    database: it may take its time, and leaves SQLite's checkpoints to the owner. Raises
    SettingsError when the database cannot be opened or written, or was written by a newer version.
    """
    url = _url(where)
    sqlite = url.get_backend_name() == "sqlite"
    key = "records.path" if sqlite else "records.url"
    name = url.database if sqlite else url.render_as_string(hide_password=True)
    try:
        engine = _engine(url, busy_s, guest=guest)
        migrate(engine)
    except (DBAPIError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise SettingsError(
            f"{key}: the database {name} cannot be opened and written: {cause}",
            mend="name a file that this user may write, on a local disk, that nothing else locks"
            if sqlite
            else "see that the server runs, and that this user may create tables there",
        ) from error
    except CommandError as error:
        raise SettingsError(
            f"{key}: the database {name} has a schema that is not known here: {error}",
            mend="use the version of Understudy that wrote it, or a newer one",
        ) from error
    return engine


def migrate(engine: Engine) -> None:
    """Apply the steps that are missing, all or none; many processes may try at once."""
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS)
    head = ScriptDirectory.from_config(config).get_current_head()
    with writing(engine).begin() as connection:
        if engine.dialect.name == "postgresql":
            _take_turns(connection)
        if MigrationContext.configure(connection).get_current_revision() == head:
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def writing(engine: Engine) -> Engine:
    """The same database, for transactions that write.

    Such a transaction takes SQLite's one write lock when it begins, where it can wait for it. One
    that reads first and writes later would be refused at once if another wrote in between.
    """
    return engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that reads text as `text_of` does, so that nothing stored there ends it.

    SQLite takes any bytes as text, and its driver would raise where they are no UTF-8.
    """
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        if driver is None or engine.dialect.name != "sqlite":
            yield connection
            return
        usual, driver.text_factory = driver.text_factory, text_of
        try:
            yield connection
        finally:
            driver.text_factory = usual


@contextmanager
def unless_troubled(otherwise: str) -> Iterator[None]:
    """Raises RecordsUnavailable where the database is in trouble: what is then so, in words."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise RecordsUnavailable(
            f"{otherwise}: {cause}",
            mend="see that the database of the records can be read and written",
        ) from error


def text_of(stored: bytes) -> str:
    """Text that may be no UTF-8; `\ufffd` stands for what is none."""
    return stored.decode(errors="replace")


def _url(where: str | Path) -> URL:
    if isinstance(where, Path) or "://" not in where:
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
        if url.drivername in {"postgres", "postgresql"}:
            url = url.set(drivername="postgresql+psycopg")
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise SettingsError(
            "records.url: this is no URL of a database that can be opened here",
            mend="write postgresql://user@host/name, with the extra `postgres` installed",
        ) from error
    if url.get_backend_name() not in {"sqlite", "postgresql"}:
        raise SettingsError(
            f"records.url: records are not kept in {url.get_backend_name()}",
            mend="write postgresql://user@host/name, or name a SQLite file as records.path",
        )
    if url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}:
        raise SettingsError(
            "records.path: a database in memory keeps nothing", mend="name the path of a file"
        )
    return url


def _engine(url: URL, busy_s: float, *, guest: bool) -> Engine:
    of_server = {} if url.get_backend_name() == "sqlite" else _server(busy_s, guest=guest)
    engine = create_engine(
        url,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        hide_parameters=True,  # an error may be logged, and what was to be stored may not
        **of_server,
    )
    if engine.dialect.name == "sqlite":
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        event.listen(engine, "connect", _pragmas(busy_s, guest=guest))
        event.listen(engine, "begin", _begin)
    return engine


def _server(busy_s: float, *, guest: bool) -> dict[str, Any]:
    """What a PostgreSQL engine is made with. Nothing here may wait without end."""
    bounds = {
        "lock_timeout": round(busy_s * 1000),
        "statement_timeout": 0 if guest else _STATEMENT_S * 1000,
        "idle_in_transaction_session_timeout": _STATEMENT_S * 1000,
    }
    return {
        "pool_size": _POOL,
        "max_overflow": 0,
        "pool_timeout": _CONNECT_S,
        "connect_args": {
            "application_name": "understudy",
            "connect_timeout": _CONNECT_S,
            "tcp_user_timeout": _SILENT_S * 1000,
            "options": " ".join(f"-c {name}={value}" for name, value in bounds.items()),
        },
    }


def _take_turns(connection: Connection) -> None:
    """Hold the lock on migrations until the transaction ends, so that replicas go one by one."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_MIGRATE_S}s'")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")


def _pragmas(busy_s: float, *, guest: bool) -> Any:
    def prepare(connection: Any, _record: object) -> None:
        # The driver would begin transactions late, and never before DDL: `_begin` does it instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={round(busy_s * 1000)}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        if guest:
            cursor.execute("PRAGMA wal_autocheckpoint=0")
        cursor.close()

    return prepare


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))

"""Opens the database and brings its tables up to date. Knows no table by name.

SQLite by default, one file: WAL, so that readers never wait for the writer, and a full sync at each
commit, so that what is committed survives a loss of power.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from gateway.errors import SettingsError

BUSY_S = 5.0  # how long a statement waits for another process's lock; a commit takes milliseconds

_MIGRATIONS = "gateway.store:migrations"
_BEGIN = "understudy_begin"  # the execution option that says how a SQLite transaction begins


def open_database(where: str | Path, *, busy_s: float = BUSY_S) -> Engine:
    """Open a database by the path of a SQLite file or by URL, and migrate it.

    A file that is missing is made, its folder too. Raises SettingsError when the database cannot be
    opened or written, or was written by a newer version.
    """
    url = _url(where)
    name = url.database if url.get_backend_name() == "sqlite" else url.render_as_string()
    try:
        engine = _engine(url, busy_s)
        migrate(engine)
    except (DBAPIError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise SettingsError(
            f"records.path: the database {name} cannot be opened and written: {cause}",
            mend="name a file that this user may write, on a local disk, that nothing else locks",
        ) from error
    except CommandError as error:
        raise SettingsError(
            f"records.path: the database {name} has a schema that is not known here: {error}",
            mend="use the version of Understudy that wrote it, or a newer one",
        ) from error
    return engine


def migrate(engine: Engine) -> None:
    """Apply the steps that are missing, all or none; two processes may try at once."""
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS)
    head = ScriptDirectory.from_config(config).get_current_head()
    with writing(engine).begin() as connection:
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


def _url(where: str | Path) -> URL:
    if isinstance(where, Path) or "://" not in where:
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise SettingsError(
            "records.path: this is no URL of a database that can be opened here",
            mend="name the path of a file; other databases need their driver installed",
        ) from error
    if url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}:
        raise SettingsError(
            "records.path: a database in memory keeps nothing", mend="name the path of a file"
        )
    return url


def _engine(url: URL, busy_s: float) -> Engine:
    engine = create_engine(
        url,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
    )
    if engine.dialect.name == "sqlite":
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        event.listen(engine, "connect", _pragmas(busy_s))
        event.listen(engine, "begin", _begin)
    return engine


def _pragmas(busy_s: float) -> Any:
    def prepare(connection: Any, _record: object) -> None:
        # The driver would begin transactions late, and never before DDL: `_begin` does it instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={round(busy_s * 1000)}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return prepare


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))

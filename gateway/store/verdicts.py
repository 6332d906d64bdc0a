"""Verdicts: what people say is right of stored answers. Gold for the next student.

A verdict is committed before anybody is told that it is there, and is never changed: of several on
one record the last counts, and the others stay. It goes when its record goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway import identity
from gateway.errors import RecordsUnavailable, UnknownRecord
from gateway.store import tables
from gateway.store.database import writing


@dataclass(frozen=True, slots=True)
class Verdict:
    """The right labels of every head, one for a choice, of the answer with the id `record`.

    `who` is the name of the key that sends it; `by` is the person, as the sender says.
    """

    record: str
    labels: Mapping[str, tuple[str, ...]]
    who: str
    by: str | None = None
    note: str = ""


class Verdicts:
    """Takes verdicts. May be used from any thread. `clock` gives seconds since the epoch."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def task_of(self, record: str) -> str:
        """The task of a stored answer. Raises UnknownRecord or RecordsUnavailable."""
        query = select(tables.records.c.task).where(tables.records.c.id == record)
        try:
            with self._engine.connect() as connection:
                found: str | None = connection.scalar(query)
        except (DBAPIError, PoolTimeout) as error:
            raise _unavailable(error) from error
        if found is None:
            raise _unknown(record)
        return found

    def add(self, verdict: Verdict) -> str:
        """Commit a verdict; returns its id. Raises UnknownRecord or RecordsUnavailable."""
        name = identity.answer_id()
        row = {
            "id": name,
            "at": self._clock(),
            "record": verdict.record,
            "who": verdict.who,
            "by": verdict.by,
            "labels": {head: list(labels) for head, labels in verdict.labels.items()},
            "note": verdict.note,
        }
        try:
            with writing(self._engine).begin() as connection:
                connection.execute(insert(tables.verdicts).values(row))
        except IntegrityError as error:  # the record went in the meantime
            raise _unknown(verdict.record) from error
        except (DBAPIError, PoolTimeout) as error:
            raise _unavailable(error) from error
        return name


def _unknown(record: str) -> UnknownRecord:
    return UnknownRecord(
        f"no answer with the id {record!a} is stored",
        mend="send the id of a reply whose record is stored; it may be a moment late, or be gone",
    )


def _unavailable(error: DBAPIError | PoolTimeout) -> RecordsUnavailable:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return RecordsUnavailable(
        f"the verdict is not stored: {cause}",
        mend="send it again; see that the database of the records can be written",
    )

"""The log of changes: who let what serve, when and why, chained so that it shows what was altered.

A row holds the hash of the row before it, and its own: SHA-256 over the canonical JSON (keys
sorted, no spaces, UTF-8) of all else that it says. Rows are only ever added. A row of another table
says where the log ends: an append locks it, so that replicas add one after the other, and by it is
seen that the last rows are gone.

What cannot be found here: rows that somebody who may write the database has rewritten together with
every later hash and the end. Against that an anchor is kept elsewhere, a row's number and hash; up
to that row nothing can be altered any more. What no gateway did was never a row.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import orjson
import structlog
from sqlalchemy import Connection, Engine, RowMapping, Text, cast, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.errors import LogUnavailable, UsageError
from gateway.store.database import reading, text_of, writing
from gateway.store.tables import changes, changes_end

_NOTHING = "0" * 64  # the hash before the first row
_END = 1  # the id of the one row of `changes_end`
_ANCHOR = re.compile(r"(\d{1,18}):([0-9a-f]{64})")

_log = structlog.get_logger(__name__)


class What(StrEnum):
    """What was done. A log may hold others, of a newer version."""

    START = "start"  # a gateway began to serve a student that was not the last in the log
    SWAP = "swap"
    ROLLBACK = "rollback"
    RELOAD = "reload"
    PROMOTE = "promote"  # a candidate that was proved goes on its way: as a canary, or to a second
    OVERRIDE = "override"  # person first; the same of one that was not proved
    APPROVE = "approve"  # the second person
    STEP = "step"  # a canary answers a larger share
    TAKEOVER = "takeover"  # a canary has done all its steps, and serves
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"
    WITHDRAWN = "withdrawn"  # what the row before said did not come about: a rollback was faster


# What says, as `new`, who serves from then on.
_SERVES = (What.START, What.SWAP, What.ROLLBACK, What.RELOAD, What.TAKEOVER)
_LATELY = 1000  # rows of a task that are looked through: for one that is owed, or who serves


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A change that is to be noted.

    `who` is the name of a key, or one of our own words. `old` and `new` are the names of bundles,
    or fingerprints of settings. `task`: None, where it is of the whole gateway.
    """

    what: What
    who: str
    task: str | None = None
    old: str | None = None
    new: str | None = None
    why: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Anchor:
    """How far a log goes: the number of its last row, and that row's hash."""

    number: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """An anchor as `str` gives it. Raises UsageError."""
        found = _ANCHOR.fullmatch(text)
        if found is None:
            raise UsageError(
                f"{text[:100]!r} is no anchor of the log of changes",
                mend="give what `understudy changes verify` printed: NUMBER:HASH",
            )
        return cls(int(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Row:
    """A change that was noted. `at` is in seconds since the epoch.

    `evidence`: None, where what stands there is no JSON any more.
    """

    number: int
    at: float
    task: str | None
    who: str
    what: str
    old: str | None
    new: str | None
    why: str
    evidence: Mapping[str, Any] | None
    previous: str
    hash: str = ""

    def content(self) -> dict[str, Any]:
        """All that its hash speaks of."""
        names = (name for name in self.__slots__ if name != "hash")
        return {name: getattr(self, name) for name in names}

    def computed(self) -> str:
        """The hash that it ought to have, 64 hexadecimal digits."""
        said = orjson.dumps(self.content(), option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(said).hexdigest()


class Fault(StrEnum):
    """What is wrong with the log at a row."""

    EDITED = "edited"  # it says something else than what its hash was made of
    DELETED = "deleted"  # it ought to be there
    INSERTED = "inserted"  # it ought not to be there
    UNLINKED = "unlinked"  # it follows another row than the one before it
    REWRITTEN = "rewritten"  # it is another than when the anchor was taken


@dataclass(frozen=True, slots=True)
class Flaw:
    """The first row that does not fit."""

    number: int
    fault: Fault
    words: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What verifying has found: up to `end` everything fits; None for `flaw`: that is all of it."""

    end: Anchor
    flaw: Flaw | None


class Changes:
    """Adds to the log. May be used from any thread. `clock` gives seconds since the epoch."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = writing(engine)
        self._clock = clock

    def append(self, *entries: Entry) -> Anchor:
        """Commit the entries, all or none, as the next rows; returns the log's new end.

        Raises LogUnavailable where the database does not take them.
        """
        return self._append(lambda _: entries)

    def append_once(self, task: str, entries: Mapping[str, Entry]) -> None:
        """Commit those entries of a task, by their ids, that are not in the log yet.

        Replicas may try at once, and so may a process that does not know whether the one before it
        has got so far. Raises LogUnavailable.
        """

        def missing(connection: Connection) -> Iterator[Entry]:
            there = _known(connection, task)
            for name, entry in entries.items():
                if name not in there:
                    yield replace(entry, evidence={**entry.evidence, "id": name})

        self._append(missing)

    def start(self, task: str, serving: str, *, who: str) -> None:
        """Note that this student serves from now on, where the log knows another, or none.

        Of replicas that start at once the first one notes it. Raises LogUnavailable.
        """

        def missing(connection: Connection) -> Iterator[Entry]:
            known = _serving(connection, task)
            if known != serving:
                yield Entry(what=What.START, who=who, task=task, old=known, new=serving)

        self._append(missing)

    def _append(self, wanted: Callable[[Connection], Iterable[Entry]]) -> Anchor:
        """Commit what is wanted when nobody else can move the end."""
        try:
            with self._engine.begin() as connection:
                before = end = _lock(connection)
                at = self._clock()
                for entry in wanted(connection):
                    row = _next(end, at, entry)
                    connection.execute(insert(changes).values(row.content() | {"hash": row.hash}))
                    end = Anchor(row.number, row.hash)
                connection.execute(update(changes_end).values(number=end.number, hash=end.hash))
        except (DBAPIError, PoolTimeout) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise LogUnavailable(
                f"the log of changes cannot be written: {cause}",
                mend="see that the database of the records can be written, and try again",
            ) from error
        if end != before:
            _log.info("noted in the log of changes", number=end.number, hash=end.hash)
        return end


def latest(
    engine: Engine, limit: int, *, task: str | None = None, since: float | None = None
) -> list[Row]:
    """The last changes, the newest first; of that task only, and from that time on."""
    query = _ROWS.order_by(changes.c.number.desc()).limit(limit)
    if task is not None:
        query = query.where(changes.c.task == task)
    if since is not None:
        query = query.where(changes.c.at >= since)
    with reading(engine) as connection:
        return [_row(row) for row in connection.execute(query).mappings()]


def verify(engine: Engine, anchor: Anchor | None = None) -> Finding:
    """Hold every row against its hash, its neighbour, the end, and the anchor if there is one."""
    # Both tables are seen as of one moment; a transaction of SQLite is like that by itself.
    level = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    with reading(engine.execution_options(**level)) as connection:
        found = connection.execute(select(changes_end)).mappings().one_or_none()
        end = Anchor(found["number"], found["hash"]) if found else None
        rows = connection.execute(_ROWS.order_by(changes.c.number)).mappings()
        return _held(map(_row, rows), end, anchor)


# What was altered may be no JSON: it is read as text, and parsed here.
_ROWS = select(
    *(column for column in changes.c if column.name != "evidence"),
    cast(changes.c.evidence, Text).label("evidence"),
)


def _row(found: RowMapping) -> Row:
    """A row as it stands there, whatever somebody has made of it: no gateway wrote null."""
    said: dict[str, Any] = {
        name: text_of(each) if isinstance(each, bytes) else each for name, each in found.items()
    }
    try:
        said["evidence"] = orjson.loads(said["evidence"])
    except orjson.JSONDecodeError:
        said["evidence"] = None
    return Row(**said)


def _serving(connection: Connection, task: str) -> str | None:
    """The student that serves the task, as far as the log knows.

    A row that was withdrawn by a later one says nothing.
    """
    columns = changes.c
    told = (columns.task == task) & columns.what.in_((*_SERVES, What.WITHDRAWN))
    query = select(columns.what, columns.old, columns.new).where(told)
    withdrawn: list[tuple[str | None, str | None]] = []
    for what, old, new in connection.execute(query.order_by(columns.number.desc()).limit(_LATELY)):
        if what == What.WITHDRAWN:
            withdrawn.append((new, old))  # as it stood in the row that it takes back
        elif (old, new) in withdrawn:
            withdrawn.remove((old, new))
        else:
            return None if new is None else str(new)
    return None


def _known(connection: Connection, task: str) -> frozenset[object]:
    """The ids of the last rows of a task that have one."""
    query = _ROWS.where(changes.c.task == task).order_by(changes.c.number.desc()).limit(_LATELY)
    found = [_row(row).evidence for row in connection.execute(query).mappings()]
    return frozenset(each["id"] for each in found if each and "id" in each)


def _lock(connection: Connection) -> Anchor:
    """The end of the log, which nobody else can move until the transaction ends."""
    query = select(changes_end.c.number, changes_end.c.hash).where(changes_end.c.id == _END)
    found = connection.execute(query.with_for_update()).one_or_none()
    if found is None:
        raise LogUnavailable(
            "the log of changes has lost the row that says where it ends",
            mend="look at `understudy changes verify`, and restore the database from a copy",
        )
    return Anchor(found.number, found.hash)


def _next(end: Anchor, at: float, entry: Entry) -> Row:
    said = {
        "number": end.number + 1,
        "at": at,
        "task": entry.task,
        "who": entry.who,
        "what": entry.what.value,
        "old": entry.old,
        "new": entry.new,
        "why": entry.why,
        "evidence": orjson.loads(orjson.dumps(entry.evidence)),  # as it will be read
        "previous": end.hash,
    }
    return Row(**said, hash=Row(**said).computed())


def _held(rows: Iterable[Row], end: Anchor | None, anchor: Anchor | None) -> Finding:
    before = Anchor(0, _NOTHING)
    for row in rows:
        flaw = _misplaced(row, before, end) or _altered(row, before, anchor)
        if flaw is not None:
            return Finding(before, flaw)
        before = Anchor(row.number, row.hash)
    return Finding(before, _flaw_at_end(before, end, anchor))


def _misplaced(row: Row, before: Anchor, end: Anchor | None) -> Flaw | None:
    """What is wrong with the number of a row that is read after `before`."""
    number = before.number + 1
    if row.number > number:
        return Flaw(number, Fault.DELETED, f"row {number} is missing: row {row.number} comes next")
    if row.number < number:
        return Flaw(row.number, Fault.INSERTED, f"row {row.number} has a number that none can have")
    if end is not None and number > end.number:
        words = f"row {number} was not added by a gateway: the log ends at row {end.number}"
        return Flaw(number, Fault.INSERTED, words)
    return None


def _altered(row: Row, before: Anchor, anchor: Anchor | None) -> Flaw | None:
    """What is wrong with what a row says, of which `before` has the place before it."""
    number = row.number
    if row.hash != row.computed():
        return Flaw(number, Fault.EDITED, f"row {number} does not say what its hash was made of")
    if row.previous != before.hash:
        words = f"row {number} follows another row than {before.number}: one of them was replaced"
        return Flaw(number, Fault.UNLINKED, words)
    if anchor is not None and number == anchor.number and row.hash != anchor.hash:
        words = f"row {number} is another than when the anchor was taken, or one before it is"
        return Flaw(number, Fault.REWRITTEN, words)
    return None


def _flaw_at_end(last: Anchor, end: Anchor | None, anchor: Anchor | None) -> Flaw | None:
    """What is wrong with a log whose rows all fit, and of which `last` is the last."""
    number = last.number + 1
    if end is None:
        words = "the row that says where the log ends is missing, and perhaps others with it"
        return Flaw(number, Fault.DELETED, words)
    if end.number > last.number:
        words = f"row {number} is missing: the log ends at row {end.number}"
        return Flaw(number, Fault.DELETED, words)
    if end.hash != last.hash:
        words = f"row {last.number} is another than the one with which the log ended"
        return Flaw(last.number, Fault.REWRITTEN, words)
    if anchor is not None and anchor.number > last.number:
        words = f"row {number} is missing: the anchor is of row {anchor.number}"
        return Flaw(number, Fault.DELETED, words)
    return None

"""What was counted of candidates, in segments: each is of one process and one footing.

A process writes its own segments alone, again and again until they end; what is known of a
candidate is the sum of all. Those that have ended are folded into one, so that a long test is a few
rows. Slices hold values of requests, and go when the records of their time go; the numbers of the
evidence stay: who forgot them could try a candidate until it passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, RowMapping, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.shadow.promotion import Saved
from gateway.shadow.slices import Kept
from gateway.store.database import unless_troubled, writing
from gateway.store.tables import trials

DAY_S = 86_400.0  # a segment lasts no longer, so that its slices go with the records of its time

_DEAD_S = 2 * DAY_S  # after which a segment that nobody has ended belongs to no process any more


@dataclass(frozen=True, slots=True)
class Header:
    """Which candidate a segment is of, and from when to when, in seconds since the epoch.

    `sliced`: whether it has slices, which are forgotten one day. `footing`, as JSON, and `limits`
    by gate say which test it is part of: under others another one begins.
    """

    segment: str
    candidate: str
    began: float
    until: float
    sliced: bool
    footing: bytes
    limits: frozenset[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Counted:
    """A segment: what was counted of a candidate in that time. It has `ended` or goes on."""

    segment: str
    candidate: str
    began: float
    until: float
    state: Saved
    slices: Kept | None
    ended: bool = False

    @property
    def about(self) -> bytes:
        """What its counts are of: the same bytes where they may be added up."""
        of = [self.state["footing"], self.state["limits"]]
        return orjson.dumps(of, option=orjson.OPT_SORT_KEYS)

    @property
    def header(self) -> Header:
        """Without what was counted."""
        sliced, state = self.slices is not None, self.state
        where = (self.segment, self.candidate, self.began, self.until, sliced)
        return Header(*where, *about(state["footing"], state["limits"]))


def about(
    footing: Mapping[str, Any], limits: Mapping[str, float]
) -> tuple[bytes, frozenset[tuple[str, float]]]:
    """A footing and limits by gate, as a header has them."""
    return orjson.dumps(footing, option=orjson.OPT_SORT_KEYS), frozenset(limits.items())


Total = Callable[[Sequence[Counted]], Counted]


def save(
    engine: Engine, task: str, found: Sequence[Counted], *, known: Collection[str]
) -> frozenset[str]:
    """Store segments as they are now; `known` are those that this process has stored before.

    Returns those of them that are gone: somebody has folded them, and they must not come again.
    Raises RecordsUnavailable.
    """
    gone = set()
    with (
        unless_troubled("what was counted of candidates is not stored"),
        writing(engine).begin() as connection,
    ):
        for each in found:
            if each.segment not in known:
                add(connection, task, [each])
            elif not _replaced(connection, each):
                gone.add(each.segment)
    return frozenset(gone)


def add(connection: Connection, task: str, found: Sequence[Counted]) -> None:
    """Insert segments; one that is there already, of a try before this one, is replaced."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for each in found:
        row = _row(task, each)
        insert = dialect.insert(trials).values(row)
        connection.execute(insert.on_conflict_do_update(index_elements=["segment"], set_=row))


def headers(engine: Engine, task: str) -> list[Header]:
    """All segments of the task's candidates, whoever they were. Raises RecordsUnavailable."""
    columns = trials.c
    sliced = columns.slices.is_not(None)
    what = (columns.state["footing"], columns.state["limits"])
    query = select(columns.segment, columns.candidate, columns.began, columns.until, sliced, *what)
    with (
        unless_troubled("what was counted of candidates is not read"),
        engine.connect() as connection,
    ):
        rows = connection.execute(query.where(columns.task == task)).all()
    return [
        Header(segment, candidate, began, until, has, *about(footing or {}, limits or {}))
        for segment, candidate, began, until, has, footing, limits in rows
    ]


def counted(engine: Engine, segments: Collection[str]) -> list[Counted]:
    """What was counted in these. Raises RecordsUnavailable."""
    if not segments:
        return []
    query = select(trials).where(trials.c.segment.in_(segments)).order_by(trials.c.began)
    with (
        unless_troubled("what was counted of candidates is not read"),
        engine.connect() as connection,
    ):
        return [_counted(row) for row in connection.execute(query).mappings()]


def fold(engine: Engine, task: str, *, now: float, total: Total) -> int:
    """Replace ended segments of one candidate and footing by their sum; returns how many went.

    Slices are folded by day. Readers see the parts or the sum. Raises RecordsUnavailable.
    """
    columns = trials.c
    over = or_(columns.ended, columns.until < now - _DEAD_S)
    query = select(trials).where(columns.task == task, over).with_for_update(skip_locked=True)
    went = 0
    with (
        unless_troubled("what was counted of candidates is not folded"),
        writing(engine).begin() as connection,
    ):
        found = sorted(map(_counted, connection.execute(query).mappings()), key=_kind)
        for _, same in groupby(found, key=_kind):
            if len(parts := list(same)) > 1:
                gone = columns.segment.in_([each.segment for each in parts])
                connection.execute(delete(trials).where(gone))
                add(connection, task, [total(parts)])
                went += len(parts)
    return went


def forget(engine: Engine, before: float) -> None:
    """Delete the slices of all that was counted before that time, in seconds since the epoch."""
    old = (trials.c.until < before, trials.c.slices.is_not(None))
    with writing(engine).begin() as connection:
        connection.execute(update(trials).where(*old).values(slices=None))


def _kind(counted: Counted) -> tuple[str, bytes, int]:
    """What segments have in common that may be added up; without slices the day is no matter."""
    day = -1 if counted.slices is None else int(counted.began // DAY_S)
    return counted.candidate, counted.about, day


def _replaced(connection: Connection, found: Counted) -> bool:
    same = trials.c.segment == found.segment
    now = {"until": found.until, "ended": found.ended, "state": found.state, "slices": found.slices}
    return connection.execute(update(trials).where(same).values(now)).rowcount > 0


def _row(task: str, found: Counted) -> dict[str, Any]:
    return {
        "segment": found.segment,
        "task": task,
        "candidate": found.candidate,
        "began": found.began,
        "until": found.until,
        "ended": found.ended,
        "state": found.state,
        "slices": found.slices,
    }


def _counted(row: RowMapping) -> Counted:
    return Counted(
        segment=row["segment"],
        candidate=row["candidate"],
        began=row["began"],
        until=row["until"],
        state=row["state"],
        slices=row["slices"],
        ended=row["ended"],
    )

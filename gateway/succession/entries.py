"""The rows that changes of one task leave in the log of changes: before the effect, or after it.

What somebody wishes has its row before it is done (`noted`). The way back waits for no database: it
takes effect first, and what it owes the log is in roles.json from the same moment on (`Debt`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import orjson
import structlog

from gateway import identity
from gateway.errors import LogUnavailable, UnderstudyError
from gateway.store.changes import Changes, Entry, What
from gateway.students.registry import Owed, Roles
from gateway.succession.change import Ready
from gateway.succession.stage import Stage

_PAUSE_S = 5.0  # before the log of changes is tried again

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def noted(changes: Changes | None, entries: Sequence[Entry]) -> AsyncIterator[None]:
    """Have these rows in the log before what they say is done; if it fails, one that says so too.

    Without a log nothing is noted. Raises LogUnavailable.
    """
    if changes is None or not entries:
        yield
        return
    await asyncio.to_thread(changes.append, *entries)
    try:
        yield
    except UnderstudyError as error:
        taken_back = [
            replace(each, what=What.WITHDRAWN, old=each.new, new=each.old, why=error.message)
            for each in entries
        ]
        with suppress(LogUnavailable):  # the next start notes who serves
            await asyncio.to_thread(changes.append, *taken_back)
        raise


async def undivided(work: Coroutine[Any, Any, None]) -> None:
    """Do it as a whole, the row and what it says: a cancellation waits until both are done."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # who is gone hears of none
        raise


def evident(entry: Entry, ready: Ready) -> Entry:
    """The same with the threshold and the teacher of the student that is new in it."""
    for seat in (ready.seat, ready.canary):
        if seat is not None and seat.name == entry.new:
            found = {"threshold": seat.rung.policy.threshold, "teacher": seat.teacher.name}
            return replace(entry, evidence=found | dict(entry.evidence))
    return entry


class Debt:
    """The rows that roles.json owes the log; without a log it owes none."""

    def __init__(self, stage: Stage, changes: Changes | None) -> None:
        self._stage = stage
        self._changes = changes
        self._paying: asyncio.Task[None] | None = None
        self._pay_at = -math.inf  # not before

    def owing(self, roles: Roles, rows: Sequence[Entry]) -> Roles:
        """These roles, with rows that are to be brought into the log once they hold."""
        if self._changes is None:
            return roles
        owed = tuple(_owed(row, at=self._stage.clock()) for row in rows)
        return roles.model_copy(update={"owed": (*roles.owed, *owed)})

    def pay(self) -> asyncio.Task[None] | None:
        """Bring rows that roles.json owes into the log, aside; None: it owes none, or not now."""
        stage = self._stage
        running = self._paying is not None and not self._paying.done()
        owed = stage.written.owed if stage.written else ()
        if not running and owed and self._changes is not None and stage.ticks() >= self._pay_at:
            self._paying = asyncio.get_running_loop().create_task(self._pay(self._changes, owed))
            running = True
        return self._paying if running else None

    async def settle(self) -> None:
        """Have paid what is owed before a row that comes after it; where the log takes it."""
        self._pay_at = -math.inf
        for _ in range(2):  # first what is being paid by now, and then what has come since
            if (paying := self.pay()) is not None:
                await asyncio.wait({paying})

    async def close(self) -> None:
        """Wait until what is being paid is."""
        if self._paying is not None:
            await asyncio.wait({self._paying})

    async def _pay(self, changes: Changes, owed: Sequence[Owed]) -> None:
        """First into the log, then out of roles.json: twice does no harm, as a row has an id."""
        stage = self._stage
        rows = {each.id: _row(stage.task, each) for each in owed}
        try:
            await asyncio.to_thread(changes.append_once, stage.task, rows)
            await stage.strike_out(frozenset(rows))
        except UnderstudyError as error:
            self._pay_at = stage.ticks() + _PAUSE_S
            _log.warning("a change is not in the log yet", task=stage.task, error=error.message)


def _owed(entry: Entry, *, at: float) -> Owed:
    said = orjson.loads(orjson.dumps(entry.evidence))  # as it will be read
    return Owed(
        id=identity.answer_id(),
        at=at,
        what=entry.what.value,
        who=entry.who,
        old=entry.old,
        new=entry.new,
        why=entry.why,
        evidence=said,
    )


def _row(task: str, owed: Owed) -> Entry:
    return Entry(
        what=What(owed.what),
        who=owed.who,
        task=task,
        old=owed.old,
        new=owed.new,
        why=owed.why,
        evidence={**owed.evidence, "held_at": owed.at},
    )

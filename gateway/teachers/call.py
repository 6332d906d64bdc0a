"""A call that is under way, and those who wait for it.

Callers who ask the same thing at the same time share one call. Each has a deadline of its own and
may leave; the call goes on for the others. When nobody waits any more, it is cancelled.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from gateway.errors import TeacherError, TeacherTimeout, TeacherUnavailable
from gateway.teachers.base import Said
from gateway.types import Bucket, Priority


@dataclass(eq=False, frozen=True, slots=True)
class _Waiter:
    deadline: float | None
    priority: Priority


class Call:
    """The work on one input. It begins at once; `work` is given the call itself.

    The work notes here what it asked of the teacher: `begun` attempts, and the `costs` of those
    which said what they cost. One of those who waited is told that a call was made, and is billed.
    """

    def __init__(self, teacher: str, work: Callable[[Call], Coroutine[Any, Any, Said]]) -> None:
        self.bucket = Bucket.LIVE  # what the last attempt was made for; the work says so
        self.begun = 0
        self.costs: list[int] = []
        self.overdue = False  # it was given up because the time of the last who waited was over
        self._teacher = teacher
        self._waiters: list[_Waiter] = []
        self._billed = False
        self._given_up = False
        self._task = asyncio.get_running_loop().create_task(work(self))
        self._task.add_done_callback(looked_at)

    def on_end(self, then: Callable[[], None]) -> None:
        """Call that when the work has ended, however it ended."""
        self._task.add_done_callback(lambda _: then())

    def bill(self, said: Said) -> Said:
        """The answer with what all attempts cost, as far as they said."""
        return replace(said, cost=self._known, unpriced=self._unpriced)

    def charge(self, error: TeacherError) -> None:
        """The same of an error: whether an attempt was begun, and what all of them cost."""
        error.asked = self.begun > 0
        error.cost, error.unpriced = self._known, self._unpriced

    @property
    def open(self) -> bool:
        """Whether one more may wait for it."""
        return not self._given_up and not self._task.done()

    @property
    def left(self) -> float | None:
        """Seconds that the most patient of those who wait still has; None: no end."""
        now = time.perf_counter()
        ends = [None if each.deadline is None else each.deadline - now for each in self._waiters]
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) else None

    @property
    def priority(self) -> Priority:
        """The highest of those who wait."""
        return min((each.priority for each in self._waiters), default=Priority.AUDIT)

    async def wait(self, deadline: float | None, priority: Priority) -> Said:
        """Wait for the answer, until `deadline` as time.perf_counter gives it.

        Raises TeacherTimeout, or what the work raises.
        """
        started = time.perf_counter()
        limit = None if deadline is None else max(0.0, deadline - started)
        waiter = _Waiter(deadline, priority)
        self._waiters.append(waiter)
        late = False
        try:
            done, _ = await asyncio.wait({self._task}, timeout=limit)
            late = not done
        finally:
            self._waiters.remove(waiter)
            last = not self._waiters
            if last and not self._task.done():
                await self._give_up(overdue=late)
        if late:
            raise self._too_late(time.perf_counter() - started, last=last)
        return self._result()

    @property
    def _known(self) -> int | None:
        return sum(self.costs) if self.costs else None

    @property
    def _unpriced(self) -> int:
        """Attempts of unknown cost, beside the one that has a price where none is known."""
        return max(0, self.begun - max(1, len(self.costs)))

    async def _give_up(self, *, overdue: bool) -> None:
        """Cancel the work, and see it end: what it holds is free again."""
        self.overdue = overdue
        self._given_up = True
        self._task.cancel()
        await asyncio.wait({self._task})

    def _too_late(self, seconds: float, *, last: bool) -> TeacherTimeout:
        if not self.begun:
            return no_place(self._teacher, seconds)
        error = TeacherTimeout(f"{self._teacher} did not answer in {seconds:.3g} s")
        self.charge(error)
        error.asked = last  # where others wait on, one of them is billed
        return error

    def _result(self) -> Said:
        """What the work gave, or its error; for all but one, as a thing that somebody else paid."""
        first, self._billed = not self._billed, True
        if self._task.cancelled():  # by something below it, while somebody waited
            raise TeacherUnavailable(f"{self._teacher} broke the call off", asked=first)
        try:
            said = self._task.result()
        except TeacherError as error:
            if first:
                raise
            theirs = copy.copy(error)
            theirs.asked = False
            raise theirs from error
        return said if first else replace(said, cost=0, asked=False, unpriced=0)


def looked_at(task: asyncio.Task[Any]) -> None:
    """Look at how a task ended that perhaps nobody waits for, or the event loop complains."""
    if not task.cancelled():
        task.exception()


def no_place(teacher: str, seconds: float) -> TeacherTimeout:
    """The error of a call that was not begun because all places were taken for so long."""
    return TeacherTimeout(
        f"{teacher} was not asked: no place was free in {seconds:.3g} s",
        mend="raise teacher.concurrency, or allow the request more time",
        asked=False,
    )

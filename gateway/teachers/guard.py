"""What stands around every teacher: a deadline, and bounds on the calls that run and that wait."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque

from gateway.contract.manifest import Task
from gateway.errors import TeacherTimeout, TeacherUnavailable
from gateway.teachers.base import Said, Teacher
from gateway.types import Instance

_WAITING = 16  # calls that may wait for each one that runs; more would hardly be answered in time
_REMEMBERED = 64  # durations: enough for a median that follows the teacher within minutes


class Guard:
    """A teacher whose calls end in time and of which at most `concurrency` run at once.

    A call that finds no place waits for one, within its own deadline. A call is not begun with less
    time left than half of the last ones took: it would mostly be paid for and not be used.
    """

    def __init__(self, teacher: Teacher, *, timeout_s: float, concurrency: int) -> None:
        self._teacher = teacher
        self._timeout = timeout_s
        self._places = asyncio.Semaphore(concurrency)
        self._most = concurrency * (1 + _WAITING)
        self._calls = 0
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def name(self) -> str:
        """The guarded teacher's name."""
        return self._teacher.name

    @property
    def task(self) -> Task:
        """The guarded teacher's task."""
        return self._teacher.task

    @property
    def busy(self) -> bool:
        """Whether no place is free: a call that comes now has to wait."""
        return self._places.locked()

    async def answer(self, instance: Instance, *, deadline: float | None = None) -> Said:
        """Ask the teacher. `deadline` as time.perf_counter gives it.

        Raises TeacherTimeout, TeacherUnavailable or what the teacher raises; the error says whether
        the call was begun.
        """
        limit = self._timeout if deadline is None else self._allowed(deadline)
        if self._calls >= self._most:
            raise TeacherUnavailable(
                f"{self._calls} calls to {self.name} run or wait already",
                mend="try again later",
                asked=False,
            )
        self._calls += 1
        asked = False
        try:
            async with asyncio.timeout(limit), self._places:
                asked = True
                started = time.perf_counter()
                said = await self._teacher.answer(instance)
                self._durations.append(time.perf_counter() - started)
                return said
        except TimeoutError as error:
            raise self._timed_out(limit, asked=asked) from error
        finally:
            self._calls -= 1

    def _allowed(self, deadline: float) -> float:
        """Seconds that a call may take. Raises TeacherTimeout when they are too few."""
        left = deadline - time.perf_counter()
        usual = statistics.median(self._durations) if self._durations else 0.0
        if left <= usual:
            raise TeacherTimeout(
                f"{self.name} was not asked: {max(0.0, left):.3g} s are left, "
                f"half of its answers take longer than {usual:.3g} s",
                mend="allow the request more time",
                asked=False,
            )
        return min(self._timeout, left)

    def _timed_out(self, limit: float, *, asked: bool) -> TeacherTimeout:
        if asked:
            return TeacherTimeout(f"{self.name} did not answer in {limit:.3g} s")
        return TeacherTimeout(
            f"{self.name} was not asked: no place was free in {limit:.3g} s",
            mend="raise teacher.concurrency, or allow the request more time",
            asked=False,
        )

    async def close(self) -> None:
        """Close the guarded teacher."""
        await self._teacher.close()

"""What stands around every teacher: a deadline, and bounds on the calls that run and that wait."""

from __future__ import annotations

import asyncio

from gateway.contract.manifest import Task
from gateway.errors import TeacherTimeout, TeacherUnavailable
from gateway.teachers.base import Teacher
from gateway.types import Instance, Prediction

_WAITING = 16  # calls that may wait for each one that runs; more would hardly be answered in time


class Guard:
    """A teacher whose calls end in time and of which at most `concurrency` run at once.

    A call that finds no place waits for one, within its own deadline.
    """

    def __init__(self, teacher: Teacher, *, timeout_s: float, concurrency: int) -> None:
        self._teacher = teacher
        self._timeout = timeout_s
        self._places = asyncio.Semaphore(concurrency)
        self._most = concurrency * (1 + _WAITING)
        self._calls = 0

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

    async def answer(self, instance: Instance) -> Prediction:
        """Ask the teacher. Raises TeacherTimeout, TeacherUnavailable or what the teacher raises."""
        if self._calls >= self._most:
            raise TeacherUnavailable(
                f"{self._calls} calls to {self.name} run or wait already", mend="try again later"
            )
        self._calls += 1
        try:
            async with asyncio.timeout(self._timeout), self._places:
                return await self._teacher.answer(instance)
        except TimeoutError as error:
            raise TeacherTimeout(f"{self.name} did not answer in {self._timeout:g} s") from error
        finally:
            self._calls -= 1

    async def close(self) -> None:
        """Close the guarded teacher."""
        await self._teacher.close()

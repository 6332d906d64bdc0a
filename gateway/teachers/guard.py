"""What stands around every teacher: a deadline, and a bound on the calls in flight."""

from __future__ import annotations

import asyncio

from gateway.contract.manifest import Task
from gateway.errors import TeacherTimeout, TeacherUnavailable
from gateway.teachers.base import Teacher
from gateway.types import Instance, Prediction


class Guard:
    """A teacher whose calls end in time and of which at most `concurrency` run at once."""

    def __init__(self, teacher: Teacher, *, timeout_s: float, concurrency: int) -> None:
        self._teacher = teacher
        self._timeout = timeout_s
        self._concurrency = concurrency
        self._running = 0

    @property
    def name(self) -> str:
        """The guarded teacher's name."""
        return self._teacher.name

    @property
    def task(self) -> Task:
        """The guarded teacher's task."""
        return self._teacher.task

    async def answer(self, instance: Instance) -> Prediction:
        """Ask the teacher. Raises TeacherTimeout, TeacherUnavailable or what the teacher raises."""
        if self._running >= self._concurrency:
            raise TeacherUnavailable(
                f"{self._running} calls to {self.name} run already", mend="try again later"
            )
        self._running += 1
        try:
            async with asyncio.timeout(self._timeout):
                return await self._teacher.answer(instance)
        except TimeoutError as error:
            raise TeacherTimeout(f"{self.name} did not answer in {self._timeout:g} s") from error
        finally:
            self._running -= 1

    async def close(self) -> None:
        """Close the guarded teacher."""
        await self._teacher.close()

"""The guard: a call ends in time, and only so many run at once."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.errors import TeacherTimeout, TeacherUnavailable
from gateway.teachers.base import Said
from gateway.teachers.guard import Guard
from gateway.teachers.scripted import ScriptedTeacher
from gateway.types import Instance
from tests.factories import TASK

ASKED = Instance("hello")


class Patient(ScriptedTeacher):
    """Answers when it is let, and remembers how its calls ended."""

    def __init__(self) -> None:
        super().__init__(TASK, labels={})
        self.free = asyncio.Event()
        self.started = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0
        self.closed = False

    async def answer(self, instance: Instance) -> Said:
        """Wait to be let."""
        self.started.set()
        self.waiting += 1
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().answer(instance)

    async def close(self) -> None:
        """Remember it."""
        self.closed = True


def test_an_answer_in_time_is_handed_on() -> None:
    teacher = ScriptedTeacher(TASK, labels={"intent": "fraud"})
    guard = Guard(teacher, timeout_s=30.0, concurrency=1)
    assert asyncio.run(guard.answer(ASKED)).prediction.heads[0].labels == ("fraud",)
    assert (guard.name, guard.task) == ("scripted", TASK)


def test_a_late_answer_is_a_timeout_and_its_work_is_ended() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = Guard(teacher, timeout_s=0.001, concurrency=1)
        for _ in range(2):  # the second is let in, so the first has given its place back
            with pytest.raises(
                TeacherTimeout, match=r"scripted did not answer in 0\.001 s"
            ) as late:
                await guard.answer(ASKED)
            assert late.value.asked
        assert teacher.cancelled == 2

    asyncio.run(work())


def test_a_call_waits_for_a_place_and_one_beyond_the_bound_is_refused_at_once() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = Guard(teacher, timeout_s=30.0, concurrency=2)
        calls = [asyncio.create_task(guard.answer(ASKED)) for _ in range(2 + 2 * 16)]
        await asyncio.sleep(0)
        assert teacher.waiting == 2  # the others wait for a place
        with pytest.raises(
            TeacherUnavailable, match="34 calls to scripted run or wait already"
        ) as full:
            await guard.answer(ASKED)
        assert not full.value.asked
        teacher.free.set()
        await asyncio.gather(*calls)
        assert teacher.calls == 34

    asyncio.run(work())


def test_a_call_that_found_no_place_in_its_time_was_not_begun() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = Guard(teacher, timeout_s=30.0, concurrency=1)
        first = asyncio.create_task(guard.answer(ASKED))
        await teacher.started.wait()
        with pytest.raises(TeacherTimeout, match="was not asked: no place was free in") as caught:
            await guard.answer(ASKED, deadline=time.perf_counter() + 0.001)
        assert not caught.value.asked
        teacher.free.set()
        await first
        assert teacher.calls == 1

    asyncio.run(work())


def test_it_is_busy_while_no_place_is_free() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = Guard(teacher, timeout_s=30.0, concurrency=1)
        assert not guard.busy
        call = asyncio.create_task(guard.answer(ASKED))
        await teacher.started.wait()
        assert guard.busy
        teacher.free.set()
        await call
        assert not guard.busy

    asyncio.run(work())


def test_a_caller_who_goes_ends_the_call_and_gives_its_place_back() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = Guard(teacher, timeout_s=30.0, concurrency=1)
        call = asyncio.create_task(guard.answer(ASKED))
        await teacher.started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert teacher.cancelled == 1
        teacher.free.set()
        await guard.answer(ASKED)

    asyncio.run(work())


def test_a_failure_is_handed_on_and_gives_its_place_back() -> None:
    async def work() -> None:
        guard = Guard(ScriptedTeacher(TASK, labels={}, fail_every=1), timeout_s=30.0, concurrency=1)
        for _ in range(2):
            with pytest.raises(TeacherUnavailable, match="as it was told to") as failed:
                await guard.answer(ASKED)
            assert failed.value.asked

    asyncio.run(work())


def test_closing_closes_the_teacher() -> None:
    async def work() -> None:
        teacher = Patient()
        await Guard(teacher, timeout_s=30.0, concurrency=1).close()
        assert teacher.closed

    asyncio.run(work())


def test_a_deadline_ends_a_call_before_the_timeout_does() -> None:
    async def work() -> None:
        guard = Guard(Patient(), timeout_s=30.0, concurrency=1)
        with pytest.raises(TeacherTimeout, match="scripted did not answer in"):
            await guard.answer(ASKED, deadline=time.perf_counter() + 0.001)

    asyncio.run(work())


def test_a_call_is_not_begun_with_less_time_than_half_of_the_answers_took() -> None:
    async def work() -> None:
        teacher = ScriptedTeacher(TASK, labels={})
        guard = Guard(teacher, timeout_s=30.0, concurrency=1)
        guard._durations.extend([1.0, 5.0, 9.0])
        with pytest.raises(TeacherTimeout, match=r"was not asked: .* half of its answers") as short:
            await guard.answer(ASKED, deadline=time.perf_counter() + 4.0)
        assert not short.value.asked
        assert teacher.calls == 0
        await guard.answer(ASKED, deadline=time.perf_counter() + 60.0)
        assert teacher.calls == 1

    asyncio.run(work())

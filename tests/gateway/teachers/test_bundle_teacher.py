"""A teacher that is a local bundle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.contract.bundle import open_bundle
from gateway.errors import TeacherUnavailable
from gateway.students.student import Student
from gateway.teachers.bundle import BundleTeacher
from gateway.types import Instance, Prediction
from tests.factories import TASK, tiny_bundle

SOON = 30.0  # seconds; far beyond what any wait here takes


class Slow(Student):
    """Stands still while its gate is shut."""

    gate: threading.Event
    entered: threading.Event

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Wait for the gate, then answer."""
        self.entered.set()
        assert self.gate.wait(SOON)
        return super().predict(texts)


class Broken(Student):
    """Raises."""

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Raise."""
        raise ValueError(f"no answer to {len(texts)} texts")


def test_it_answers_from_its_bundle(tmp_path: Path) -> None:
    student = Student(open_bundle(tiny_bundle(tmp_path, role="teacher")))

    async def work() -> list[Prediction]:
        teacher = BundleTeacher(student, workers=1, capacity=8)
        assert (teacher.name, teacher.task) == (student.bundle.name, TASK)
        texts = ("fraud", "refund", "hello")
        said = await asyncio.gather(*(teacher.answer(Instance(text)) for text in texts))
        await teacher.close()
        with pytest.raises(TeacherUnavailable, match="shutting down") as closed:
            await teacher.answer(Instance("late"))
        assert closed.value.mend == "send the request again"
        return [each.prediction for each in said]

    said = asyncio.run(work())
    assert [each.heads[0].labels for each in said] == [("fraud",), ("refund",), ("other",)]
    assert {each.bundle for each in said} == {student.bundle.id}


def test_a_model_that_raises_is_an_unavailable_teacher(tmp_path: Path) -> None:
    async def work() -> None:
        teacher = BundleTeacher(Broken(open_bundle(tiny_bundle(tmp_path))), workers=1, capacity=8)
        with pytest.raises(TeacherUnavailable, match="ValueError: no answer to 1 texts"):
            await teacher.answer(Instance("hello"))
        await teacher.close()

    asyncio.run(work())


def test_a_full_queue_is_an_unavailable_teacher_and_closing_answers_what_waits(
    tmp_path: Path,
) -> None:
    student = Slow(open_bundle(tiny_bundle(tmp_path)))
    student.gate, student.entered = threading.Event(), threading.Event()

    async def work() -> None:
        teacher = BundleTeacher(student, workers=1, capacity=1)
        first = asyncio.create_task(teacher.answer(Instance("fraud")))
        assert await asyncio.to_thread(student.entered.wait, SOON)
        waits = asyncio.create_task(teacher.answer(Instance("refund")))
        await asyncio.sleep(0)
        with pytest.raises(TeacherUnavailable, match="1 texts wait already"):
            await teacher.answer(Instance("one more"))
        closing = asyncio.create_task(teacher.close())
        await asyncio.sleep(0)
        student.gate.set()
        said = await asyncio.gather(first, waits)
        assert [each.prediction.heads[0].labels for each in said] == [("fraud",), ("refund",)]
        await closing

    asyncio.run(work())

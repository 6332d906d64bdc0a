"""Taking a seat: a student that is up and has answered, or nothing left behind."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway import settings
from gateway.contract.bundle import open_bundle
from gateway.settings import TaskSettings
from gateway.students.process import ProcessWorker
from gateway.students.student import Student
from gateway.succession import students
from gateway.succession.seat import Seat, take_seat
from gateway.telemetry.metrics import Metrics
from gateway.types import Prediction
from tests.factories import TASK, settings_file, tiny_bundle

SOON = 30.0  # seconds; far beyond what any wait here takes


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Whatever a seat begins, it ends: of its teacher too."""
    before = set(threading.enumerate())
    yield
    left = [each for each in set(threading.enumerate()) - before if "asyncio" not in each.name]
    assert left == []


class Held(Student):
    """A real student that stands still until its gate is opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(open_bundle(path))
        self.entered, self.gate = threading.Event(), threading.Event()

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Wait for the gate, answer."""
        self.entered.set()
        assert self.gate.wait(SOON)
        return super().predict(texts)


class Begun(ProcessWorker):
    """A worker that remembers those begun before it; of them there can be only one."""

    all: list[Begun]

    def __init__(self, student: Student, *, environment: Mapping[str, str]) -> None:
        if self.all:
            raise OSError("no more processes")
        super().__init__(student, environment=environment)
        self.all.append(self)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Begun]:
    found: list[Begun] = []
    monkeypatch.setattr(Begun, "all", found, raising=False)
    monkeypatch.setattr(students, "ProcessWorker", Begun)
    return found


def task(folder: Path, **student: Any) -> TaskSettings:
    """Settings of a student, and of a teacher that has a thread."""
    teacher = {"bundle": str(tiny_bundle(folder / "bundles", role="teacher"))}
    path = settings_file(folder, teacher=teacher, tickets={"student": student})
    return settings.load(path).tasks[TASK.name]


def environment_of(worker: ProcessWorker) -> dict[str, str]:
    """What the worker's child was started with."""
    given = os.fsdecode(Path(f"/proc/{worker._process.pid}/environ").read_bytes())
    return dict(each.split("=", 1) for each in given.split("\0") if each)


async def taken(chosen: TaskSettings, student: Student) -> Seat:
    return await take_seat(TASK.name, chosen, student, Metrics([student.task]))


def test_who_is_called_off_while_the_student_warms_up_leaves_nothing_open(tmp_path: Path) -> None:
    chosen = task(tmp_path)
    student = Held(chosen.student.bundle)

    async def work() -> None:
        taking = asyncio.create_task(taken(chosen, student))
        assert await asyncio.to_thread(student.entered.wait, SOON)
        taking.cancel()
        student.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await taking

    asyncio.run(work())


def test_a_worker_that_cannot_start_ends_those_before_it_and_the_teacher(
    tmp_path: Path, begun: list[Begun]
) -> None:
    chosen = task(tmp_path, run_in="processes", workers=2)
    student = Student(open_bundle(chosen.student.bundle))
    with pytest.raises(OSError, match="no more processes"):
        asyncio.run(taken(chosen, student))
    (first,) = begun
    assert not first.alive


def test_the_process_of_a_student_is_given_no_more_than_a_rehearsal_is(
    tmp_path: Path, begun: list[Begun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    monkeypatch.setenv("UNDERSTUDY_API_KEY", "hunter3")
    monkeypatch.setenv("LANG", "C.UTF-8")
    chosen = task(tmp_path, run_in="processes", workers=1)
    student = Student(open_bundle(chosen.student.bundle))

    async def environment() -> dict[str, str]:
        seat = await taken(chosen, student)
        try:
            return environment_of(begun[0])
        finally:
            await seat.close(teacher=True)

    found = asyncio.run(environment())
    assert found["LANG"] == "C.UTF-8"
    assert found.keys() <= {
        "PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV",
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM",
    }  # fmt: skip

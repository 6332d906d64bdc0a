"""A thread that runs a student: batches in order, each told of on the loop, and the end once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gateway.contract.bundle import open_bundle
from gateway.students.student import Student
from gateway.students.workers import Ran, ThreadWorker, outcomes_of
from gateway.types import Prediction
from tests.factories import tiny_bundle

SOON = 30.0  # seconds; far beyond what any wait here takes


@pytest.fixture
def student(tmp_path: Path) -> Student:
    return Student(open_bundle(tiny_bundle(tmp_path)))


class Heard:
    """What a worker tells, and in which thread."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Ran] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.threads: set[str] = set()

    def ran(self, ran: Ran) -> None:
        """Keep a batch."""
        self.threads.add(threading.current_thread().name)
        self.batches.put_nowait(ran)

    def end(self) -> None:
        """Keep the end."""
        self.threads.add(threading.current_thread().name)
        self.ended.set()


def labels(ran: Ran) -> list[str]:
    """The intents that were answered, none of which may be a failure."""
    said = [each for each in ran.outcomes if isinstance(each, Prediction)]
    assert len(said) == len(ran.outcomes)
    return [each.heads[0].labels[0] for each in said]


def test_a_thread_runs_batches_in_order_and_tells_on_the_loop(student: Student) -> None:
    async def work() -> None:
        heard, before = Heard(), time.perf_counter()
        worker = ThreadWorker(student, name="a-student")
        assert not worker.alive  # it begins when somebody listens
        worker.follow(heard.ran, heard.end)
        await worker.ready()
        assert worker.alive
        assert "a-student" in {each.name for each in threading.enumerate()}
        worker.send(["fraud", "hello"])
        worker.send(["refund"])
        async with asyncio.timeout(SOON):
            first, second = await heard.batches.get(), await heard.batches.get()
            await worker.close()
            await heard.ended.wait()
        assert (labels(first), labels(second)) == (["fraud", "other"], ["refund"])
        times = [before, first.started, first.ended, second.started, second.ended]
        assert times == sorted(times)
        assert heard.threads == {threading.current_thread().name}
        assert not worker.alive
        await worker.close()  # a second time does no harm

    asyncio.run(work())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_ended_by_its_student_says_so_and_nothing_of_the_batch(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(_texts: Sequence[str]) -> list[Prediction]:
        raise SystemExit

    monkeypatch.setattr(student, "predict", ends)

    async def work() -> None:
        heard = Heard()
        worker = ThreadWorker(student)
        worker.follow(heard.ran, heard.end)
        worker.send(["anything"])
        async with asyncio.timeout(SOON):
            await heard.ended.wait()
            await worker.close()
        assert heard.batches.empty()
        assert not worker.alive

    asyncio.run(work())


def failing_on(word: str) -> Callable[[Sequence[str]], list[Prediction]]:
    """A student that fails on every batch with that text in it."""

    def predict(texts: Sequence[str]) -> list[Prediction]:
        if word in texts:
            raise ValueError(word)
        return [Prediction(heads=(), score=1.0, truncated=False, bundle=text) for text in texts]

    return predict


def test_a_text_that_fails_has_its_error_in_its_place_and_its_mates_have_answers() -> None:
    first, failed, last = outcomes_of(failing_on("bad"), ["one", "bad", "two"])
    assert isinstance(first, Prediction)
    assert isinstance(last, Prediction)
    assert (first.bundle, last.bundle) == ("one", "two")
    assert isinstance(failed, ValueError)
    assert isinstance(outcomes_of(failing_on("bad"), ["bad"])[0], ValueError)

"""Batching: nothing waits while a worker is idle, and every job is answered exactly once."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.contract.bundle import open_bundle
from gateway.errors import DeadlinePassed, Draining, Overloaded, ServingError, StudentFailed
from gateway.students import batching
from gateway.students.batching import Batcher, Timed
from gateway.students.student import Student
from gateway.students.workers import ThreadWorker
from gateway.types import Prediction, Priority, Terms
from tests.factories import CONFIDENT, UNSURE, tiny_bundle
from tests.gateway.telemetry.clock import Clock

SOON = 120.0  # seconds; far beyond what any wait here takes


class Recorder(Student):
    """A real student that remembers its batches, and stands still while its gate is shut.

    It raises what it is told to, for a batch that holds the text "poison".
    """

    def __init__(self, path: Path, *, raises: Exception | None = None) -> None:
        super().__init__(open_bundle(path))
        self.batches: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self._raises = raises

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Remember, wait for the gate, answer."""
        self.batches.append(list(texts))
        self.entered.release()
        assert self.gate.wait(SOON)
        if self._raises is not None and "poison" in texts:
            raise self._raises
        return super().predict(texts)

    async def begins(self) -> None:
        """Wait until one more batch has begun."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=SOON)

    @property
    def seen(self) -> list[str]:
        """Every text that cost something, in order."""
        return [text for batch in self.batches for text in batch]


class Echo(Student):
    """Answers at once, with the text as the name of the bundle."""

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Answer without a model."""
        return [Prediction(heads=(), score=1.0, truncated=False, bundle=text) for text in texts]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path)


@pytest.fixture
def student(path: Path) -> Recorder:
    return Recorder(path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which a batcher reads deadlines."""
    told = Clock()
    monkeypatch.setattr(batching, "time", SimpleNamespace(perf_counter=told))
    return told


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns every 10 microseconds, so that races come out."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def threads(student: Student, count: int) -> list[ThreadWorker]:
    """So many workers that run this student."""
    return [ThreadWorker(student) for _ in range(count)]


def timed(results: Sequence[Timed | StudentFailed]) -> list[Timed]:
    """The results, none of which may be a failure."""
    assert not any(isinstance(each, StudentFailed) for each in results)
    return [each for each in results if isinstance(each, Timed)]


def intents(results: Sequence[Timed | StudentFailed]) -> list[str]:
    return [each.prediction.heads[0].labels[0] for each in timed(results)]


def test_one_request_gets_its_results_in_order(student: Recorder) -> None:
    async def work() -> list[Timed | StudentFailed]:
        batcher = Batcher(student, threads(student, 2), max_rows=2)
        results = await batcher.submit(["fraud", "refund", "hello", "fraud", "refund"])
        await batcher.close()
        return results

    results = timed(asyncio.run(work()))
    assert intents(results) == ["fraud", "refund", "other", "fraud", "refund"]
    assert sorted(student.seen) == ["fraud", "fraud", "hello", "refund", "refund"]
    for each in results:
        assert each.queue >= 0.0
        assert 0.0 < each.share <= each.batch


def test_an_empty_request_is_answered_at_once(student: Recorder) -> None:
    async def work() -> list[Timed | StudentFailed]:
        batcher = Batcher(student, threads(student, 1))
        try:
            async with asyncio.timeout(SOON):
                return await batcher.submit([])
        finally:
            await batcher.close()

    assert asyncio.run(work()) == []
    assert student.batches == []


def test_what_waited_goes_as_one_batch_up_to_its_bound(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 1), max_rows=3)
        student.gate.clear()
        first = batcher.submit([CONFIDENT])
        await student.begins()
        others = [batcher.submit([f"text {number}"]) for number in range(4)]
        assert batcher.depth == 4
        student.gate.set()
        await asyncio.gather(first, *others)
        await batcher.close()

    asyncio.run(work())
    assert student.batches == [[CONFIDENT], ["text 0", "text 1", "text 2"], ["text 3"]]


def test_an_idle_worker_takes_what_comes_while_another_is_busy(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 2))
        student.gate.clear()
        slow = batcher.submit(["slow"])
        await student.begins()
        quick = batcher.submit(["quick"])
        await student.begins()  # it is run beside the slow one, not after it
        assert student.batches == [["slow"], ["quick"]]
        student.gate.set()
        await asyncio.gather(slow, quick)
        await batcher.close()

    asyncio.run(work())


def test_the_time_of_a_batch_is_shared_by_its_texts(student: Recorder) -> None:
    async def work() -> list[Timed | StudentFailed]:
        batcher = Batcher(student, threads(student, 1))
        results = await batcher.submit([CONFIDENT, UNSURE, "hello", "fraud"])
        await batcher.close()
        return results

    results = timed(asyncio.run(work()))
    assert len({each.batch for each in results}) == 1
    assert sum(each.share for each in results) == pytest.approx(results[0].batch)


def test_a_caller_who_has_gone_costs_nothing(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 1))
        student.gate.clear()
        first = batcher.submit([CONFIDENT])
        await student.begins()
        gone = asyncio.ensure_future(batcher.submit(["gone one", "gone two"]))
        kept = batcher.submit(["kept"])
        gone.cancel()
        student.gate.set()
        await asyncio.gather(first, kept)
        with pytest.raises(asyncio.CancelledError):
            await gone
        await batcher.close()

    asyncio.run(work())
    assert student.seen == [CONFIDENT, "kept"]


def test_a_caller_who_goes_while_the_student_works_disturbs_nobody(student: Recorder) -> None:
    async def work() -> list[Timed | StudentFailed]:
        batcher = Batcher(student, threads(student, 1))
        student.gate.clear()
        blocker = batcher.submit(["hello"])
        await student.begins()
        gone, kept = batcher.submit(["refund"]), batcher.submit(["fraud"])
        student.gate.set()
        await blocker
        await student.begins()
        gone.cancel()
        results = await kept
        await batcher.close()
        return results

    assert intents(asyncio.run(work())) == ["fraud"]
    assert student.seen == ["hello", "refund", "fraud"]


def test_a_full_queue_refuses_a_request_whole(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 1), capacity=3)
        student.gate.clear()
        first = batcher.submit([CONFIDENT])  # taken by the worker: it waits no more
        await student.begins()
        second = batcher.submit(["two", "texts"])
        with pytest.raises(Overloaded, match="2 texts wait already"):
            batcher.submit(["two", "more"])
        assert batcher.depth == 2  # nothing of it was queued
        third = batcher.submit(["one"])  # just full
        student.gate.set()
        await asyncio.gather(first, second, third)
        await batcher.submit(["again"])
        await batcher.close()

    asyncio.run(work())
    assert student.seen == [CONFIDENT, "two", "texts", "one", "again"]


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ValueError("no such thing"), "the student failed: ValueError: no such thing"),
        (StudentFailed("not finite"), "not finite"),
    ],
)
def test_a_text_that_the_student_fails_on_fails_alone(
    path: Path, raised: Exception, message: str
) -> None:
    student = Recorder(path, raises=raised)

    async def work() -> None:
        batcher = Batcher(student, threads(student, 1))
        student.gate.clear()
        first = batcher.submit(["first"])
        await student.begins()
        jobs = [batcher.submit(["poison", "more"]), batcher.submit(["mate"])]
        student.gate.set()
        await first
        (failed, beside), mate = await asyncio.gather(*jobs)
        assert isinstance(failed, StudentFailed)
        assert failed.message == message
        assert intents([beside, *mate]) == ["other", "other"]
        assert intents(await batcher.submit(["refund"])) == ["refund"]
        assert batcher.alive
        await batcher.close()

    asyncio.run(work())


def test_a_failure_keeps_its_place_in_a_request_that_spans_batches(path: Path) -> None:
    student = Recorder(path, raises=ValueError("poisoned"))

    async def work() -> None:
        batcher = Batcher(student, threads(student, 1), max_rows=1)
        first, failed, last = await batcher.submit(["refund", "poison", "fraud"])
        assert intents([first, last]) == ["refund", "fraud"]
        assert isinstance(failed, StudentFailed)
        assert "poisoned" in failed.message
        await batcher.close()

    asyncio.run(work())


def test_the_cause_of_a_failure_is_kept(path: Path) -> None:
    cause = ValueError("why")

    async def work() -> None:
        student = Recorder(path, raises=cause)
        batcher = Batcher(student, threads(student, 1))
        try:
            (failed,) = await batcher.submit(["poison"])
            assert isinstance(failed, StudentFailed)
            assert failed.__cause__ is cause
        finally:
            await batcher.close()

    asyncio.run(work())


def test_closing_answers_all_that_waits_and_takes_no_more(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 2), max_rows=2)
        student.gate.clear()
        jobs = [batcher.submit([f"text {job}", "refund"]) for job in range(6)]
        await student.begins()
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)  # its task begins
        with pytest.raises(Draining):
            batcher.submit(["late"])
        student.gate.set()
        assert [len(results) for results in await asyncio.gather(*jobs)] == [2] * 6
        await closing
        assert not batcher.alive
        with pytest.raises(Draining):
            batcher.submit(["later"])

    asyncio.run(work())
    assert Counter(student.seen)["refund"] == 6
    assert not {"late", "later"} & set(student.seen)


def test_idle_workers_end_when_it_is_closed(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 3))
        assert batcher.alive
        await batcher.close()
        assert not any(place.worker.alive for place in batcher._places)
        await batcher.close()  # a second time does no harm

    asyncio.run(work())


def test_a_loop_that_has_closed_ends_the_worker_quietly(student: Recorder) -> None:
    async def work() -> Batcher:
        batcher = Batcher(student, threads(student, 1))
        student.gate.clear()
        batcher.submit(["nobody waits for it"])
        await student.begins()
        return batcher

    batcher = asyncio.run(work())  # the loop is closed here, with the worker in its batch
    student.gate.set()
    asyncio.run(batcher._places[0].worker.close())
    assert not batcher.alive


def test_each_batch_is_observed_once(student: Recorder) -> None:
    seen: list[tuple[int, float]] = []

    async def work() -> None:
        batcher = Batcher(
            student, threads(student, 1), max_rows=2, observe=lambda *batch: seen.append(batch)
        )
        (first, *_rest) = timed(await batcher.submit(["one", "two", "three"]))
        await batcher.close()
        assert seen[0] == (2, first.batch)

    asyncio.run(work())
    assert [rows for rows, _ in seen] == [2, 1]


def test_an_observer_that_raises_keeps_no_answer_back(student: Recorder) -> None:
    complaints: list[dict[str, Any]] = []

    def broken(_rows: int, _seconds: float) -> None:
        raise RuntimeError("the metric is broken")

    async def work() -> list[Timed | StudentFailed]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        batcher = Batcher(student, threads(student, 1), observe=broken)
        async with asyncio.timeout(SOON):
            results = await batcher.submit(["fraud"])
        await batcher.close()
        return results

    assert intents(asyncio.run(work())) == ["fraud"]
    assert [str(each["exception"]) for each in complaints] == ["the metric is broken"]


def test_a_high_priority_goes_first_and_a_low_one_last(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 1), max_rows=1)
        student.gate.clear()
        jobs = [batcher.submit(["first"])]
        await student.begins()
        order = (Priority.SHADOW, Priority.NORMAL, Priority.AUDIT, Priority.HIGH)
        jobs += [batcher.submit([each.name], Terms(priority=each)) for each in order]
        student.gate.set()
        await asyncio.gather(*jobs)
        await batcher.close()

    asyncio.run(work())
    assert student.seen == ["first", "HIGH", "NORMAL", "AUDIT", "SHADOW"]


def test_a_large_request_does_not_hold_up_small_ones(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 1), max_rows=6)
        student.gate.clear()
        jobs = [batcher.submit(["first"])]
        await student.begins()
        jobs.append(batcher.submit([f"large {number}" for number in range(10)]))
        jobs.append(batcher.submit(["small"]))
        student.gate.set()
        await asyncio.gather(*jobs)
        await batcher.close()

    asyncio.run(work())
    # Four texts of one request in a turn: the small one goes with the first batch.
    assert student.batches[1] == ["large 0", "large 1", "large 2", "large 3", "small", "large 4"]
    assert student.batches[2] == [f"large {number}" for number in range(5, 10)]


def test_a_batch_is_bounded_by_its_tokens(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 1), max_tokens=20)
        student.gate.clear()
        jobs = [batcher.submit(["first"])]
        await student.begins()
        jobs += [batcher.submit([text]) for text in ("a" * 40, "b" * 40, "c" * 40)]
        student.gate.set()
        await asyncio.gather(*jobs)
        await batcher.close()

    asyncio.run(work())
    # 40 characters are taken for 13 tokens: the second text uses up the room of 20.
    assert [len(batch) for batch in student.batches] == [1, 2, 1]


def test_what_is_past_its_deadline_is_dropped_before_it_costs_anything(
    student: Recorder, clock: Clock
) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 1))
        student.gate.clear()
        first = batcher.submit(["first"])
        await student.begins()
        late = batcher.submit(["late", "later"], Terms(deadline=1.0))
        kept = batcher.submit(["kept"], Terms(deadline=2.0))
        clock.now = 1.5
        student.gate.set()
        await asyncio.gather(first, kept)
        with pytest.raises(DeadlinePassed):
            await late
        assert batcher.depth == 0
        await batcher.close()

    asyncio.run(work())
    assert student.seen == ["first", "kept"]


def test_a_wait_that_would_be_too_long_is_refused_by_priority(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 1), longest_wait=1.0)
        batcher._pace = 0.1  # seconds a token
        student.gate.clear()
        jobs = [batcher.submit(["first"])]
        await student.begins()
        jobs.append(batcher.submit(["a" * 16]))  # taken for 7 tokens: 0.7 s
        assert batcher.wait == pytest.approx(0.7)
        with pytest.raises(Overloaded, match=r"the wait would be 0\.70 s"):
            batcher.submit(["audit"], Terms(priority=Priority.AUDIT))
        jobs.append(batcher.submit(["a" * 16]))  # 0.7 s are not too long
        with pytest.raises(Overloaded, match=r"the wait would be 1\.40 s") as refused:
            batcher.submit(["ordinary"])
        assert refused.value.retry_after == pytest.approx(1.4)
        jobs.append(batcher.submit(["urgent"], Terms(priority=Priority.HIGH)))
        student.gate.set()
        await asyncio.gather(*jobs)
        await batcher.close()

    asyncio.run(work())
    assert "audit" not in student.seen
    assert "ordinary" not in student.seen


@pytest.mark.usefixtures("clock")
def test_a_deadline_before_the_predicted_wait_is_refused_at_once(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 1))
        batcher._pace = 0.1
        student.gate.clear()
        jobs = [batcher.submit(["first"])]
        await student.begins()
        jobs.append(batcher.submit(["a" * 16]))
        with pytest.raises(Overloaded, match="beyond the deadline"):
            batcher.submit(["hasty"], Terms(deadline=0.5))  # it is 0 now
        jobs.append(batcher.submit(["patient"], Terms(deadline=1.0)))
        student.gate.set()
        await asyncio.gather(*jobs)
        await batcher.close()

    asyncio.run(work())


def test_a_text_that_is_cut_counts_for_no_more_than_is_read(student: Recorder) -> None:
    async def work() -> int:
        batcher = Batcher(student, [ThreadWorker(student)])
        student.gate.clear()
        jobs = [batcher.submit(["first"])]
        await student.begins()
        jobs.append(batcher.submit(["a" * 100_000]))
        waiting = batcher._tokens
        student.gate.set()
        await asyncio.gather(*jobs)
        await batcher.close()
        return waiting

    assert asyncio.run(work()) == 16  # what a tiny bundle reads


def test_the_pace_is_learnt_from_the_batches(student: Recorder) -> None:
    async def work() -> None:
        batcher = Batcher(student, threads(student, 1))
        (first,) = timed(await batcher.submit(["a" * 16]))
        assert batcher._pace == pytest.approx(first.batch / 7)
        (second,) = timed(await batcher.submit(["a" * 16]))
        blend = 0.8 * first.batch / 7 + 0.2 * second.batch / 7
        assert batcher._pace == pytest.approx(blend)
        await batcher.close()

    asyncio.run(work())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_does_not_leave_its_callers_waiting(path: Path) -> None:
    come = threading.Event()

    class Mortal(Echo):
        """Its thread ends in the middle of a batch."""

        def predict(self, texts: Sequence[str]) -> list[Prediction]:  # noqa: ARG002
            """End the thread."""
            assert come.wait(SOON)
            raise SystemExit

    async def work() -> None:
        student = Mortal(open_bundle(path))
        batcher = Batcher(student, threads(student, 1), max_rows=1)
        job, waiting = batcher.submit(["anything"]), batcher.submit(["more"])
        come.set()
        (failed,) = await job
        assert isinstance(failed, StudentFailed)
        assert "ended" in failed.message
        with pytest.raises(ServingError, match="every worker of the student has ended"):
            await waiting
        await batcher._places[0].worker.close()
        assert not batcher.alive
        with pytest.raises(ServingError, match="every worker"):
            batcher.submit(["later"])
        await batcher.close()

    asyncio.run(work())


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize(("callers", "workers"), [(1, 1), (6, 3)])
def test_no_wake_up_is_lost_among_many_callers(path: Path, callers: int, workers: int) -> None:
    """Each caller waits for its answer before it asks again, so one lost wake-up hangs the test."""
    student = Echo(open_bundle(path))

    async def caller(batcher: Batcher, name: int) -> None:
        for turn in range(500):
            texts = [f"{name} {turn} {place}" for place in range(1 + turn % 3)]
            results = await batcher.submit(texts)
            assert [each.prediction.bundle for each in timed(results)] == texts

    async def work() -> None:
        batcher = Batcher(student, threads(student, workers), max_rows=4)
        async with asyncio.timeout(120):
            await asyncio.gather(*(caller(batcher, name) for name in range(callers)))
        assert batcher.depth == 0
        await batcher.close()

    asyncio.run(work())


@pytest.mark.usefixtures("restless")
def test_a_request_that_meets_the_closing_is_answered_or_refused(path: Path) -> None:
    """Never accepted and then forgotten: that would hang here."""
    student = Echo(open_bundle(path))

    async def work() -> tuple[int, int]:
        batcher = Batcher(student, threads(student, 1))
        closing = asyncio.create_task(batcher.close())
        jobs, refused = [], 0
        for number in range(200):
            try:
                jobs.append(batcher.submit([str(number)]))
            except Draining:
                refused += 1
            if number % 10 == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(SOON):
            results = await asyncio.gather(*jobs)
            await closing
        return len(results), refused

    for _ in range(20):
        answered, refused = asyncio.run(work())
        assert answered + refused == 200

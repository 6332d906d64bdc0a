"""Texts that wait -> batches on a small owned thread pool. Event-driven and work-conserving.

An idle worker takes what waits, up to its share; there is no timer and no polling, so a lone text
goes at once and an idle gateway uses no CPU. A worker tokenises, runs and calibrates for its whole
batch. Entries whose caller has gone are dropped before they cost anything. The queue is bounded.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.errors import Draining, Overloaded, StudentFailed
from gateway.students.student import Student
from gateway.types import Prediction


@dataclass(frozen=True, slots=True)
class Timed:
    """A prediction, and its times in seconds: waiting, its whole batch, its share of the batch."""

    prediction: Prediction
    queue: float
    batch: float
    share: float


@dataclass(slots=True)
class _Job:
    """One request: its texts stand in the queue one by one and are joined here."""

    future: asyncio.Future[list[Timed | StudentFailed]]
    since: float
    results: list[Timed | StudentFailed | None] = field(default_factory=list)
    left: int = 0


class Batcher:
    """Runs one student for many callers.

    `workers` threads call the student; `max_rows` bounds a batch, `capacity` the waiting texts.
    `observe(rows, seconds)` is told of each batch, on the event loop.
    """

    def __init__(
        self,
        student: Student,
        *,
        workers: int,
        max_rows: int = 32,
        capacity: int = 4096,
        observe: Callable[[int, float], None] | None = None,
        name: str = "student",
    ) -> None:
        self.student = student
        self._max_rows = max_rows
        self._capacity = capacity
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[str, _Job, int]] = deque()
        self._wake = threading.Condition()
        self._idle = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every worker thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def depth(self) -> int:
        """Texts that wait."""
        return len(self._waiting)

    def submit(self, texts: Sequence[str]) -> asyncio.Future[list[Timed | StudentFailed]]:
        """Queue the texts of one request; the future gives one result a text, in their order.

        A text that the model fails on has a StudentFailed in its place, and fails alone. Raises
        Overloaded when they do not fit in the queue, Draining after `close`.
        """
        job = _Job(self._loop.create_future(), time.perf_counter(), [None] * len(texts), len(texts))
        with self._wake:  # `close` runs on another thread: what is queued here is still answered
            if self._closed:
                raise Draining("the gateway is shutting down", mend="send the request again")
            if len(self._waiting) + len(texts) > self._capacity:
                raise Overloaded(
                    f"{len(self._waiting)} texts wait already", mend="send the request again later"
                )
            self._waiting.extend((text, job, place) for place, text in enumerate(texts))
            if self._idle:
                self._wake.notify(min(self._idle, len(texts)))
        if not texts:
            job.future.set_result([])
        return job.future

    def close(self) -> None:
        """Let the workers finish what waits, then end them. Blocks until they have ended."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._take():
            started = time.perf_counter()
            outcomes = self._run([text for text, _, _ in batch])
            ended = time.perf_counter()
            try:
                self._loop.call_soon_threadsafe(self._deliver, batch, outcomes, started, ended)
            except RuntimeError:
                return  # the loop has closed: nobody waits any more

    def _run(self, texts: Sequence[str]) -> Sequence[Prediction | Exception]:
        """What the student says of each text; one that it fails on fails alone."""
        try:
            return self.student.predict(texts)
        except Exception as error:  # noqa: BLE001  the worker must outlive a bad batch
            if len(texts) == 1:
                return [error]
            return [outcome for text in texts for outcome in self._run([text])]

    def _take(self) -> list[tuple[str, _Job, int]]:
        """This worker's share of what waits; blocks while nothing does; empty: the end."""
        while True:
            share = -(-len(self._waiting) // (1 + self._idle))
            batch: list[tuple[str, _Job, int]] = []
            while len(batch) < min(share, self._max_rows):
                try:
                    entry = self._waiting.popleft()
                except IndexError:
                    break
                if not entry[1].future.done():
                    batch.append(entry)
            if batch:
                return batch
            with self._wake:
                # The queue is looked at again under the lock that `submit` fills it under, so that
                # no wake-up is lost.
                self._idle += 1
                if not self._waiting:
                    if self._closed:
                        return []
                    self._wake.wait()
                self._idle -= 1

    def _deliver(
        self,
        batch: list[tuple[str, _Job, int]],
        outcomes: Sequence[Prediction | Exception],
        started: float,
        ended: float,
    ) -> None:
        """On the event loop: hand each result to its job, and each full job to its caller."""
        for (_, job, place), outcome in zip(batch, outcomes, strict=True):
            if job.future.done():
                continue
            if isinstance(outcome, Exception):
                job.results[place] = _as_student_failed(outcome)
            else:
                job.results[place] = Timed(
                    prediction=outcome,
                    queue=max(0.0, started - job.since),
                    batch=ended - started,
                    share=(ended - started) / len(batch),
                )
            job.left -= 1
            if not job.left:
                job.future.set_result([each for each in job.results if each is not None])
        if self._observe is not None:  # last: whatever it does, the callers have their answers
            self._observe(len(batch), ended - started)


def _as_student_failed(error: Exception) -> StudentFailed:
    if isinstance(error, StudentFailed):
        return error
    failed = StudentFailed(f"the student failed: {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed

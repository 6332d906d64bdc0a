"""Texts that wait -> batches on a small owned thread pool. Event-driven and work-conserving.

An idle worker takes what waits, up to its share; there is no timer and no polling, so a lone text
goes at once and an idle gateway uses no CPU. A worker tokenises, runs and calibrates for its whole
batch. Requests take turns, so that one of many texts does not hold up those of one; what nobody
waits for any more, or what is past its deadline, is dropped before it costs anything.

What waits is bounded twice: by a count, which bounds memory, and by the wait that a newcomer would
have, which is what a caller feels. A request beyond either is refused at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from gateway.errors import DeadlinePassed, Draining, Overloaded, ServingError, StudentFailed
from gateway.students.student import Student
from gateway.types import Prediction, Priority, Terms

_PLAIN = Terms()
_QUANTUM = 4  # texts of one request in a turn: an ORT call of so many is about as good as of more
_MEMORY = 0.2  # weight of the newest batch in the pace: about the last ten count
# The share of the longest wait up to which each priority is let in: the last are shed first, and
# what was not shed leaves room for those before it.
_SHARE = {Priority.HIGH: 2.0, Priority.NORMAL: 1.0, Priority.AUDIT: 0.5, Priority.SHADOW: 0.25}


@dataclass(frozen=True, slots=True)
class Timed:
    """A prediction, and its times in seconds: waiting, its whole batch, its share of the batch."""

    prediction: Prediction
    queue: float
    batch: float
    share: float


class _Job:
    """One request: its texts leave the queue in turns and are joined here."""

    __slots__ = ("deadline", "future", "left", "results", "since", "taken", "texts")

    def __init__(
        self,
        texts: Sequence[str],
        deadline: float | None,
        future: asyncio.Future[list[Timed | StudentFailed]],
    ) -> None:
        self.texts = texts
        self.deadline = deadline
        self.future = future
        self.since = time.perf_counter()
        self.taken = 0  # texts that a worker has
        self.left = len(texts)  # texts without a result
        self.results: list[Timed | StudentFailed | None] = [None] * len(texts)


_Entry = tuple[_Job, int]  # a text of a job, by its place


class Batcher:
    """Runs one student for many callers.

    `workers` threads call the student; `max_rows` and `max_tokens` (estimated) bound a batch,
    `capacity` the waiting texts, `longest_wait` (seconds) the wait of an ordinary newcomer.
    `observe(rows, seconds)` is told of each batch, on the event loop.
    """

    def __init__(
        self,
        student: Student,
        *,
        workers: int,
        max_rows: int = 32,
        max_tokens: int = 1024,
        capacity: int = 4096,
        longest_wait: float = float("inf"),
        observe: Callable[[int, float], None] | None = None,
        name: str = "student",
    ) -> None:
        self.student = student
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._capacity = capacity
        self._longest_wait = longest_wait
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        # One lock for each worker that is idle, held until there is something for it: a Condition
        # does the same with more Python around it, on the path of every request.
        self._idle: list[threading.Lock] = []
        self._queues: tuple[deque[_Job], ...] = tuple(deque() for _ in Priority)
        self._rows = 0  # that wait
        self._tokens = 0  # that wait, estimated
        self._pace = 0.0  # seconds a worker needs for a token, estimated likewise; 0: not known yet
        self._refusal: ServingError | None = None  # why nothing is taken in any more
        self._working = workers
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
        return self._rows

    @property
    def wait(self) -> float:
        """Seconds that a text which came now would wait, as far as the last batches tell."""
        return self._tokens * self._pace / len(self._threads)

    def submit(
        self, texts: Sequence[str], terms: Terms = _PLAIN
    ) -> asyncio.Future[list[Timed | StudentFailed]]:
        """Queue the texts of one request; the future gives one result a text, in their order.

        A text that the model fails on has a StudentFailed in its place, and fails alone. Raises
        Overloaded when they do not fit or would wait too long, Draining after `close`, ServingError
        when no worker is left. The call or
        the future raises DeadlinePassed when the deadline passes before a worker is free.
        """
        job = _Job(texts, terms.deadline, self._loop.create_future())
        if not texts:
            job.future.set_result([])
            return job.future
        with self._lock:  # `close` runs on another thread: what is queued here is still answered
            if self._refusal is not None:
                raise self._refusal
            self._admit(job, terms.priority)
            self._queues[terms.priority].append(job)
            self._rows += job.left
            self._tokens += sum(map(_tokens, texts))
            woken = [self._idle.pop() for _ in range(min(len(self._idle), job.left))]
        for parked in woken:
            parked.release()
        return job.future

    def close(self) -> None:
        """Let the workers finish what waits, then end them. Blocks until they have ended."""
        with self._lock:
            self._refusal = Draining("the gateway is shutting down", mend="send the request again")
            while self._idle:
                self._idle.pop().release()
        for thread in self._threads:
            thread.join()

    def _admit(self, job: _Job, priority: Priority) -> None:
        """Let a newcomer in among what waits, or raise Overloaded or DeadlinePassed."""
        if self._rows + job.left > self._capacity:
            raise Overloaded(f"{self._rows} texts wait already", retry_after=max(1.0, self.wait))
        wait = self.wait
        if wait > self._longest_wait * _SHARE[priority]:
            raise Overloaded(f"the wait would be {wait:.2f} s", retry_after=wait)
        if job.deadline is not None and job.since + wait > job.deadline:
            if job.since > job.deadline:
                raise _too_late()
            raise Overloaded(
                f"the wait would be {wait:.2f} s, beyond the deadline", retry_after=wait
            )

    def _work(self) -> None:
        try:
            while batch := self._take():
                self._answer(batch)
        finally:
            self._end()

    def _answer(self, batch: list[_Entry]) -> None:
        started = time.perf_counter()
        outcomes: Sequence[Prediction | Exception] = [_ended()] * len(batch)
        try:
            outcomes = self._run([job.texts[place] for job, place in batch])
        finally:  # a worker that dies does not take its callers with it
            ended = time.perf_counter()
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
                self._loop.call_soon_threadsafe(self._deliver, batch, outcomes, started, ended)

    def _end(self) -> None:
        """A worker ends: as it should, or by what it could not survive. The last one says so."""
        with self._lock:
            self._working -= 1
            if self._working:
                return
            self._refusal = self._refusal or ServingError(
                "every worker of the student has ended", mend="restart the process"
            )
            waiting = [job for queue in self._queues for job in queue]
        for job in waiting:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
                self._loop.call_soon_threadsafe(_fail, job, self._refusal)

    def _run(self, texts: Sequence[str]) -> Sequence[Prediction | Exception]:
        """What the student says of each text; one that it fails on fails alone."""
        try:
            return self.student.predict(texts)
        except Exception as error:  # noqa: BLE001  the worker must outlive a bad batch
            if len(texts) == 1:
                return [error]
            return [outcome for text in texts for outcome in self._run([text])]

    def _take(self) -> list[_Entry]:
        """This worker's share of what waits; blocks while nothing does; empty: the end."""
        parked = threading.Lock()
        parked.acquire()
        while True:
            with self._lock:
                share = -(-self._rows // (1 + len(self._idle)))
                if batch := self._filled(min(share, self._max_rows)):
                    return batch
                if self._refusal is not None:
                    return []
                self._idle.append(parked)
            parked.acquire()

    def _filled(self, rows: int) -> list[_Entry]:
        """Up to so many texts, in turns, the highest priority first. The lock is held."""
        batch: list[_Entry] = []
        room = self._max_tokens
        now = time.perf_counter()
        for queue in self._queues:
            while queue and len(batch) < rows and room > 0:
                job = queue.popleft()
                if job.future.done() or (job.deadline is not None and now > job.deadline):
                    self._drop(job)
                    continue
                first = job.taken
                last = min(first + _QUANTUM, first + rows - len(batch), len(job.texts))
                for place in range(first, last):
                    batch.append((job, place))
                    room -= self._leaves(job.texts[place])
                job.taken = last
                if last < len(job.texts):
                    queue.append(job)
        return batch

    def _leaves(self, text: str) -> int:
        """A text no longer waits; returns its tokens."""
        tokens = _tokens(text)
        self._rows -= 1
        self._tokens -= tokens
        return tokens

    def _drop(self, job: _Job) -> None:
        """Nobody waits for it any more, or no answer could come in time."""
        for text in job.texts[job.taken :]:
            self._leaves(text)
        if not job.future.done():
            self._loop.call_soon_threadsafe(_fail, job, _too_late())

    def _deliver(
        self,
        batch: list[_Entry],
        outcomes: Sequence[Prediction | Exception],
        started: float,
        ended: float,
    ) -> None:
        """On the event loop: hand each result to its job, and each full job to its caller."""
        taken = ended - started
        share = taken / len(batch)
        for (job, place), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                job.results[place] = _as_student_failed(outcome)
            else:
                job.results[place] = Timed(outcome, started - job.since, taken, share)
            job.left -= 1
            if not job.left and not job.future.done():
                job.future.set_result(cast("list[Timed | StudentFailed]", job.results))
        pace = taken / sum(_tokens(job.texts[place]) for job, place in batch)
        self._pace = pace if not self._pace else self._pace + _MEMORY * (pace - self._pace)
        if self._observe is not None:  # last: whatever it does, the callers have their answers
            self._observe(len(batch), taken)


def _tokens(text: str) -> int:
    """About as many as the tokenizer will find: English has some four characters a token."""
    return 3 + len(text) // 4


def _fail(job: _Job, error: ServingError) -> None:
    if not job.future.done():
        job.future.set_exception(error)


def _too_late() -> DeadlinePassed:
    return DeadlinePassed("the deadline passed before a worker was free", mend="allow more time")


def _ended() -> StudentFailed:
    return StudentFailed("the worker ended while it ran this text", mend="send the request again")


def _as_student_failed(error: Exception) -> StudentFailed:
    if isinstance(error, StudentFailed):
        return error
    failed = StudentFailed(f"the student failed: {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed

"""Texts that wait -> batches for the workers. Event-driven and work-conserving.

An idle worker is given what waits, up to its share; there is no timer and no polling, so a lone
text goes at once and an idle gateway uses no CPU. All of it happens on the event loop: nothing here
blocks it, and no lock is needed. Requests take turns, so that one of many texts does not hold up
those of one; what nobody waits for any more, or what is past its deadline, is dropped before it
costs anything.

What waits is bounded twice: by a count, which bounds memory, and by the wait that a newcomer would
have, which is what a caller feels. A request beyond either is refused at once.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from gateway.errors import DeadlinePassed, Draining, Overloaded, ServingError, StudentFailed
from gateway.students.student import Student
from gateway.students.workers import Ran, Worker
from gateway.types import Prediction, Priority, Terms

_PLAIN = Terms()
_QUANTUM = 4  # texts of one request in a turn: an ORT call of so many is about as good as of more
_AHEAD = 4  # texts that must wait before a busy worker is given its next batch
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

    def settle(self, number: int, result: Timed | StudentFailed) -> None:
        """A text has its result; the last one answers the request."""
        self.results[number] = result
        self.left -= 1
        if not self.left and not self.future.done():
            self.future.set_result(cast("list[Timed | StudentFailed]", self.results))


_Entry = tuple[_Job, int]  # a text of a job, by its place


class Batcher:
    """Gives what many callers ask to the workers of one student. It belongs to one event loop.

    `max_rows` and `max_tokens` (estimated) bound a batch, `capacity` the waiting texts,
    `longest_wait` (seconds) the wait of an ordinary newcomer. `observe(rows, seconds)` is told of
    each batch.
    """

    def __init__(
        self,
        student: Student,
        workers: Sequence[Worker],
        *,
        max_rows: int = 32,
        max_tokens: int = 1024,
        capacity: int = 4096,
        longest_wait: float = float("inf"),
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self.student = student
        self._longest = student.bundle.manifest.limits.max_tokens
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._capacity = capacity
        self._longest_wait = longest_wait
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._queues: tuple[deque[_Job], ...] = tuple(deque() for _ in Priority)
        self._rows = 0  # that wait
        self._tokens = 0  # that wait, estimated
        self._pace = 0.0  # seconds a worker needs for a token, estimated likewise; 0: not known yet
        self._refusal: ServingError | None = None  # why nothing is taken in any more
        self._finished = asyncio.Event()  # closing, and all that was taken in is answered
        self._places = [_Place(worker) for worker in workers]
        for place in self._places:
            place.worker.follow(
                functools.partial(self._ran, place), functools.partial(self._lost, place)
            )

    @property
    def alive(self) -> bool:
        """Whether every worker can run."""
        return all(place.worker.alive for place in self._places)

    @property
    def depth(self) -> int:
        """Texts that wait."""
        return self._rows

    @property
    def wait(self) -> float:
        """Seconds that a text which came now would wait, as far as the last batches tell."""
        return self._tokens * self._pace / len(self._places)

    async def ready(self) -> None:
        """Wait until all workers can answer. Raises what kept one of them."""
        for place in self._places:
            await place.worker.ready()

    def submit(
        self, texts: Sequence[str], terms: Terms = _PLAIN
    ) -> asyncio.Future[list[Timed | StudentFailed]]:
        """Queue the texts of one request; the future gives one result a text, in their order.

        A text that the model fails on has a StudentFailed in its place, and fails alone. Raises
        Overloaded when they do not fit or would wait too long, Draining after `close`, ServingError
        when no worker is left. The call or the future raises DeadlinePassed when the deadline
        passes before a worker is free.
        """
        job = _Job(texts, terms.deadline, self._loop.create_future())
        if not texts:
            job.future.set_result([])
            return job.future
        if self._refusal is not None:
            raise self._refusal
        self._admit(job, terms.priority)
        self._queues[terms.priority].append(job)
        self._rows += job.left
        self._tokens += sum(map(self._tokens_of, texts))
        self._feed()
        return job.future

    async def close(self) -> None:
        """Answer what waits, then end the workers."""
        self._refusal = self._refusal or Draining(
            "the gateway is shutting down", mend="send the request again"
        )
        self._finish()
        await self._finished.wait()
        for place in self._places:
            await place.worker.close()

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

    def _feed(self) -> None:
        """Give what waits to whoever can take it: first to the idle, then ahead to the busy."""
        for held in (0, 1):
            for place in self._places:
                enough = self._rows >= (_AHEAD if held else 1)
                if len(place.batches) == held < place.worker.ahead and enough and place.open:
                    # A share each: the others will be free before this one has run all.
                    share = -(-self._rows // len(self._places))
                    if batch := self._filled(min(share, self._max_rows)):
                        place.batches.append(batch)
                        place.worker.send([job.texts[number] for job, number in batch])

    def _filled(self, rows: int) -> list[_Entry]:
        """Up to so many texts, in turns, the highest priority first."""
        batch: list[_Entry] = []
        room = self._max_tokens
        now = time.perf_counter()
        for queue in self._queues:
            while queue and len(batch) < rows and room > 0:
                job = queue.popleft()
                if job.future.done() or (job.deadline is not None and now > job.deadline):
                    self._drop(job, _too_late())
                    continue
                first = job.taken
                last = min(first + _QUANTUM, first + rows - len(batch), len(job.texts))
                for number in range(first, last):
                    batch.append((job, number))
                    room -= self._leaves(job.texts[number])
                job.taken = last
                if last < len(job.texts):
                    queue.append(job)
        return batch

    def _tokens_of(self, text: str) -> int:
        """About as many as are run: English has some four characters a token, the rest is cut."""
        return min(3 + len(text) // 4, self._longest)

    def _leaves(self, text: str) -> int:
        """A text no longer waits; returns its tokens."""
        tokens = self._tokens_of(text)
        self._rows -= 1
        self._tokens -= tokens
        return tokens

    def _drop(self, job: _Job, error: ServingError) -> None:
        """What waits of it will not run; who still waits for it is told why."""
        for text in job.texts[job.taken :]:
            self._leaves(text)
        if not job.future.done():
            job.future.set_exception(error)

    def _ran(self, place: _Place, ran: Ran) -> None:
        """A worker has run its batch: give it the next, then hand out the results."""
        batch = place.batches.popleft()
        self._feed()
        taken = ran.ended - ran.started
        share = taken / len(batch)
        for (job, number), outcome in zip(batch, ran.outcomes, strict=True):
            if isinstance(outcome, Exception):
                job.settle(number, _as_student_failed(outcome))
            else:
                job.settle(number, Timed(outcome, ran.started - job.since, taken, share))
        pace = taken / sum(self._tokens_of(job.texts[number]) for job, number in batch)
        self._pace = pace if not self._pace else self._pace + _MEMORY * (pace - self._pace)
        self._finish()
        if self._observe is not None:  # last: whatever it does, the callers have their answers
            self._observe(len(batch), taken)

    def _lost(self, place: _Place) -> None:
        """A worker has ended: what it held has failed. What waits is for those that are left."""
        place.open = False
        failed = StudentFailed("the worker ended while it ran this text", mend="send it again")
        while place.batches:
            for job, number in place.batches.popleft():
                job.settle(number, failed)
        if not any(each.open for each in self._places):
            self._give_up()
        self._finish()  # whoever closes may have waited for this worker alone

    def _give_up(self) -> None:
        """No worker is left: nobody who waits will be answered."""
        self._refusal = self._refusal or ServingError(
            "every worker of the student has ended", mend="restart the process"
        )
        for queue in self._queues:
            while queue:
                self._drop(queue.popleft(), self._refusal)

    def _finish(self) -> None:
        """Note the end: nothing is taken in any more, and nothing waits or runs."""
        running = any(place.batches for place in self._places)
        if self._refusal is not None and not self._rows and not running:
            self._finished.set()


class _Place:
    """A worker, and the batches that it holds, the one that runs first."""

    __slots__ = ("batches", "open", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.batches: deque[list[_Entry]] = deque()
        self.open = True


def _too_late() -> DeadlinePassed:
    return DeadlinePassed("the deadline passed before a worker was free", mend="allow more time")


def _as_student_failed(error: Exception) -> StudentFailed:
    if isinstance(error, StudentFailed):
        return error
    failed = StudentFailed(f"the student failed: {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed

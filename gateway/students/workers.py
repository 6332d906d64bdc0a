"""Who runs a student: a thread of this process, or a process of its own (see `process`).

A worker takes batches, runs them one after the other and tells of each on the event loop. It
decides nothing: what goes into a batch, and who gets it, is the batcher's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from gateway.students.student import Student
from gateway.types import Prediction


@dataclass(frozen=True, slots=True)
class Ran:
    """A batch that has run: an outcome a text, and when, as time.perf_counter gives it.

    The clock is the machine's, so that times of other processes can be compared with ours. `apart`
    is the time of each text, in seconds, where they were run one after the other, without that in
    which others had the processor.
    """

    outcomes: Sequence[Prediction | Exception]
    started: float
    ended: float
    apart: Sequence[float] | None = None

    @property
    def seconds(self) -> Sequence[float]:
        """What each text took: its own time, else its share of the batch."""
        if self.apart is not None:
            return self.apart
        count = len(self.outcomes)
        return [(self.ended - self.started) / count] * count


class Worker(Protocol):
    """Runs batches in the order in which they are sent.

    When it ends it says so once, and says nothing of the batches that it still held.
    """

    ahead: int  # batches that it may hold: the one that runs, and those that wait behind it

    @property
    def alive(self) -> bool:
        """Whether it can still run anything."""

    def follow(self, ran: Callable[[Ran], None], ended: Callable[[], None]) -> None:
        """Say who is told, on the event loop, of each batch and of the end.

        A batch that is out when the worker ends is told of no more.
        """

    async def ready(self) -> None:
        """Wait until it can answer. Raises what kept it from opening the student."""

    def send(self, texts: Sequence[str]) -> None:
        """Run these texts next."""

    async def close(self) -> None:
        """End it; nothing is sent any more, and all that was sent has run."""


class ThreadWorker:
    """A thread that runs a student of this process.

    It shares the interpreter's lock with the event loop: right for tests, for teachers whose calls
    are long, and where memory is short; at many requests a second the two are in each other's way.
    """

    ahead = 1

    def __init__(self, student: Student, *, name: str = "student") -> None:
        self._student = student
        self._loop = asyncio.get_running_loop()
        self._batches: SimpleQueue[Sequence[str] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def follow(self, ran: Callable[[Ran], None], ended: Callable[[], None]) -> None:
        """Begin; `ran` and `ended` are called on the event loop."""
        self._ran, self._ended = ran, ended
        self._thread.start()

    async def ready(self) -> None:
        """It is ready from the start."""

    def send(self, texts: Sequence[str]) -> None:
        """Run these texts next."""
        self._batches.put(texts)

    async def close(self) -> None:
        """End the thread."""
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        try:
            while (texts := self._batches.get()) is not None:
                self._run(texts)
        finally:
            self._tell(self._ended)

    def _run(self, texts: Sequence[str]) -> None:
        started = time.perf_counter()
        outcomes = outcomes_of(self._student.predict, texts)
        self._tell(self._ran, Ran(outcomes, started, time.perf_counter()))

    def _tell(self, told: Callable[..., None], *what: Ran) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
            self._loop.call_soon_threadsafe(told, *what)


def outcomes_of(
    predict: Callable[[Sequence[str]], Sequence[Prediction]], texts: Sequence[str]
) -> Sequence[Prediction | Exception]:
    """What the student says of each text; one that it fails on fails alone."""
    try:
        return predict(texts)
    except Exception as error:  # noqa: BLE001  the worker must outlive a bad batch
        if len(texts) == 1:
            return [error]
        return [outcome for text in texts for outcome in outcomes_of(predict, [text])]

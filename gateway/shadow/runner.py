"""Runs a candidate in processes of its own, which stand back for all others and may be ended.

Nothing here is waited for by whoever answers: `offer` takes a text or refuses it, at once. A batch
has a time limit; a process that does not end it has hung and is killed, and one that ends by itself
has crashed. Either is begun again after a pause that doubles each time; after some in a row without
one batch between them the candidate is left alone. What is refused and what fails is counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn, Protocol

import structlog

from gateway.errors import UnderstudyError
from gateway.students.workers import Ran
from gateway.types import Lapse, Prediction

NICENESS = 19  # the most that there is: what answers requests goes first on every core

_ROWS = 8  # of a batch: more gain little, and all of a batch that hangs are lost
# Characters that wait in all. Beside the count, which bounds short texts, it bounds the memory.
_CHARACTERS = 4_000_000
_START_S = 120.0  # seconds to open a bundle, on a machine that is busy with others
_TRIES = 5  # in a row without one batch: it would not help to begin again
_PAUSE_S = 1.0  # seconds before it is begun again; doubled each time
_LONGEST_PAUSE_S = 60.0

_log = structlog.get_logger(__name__)


class State(StrEnum):
    """How a candidate is doing."""

    STARTING = "starting"
    RUNNING = "running"
    RESTING = "resting"  # it is begun again soon
    STOPPED = "stopped"  # it will not be begun again


class Shed(StrEnum):
    """Why a request that was drawn is not shown to a candidate."""

    FULL = "full"  # too much waits already
    RESTING = "resting"  # no process of it runs now, or will


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one text: a prediction and its share of the batch in seconds, or a lapse."""

    prediction: Prediction | None
    seconds: float | None
    lapse: Lapse | None = None


class KillableWorker(Protocol):
    """A worker that can be ended while it works; see gateway.students.workers.Worker."""

    def follow(self, ran: Callable[[Ran], None], ended: Callable[[], None]) -> None:
        """Say who is told of each batch and of the end."""

    async def ready(self) -> None:
        """Wait until it can answer. Raises what kept it from opening the student."""

    def send(self, texts: Sequence[str]) -> None:
        """Run these texts next."""

    def kill(self) -> None:
        """End it at once."""

    async def close(self) -> None:
        """End it, and see that it has."""


Done = Callable[[Run], None]


class Runner:
    """A candidate's processes, and the texts that wait for them. It belongs to one event loop.

    `start` begins a process. `queue` bounds the texts that wait, `limit_s` the seconds of a batch.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], KillableWorker],
        *,
        workers: int = 1,
        queue: int = 256,
        limit_s: float = 10.0,
        pause_s: float = _PAUSE_S,
    ) -> None:
        self.name = name
        self.shed = Counter(dict.fromkeys(Shed, 0))
        self.lapses = Counter(dict.fromkeys(Lapse, 0))
        self.ended = ""  # why it was stopped, in words
        self._start = start
        self._capacity = queue
        self._limit = limit_s
        self._pause = pause_s
        self._queue: deque[tuple[str, Done]] = deque()
        self._characters = 0
        self._lanes = [_Lane(self) for _ in range(workers)]
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(lane.live()) for lane in self._lanes]

    @property
    def state(self) -> State:
        """That of the process that does best."""
        states = {lane.state for lane in self._lanes}
        order = (State.RUNNING, State.STARTING, State.RESTING)
        return next((state for state in order if state in states), State.STOPPED)

    @property
    def depth(self) -> int:
        """Texts that wait."""
        return len(self._queue)

    def offer(self, text: str, done: Done) -> bool:
        """Have a text run and `done` told of it, soon or late; False: it is refused, and counted.

        Whoever is stopped tells nobody of what waited.
        """
        if self.state in {State.RESTING, State.STOPPED}:
            self.shed[Shed.RESTING] += 1
            return False
        if len(self._queue) >= self._capacity or self._characters + len(text) > _CHARACTERS:
            self.shed[Shed.FULL] += 1
            return False
        self._queue.append((text, done))
        self._characters += len(text)
        for lane in self._lanes:
            lane.wake.set()
        return True

    async def close(self) -> None:
        """End the processes; what waits is not run."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._drop()

    def take(self) -> list[tuple[str, Done]]:
        """The next batch."""
        batch = [self._queue.popleft() for _ in range(min(_ROWS, len(self._queue)))]
        self._characters -= sum(len(text) for text, _ in batch)
        return batch

    def begin(self) -> KillableWorker:
        """Another process."""
        return self._start()

    @property
    def limit(self) -> float:
        """Seconds that a batch may take."""
        return self._limit

    def pause(self, failures: int) -> float:
        """Seconds until it is begun again, after so many failures in a row."""
        return min(_LONGEST_PAUSE_S, self._pause * 2.0 ** (failures - 1))

    def lapsed(self, lapse: Lapse, rows: int) -> None:
        """So many texts have no answer."""
        self.lapses[lapse] += rows

    def stop(self, why: str) -> None:
        """A process is not begun again; where it was the last, nothing waits any more."""
        self.ended = why
        if self.state is State.STOPPED:
            self._drop()

    def _drop(self) -> None:
        self.shed[Shed.RESTING] += len(self._queue)
        self._queue.clear()
        self._characters = 0


class _Hung(Exception):
    """A batch was not ended in time."""


class _Crashed(Exception):
    """The process ended."""


class _Lane:
    """One process after the other, of one candidate."""

    def __init__(self, runner: Runner) -> None:
        self.state = State.STARTING
        self.wake = asyncio.Event()
        self._runner = runner
        self._failures = 0  # in a row, without a batch between them
        self._lost = False  # the process has ended
        self._running: asyncio.Future[Ran] | None = None

    async def live(self) -> None:
        """Begin a process, let it work, and begin the next when it has failed."""
        while self._failures < _TRIES:
            why = await self._once()
            self._failures += 1
            told = {"candidate": self._runner.name, "why": why, "in_a_row": self._failures}
            if self._failures >= _TRIES:
                break
            self.state = State.RESTING
            pause = self._runner.pause(self._failures)
            _log.warning("a candidate's process has failed", again_in_s=pause, **told)
            await asyncio.sleep(pause)
        self.state = State.STOPPED
        _log.error("a candidate is left alone", **told)
        self._runner.stop(why)

    async def _once(self) -> str:
        """One process, until it fails; returns why."""
        self.state, self._lost = State.STARTING, False
        worker: KillableWorker | None = None
        try:
            worker = self._runner.begin()
            worker.follow(self._ran, self._ended)
            async with asyncio.timeout(_START_S):
                await worker.ready()
            self.state = State.RUNNING
            await self._work(worker)
        except _Hung:
            return f"a batch took more than {self._runner.limit:g} s"
        except _Crashed:
            return "its process ended"
        except TimeoutError:
            return f"it was not ready in {_START_S:g} s"
        except (UnderstudyError, OSError) as error:
            return str(error)
        finally:
            if worker is not None:
                worker.kill()
                await worker.close()

    async def _work(self, worker: KillableWorker) -> NoReturn:
        """Run what comes. Raises _Hung or _Crashed."""
        while True:
            while not self._runner.depth and not self._lost:
                self.wake.clear()
                await self.wake.wait()
            if self._lost:
                raise _Crashed
            await self._run(worker, self._runner.take())

    async def _run(self, worker: KillableWorker, batch: Sequence[tuple[str, Done]]) -> None:
        self._running = asyncio.get_running_loop().create_future()
        worker.send([text for text, _ in batch])
        try:
            async with asyncio.timeout(self._runner.limit):
                ran = await self._running
        except TimeoutError as error:
            self._lose(batch, Lapse.HUNG)
            raise _Hung from error
        except _Crashed:
            self._lose(batch, Lapse.CRASHED)
            raise
        finally:
            self._running = None
        self._failures = 0
        share = (ran.ended - ran.started) / len(batch)
        for (_, done), outcome in zip(batch, ran.outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._runner.lapsed(Lapse.FAILED, 1)
                done(Run(None, None, Lapse.FAILED))
            else:
                done(Run(outcome, share))

    def _lose(self, batch: Sequence[tuple[str, Done]], lapse: Lapse) -> None:
        self._runner.lapsed(lapse, len(batch))
        for _, done in batch:
            done(Run(None, None, lapse))

    def _ran(self, ran: Ran) -> None:
        if self._running is not None and not self._running.done():
            self._running.set_result(ran)

    def _ended(self) -> None:
        self._lost = True
        self.wake.set()
        if self._running is not None and not self._running.done():
            self._running.set_exception(_Crashed())

"""Runs a candidate in processes of its own, which stand back for all others and may be ended.

Nothing here is waited for by whoever answers: `offer` takes a text or refuses it, at once. Texts
are gathered for a moment, since most of what they cost the event loop is the price of a batch, and
their results are handed out one at a time, so that no request waits for more than one of them.

However little a candidate is given of a processor, it takes something from who shares its caches
and wakes up on its core. So each process works a share of the time at most, and rests as much
longer as its last batch took; what a process took that has failed, to open and until it was given
up, is rested from before the next one begins.

A batch has a time limit; a process that does not end it has hung and is killed, and one that ends
by itself has crashed. Time in which others had the processor is no part of it. Either is begun
again after a pause that doubles each time; after some in a row without one batch between them the
candidate is left alone. What is refused and what fails is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn, Protocol, TypeVar

import structlog

from gateway.errors import UnderstudyError
from gateway.students.workers import Ran
from gateway.types import Lapse, Prediction

_ROWS = 8  # of a batch: more gain little, and all of a batch that hangs are lost
# Characters that wait in all. Beside the count, which bounds short texts, it bounds the memory.
_CHARACTERS = 4_000_000
_GATHER_S = 0.025  # that a text waits for others: nobody waits for it
_START_S = 120.0  # seconds to open a bundle
_LEFT_S = 0.01  # of a limit: who has no more left of it has used it up
_TRIES = 5  # in a row without one batch: it would not help to begin again
_PAUSE_S = 1.0  # seconds before it is begun again; doubled each time
_LONGEST_PAUSE_S = 60.0

_Found = TypeVar("_Found")

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
    """What came of one text: a prediction and the seconds that it took, or a lapse.

    Times in which others had the processor are not in these: they say how busy a machine is.
    """

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

    def kept_s(self) -> float:
        """Seconds so far in which it wanted a processor and others had it."""

    def kill(self) -> None:
        """End it at once."""

    async def close(self) -> None:
        """End it, and see that it has."""


Done = Callable[[Run], None]


class Runner:
    """A candidate's processes, and the texts that wait for them. It belongs to one event loop.

    `start` begins a process. `queue` bounds the texts that wait, `limit_s` the seconds of a batch,
    `busy` the share of its time that a process works.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], KillableWorker],
        *,
        workers: int = 1,
        queue: int = 256,
        limit_s: float = 10.0,
        busy: float = 1.0,
        pause_s: float = _PAUSE_S,
    ) -> None:
        self.name = name
        self.taken = 0  # texts that were offered and not refused
        self.shed = Counter(dict.fromkeys(Shed, 0))
        self.lapses = Counter(dict.fromkeys(Lapse, 0))
        self.ended = ""  # why it was stopped, in words
        self._start = start
        self._capacity = queue
        self._limit = limit_s
        self._busy = busy
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
    def shown(self) -> float:
        """The share of the texts that were offered which were not refused; 1 before the first."""
        offered = self.taken + self.shed.total()
        return self.taken / offered if offered else 1.0

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
        self.taken += 1
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

    def rest(self, worked: float) -> float:
        """Seconds of rest after so many of work."""
        return worked * (1.0 / self._busy - 1.0)

    def pause(self, failures: int, lost: float) -> float:
        """Seconds until it is begun again, after so many failures in a row.

        `lost`: seconds of work since its last good batch, and those that it took to begin it.
        """
        pause = min(_LONGEST_PAUSE_S, self._pause * 2.0 ** (failures - 1))
        return max(pause, self.rest(lost))

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


class _Effort:
    """Seconds since it was made, without those in which others had the worker's processor."""

    def __init__(self, worker: KillableWorker) -> None:
        self._worker = worker
        self._clock = asyncio.get_running_loop().time
        self._began, self._kept = self._clock(), worker.kept_s()

    @property
    def seconds(self) -> float:
        """By now."""
        kept = max(0.0, self._worker.kept_s() - self._kept)  # of one that is gone nothing is known
        return max(0.0, self._clock() - self._began - kept)


class _Lane:
    """One process after the other, of one candidate."""

    def __init__(self, runner: Runner) -> None:
        self.state = State.STARTING
        self.wake = asyncio.Event()
        self._runner = runner
        self._failures = 0  # in a row, without a batch between them
        self._lost = asyncio.Event()  # the process has ended
        self._spent = 0.0  # seconds of the last process: to be ready, and in what it did not end
        self._rest_until = 0.0  # as the loop's clock says
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
            pause = self._runner.pause(self._failures, self._spent)
            _log.warning("a candidate's process has failed", again_in_s=pause, **told)
            await asyncio.sleep(pause)
        self.state = State.STOPPED
        _log.error("a candidate is left alone", **told)
        self._runner.stop(why)

    async def _once(self) -> str:
        """One process, until it fails; returns why."""
        self.state = State.STARTING
        self._lost.clear()
        self._spent = 0.0
        worker: KillableWorker | None = None
        try:
            worker = self._runner.begin()
            worker.follow(self._ran, self._ended)
            effort = _Effort(worker)
            try:
                await _within(_START_S, asyncio.ensure_future(worker.ready()), effort)
            finally:
                self._spent = effort.seconds
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
            while not self._runner.depth and not self._lost.is_set():
                self.wake.clear()
                await self.wake.wait()
            await self._hold_back()
            if self._lost.is_set():
                raise _Crashed
            if batch := self._runner.take():  # another process may have taken all meanwhile
                await self._run(worker, batch)

    async def _hold_back(self) -> None:
        """Rest from the batch before, and gather some texts; not longer than the process lives."""
        pause = self._rest_until - asyncio.get_running_loop().time()
        if self._runner.depth < _ROWS:
            pause = max(pause, _GATHER_S)
        if pause > 0.0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._lost.wait()

    async def _run(self, worker: KillableWorker, batch: Sequence[tuple[str, Done]]) -> None:
        self._running = asyncio.get_running_loop().create_future()
        effort = _Effort(worker)
        worker.send([text for text, _ in batch])
        try:
            ran = await _within(self._runner.limit, self._running, effort)
        except TimeoutError as error:
            self._lose(batch, Lapse.HUNG, effort)
            raise _Hung from error
        except _Crashed:
            self._lose(batch, Lapse.CRASHED, effort)
            raise
        finally:
            self._running = None
        self._failures = 0
        worked = ran.ended - ran.started
        self._rest_until = asyncio.get_running_loop().time() + self._runner.rest(worked)
        for (_, done), outcome, seconds in zip(batch, ran.outcomes, ran.seconds, strict=True):
            if isinstance(outcome, Exception):
                self._runner.lapsed(Lapse.FAILED, 1)
                done(Run(None, None, Lapse.FAILED))
            else:
                done(Run(outcome, seconds))
            await asyncio.sleep(0)  # whoever is to be answered goes first

    def _lose(self, batch: Sequence[tuple[str, Done]], lapse: Lapse, effort: _Effort) -> None:
        self._spent += effort.seconds
        self._runner.lapsed(lapse, len(batch))
        for _, done in batch:
            done(Run(None, None, lapse))

    def _ran(self, ran: Ran) -> None:
        if self._running is not None and not self._running.done():
            self._running.set_result(ran)

    def _ended(self) -> None:
        self._lost.set()
        self.wake.set()
        if self._running is not None and not self._running.done():
            self._running.set_exception(_Crashed())


async def _within(limit: float, work: asyncio.Future[_Found], effort: _Effort) -> _Found:
    """What comes of the work within so many seconds. Raises TimeoutError, and what the work raises.

    While its worker had no processor it could not work: that is no part of its `effort`.
    """
    left = limit
    try:
        while True:
            done, _ = await asyncio.wait({work}, timeout=left)
            if done:
                return work.result()
            left = limit - effort.seconds
            if left < _LEFT_S:
                raise TimeoutError
    finally:
        work.cancel()

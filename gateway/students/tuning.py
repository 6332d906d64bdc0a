"""How a student is best run on this host: measured once by `understudy tune`, read at each start.

What is measured: how many workers and how many threads of one ORT call give the most texts a
second, and what a call costs beside its tokens (see `lengths`). The workers are those that would
serve, and a batcher feeds them, so that what the event loop and the way to a process cost is in the
figures. What was measured holds for one bundle on one kind of host; for any other it is not used.
"""

from __future__ import annotations

import asyncio
import itertools
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gateway import cores
from gateway.contract.bundle import Bundle
from gateway.errors import StudentFailed
from gateway.students.batching import Batcher
from gateway.students.lengths import CALL_TOKENS
from gateway.students.student import Session, Student
from gateway.students.workers import Worker

Start = Callable[[Student, int], Awaitable[Sequence[Worker]]]  # so many workers for a student

_BATCH = 16  # texts that a busy worker takes at once, and of a request
_WAITING = 3  # requests for each worker: one that runs, one that it holds ahead, one in the queue
_ROWS = (1, 2, 4)  # shapes from which the cost of a call is fitted
_WIDTHS = (8, 16, 32)
_REPEATS = 15  # runs of each shape; the median counts
_LEAST_S = 0.5  # seconds of each trial: some hundred batches of a small student
_ROUNDS = 3  # the trials take turns, so that a drift of the host's speed meets all of them alike
_WORTH = 1.03  # a way with more threads has to be this much faster: less is noise


@dataclass(frozen=True, slots=True)
class Tuning:
    """A way to run a student: workers, threads of one ORT call, and what a call costs in tokens."""

    workers: int
    threads: int = 1
    call_tokens: float = CALL_TOKENS


@dataclass(frozen=True, slots=True)
class Trial:
    """What one way gave, in texts a second."""

    workers: int
    threads: int
    texts_per_second: float


def untuned() -> Tuning:
    """What is right on most hosts: a worker for each core, and one thread for each call."""
    return Tuning(workers=cores.available())


async def measure(
    bundle: Bundle, texts: Sequence[str], start: Start, *, seconds: float = _LEAST_S
) -> tuple[Tuning, list[Trial]]:
    """Try the ways to run a bundle here, and choose.

    `texts` are like those that will be served; `start` gives the workers that would serve them.
    Raises what keeps a worker from starting, or StudentFailed for a text that cannot be answered.
    """
    most = cores.available()
    call_tokens = fit_call_tokens(Session(bundle.model))
    ways = [
        (workers, threads)
        for workers, threads in itertools.product(range(1, most + 1), repeat=2)
        if workers * threads <= most
    ]
    students = {
        threads: Student(bundle, threads=threads, call_tokens=call_tokens)
        for threads in {threads for _, threads in ways}
    }
    speeds: dict[tuple[int, int], list[float]] = {way: [] for way in ways}
    for _ in range(_ROUNDS):
        for workers, threads in ways:
            batcher = Batcher(
                students[threads], await start(students[threads], workers), max_rows=_BATCH
            )
            try:
                await batcher.ready()
                speed = await _speed(batcher, texts, workers, seconds / _ROUNDS)
            finally:
                await batcher.close()
            speeds[workers, threads].append(speed)
    trials = [Trial(*way, statistics.median(found)) for way, found in speeds.items()]
    best = chosen(trials)
    return Tuning(best.workers, best.threads, call_tokens), trials


def chosen(trials: Sequence[Trial]) -> Trial:
    """The fastest; of those that are as fast, the one with the fewest threads for a call."""
    fastest = max(trial.texts_per_second for trial in trials)
    near = [trial for trial in trials if trial.texts_per_second * _WORTH >= fastest]
    return min(near, key=lambda trial: (trial.threads, -trial.texts_per_second))


def fit_call_tokens(session: Session) -> float:
    """What a call costs beside its tokens, in tokens: the line through the times of some shapes."""
    shapes = list(itertools.product(_ROWS, _WIDTHS))
    for rows, width in shapes:
        session.run([[0] * width] * rows)
    times: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
    for _ in range(_REPEATS):
        for rows, width in shapes:
            batch = [[0] * width] * rows
            started = time.perf_counter()
            session.run(batch)
            times[rows, width].append(time.perf_counter() - started)
    tokens = [rows * width for rows, width in shapes]
    medians = [statistics.median(times[shape]) for shape in shapes]
    token, call = np.polyfit(tokens, medians, 1)
    return round(float(max(0.0, call / token)), 2) if token > 0 else CALL_TOKENS


def save(path: Path, bundle: Bundle, tuning: Tuning) -> None:
    """Keep the choice for a bundle beside those of others. Atomic."""
    content = _content(path)
    if content.get("host") != _host():
        content = {"host": _host(), "bundles": {}}
    content["bundles"][bundle.id] = asdict(tuning)
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, delete=False) as file:
        file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    Path(file.name).replace(path)


def load(path: Path, bundle: Bundle) -> Tuning:
    """The choice for a bundle, where it was made on such a host; else `untuned`."""
    content = _content(path)
    if content.get("host") != _host():
        return untuned()
    try:
        found = content["bundles"][bundle.id]
        return Tuning(int(found["workers"]), int(found["threads"]), float(found["call_tokens"]))
    except (KeyError, TypeError, ValueError):
        return untuned()  # it is only advice: a missing or damaged one is none


def _content(path: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _host() -> dict[str, Any]:
    """What a measurement depends on."""
    return {"machine": platform.machine(), "cores": cores.available(), "processor": _processor()}


def _processor(source: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = source.read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")


async def _speed(batcher: Batcher, texts: Sequence[str], workers: int, seconds: float) -> float:
    """Texts a second that so many workers get through while others wait."""
    turn = itertools.cycle(texts)
    started = time.perf_counter()
    asking = [_ask(batcher, turn, until=started + seconds) for _ in range(workers * _WAITING)]
    return sum(await asyncio.gather(*asking)) / (time.perf_counter() - started)


async def _ask(batcher: Batcher, turn: Iterator[str], *, until: float) -> int:
    """Send one request after the other, at least one; returns the texts that were answered."""
    done = 0
    while not done or time.perf_counter() < until:
        for each in await batcher.submit(list(itertools.islice(turn, _BATCH))):
            if isinstance(each, StudentFailed):
                raise each
        done += _BATCH
    return done

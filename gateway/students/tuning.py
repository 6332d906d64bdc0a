"""How a student is best run on this host: measured once by `understudy tune`, read at each start.

What is measured: how many workers and how many threads of one ORT call give the most texts a
second, and what a call costs beside its tokens (see `lengths`). What was measured holds for one
bundle on one kind of host; for any other it is not used.
"""

from __future__ import annotations

import itertools
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gateway import cores
from gateway.contract.bundle import Bundle
from gateway.students.lengths import CALL_TOKENS
from gateway.students.student import Session, Student

_BATCH = 16  # texts that a busy worker takes at once
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


def measure(
    bundle: Bundle, texts: Sequence[str], *, seconds: float = _LEAST_S
) -> tuple[Tuning, list[Trial]]:
    """Try the ways to run a bundle here, and choose. `texts` are like those that will be served."""
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
            answer = students[threads].predict
            speeds[workers, threads].append(_speed(answer, texts, workers, seconds / _ROUNDS))
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


def _speed(
    answer: Callable[[Sequence[str]], object], texts: Sequence[str], workers: int, seconds: float
) -> float:
    """Texts a second that so many threads get through."""
    lock = threading.Lock()
    batches = _endless(texts)
    done = 0
    started = time.perf_counter()

    def work() -> None:
        nonlocal done
        while time.perf_counter() - started < seconds:
            with lock:
                batch = next(batches)
            answer(batch)
            with lock:
                done += len(batch)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done / (time.perf_counter() - started)


def _endless(texts: Sequence[str]) -> Iterator[list[str]]:
    turn = itertools.cycle(texts)
    while True:
        yield list(itertools.islice(turn, _BATCH))

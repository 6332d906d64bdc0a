"""The time of one text, in this process: tokenise, run, calibrate, on one thread.

What is timed is the class that serves. It says nothing of HTTP, queues or batches: `loadtests`
does.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from gateway import cores
from gateway.contract.manifest import Latency
from gateway.errors import UsageError
from gateway.students.student import Student

_REPEATS = 3  # times that each text is timed, after a first that is not


def time_student(
    student: Student, texts: Sequence[str], *, repeats: int = _REPEATS
) -> tuple[float, float]:
    """Answer each text alone, `repeats` times -> (p50, p95) in milliseconds."""
    (measured,) = _interleaved([student], texts, repeats)
    return measured


def time_alone(student: Student, texts: Sequence[str], *, repeats: int = _REPEATS) -> Latency:
    """What the manifest says of a model that is compared with none."""
    p50, p95 = time_student(student, texts, repeats=repeats)
    return Latency(machine=machine(), rows=len(texts), p50_ms=p50, p95_ms=p95)


def compare(
    student: Student, teacher: Student, texts: Sequence[str], *, repeats: int = _REPEATS
) -> Latency:
    """Time both in turn, a round of all texts each, so that drift of the machine meets both alike.

    Not text by text: the teacher's weights would push the student's out of the cache, which in
    serving, where nine requests of ten are the student's, they do not.
    """
    ours, theirs = _interleaved([student, teacher], texts, repeats)
    return Latency(
        machine=machine(),
        rows=len(texts),
        p50_ms=ours[0],
        p95_ms=ours[1],
        teacher_p50_ms=theirs[0],
        teacher_p95_ms=theirs[1],
    )


def machine() -> str:
    """The processor, the cores that this process may use, and the version of ORT; no host name."""
    return f"{_processor()}, {cores.available()} cores, onnxruntime {ort.__version__}"


def _interleaved(
    models: Sequence[Student], texts: Sequence[str], repeats: int
) -> list[tuple[float, float]]:
    if not texts or repeats < 1:
        raise UsageError(
            f"{len(texts)} texts, {repeats} repeats: nothing to time", mend="give one or more"
        )
    seconds: list[list[float]] = [[] for _ in models]
    for turn in range(repeats + 1):
        for model, taken in zip(models, seconds, strict=True):
            for text in texts:
                start = time.perf_counter()
                model.predict([text])
                elapsed = time.perf_counter() - start
                if turn:  # the first turn warms every length
                    taken.append(elapsed)
    return [_percentiles(taken) for taken in seconds]


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return float(p50), float(p95)


def _processor() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""Where the time of one run of a graph goes, by kind of node, as onnxruntime's profiler sees it.

One text at a time, on one thread, as the gateway runs it. The profiler costs about a microsecond a
node, so that the run is also timed without it. `exporters.benchmark` times what stands around it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from exporters.activations import feed
from exporters.parity import Rows
from gateway.errors import UsageError
from gateway.students.student import Session, options

_KERNEL = "_kernel_time"  # end of the name of an event that is a node's own work


@dataclass(frozen=True, slots=True)
class Kind:
    """All nodes of one kind: their number, and their microseconds in one run."""

    name: str
    nodes: int
    microseconds: float


@dataclass(frozen=True, slots=True)
class Profile:
    """One run: its kinds of nodes, the dearest first; `tokens` and `microseconds` are medians.

    `microseconds` is the whole run without the profiler.
    """

    kinds: tuple[Kind, ...]
    tokens: float
    microseconds: float


def profile(model: bytes, rows: Rows, *, repeats: int = 10) -> Profile:
    """Run each row so many times with the profiler and without it."""
    if not rows or repeats < 1:
        raise UsageError(
            f"{len(rows)} texts, {repeats} repeats: nothing to run", mend="give one or more"
        )
    return Profile(
        kinds=_kinds(_events(model, rows, repeats)),
        tokens=statistics.median(map(len, rows)),
        microseconds=_whole(model, rows, repeats),
    )


def _events(model: bytes, rows: Rows, repeats: int) -> list[dict[str, Any]]:
    """What the profiler noted of each run of each node."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = options(threads=1)
        chosen.enable_profiling = True
        chosen.profile_file_prefix = str(Path(folder) / "run")
        session = ort.InferenceSession(model, chosen, providers=["CPUExecutionProvider"])
        for row in rows:
            given = feed(session, row)
            for _ in range(repeats):
                session.run(None, given)
        noted: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_bytes())
    return [each for each in noted if each["name"].endswith(_KERNEL)]


def _kinds(events: Sequence[dict[str, Any]]) -> tuple[Kind, ...]:
    """The median of each node, so that what else the machine does is left out, summed by kind."""
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in events:
        durations[each["args"]["op_name"], each["name"]].append(each["dur"])
    nodes: Counter[str] = Counter()
    microseconds: dict[str, float] = defaultdict(float)
    for (kind, _), taken in durations.items():
        nodes[kind] += 1
        microseconds[kind] += statistics.median(taken)
    return tuple(
        Kind(kind, nodes[kind], spent)
        for kind, spent in sorted(microseconds.items(), key=lambda each: -each[1])
    )


def _whole(model: bytes, rows: Rows, repeats: int) -> float:
    """The median time of one run as it is served, without the profiler."""
    session = Session(model)
    taken = []
    for turn in range(repeats + 1):
        for row in rows:
            start = time.perf_counter()
            session.run([row])
            if turn:  # the first turn warms every length
                taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6

"""The figures of a run: what each variant took, next to the one without a shadow.

A ratio is that of two turns of one round, which lie seconds apart, so that a host which is slower
for a while is slower in both. The interval is of the mean of their logarithms, by drawing rounds
anew (Efron 1979): requests of one turn are alike, and are no sample by themselves.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import orjson

from loadtests.tally import Latency, percentile

PERCENTS = (50, 95, 99)

_DRAWS = 4000  # of rounds: the ends of the interval move by less than its third digit
_TAIL = 2.5  # per cent left out on each side: a 95 % interval


@dataclass(frozen=True, slots=True)
class Ratio:
    """A latency as a multiple of the one without a shadow, and its 95 % interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident MB (10^6 bytes): of the gateway's own process, and of the candidate's."""

    gateway: float
    candidate: float | None


@dataclass(frozen=True, slots=True)
class Shown:
    """What became of a candidate: its state, requests compared, skipped by cause, and lapsed."""

    state: str
    compared: int
    skipped: Mapping[str, int]
    lapses: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One variant under one loop. Latencies are medians over its turns, in milliseconds.

    `ratios` are by percentile; none where no round has both turns. `failed`: requests without a
    right 2xx reply. `cpu_us`: processor time of all its processes for one request.
    """

    variant: str
    loop: Literal["open", "closed"]
    requests: int
    failed: int
    per_s: float
    cpu_us: float
    latencies: Mapping[int, float]
    ratios: Mapping[int, Ratio]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant's candidate, and the memory before all turns and after them."""

    variant: str
    shown: Shown | None
    before: Memory
    after: Memory


@dataclass(frozen=True, slots=True)
class Found:
    """One run."""

    bundle: str
    cores: int
    rate: float  # requests/s of the open loop
    connections: int  # of the closed loop
    seconds: float  # of a turn
    rounds: int
    drag: float  # how many times as long the slow candidate takes
    rows: Sequence[Row]
    candidates: Sequence[Candidate]

    def to_json(self) -> bytes:
        """One JSON object."""
        return orjson.dumps(asdict(self), option=orjson.OPT_NON_STR_KEYS | orjson.OPT_INDENT_2)


def ratio(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Ratio:
    """How many times as large ours are, pair by pair, in the geometric mean. All are above 0."""
    logs = [math.log(one / other) for one, other in zip(ours, theirs, strict=True)]
    source = random.Random(seed)
    means = sorted(math.fsum(source.choices(logs, k=len(logs))) / len(logs) for _ in range(_DRAWS))
    value, lower, upper = (
        math.exp(each)
        for each in (
            math.fsum(logs) / len(logs),
            percentile(means, _TAIL),
            percentile(means, 100 - _TAIL),
        )
    )
    return Ratio(round(value, 3), round(lower, 3), round(upper, 3))


def of(latency: Latency, percent: int) -> float:
    """A percentile of a turn."""
    return {50: latency.p50, 95: latency.p95, 99: latency.p99}[percent]

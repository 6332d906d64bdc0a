"""The figures of a comparison: plain values, written as one JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import orjson

from loadtests.compare.ceiling import Ceiling
from loadtests.tally import Latency, Overhead


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop of so many connections."""

    connections: int
    rows: int  # texts in one request
    texts_per_s: float
    ratio: float  # to the ceiling around it
    latency: Latency | None
    cpu_us: float  # processor time of the server's whole process tree for one request
    requests: int
    errors: int


@dataclass(frozen=True, slots=True)
class Steady:
    """An open loop at a fixed rate; without a latency where it was refused."""

    per_s: float  # intended
    latency: Latency | None
    errors: int
    overhead: Overhead | None
    late_share: float  # of the generator's own sends
    refusal: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many replies carried the labels that the student gives in this process."""

    asked: int
    answered: int  # fewer where some were refused
    equal: int


@dataclass(frozen=True, slots=True)
class System:
    """One contestant. Where `failure` is set, it says why there is nothing else."""

    name: str
    setup: str
    failure: str = ""
    ready_s: float | None = None
    ceiling: Ceiling | None = None  # the mean of before and after
    agreement: Sequence[Agreement] = ()  # one text a request, then many
    loads: Sequence[Load] = ()  # one text a request
    many: Load | None = None
    pss_mb: float | None = None
    steady: Sequence[Steady] = ()  # ours only: half of saturation, then the given rate


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run of the bench: the machine, the ceilings in the order measured, the systems."""

    bundle: str
    cores: int
    texts: int
    left_out: int  # texts that the student would have cut
    seconds: float  # of each load
    ceilings: Sequence[Ceiling]
    systems: Sequence[System]

    @property
    def drift(self) -> float:
        """How far the ceiling moved during the run: its highest over its lowest, minus 1."""
        best = [ceiling.best for ceiling in self.ceilings]
        return max(best) / min(best) - 1.0

    def to_json(self) -> bytes:
        """One JSON object."""
        content = asdict(self) | {"drift": round(self.drift, 3)}
        return orjson.dumps(content, option=orjson.OPT_INDENT_2)

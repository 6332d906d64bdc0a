"""How the evidence of a candidate grew: its stored comparisons, told again from the first one on.

Bounds that hold at all times may be drawn at all times: the course of a bound is honest as it is,
and needs no correction for how often somebody looked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gateway.shadow.pairing import Measure, Sight
from gateway.shadow.promotion import Finding, Gate, Terms, Trial

_POINTS = 120  # of a curve: one in seven pixels, and each costs some milliseconds


@dataclass(frozen=True, slots=True)
class Point:
    """Where a gate stood after so many compared requests; `at` is in seconds since the epoch."""

    rows: int
    at: float
    finding: Finding


Courses = dict[Gate, list[Point]]


def courses(
    rows: Callable[[], Iterable[tuple[float, Sight]]], *, terms: Terms, measure: Measure
) -> Courses:
    """The course of each gate. `rows` gives the times and sights, the oldest first, twice."""
    total = sum(1 for _ in rows())
    every = max(1, math.ceil(total / _POINTS))
    found: Courses = {gate: [] for gate in terms.limits}
    trial: Trial | None = None
    for number, (at, sight) in enumerate(rows(), 1):
        trial = trial or Trial(terms, began=at)
        trial.add(measure.pair(sight))
        if number % every == 0 or number == total:
            for finding in trial.verdict(at).findings:
                found[finding.gate].append(Point(number, at, finding))
    return found

"""How the evidence of a candidate grew: its stored comparisons, told again from the first one on.

Told is what counts on the footing that held last: what was seen under other policies, or beside
another student, says nothing of a gate that rests on these.

Bounds that hold at all times may be drawn at all times: the course of a bound is honest as it is,
and needs no correction for how often somebody looked. It is drawn at the alpha that the candidate
may spend by now, as its status says it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from gateway.shadow.pairing import Measure, Sight
from gateway.shadow.promotion import Finding, Footing, Gate, Terms, Trial

_POINTS = 120  # of a curve: one in seven pixels, and each costs some milliseconds


@dataclass(frozen=True, slots=True)
class Point:
    """Where a gate stood after so many compared requests; `at` is in seconds since the epoch."""

    rows: int
    at: float
    finding: Finding


Courses = dict[Gate, list[Point]]


def footing_of(rows: Iterable[tuple[float, Sight]], measure: Measure) -> tuple[int, Footing]:
    """How many rows there are, and the footing of the last: who served then, as last paired."""
    total, footing = 0, Footing()
    for _, sight in rows:
        total += 1
        seen = measure.footing(sight)
        same = not sight.paired and sight.serves == footing.serving
        footing = replace(seen, serving_policy=footing.serving_policy) if same else seen
    return total, footing


def courses(
    rows: Callable[[], Iterable[tuple[float, Sight]]],
    *,
    terms: Terms,
    measure: Measure,
    rivals: int = 1,
    place: int | None = None,
) -> Courses:
    """The course of each gate. `rows` gives the times and sights, the oldest first, twice.

    `rivals` and `place` as in `promotion.spent`.
    """
    total, footing = footing_of(rows(), measure)
    every = max(1, math.ceil(total / _POINTS))
    found: Courses = {gate: [] for gate in terms.limits}
    trial: Trial | None = None
    for number, (at, sight) in enumerate(rows(), 1):
        trial = trial or Trial(terms, began=at, footing=footing)
        seen_under = measure.footing(sight)
        trial.add(measure.pair(sight), at=at, footing=seen_under)
        trial.add(measure.judged(sight), at=at, footing=seen_under, again=True)
        if number % every == 0 or number == total:
            for finding in trial.verdict(rivals=rivals, place=place).findings:
                found[finding.gate].append(Point(number, at, finding))
    return found

"""Quantiles of durations, in little memory: a mergeable sketch, and sliding windows of it.

DDSketch (Masson et al. 2019, arXiv 1908.10693): a value falls in the bucket i of
(gamma^(i-1), gamma^i], gamma = (1 + a) / (1 - a), so that the middle of a bucket is at most the
share a away from every value in it. Sketches of parts add up to the sketch of the whole.
It knows no clock: who uses it hands one over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ACCURACY = 0.01  # relative error of a quantile
SMALLEST = 1e-6  # seconds; anything shorter, and what is no number, counts as this
LARGEST = 86_400.0  # seconds; anything longer counts as this. Bounds a sketch to 1260 buckets

_GAMMA = (1.0 + ACCURACY) / (1.0 - ACCURACY)
_PER_LOG = 1.0 / math.log(_GAMMA)
_SLOTS = 12  # parts of a window: what a reading covers is at most a twelfth too long


class Sketch:
    """How often values fell in each bucket."""

    __slots__ = ("_buckets", "count")

    def __init__(self) -> None:
        self.count = 0
        self._buckets: dict[int, int] = {}

    def add(self, value: float) -> None:
        """Count a value, in seconds. Never raises on a number."""
        self.add_to(bucket_of(value))

    def add_to(self, bucket: int) -> None:
        """Count a value whose bucket is known."""
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1

    def merge(self, other: Sketch) -> None:
        """Count all that `other` has counted, too."""
        mine = self._buckets
        for bucket, count in other._buckets.items():
            mine[bucket] = mine.get(bucket, 0) + count
        self.count += other.count

    def quantile(self, q: float) -> float | None:
        """The value at rank q (n - 1), rounded down, within ACCURACY; None while empty.

        Raises ValueError when q is not between 0 and 1.
        """
        return self.quantiles([q])[0]

    def quantiles(self, shares: Sequence[float]) -> list[float | None]:
        """Several quantiles in one pass, in their order."""
        if not all(0.0 <= q <= 1.0 for q in shares):
            raise ValueError(f"a quantile lies between 0 and 1, not at {list(shares)}")
        found: list[float | None] = [None] * len(shares)
        if not self.count:
            return found
        wanted = sorted(range(len(shares)), key=lambda place: shares[place])
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            while wanted and seen > math.floor(shares[wanted[0]] * (self.count - 1)):
                found[wanted.pop(0)] = _middle(bucket)
        return found


@dataclass(frozen=True, slots=True)
class Window:
    """What was counted in the last `seconds`."""

    sketch: Sketch
    seconds: float

    @property
    def per_second(self) -> float:
        """Values a second."""
        return self.sketch.count / self.seconds if self.seconds > 0 else 0.0


class SlidingSketch:
    """Sketches of the last minute, ten minutes and hour, or of other windows.

    Each window is a ring of parts; a part is used again when its time has come round, so memory is
    bounded and nothing runs in the background. `clock` gives seconds and never goes back.
    """

    def __init__(
        self, clock: Callable[[], float], *, windows: Sequence[float] = (60.0, 600.0, 3600.0)
    ) -> None:
        self._clock = clock
        self._rings = {window: _Ring(window, clock()) for window in windows}

    def add(self, value: float) -> None:
        """Count a value, in seconds, now."""
        now, bucket = self._clock(), bucket_of(value)
        for ring in self._rings.values():
            ring.add(bucket, now)

    def window(self, seconds: float) -> Window:
        """What the last `seconds` hold; one of the windows named at the start."""
        return self._rings[seconds].read(self._clock())


class _Ring:
    """The parts of one window, the one that fills now included."""

    __slots__ = ("_ends", "_filling", "_numbers", "_parts", "_since", "_width")

    def __init__(self, window: float, now: float) -> None:
        self._width = window / _SLOTS
        self._since = now
        self._parts = [Sketch() for _ in range(_SLOTS + 1)]
        self._numbers = [-1] * (_SLOTS + 1)  # which stretch of time a part holds
        self._filling = self._parts[0]
        self._ends = now  # when the part that fills is full

    def add(self, bucket: int, now: float) -> None:
        if now >= self._ends:
            self._turn(now)
        self._filling.add_to(bucket)

    def _turn(self, now: float) -> None:
        number = int(now // self._width)
        place = number % len(self._parts)
        if self._numbers[place] != number:
            self._numbers[place] = number
            self._parts[place] = Sketch()
        self._filling = self._parts[place]
        self._ends = (number + 1) * self._width

    def read(self, now: float) -> Window:
        oldest = int(now // self._width) - _SLOTS
        whole = Sketch()
        for number, part in zip(self._numbers, self._parts, strict=True):
            if number >= oldest:
                whole.merge(part)
        return Window(whole, now - max(self._since, oldest * self._width))


def bucket_of(value: float) -> int:
    """The bucket of a value. The order of `max` makes a NaN the smallest."""
    return math.ceil(math.log(min(max(SMALLEST, value), LARGEST)) * _PER_LOG)


def _middle(bucket: int) -> float:
    return float(2.0 * _GAMMA**bucket / (_GAMMA + 1.0))

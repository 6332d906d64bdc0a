"""The mean of a signal since it last changed, however long ago that is.

ADWIN (Bifet and Gavalda 2007): a window of all rows since then, in buckets of 1, 2, 4, ... rows, so
that a million rows take a hundred of them. Where an older and a newer part differ by more than
chance allows, the older one is forgotten. With many rows chance allows next to nothing, and each
day has its rhythm: so they also have to differ by so much that it matters. A window knows what it
was told, and when: not what the signal means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from gateway.errors import DataError

Floats = NDArray[np.float64]

_DELTA = 0.002  # of a false cut, for each look at a window: as in the paper's experiments
_CLOCK = 32  # rows between two looks: one costs as much as some hundred rows
_EACH = 5  # buckets of one size before two are joined: M of the paper
_WIDTH = 32  # rows on either side of a cut: a burst of fewer is no change of traffic
# Of the least distance: a signal has come back at half of what makes it drift, or one that lies
# right at that would come and go.
_BACK = 0.5


class State(StrEnum):
    """What traffic does."""

    STEADY = "steady"
    DRIFTING = "drifting"


@dataclass(frozen=True, slots=True)
class Moments:
    """A stretch of observations in [0, 1]."""

    rows: float
    mean: float
    variance: float

    @property
    def possible(self) -> bool:
        """Whether observations in [0, 1] can have them; nothing that is not a number is."""
        return (
            1.0 <= self.rows < math.inf and 0.0 <= self.mean <= 1.0 and 0.0 <= self.variance <= 1.0
        )

    def differs(self, other: Moments, delta: float, least: float = 0.0) -> bool:
        """Whether the means are farther apart than chance would have them (the paper's bound).

        And by more than `least` standard deviations of both together.
        """
        rows = self.rows + other.rows
        between = self.rows * other.rows * ((self.mean - other.mean) / rows) ** 2
        within = (self.rows * self.variance + other.rows * other.variance) / rows
        inverse = 1.0 / self.rows + 1.0 / other.rows
        far = float(_farthest(np.array(inverse), within + between, rows, delta))
        return abs(self.mean - other.mean) > max(far, least * math.sqrt(within + between))


@dataclass(slots=True)
class _Bucket:
    """Neighbouring observations, of which only sums are kept."""

    rows: int
    total: float
    squares: float
    since: float  # when the first of them came

    @property
    def possible(self) -> bool:
        """Whether observations in [0, 1] can come to that; nothing that is not a number is."""
        sums = self.rows >= 1 and 0.0 <= self.total <= self.rows
        return sums and 0.0 <= self.squares <= self.rows and math.isfinite(self.since)

    def join(self, later: _Bucket) -> None:
        self.rows += later.rows
        self.total += later.total
        self.squares += later.squares


class Kept(TypedDict):
    """The state of a window as plain numbers."""

    buckets: list[tuple[int, float, float, float]]  # rows, sum, sum of squares, since
    before: tuple[float, float, float] | None  # rows, mean, variance
    needed: int  # rows since the signal last changed, before it may be as it was
    until_look: int


class Window:
    """The mean of a signal since it last changed by more than `least` standard deviations of it.

    What it was remains as `before`, until the signal has come back to that. Then the two are one
    stretch again: a signal that moves in small steps is held against where it began, and not
    against the step before.
    """

    __slots__ = ("_buckets", "_delta", "_least", "_needed", "_until_look", "before", "rows")

    def __init__(self, delta: float = _DELTA, *, least: float = 0.0) -> None:
        self.before: Moments | None = None  # the signal, before it changed for the first time
        self.rows = 0
        self._delta = delta
        self._least = least
        self._buckets: list[_Bucket] = []  # the oldest first; sizes fall
        self._needed = 0  # rows that showed the change: on fewer it would not be seen
        self._until_look = _CLOCK

    @property
    def mean(self) -> float | None:
        """Of the rows since the signal last changed; None before the first."""
        return self._moments().mean if self.rows else None

    @property
    def since(self) -> float | None:
        """When the oldest of these rows came, as `add` was told; None before the first."""
        return self._buckets[0].since if self._buckets else None

    @property
    def state(self) -> State:
        """Whether the signal is elsewhere than it was before it changed."""
        return State.STEADY if self.before is None else State.DRIFTING

    def add(self, value: float, at: float) -> bool:
        """Observe a value in [0, 1] at that time; whether the signal has changed, as seen by now.

        Raises ValueError when the value is not in [0, 1].
        """
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"an observation lies between 0 and 1, not at {value}")
        self._buckets.append(_Bucket(1, value, value * value, at))
        self.rows += 1
        self._compress()
        self._until_look -= 1
        if self._until_look:
            return False
        self._until_look = _CLOCK
        changed = False
        while self._cut():
            changed = True
        self._return()
        return changed

    def saved(self) -> Kept:
        """The state as plain numbers."""
        return Kept(
            buckets=[(each.rows, each.total, each.squares, each.since) for each in self._buckets],
            before=None if self.before is None else _plain(self.before),
            needed=self._needed,
            until_look=self._until_look,
        )

    def restore(self, kept: Kept) -> Self:
        """Go on from what was saved. Raises DataError when that is no window."""
        try:
            buckets = [
                _Bucket(int(rows), float(total), float(squares), float(since))
                for rows, total, squares, since in kept["buckets"]
            ]
            before = None if kept["before"] is None else Moments(*map(float, kept["before"]))
            until_look, needed = int(kept["until_look"]), int(kept.get("needed", 0))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise _unreadable(error) from error
        fits = all(each.possible for each in buckets) and (before is None or before.possible)
        if not fits or needed < 0 or not 1 <= until_look <= _CLOCK:
            raise _unreadable("numbers that no window has")
        self._buckets, self.before, self._until_look = buckets, before, until_look
        self.rows, self._needed = sum(each.rows for each in buckets), needed
        return self

    def _compress(self) -> None:
        """Join the two oldest buckets of each size of which there are too many."""
        end, size = len(self._buckets), 1
        while True:
            first = end
            while first and self._buckets[first - 1].rows == size:
                first -= 1
            if end - first <= _EACH:
                return
            self._buckets[first].join(self._buckets[first + 1])
            del self._buckets[first + 1]
            end, size = first + 1, 2 * size

    def _cut(self) -> bool:
        """Forget the older part, if there is one from which the newer one differs."""
        rows, totals, squares = (np.cumsum(column) for column in zip(*self._sums(), strict=True))
        whole = float(rows[-1])
        older, newer = rows[:-1], whole - rows[:-1]
        wide = (older >= _WIDTH) & (newer >= _WIDTH)
        if not wide.any():
            return False
        mean = totals[-1] / whole
        variance = max(0.0, float(squares[-1] / whole - mean * mean))
        apart = np.abs(totals[:-1] / older - (totals[-1] - totals[:-1]) / newer)
        chance = _farthest(1.0 / older + 1.0 / newer, variance, whole, self._delta)
        far = np.maximum(chance, self._least * math.sqrt(variance))
        beyond = np.where(wide, apart - far, -1.0)
        place = int(beyond.argmax())
        if beyond[place] <= 0.0:
            return False
        if self.before is None:
            self.before = _moments(float(older[place]), float(totals[place]), float(squares[place]))
            self._needed = int(newer[place])
        self.rows -= int(older[place])
        del self._buckets[: place + 1]
        return True

    def _return(self) -> None:
        """Steady again, once the signal is not far from what it was before."""
        if self.before is None or self.rows < self._needed:
            return
        if not self._moments().differs(self.before, self._delta, _BACK * self._least):
            self._buckets.insert(0, _bucket(self.before, at=self._buckets[0].since))
            self.rows += self._buckets[0].rows
            self.before = None

    def _sums(self) -> list[tuple[float, float, float]]:
        return [(float(each.rows), each.total, each.squares) for each in self._buckets]

    def _moments(self) -> Moments:
        return _moments(*(sum(column) for column in zip(*self._sums(), strict=True)))


def _bucket(moments: Moments, *, at: float) -> _Bucket:
    total = moments.mean * moments.rows
    squares = (moments.variance + moments.mean**2) * moments.rows
    return _Bucket(int(moments.rows), total, squares, at)


def _plain(moments: Moments) -> tuple[float, float, float]:
    return moments.rows, moments.mean, moments.variance


def _unreadable(cause: object) -> DataError:
    return DataError(
        f"saved window of traffic: {cause!r}",
        mend="leave the saved state out: the window begins anew",
    )


def _moments(rows: float, total: float, squares: float) -> Moments:
    mean = total / rows
    return Moments(rows, mean, max(0.0, squares / rows - mean * mean))


def _farthest(inverse: Floats, variance: float, rows: float, delta: float) -> Floats:
    """How far the means of two parts of so many rows are apart by chance (the paper's section 4).

    `inverse` is 1/n + 1/m. Looks at all splits share delta by ln(rows), as in the paper.
    """
    doubt = math.log(2.0 * max(1.0, math.log(rows)) / delta)
    found: Floats = np.sqrt(2.0 * inverse * variance * doubt) + 2.0 / 3.0 * inverse * doubt
    return found

"""What a stream of comparisons proves about its mean, whenever somebody looks.

The evidence against "the mean is at or above m" is an e-value: what a capital of 1 has become that
was bet against it. It reaches 1/alpha, at any time ever, with probability alpha at most if the mean
is there (Ville 1939), so that one may look after each row. Bet a multiplies its capital by
(1 - a y) / (1 - a m) at each observation y of [0, 1]; of zeros and ones that is the exact ratio of
likelihoods of a rate whose odds are 1 - a times those of m. A mixture of bets stands for the best
one, which nobody knows beforehand (Waudby-Smith and Ramdas 2020, arXiv 2010.09686).

As in gateway/shadow/sequential.py the claim is one about the average of the means, however they
drift. The mixture differs: it is made for effects that are worth deciding, from half as large as
the limit up, and there needs a quarter fewer rows. The state is a count for each value that an
observation may have, so that it can be kept as plain numbers and says what was seen. Nothing here
knows a clock, a candidate or a teacher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from gateway.errors import DataError
from gateway.shadow.sequential import Bounds

Floats = NDArray[np.float64]

_BETS = (np.arange(20) + 0.5) / 20
# Beta(3, 2): most weight on alternatives at a half to a fifth of the odds of the limit, where a
# decision pays; little on those beside it, which would take tens of thousands of rows anyway.
_DENSITY = _BETS**2 * (1.0 - _BETS)
_WEIGHTS = _DENSITY / _DENSITY.sum()
_BISECTIONS = 30  # halvings: of [0, 1] to 1e-9
_FARTHEST = 40  # doublings of what was seen, beyond which a forecast says never


class Kind(Enum):
    """Which values an observation has."""

    RATE = (0.0, 1.0)  # it is so, or it is not
    DIFFERENCE = (-1.0, 0.0, 1.0)  # of two such, paired

    @property
    def low(self) -> float:
        """The smallest of them."""
        return float(self.value[0])


class Evidence:
    """What has been observed of one mean, and what that proves.

    A value between two of its kind counts as a part of each, with the same mean. That makes the
    evidence smaller, never larger: the logarithm of what a bet pays is concave.
    """

    __slots__ = ("counts", "kind")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.counts = np.zeros(len(kind.value))  # how often each value was seen

    @property
    def rows(self) -> int:
        """How many observations there were."""
        return round(float(self.counts.sum()))

    @property
    def mean(self) -> float | None:
        """Of the observations; None before the first."""
        rows = self.counts.sum()
        return float(self.counts @ self.kind.value / rows) if rows else None

    def add(self, value: float, *, times: int = 1) -> None:
        """Observe a value, so many times. Raises ValueError when it is out of the kind's range."""
        if not self.kind.low <= value <= 1.0:
            raise ValueError(f"an observation lies between {self.kind.low} and 1, not at {value}")
        place = value - self.kind.low
        index = min(int(place), len(self.counts) - 2)
        self.counts[index + 1] += times * (place - index)
        self.counts[index] += times * (1.0 - (place - index))

    def below(self, limit: float) -> float:
        """Natural logarithm of the e-value against "the mean is at or above the limit"."""
        return float(below(self.kind, self.counts, limit))

    def above(self, limit: float) -> float:
        """Natural logarithm of the e-value against "the mean is at or below the limit"."""
        return float(above(self.kind, self.counts, limit))

    def bounds(self, delta: float) -> Bounds:
        """Bounds of the mean that hold at all times, each at level 1 - delta by itself.

        The upper one is at or below a limit exactly when the e-value against it is 1 / delta.
        """
        return Bounds(self.lower(delta), self.upper(delta))

    def lower(self, delta: float) -> float:
        """The lower of the bounds alone."""
        return self.kind.low + 1.0 - _refuted(self.kind, self.counts[::-1], delta)

    def upper(self, delta: float) -> float:
        """The upper of the bounds alone."""
        return _refuted(self.kind, self.counts, delta)

    def needed(self, limit: float, delta: float) -> int | None:
        """Further observations until the mean is proved to be below the limit, at level 1 - delta.

        As forecast from the shares seen so far. None: never, if they stay, or nothing was seen.
        """
        bar = math.log(1.0 / delta)
        if not self.rows:
            return None
        enough = 1.0
        for _ in range(_FARTHEST):
            if float(below(self.kind, enough * self.counts, limit)) >= bar:
                break
            enough *= 2.0
        else:
            return None
        if enough <= 1.0:
            return 0
        short = enough / 2.0
        for _ in range(_BISECTIONS):
            middle = (short + enough) / 2.0
            proved = float(below(self.kind, middle * self.counts, limit)) >= bar
            short, enough = (short, middle) if proved else (middle, enough)
        return math.ceil((enough - 1.0) * self.rows)

    def saved(self) -> list[float]:
        """How often each value was seen: all that there is to keep."""
        return [float(count) for count in self.counts]

    @classmethod
    def restored(cls, kind: Kind, counts: Sequence[float]) -> Evidence:
        """The evidence that was saved. Raises DataError when it is not one of that kind."""
        evidence = cls(kind)
        found = np.array(counts, dtype=np.float64)
        if found.shape != evidence.counts.shape or not (np.isfinite(found) & (found >= 0.0)).all():
            raise DataError(
                f"saved evidence: {len(kind.value)} counts are expected, not {list(counts)}",
                mend="begin the test of this candidate anew",
            )
        evidence.counts = found
        return evidence


def below(kind: Kind, counts: Floats, limit: float) -> Floats:
    """As `Evidence.below`, of many at once: counts of shape (..., values), e-values of (...)."""
    span = 1.0 - kind.low
    gains = np.log1p(-np.outer((np.array(kind.value) - kind.low) / span, _BETS))
    losses = np.log1p(-_BETS * (limit - kind.low) / span)
    capital = counts @ gains - counts.sum(axis=-1, keepdims=True) * losses
    best = capital.max(axis=-1, keepdims=True)  # so that no exponential overflows
    found: Floats = best[..., 0] + np.log(np.exp(capital - best) @ _WEIGHTS)
    return found


def above(kind: Kind, counts: Floats, limit: float) -> Floats:
    """As `Evidence.above`, of many at once."""
    return below(kind, counts[..., ::-1], kind.low + 1.0 - limit)


def _refuted(kind: Kind, counts: Floats, delta: float) -> float:
    """The smallest mean that is refuted: the evidence against it and all above is 1 / delta."""
    bar = math.log(1.0 / delta)
    stands, falls = kind.low, 1.0
    if float(below(kind, counts, falls)) < bar:
        return 1.0
    for _ in range(_BISECTIONS):
        middle = (stands + falls) / 2.0
        if float(below(kind, counts, middle)) < bar:
            stands = middle
        else:
            falls = middle
    return falls

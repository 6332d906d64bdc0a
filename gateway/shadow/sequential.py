"""A mean that may be looked at after every observation, with bounds that hold each time.

A bound for a fixed number of observations is broken sooner or later by whoever looks again and
again. These are bounds by betting (Waudby-Smith and Ramdas 2020, arXiv 2010.09686): whoever doubts
that the mean is m bets against it, and a capital that has grown twentyfold is worth a doubt of 5 %,
whenever that is (Ville 1939). Nothing here knows a clock, a coin or a request.

Bet a of a fixed set multiplies its capital by (1 - a x) / (1 - a m) at each observation x. By the
convexity of -log(1 - a m), the product over observations whose means differ is at least

    exp(sum of log(1 - a x)) * (1 - a m)^(-n),    m = the average of their means,

so that the bounds hold for that average, however the means drift, and even where somebody chooses
each of them after seeing all observations before it. A mixture of the bets stands for the best one,
which nobody knows beforehand. The state is two sums for each bet, and no observation is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# From nearly all of the capital, which is right while nothing has been seen, down to a thousandth,
# which is right after about a million observations that were seen. Finer steps gain under 1 %.
_BETS = 0.99 * 0.6 ** np.arange(14)
# The first bets weigh most: an early bound is far away, and each nat is dear there.
_WEIGHTS = 1.0 / (np.arange(len(_BETS)) + 2.0)
_LOG_WEIGHTS = np.log(_WEIGHTS / _WEIGHTS.sum())
_BISECTIONS = 40  # halvings of [0, 1]: 1e-12


class Bounds(NamedTuple):
    """Each holds by itself at level 1 - delta, both together at level 1 - 2 delta."""

    lower: float
    upper: float


class ConfidenceSequence:
    """Bounds of the mean of observations in [0, 1], which hold at all times together.

    The upper bound is below the average of the means, at any time ever, with probability at most
    delta; so is the lower one above it.
    """

    __slots__ = ("count", "falls", "rises", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.falls = np.zeros(len(_BETS))  # sum of log(1 - a x): bets that the mean is lower
        self.rises = np.zeros(len(_BETS))  # the same of 1 - x: that it is higher

    @property
    def mean(self) -> float | None:
        """Of the observations; None before the first."""
        return self.total / self.count if self.count else None

    def add(self, value: float, *, times: int = 1) -> None:
        """Observe a value, so many times. Raises ValueError when it is not in [0, 1]."""
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"an observation lies between 0 and 1, not at {value}")
        self.count += times
        self.total += value * times
        self.falls += times * np.log1p(-_BETS * value)
        self.rises += times * np.log1p(-_BETS * (1.0 - value))

    def bounds(self, delta: float) -> Bounds:
        """The bounds now; 0 and 1 before the first observation."""
        return bounds([self], delta)[0]


def bounds(sequences: Sequence[ConfidenceSequence], delta: float) -> list[Bounds]:
    """The bounds of many sequences, for little more than those of one."""
    if not sequences:
        return []
    counts = np.array([float(each.count) for each in sequences])
    totals = np.array([each.total for each in sequences])
    upper = _refuted(np.array([each.falls for each in sequences]), totals, counts, delta)
    mirrored = _refuted(
        np.array([each.rises for each in sequences]), counts - totals, counts, delta
    )
    return [
        Bounds(float(1.0 - low), float(high)) for low, high in zip(mirrored, upper, strict=True)
    ]


def _refuted(gains: Floats, totals: Floats, counts: Floats, delta: float) -> Floats:
    """For each sequence the smallest mean that the bets have refuted: above it they all are."""
    bar = math.log(1.0 / delta)
    low = np.clip(totals / np.maximum(counts, 1.0), 0.0, 1.0)  # here no bet has gained
    high = np.ones_like(low)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        stands = _log_capital(gains, counts, middle) < bar
        low = np.where(stands, middle, low)
        high = np.where(stands, high, middle)
    return high


def _log_capital(gains: Floats, counts: Floats, means: Floats) -> Floats:
    """Logarithm of the mixture of all bets against those means; it rises with the mean."""
    losses = counts[:, None] * np.log1p(-_BETS * means[:, None])
    found: Floats = np.logaddexp.reduce(_LOG_WEIGHTS + gains - losses, axis=1)
    return found

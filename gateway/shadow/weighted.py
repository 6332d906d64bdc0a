"""Bounds of an error that is looked at by coins, whose probability may change from row to row.

A row whose coin of probability p fell, and which was wrong, counts as 1 / p, every other row as 0:
the mean of that is the error. A bet of a fixed amount a against the error m has (1 - a / p) /
(1 - a m) of its money after a row that was seen to be wrong, and 1 / (1 - a m) after any other. As
in `sequential`, the product over rows is at least what it would be had all rows the same error, so
that the bound holds for the average error of the very rows, however their probabilities are mixed
(Waudby-Smith and Ramdas 2020, arXiv 2010.09686; Horvitz and Thompson 1952 for the weights).

A bet that could lose more than it has is given up when a row of too small a probability comes,
before its coin is tossed. To throw money away makes a bound wider, never wrong, so that a share may
be changed at any time by somebody who has seen all figures. A bet that the error is higher cannot
lose what it has, and stays.

What is kept are counts, so that two stretches of time add up. Nothing here knows a clock or a
request.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.shadow.sequential import Bounds

Floats = NDArray[np.float64]

# Of the first row's probability: from nearly all that may be bet, down to what suits a share that
# was lowered a hundredfold, after a million rows. Finer steps gain under 1 %.
_BETS = 0.99 * 0.6 ** np.arange(24)
_ODDS = _BETS / (1.0 - _BETS)  # the same for bets that the error is higher
# The first bets weigh most: an early bound is far away, and each nat is dear there.
_WEIGHTS = 1.0 / (np.arange(len(_BETS)) + 2.0)
_LOG_WEIGHTS = np.log(_WEIGHTS / _WEIGHTS.sum())
_MOST = 0.99 * (1.0 + 1e-9)  # of a row's probability that may be bet; and a rounding error
_BISECTIONS = 40  # halvings of [0, 1]: 1e-12


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen of `rows`: how many were wrong, by the probability with which it was seen.

    `first` is the probability of the first row of all, `least` the smallest of any; both of 1: none
    has come yet.
    """

    rows: int = 0
    wrong: Counter[float] = field(default_factory=Counter)
    first: float = 1.0
    least: float = 1.0

    @property
    def total(self) -> float:
        """Of the rows, weighted: an unbiased estimate of how many are wrong."""
        return sum(count / share for share, count in self.wrong.items())


def bounds(looked: Sequence[Looked], delta: float) -> list[Bounds]:
    """Bounds of the average error of each; 0 and 1 where nothing was seen.

    Each is broken, at any time ever, with probability at most delta.
    """
    if not looked:
        return []
    first = np.array([[each.first] for each in looked])
    rows = np.array([[float(each.rows)] for each in looked])
    mean = np.array([[each.total / max(1, each.rows)] for each in looked]).clip(0.0, 1.0)
    bets, odds = first * _BETS, first * _ODDS
    falls, rises = _gains(looked, bets, odds)

    def too_high(error: Floats) -> Floats:
        return _log_capital(falls - rows * np.log1p(-bets * error))

    def too_low(error: Floats) -> Floats:
        return _log_capital(rises - rows * np.log1p(odds * error))

    bar = math.log(1.0 / delta)
    # At the mean itself no bet has gained.
    upper = _edge(too_high, bar, stands=mean, refuted=np.ones_like(mean))
    lower = _edge(too_low, bar, stands=mean, refuted=np.zeros_like(mean))
    return [
        Bounds(float(low), float(high))
        for low, high in zip(lower.ravel(), upper.ravel(), strict=True)
    ]


def _gains(looked: Sequence[Looked], bets: Floats, odds: Floats) -> tuple[Floats, Floats]:
    """What each bet that the error is lower, and higher, has gained from rows that were wrong."""
    falls, rises = np.zeros_like(bets), np.zeros_like(odds)
    for row, each in enumerate(looked):
        able = bets[row] <= _MOST * each.least
        falls[row, ~able] = -np.inf
        for share, count in each.wrong.items():
            falls[row, able] += count * np.log1p(-bets[row, able] / share)
            rises[row] += count * np.log1p(odds[row] / share)
    return falls, rises


def _edge(
    capital: Callable[[Floats], Floats], bar: float, *, stands: Floats, refuted: Floats
) -> Floats:
    """For each row where refutation begins, between a mean that stands and the end of its range."""
    for _ in range(_BISECTIONS):
        middle = (stands + refuted) / 2.0
        holds = capital(middle) < bar
        stands, refuted = np.where(holds, middle, stands), np.where(holds, refuted, middle)
    return refuted


def _log_capital(gains: Floats) -> Floats:
    """Logarithm of the mixture of all bets, for each row."""
    found: Floats = np.logaddexp.reduce(_LOG_WEIGHTS + gains, axis=1, keepdims=True)
    return found

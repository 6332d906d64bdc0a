"""An alarm that rings soon after a rate has risen, and seldom while it has not.

A proof that a rate is low takes long to be undone: the evidence of good weeks must first be spent.
An alarm asks something else, whether the rate is high *now*, and so begins a bet anew at each row.
The statistic is the sum of all these bets (Shiryaev 1963, Roberts 1966), an e-detector (Shin,
Ramdas and Rinaldo 2022, arXiv 2203.03532): M = (M + 1) L at each row, averaged over several
alternatives. While the mean is at its limit or below, whatever came before, the mean number of
rows until M first reaches the bar B is B at least; so B is chosen by how often one may be woken.

This room rings. What then happens, more audits or a rollback, others decide.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from gateway.errors import DataError
from gateway.shadow.evidence import Kind

Floats = NDArray[np.float64]

# A rate is watched for a rise to so many times its limit: less is no incident, more is seen
# nearly as soon by the largest of them.
_RISES = np.geomspace(1.5, 6.0, 7)
# A difference is watched by shares of the largest bet that its limit allows.
_STAKES = np.geomspace(0.05, 0.8, 7)
_LARGEST = 0.95  # share of the capital that one row may cost: more would forget all before it


class Level(StrEnum):
    """How loud the alarm is."""

    CALM = "calm"
    WARN = "warn"  # the square root of the bar: look more closely
    ALARM = "alarm"  # the bar: it stays until `reset`


class Kept(TypedDict):
    """The state of an alarm as plain numbers."""

    limit: float
    capitals: list[float]
    rows: int
    raised: int | None


class Alarm:
    """Watches the mean of one stream: is it above its limit now?

    `apart` is how many rows there shall be between two false alarms, in the mean, of the `streams`
    that are watched together; the bar is their product. Raises ValueError when the limit is not
    inside the kind's range, or the bar not above 1.
    """

    __slots__ = ("_bets", "_capitals", "_kind", "bar", "limit", "raised", "rows")

    def __init__(self, kind: Kind, limit: float, *, apart: float, streams: int = 1) -> None:
        if not kind.low < limit < 1.0:
            raise ValueError(f"a limit lies between {kind.low} and 1, not at {limit}")
        if not apart * streams > 1.0:
            raise ValueError(f"the bar is above 1, not {apart * streams}")
        self.limit = limit
        self.rows = 0
        self.raised: int | None = None  # the row that raised the alarm
        self._kind = kind
        self.bar = apart * streams
        self._bets = bets(kind, limit)
        self._capitals = np.zeros(len(self._bets))

    @property
    def statistic(self) -> float:
        """The mean of the alternatives' sums; the bar is where it rings."""
        return float(self._capitals.mean())

    @property
    def level(self) -> Level:
        """How loud it is now."""
        if self.raised is not None:
            return Level.ALARM
        return Level.WARN if self.statistic >= math.sqrt(self.bar) else Level.CALM

    def add(self, value: float) -> Level:
        """Observe a value. Raises ValueError when it is out of the kind's range.

        An alarm that has been raised counts no further rows until it is reset.
        """
        if not self._kind.low <= value <= 1.0:
            raise ValueError(f"an observation lies between {self._kind.low} and 1, not at {value}")
        if self.raised is None:
            self.rows += 1
            self._capitals = step(self._capitals, self._bets, value - self.limit)
            if self.statistic >= self.bar:
                self.raised = self.rows
        return self.level

    def reset(self) -> None:
        """Begin anew: something else serves, or somebody has looked."""
        self.rows, self.raised = 0, None
        self._capitals = np.zeros(len(self._bets))

    def saved(self) -> Kept:
        """The state as plain numbers."""
        return Kept(
            limit=self.limit, capitals=self._capitals.tolist(), rows=self.rows, raised=self.raised
        )

    def restore(self, kept: Kept) -> Self:
        """Go on from what was saved. Raises DataError when that is not an alarm of this limit."""
        found = np.array(kept["capitals"], dtype=np.float64)
        fits = found.shape == self._capitals.shape and (np.isfinite(found) & (found >= 0.0)).all()
        if not fits or kept["limit"] != self.limit:
            raise DataError(
                f"saved alarm: {len(self._bets)} capitals for a limit of {self.limit} are "
                f"expected, not {kept['capitals']} for {kept['limit']}",
                mend="leave the saved state out: the alarm begins anew",
            )
        self._capitals, self.rows, self.raised = found, kept["rows"], kept["raised"]
        return self


def bets(kind: Kind, limit: float) -> Floats:
    """For each alternative its stake per unit by which an observation is above the limit."""
    largest = _LARGEST / (limit - kind.low)
    if kind is Kind.RATE:  # so that a one pays the ratio of the two rates
        return np.minimum((_RISES - 1.0) / (1.0 - limit), largest)
    return _STAKES * largest


def step(capitals: Floats, stakes: Floats, excess: float | Floats) -> Floats:
    """One row of the detector: capitals of shape (..., alternatives), excess over the limit."""
    return (capitals + 1.0) * (1.0 + stakes * excess)

"""Whether the score of an answer still is the probability that it is right.

The mean score estimates the accuracy without labels, as long as the score is calibrated (CBPE;
Bialek et al. 2024, arXiv 2401.08348). Where audits find another accuracy on the very same rows,
texts have come to mean something else, or the calibration is off: either way, recalibrate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypedDict

import numpy as np

from gateway.errors import DataError
from gateway.shadow.sequential import Bounds, ConfidenceSequence


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What confidence promises, and what audits find. None before the first of the rows."""

    estimated: float | None  # mean score of all answers: no label is needed for it
    audited: float | None  # share of audited answers that are right
    audits: int
    lower: float  # bounds, at all times, of score less rightness in the mean of audited answers
    upper: float  # both together hold at level 1 - delta
    recalibrate: bool  # the two differ, surely and by more than is tolerated


class KeptTrust(TypedDict):
    """The state of a trust as plain numbers."""

    rows: int
    scores: float
    right: int
    gaps: tuple[int, float, list[float], list[float]]  # audits, sum, what the bets have won


class Trust:
    """The scores of one task against its audits; a gap up to `tolerance` is left alone."""

    __slots__ = ("_bounds", "_gaps", "_right", "_rows", "_scores", "_tolerance")

    def __init__(self, tolerance: float = 0.01) -> None:
        self._tolerance = tolerance
        self._rows = 0
        self._scores = 0.0
        self._right = 0
        self._gaps = ConfidenceSequence()  # of (1 + score - right) / 2, which lies in [0, 1]
        self._bounds: tuple[int, float, Bounds] | None = None  # of so many audits, at that delta

    def answered(self, score: float) -> None:
        """Observe an answer of the student that was served."""
        self._rows += 1
        self._scores += score

    def audited(self, score: float, *, right: bool) -> None:
        """Observe what the teacher says of one that the uniform coin drew."""
        self._gaps.add((1.0 + score - right) / 2.0)
        self._right += right

    def accuracy(self, delta: float = 0.05) -> Accuracy:
        """What is known by now.

        The bounds hold together at level 1 - delta, so each has half of it; `recalibrate` may be
        said by either, and is false with the probability delta at most, however often it is read.
        """
        audits, found = self._gaps.count, self._bounded(delta)
        lower, upper = 2.0 * found.lower - 1.0, 2.0 * found.upper - 1.0
        return Accuracy(
            estimated=self._scores / self._rows if self._rows else None,
            audited=self._right / audits if audits else None,
            audits=audits,
            lower=lower,
            upper=upper,
            recalibrate=lower > self._tolerance or upper < -self._tolerance,
        )

    def _bounded(self, delta: float) -> Bounds:
        """The bounds, which cost more than all else: the same until there is another audit."""
        audits = self._gaps.count
        if self._bounds is None or self._bounds[:2] != (audits, delta):
            self._bounds = audits, delta, self._gaps.bounds(delta / 2.0)
        return self._bounds[2]

    def saved(self) -> KeptTrust:
        """The state as plain numbers."""
        gaps = self._gaps
        return KeptTrust(
            rows=self._rows,
            scores=self._scores,
            right=self._right,
            gaps=(gaps.count, gaps.total, gaps.falls.tolist(), gaps.rises.tolist()),
        )

    def restore(self, kept: KeptTrust) -> Self:
        """Go on from what was saved. Raises DataError when that is no trust."""
        try:
            count, total, falls, rises = kept["gaps"]
            bets = np.array([falls, rises], np.float64)
            rows, scores, right = int(kept["rows"]), float(kept["scores"]), int(kept["right"])
            audits, gap = int(count), float(total)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise _unreadable(error) from error
        fits = bets.shape == (2, *self._gaps.falls.shape) and bool(np.isfinite(bets).all())
        if not fits or not (
            0.0 <= scores <= rows and 0 <= right <= audits and 0.0 <= gap <= audits
        ):
            raise _unreadable("numbers that no trust has")
        self._rows, self._scores, self._right = rows, scores, right
        self._gaps.count, self._gaps.total = audits, gap
        self._gaps.falls, self._gaps.rises = bets
        self._bounds = None
        return self


def _unreadable(cause: object) -> DataError:
    return DataError(
        f"saved accuracy of a student: {cause!r}",
        mend="leave the saved state out: it begins anew",
    )

"""Raw int8 logits on labelled rows -> temperatures, and a threshold with a finite-sample guarantee.

The two use rows apart: temperatures and the sequence of thresholds come from the calibration split,
the test of each threshold from the certification split, which is touched once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from gateway.contract.calibration import Calibration, HeadReading
from gateway.contract.certificate import coverages, walk
from gateway.contract.manifest import (
    Certificate,
    Head,
    HeadCalibration,
    HeadKind,
    OperatingPoint,
    Task,
)
from gateway.contract.measures import binomial_cdf, calibration_error, upper_bound

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Gold = NDArray[np.int64] | NDArray[np.float32]

_TEMPERATURES = (0.05, 20.0)  # far beyond any that a trained network needs


@dataclass(frozen=True, slots=True)
class Candidates:
    """Thresholds to test, the strictest first, fixed before the test rows are seen."""

    thresholds: tuple[float, ...]


def fit_temperatures(
    task: Task, logits: Floats, gold: Sequence[Gold]
) -> tuple[HeadCalibration, ...]:
    """One temperature a head, the one with the least negative log-likelihood."""
    neutral = tuple(HeadCalibration(head=head.name, temperature=1.0, rows=0) for head in task.heads)
    before = Calibration(task, neutral).read(logits)[0]
    fitted = tuple(
        HeadCalibration(
            head=head.name,
            temperature=_temperature(head, logits[:, where], truth),
            rows=len(logits),
        )
        for head, where, truth in zip(task.heads, task.slices(), gold, strict=True)
    )
    after = Calibration(task, fitted).read(logits)[0]
    return tuple(
        part.model_copy(
            update={
                "ece_before": calibration_error(raw.confidence, right(raw, truth)),
                "ece_after": calibration_error(tempered.confidence, right(tempered, truth)),
            }
        )
        for part, raw, tempered, truth in zip(fitted, before, after, gold, strict=True)
    )


def right(reading: HeadReading, gold: Gold) -> NDArray[np.bool_]:
    """Per row: whether the head's state is the gold one (all flags, for flags)."""
    return rowwise(reading.states == gold)


def rowwise(same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(rows,) as it is; (rows, labels) -> whether all labels of a row hold."""
    if same.ndim == 1:
        return same
    return np.asarray(same.all(axis=1))


def all_right(readings: Sequence[HeadReading], gold: Sequence[Gold]) -> NDArray[np.bool_]:
    """Per row: whether every head is right."""
    parts = [right(reading, truth) for reading, truth in zip(readings, gold, strict=True)]
    result: NDArray[np.bool_] = np.logical_and.reduce(parts)
    return result


def candidates(scores: Floats) -> Candidates:
    """The sequence of thresholds that cover 2 %, 4 % ... 100 % of these (calibration) scores.

    The last is 0: the student answers everything.
    """
    return Candidates(coverages(scores))


def certify(
    sequence: Candidates,
    scores: Floats,
    wrong: NDArray[np.bool_],
    *,
    alpha: float,
    delta: float,
    labels: Literal["gold", "teacher"],
    issued_at: str,
    name: str = "default",
) -> OperatingPoint:
    """The loosest threshold whose undetected error is at most alpha with confidence 1 - delta.

    Learn-then-Test (Angelopoulos et al. 2021, arXiv 2110.01052): the p-value of "the undetected
    error is above alpha" is the binomial tail P(X <= k; n, alpha) at k undetected errors. They are
    tested in their fixed order, and the walk ends at the first that fails.
    """
    rows = len(scores)
    scores = scores.astype(np.float64)  # as serving compares them

    def holds(threshold: float) -> bool:
        undetected = int((wrong & (scores >= threshold)).sum())
        return rows > 0 and binomial_cdf(undetected, rows, alpha) <= delta

    kept = walk(sequence.thresholds, holds)
    if kept is None:
        return OperatingPoint(
            name=name, threshold=None, coverage=0.0, undetected_error=0.0, certificate=None
        )
    accepted = scores >= kept
    undetected = int((wrong & accepted).sum())
    return OperatingPoint(
        name=name,
        threshold=kept,
        coverage=float(accepted.mean()),
        undetected_error=undetected / rows,
        certificate=Certificate(
            alpha=alpha,
            delta=delta,
            labels=labels,
            rows=rows,
            undetected_errors=undetected,
            upper_bound=upper_bound(undetected, rows, delta),
            issued_at=issued_at,
        ),
    )


def plug_in(scores: Floats, wrong: NDArray[np.bool_], alpha: float) -> float | None:
    """The loosest threshold whose *empirical* undetected error is at most alpha.

    It breaks its target about half of the time; it only steers the search for a quantisation, and
    stands as a baseline in the benchmarks.
    """
    order = np.argsort(-scores, kind="stable")
    descending = scores[order]
    # A threshold takes all rows of a score or none: only the last of equal scores can be one.
    last = np.flatnonzero(np.diff(descending, append=-np.inf))
    fine = last[np.cumsum(wrong[order])[last] <= alpha * len(scores)]
    return float(descending[fine[-1]]) if len(fine) else None


def _temperature(head: Head, logits: Floats, gold: Gold) -> float:
    low, high = np.log(_TEMPERATURES)
    found = minimize_scalar(
        lambda log: _nll(head, logits.astype(np.float64) / np.exp(log), gold),
        bounds=(low, high),
        method="bounded",
    )
    return float(np.exp(found.x))


def _nll(head: Head, logits: NDArray[np.float64], gold: Gold) -> float:
    """Mean negative log-likelihood of the gold labels."""
    if head.kind is HeadKind.CHOICE:
        peak = logits.max(axis=1)
        normaliser = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
        return float((normaliser - logits[np.arange(len(gold)), gold.astype(np.int64)]).mean())
    signed = np.where(gold > 0.5, logits, -logits)
    return float(np.logaddexp(0.0, -signed).mean())

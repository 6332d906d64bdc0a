"""The share that a student can answer itself with a certified agreement with its teacher.

The promise is of what the student answers: P(the teacher says the same | answered by the student)
>= target, with confidence 1 - delta. It is the conditional promise, which competitors quote; the
bundle's own certificate is of all requests (undetected error), for which fewer rows suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.trial import Seen
from gateway.contract.certificate import walk
from gateway.contract.measures import binomial_cdf

DELTA = 0.05

_START = 0.5  # coverage of the first threshold: by it some hundreds of rows are answered
_STEP = 0.005
_SPLITS = 200
_MEASURED = 0.2  # of the rows

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Handled:
    """Means over random splits of the test rows: four fifths set the threshold, one is measured.

    `below` is the share of splits in which the measured agreement was under the target.
    """

    target: float
    share: float
    agreement: float
    below: float


def handled(seen: Seen, apart: Seen, target: float, *, seed: int) -> Handled:
    """Set the threshold on four fifths of `seen`, measure on the other, `_SPLITS` times.

    `apart` are other rows, whose scores alone say which thresholds are tried.
    """
    score, agrees, limits = seen.score, seen.agrees, _limits(apart.score)
    draw = np.random.default_rng(seed)
    shares, rates = [], []
    for _ in range(_SPLITS):
        order = draw.permutation(len(seen))
        measures, sets = np.split(order, [round(_MEASURED * len(seen))])
        limit = _certified(limits, score[sets], agrees[sets], target)
        answered = np.zeros(len(measures), bool) if limit is None else score[measures] >= limit
        shares.append(float(answered.mean()))
        rates.append(float(agrees[measures][answered].mean()) if answered.any() else 1.0)
    return Handled(
        target=target,
        share=float(np.mean(shares)),
        agreement=float(np.mean(rates)),
        below=float(np.mean(np.array(rates) < target)),
    )


def _certified(
    limits: Sequence[float], score: Doubles, agrees: Bools, target: float
) -> float | None:
    """The loosest threshold whose agreement is certified; None: not even the strictest is.

    Fixed-sequence testing (Angelopoulos et al. 2021, arXiv 2110.01052), of thresholds that were
    fixed before these rows were seen.
    """

    def holds(limit: float) -> bool:
        answered = score >= limit
        differing = int((answered & ~agrees).sum())
        return binomial_cdf(differing, int(answered.sum()), 1.0 - target) <= DELTA

    return walk(limits, holds)


def _limits(score: Doubles) -> tuple[float, ...]:
    """Thresholds that cover 50 %, 50.5 % ... of these scores, and at the end all of them."""
    coverages = np.arange(_START, 1.0 - _STEP / 2, _STEP)
    limits: list[float] = np.quantile(score, 1.0 - coverages).tolist()
    return (*limits, 0.0)

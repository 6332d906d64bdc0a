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

from benchmarks.policies import escalated
from benchmarks.trial import Seen
from gateway.contract.certificate import walk
from gateway.contract.measures import binomial_cdf
from gateway.routing.policy import EscalationPolicy

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

    `gate` is the p-value of the domain gate, None without. `agreement` is the mean over the splits
    in which anything was answered, `below` the share of them in which it was under the target, and
    `none` the share of splits in which nothing could be certified.
    """

    target: float
    gate: float | None
    share: float
    agreement: float | None
    below: float
    none: float


def handled(seen: Seen, apart: Seen, target: float, gate: float | None, *, seed: int) -> Handled:
    """Set the threshold on four fifths of `seen`, measure on the other, `_SPLITS` times.

    `apart` are other rows, whose scores alone say which thresholds are tried. A row that the policy
    escalates whatever its score is is never answered by the student.
    """
    policy = EscalationPolicy(threshold=0.0, min_familiarity=gate)
    score = np.where(escalated(policy, seen), -1.0, seen.score)
    limits = _limits(apart.score)
    draw = np.random.default_rng(seed)
    shares, rates, none = [], [], 0
    for _ in range(_SPLITS):
        order = draw.permutation(len(seen))
        measures, sets = np.split(order, [round(_MEASURED * len(seen))])
        limit = _certified(limits, score[sets], seen.agrees[sets], target)
        none += limit is None
        answered = score[measures] >= (np.inf if limit is None else limit)
        shares.append(float(answered.mean()))
        if answered.any():
            rates.append(float(seen.agrees[measures][answered].mean()))
    return Handled(
        target=target,
        gate=gate,
        share=float(np.mean(shares)),
        agreement=float(np.mean(rates)) if rates else None,
        below=float(np.mean(np.array(rates) < target)) if rates else 0.0,
        none=none / _SPLITS,
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

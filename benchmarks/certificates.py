"""How often a certificate breaks its promise on real data: a policy, re-split many times.

Of all rows that nobody was taught some are drawn to certify, and the error among all of them is
the truth. A guarantee of confidence 1 - delta may be broken in a share of delta of the draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateway.contract.labelled import Labelled
from gateway.routing import replay
from gateway.routing.policy import EscalationPolicy
from gateway.routing.replay import Rows, Targets
from gateway.types import Prediction

SPLITS = 200
DELTA = 0.05


@dataclass(frozen=True, slots=True)
class Promise:
    """What became of the promises: `broken` of `splits`, and at what escalation on average.

    Each rests on a test of `rows` rows, and was `issued` where any threshold passed.
    `rest` counts the splits in which the rows that were not drawn broke it, which are a sample
    themselves: their share may lie a little above delta by chance.
    """

    alpha: float
    splits: int
    rows: int
    issued: int
    broken: int
    rest: int
    escalation: float
    undetected: float


def audit(
    policy: EscalationPolicy,
    rows: list[Labelled],
    said: list[Prediction],
    *,
    alpha: float,
    certify_on: int,
    seed: int,
) -> Promise:
    """Certify the policy on `certify_on` rows, `SPLITS` times, as `understudy policy certify`.

    Some of them are not tested: they make the sequence of thresholds.
    """
    seen = replay.replay(policy, rows, said)
    draw = np.random.default_rng(seed)
    targets = Targets(alpha=alpha, delta=DELTA)
    issued = broken = rest = size = 0
    escalations, errors = [], []
    for number in range(SPLITS):
        order = draw.permutation(len(seen))
        drawn, left = seen.part(order[:certify_on]), seen.part(order[certify_on:])
        sequence_rows, tested = replay.parted(drawn, seed=number)
        sequence = replay.steps(sequence_rows, threshold=None, critical=None)
        size = len(tested)
        proof = replay.prove(tested, sequence, targets)
        if proof is None:
            continue
        issued += 1
        broken += _undetected(seen, proof.step) > alpha
        rest += _undetected(left, proof.step) > alpha
        answered = seen.answered(proof.step, critical=False)
        escalations.append(1.0 - float(answered.mean()))
        errors.append(_undetected(seen, proof.step))
    return Promise(
        alpha=alpha,
        splits=SPLITS,
        rows=size,
        issued=issued,
        broken=broken,
        rest=rest,
        escalation=float(np.mean(escalations)) if issued else 1.0,
        undetected=float(np.mean(errors)) if issued else 0.0,
    )


def _undetected(rows: Rows, step: replay.Step) -> float:
    return float((rows.wrong & rows.answered(step, critical=False)).mean())

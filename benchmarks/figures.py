"""A trial -> its figures: one frozen value that JSON, tables and plots are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import agreement, certificates, policies
from benchmarks.agreement import Handled
from benchmarks.certificates import Promise
from benchmarks.policies import Outcome
from benchmarks.trial import Seen, Trial
from gateway.contract import measures
from gateway.contract.labelled import Labelled
from gateway.routing.policy import EscalationPolicy

TARGETS = (0.97, 0.99)  # agreement with the teacher among what the student answers

_CERTIFY_ON = 1250  # rows of each re-split, of which 1,000 are tested
_POINTS = 201  # of a curve

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Strange:
    """How well texts of no label are told from those in scope, by the bundle's distance.

    `escalated` of them by the threshold and the domain gate together, `without` by the threshold
    alone; `extra` is the share of rows in scope that the gate adds.
    """

    auroc: float
    auprc: float
    escalated: float
    without: float
    extra: float


@dataclass(frozen=True, slots=True)
class Curves:
    """For each share of rows escalated, the least sure first: quality and undetected error.

    `plain` are those of the largest probability. The shares are the same in all trials.
    """

    escalation: tuple[float, ...]
    quality: tuple[float, ...]
    undetected: tuple[float, ...]
    plain_quality: tuple[float, ...]
    plain_undetected: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What one seed of one data set came to."""

    corpus: str
    seed: int
    bundle: str
    rows: int
    student: float
    teacher: float
    agreement: float
    ece: float
    augrc: float
    outcomes: tuple[Outcome, ...]
    handled: tuple[Handled, ...]
    promises: tuple[Promise, ...]
    strange: Strange | None
    curves: Curves


def measure(trial: Trial) -> Figures:
    """All figures of a trial. The test rows are looked at here, and for nothing else."""
    test = trial.test
    return Figures(
        corpus=trial.corpus,
        seed=trial.seed,
        bundle=trial.student.id,
        rows=len(test),
        student=float(test.right.mean()),
        teacher=float(test.teacher_right.mean()),
        agreement=float(test.agrees.mean()),
        ece=measures.calibration_error(test.score, test.right),
        augrc=measures.augrc(test.score, ~test.right),
        outcomes=tuple(
            policies.outcome(way, test) for way in policies.ways(trial, seed=trial.seed)
        ),
        handled=tuple(
            agreement.handled(test, trial.calibration, target, gate, seed=trial.seed)
            for target in TARGETS
            for gate in (None, policies.SERVED)
        ),
        promises=_promises(trial),
        strange=_strange(trial) if len(trial.strangers) else None,
        curves=_curves(test),
    )


def _promises(trial: Trial) -> tuple[Promise, ...]:
    """The certificate of the policy with its domain gate, on rows that nobody was taught."""
    parts = (trial.certification, trial.test)
    rows = [row for part in parts for row in _labelled(part)]
    said = [each for part in parts for each in part.said]
    policy = EscalationPolicy(threshold=0.0, min_familiarity=policies.SERVED)
    return tuple(
        certificates.audit(policy, rows, said, alpha=alpha, certify_on=_CERTIFY_ON, seed=trial.seed)
        for alpha in (0.01, 0.02)
    )


def _labelled(seen: Seen) -> list[Labelled]:
    """The rows with their right labels, as a user's file has them."""
    return [
        Labelled(text=text, fields={}, truth=truth)
        for text, truth in zip(seen.texts, seen.truth, strict=True)
    ]


def _strange(trial: Trial) -> Strange:
    test, strangers = trial.test, trial.strangers
    distance = np.concatenate([test.distance, strangers.distance])
    outside = np.concatenate([np.zeros(len(test), bool), np.ones(len(strangers), bool)])
    alone = policies.within(trial, None)
    added = EscalationPolicy(alone.threshold, min_familiarity=policies.STRANGE)
    return Strange(
        auroc=float(roc_auc_score(outside, distance)),
        auprc=float(average_precision_score(outside, distance)),
        escalated=float(policies.escalated(added, strangers).mean()),
        without=float(policies.escalated(alone, strangers).mean()),
        extra=float(
            policies.escalated(added, test).mean() - policies.escalated(alone, test).mean()
        ),
    )


def _curves(seen: Seen) -> Curves:
    shares = np.linspace(0.0, 1.0, _POINTS)
    return Curves(
        tuple(shares.tolist()), *_along(seen, seen.score, shares), *_along(seen, seen.plain, shares)
    )


def _along(seen: Seen, by: Doubles, shares: Doubles) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Quality and undetected error where the rows of least `by` are escalated."""
    order = np.argsort(by, kind="stable")
    quality, undetected = [], []
    for share in shares:
        asked = np.zeros(len(seen), bool)
        asked[order[: round(float(share) * len(seen))]] = True
        quality.append(float(np.where(asked, seen.teacher_right, seen.right).mean()))
        undetected.append(float((~asked & ~seen.right).mean()))
    return tuple(quality), tuple(undetected)

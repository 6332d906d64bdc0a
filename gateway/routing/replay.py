"""A policy on traffic that has passed: what it would do, and what can be proven of it. Pure.

All gates but the two thresholds that a certificate finds are looked at once; then any pair of
thresholds can be tried on all rows at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gateway.contract.certificate import CriticalClaim, SeverityClaim, coverages, walk
from gateway.contract.labelled import Labelled
from gateway.contract.measures import (
    betting_bound,
    betting_p_value,
    binomial_cdf,
    upper_bound,
)
from gateway.routing.policy import EscalationPolicy
from gateway.types import Instance, Prediction, Reason

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_ORDER = 1  # seed of the order in which rows are tested: not the one that they are parted by
_SEQUENCE_SHARE = 0.2  # of the rows: enough for quantiles; all others are left for the test
_ALL = 1.0  # a threshold that no sum of probabilities of one head reaches
# Of familiarity: a bundle's p-values come in steps of 0.0005 at best, and beyond 0.1 the gate costs
# more than it can be worth.
_LIMITS_TRIED = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True, slots=True)
class Step:
    """The two thresholds of one policy: of the score, and of the critical labels' probability."""

    threshold: float
    critical: float = _ALL


@dataclass(frozen=True, slots=True)
class Rows:
    """What a policy sees of n rows, each array (n,).

    `barred` rows are escalated whatever the thresholds are. `mass` is that of critical labels that
    were not said. Where `labelled` is false, `wrong`, `concerned` (a critical label is so),
    `missed` (and was not said) and `loss` (in units of the cost matrices) are 0.
    """

    barred: Bools
    score: Floats
    mass: Floats
    labelled: Bools
    wrong: Bools
    concerned: Bools
    missed: Bools
    loss: Floats

    def __len__(self) -> int:
        return len(self.score)

    def answered(self, step: Step, *, critical: bool) -> Bools:
        """Which rows the student answers; `critical`: the policy has critical labels."""
        sure: Bools = ~self.barred & (self.score >= step.threshold)
        if critical:
            sure &= (self.mass < step.critical) | (self.mass == 0.0)
        return sure

    def part(self, places: NDArray[np.int64]) -> Rows:
        """Some of the rows, in that order."""
        return Rows(*(getattr(self, name)[places] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Targets:
    """What is to be proven, each at the level delta; None: nothing of it.

    `severity` is in units of the cost matrices, and `largest` the most that a request can lose.
    """

    alpha: float
    delta: float
    critical: float | None = None
    severity: float | None = None
    largest: float = 1.0


@dataclass(frozen=True, slots=True)
class Proof:
    """What was proven, and of which thresholds."""

    step: Step
    rows: int
    undetected: int
    bound: float
    escalation: float
    critical: CriticalClaim | None
    severity: SeverityClaim | None


@dataclass(frozen=True, slots=True)
class Point:
    """One policy on the frontier; `undetected` is None where no row is labelled."""

    threshold: float
    escalation: float
    undetected: float | None


@dataclass(frozen=True, slots=True)
class Bar:
    """The same policy with this least familiarity: shares of all rows.

    `strange` rows are below it, whether or not another gate escalates them too. `undetected` is of
    the labelled rows, and None where the frontier has none.
    """

    least: float
    strange: float
    escalation: float
    undetected: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy did on rows: `bound` is exact, of the labelled ones, one-sided.

    `bars` are empty where the student cannot tell what is familiar.

    `chosen`: some labels are known because of what the student said (see contract.labelled). Then
    there is no bound, and no share of errors on the frontier: such rows are no random sample.
    """

    rows: int
    escalated: int
    reasons: Mapping[Reason, int]
    labelled: int
    undetected: int
    bound: float | None
    chosen: bool
    frontier: tuple[Point, ...]
    bars: tuple[Bar, ...]


def replay(policy: EscalationPolicy, rows: Sequence[Labelled], said: Sequence[Prediction]) -> Rows:
    """Look at each row as the policy would; `said` is the student's word on each."""
    bare = replace(policy, threshold=0.0, critical=None, warrant=None)
    truths = [row.truth for row in rows]
    critical, severity = policy.critical, policy.severity
    pairs = list(zip(said, truths, strict=True))
    return Rows(
        barred=np.array(
            [
                bare.decide(Instance(row.text, row.fields), prediction).escalate
                for row, prediction in zip(rows, said, strict=True)
            ],
            bool,
        ),
        score=np.array([prediction.score for prediction in said], np.float64),
        mass=np.array([critical.mass(each) if critical else 0.0 for each in said], np.float64),
        labelled=np.array([truth is not None for truth in truths], bool),
        wrong=np.array([truth is not None and _wrong(each, truth) for each, truth in pairs], bool),
        concerned=np.array(
            [bool(critical and truth and critical.concerns(truth)) for truth in truths], bool
        ),
        missed=np.array(
            [bool(critical and truth and critical.missed(each, truth)) for each, truth in pairs],
            bool,
        ),
        loss=np.array(
            [
                severity.realised(each, truth) if severity and truth else 0.0
                for each, truth in pairs
            ],
            np.float64,
        ),
    )


def outcome(
    policy: EscalationPolicy,
    rows: Sequence[Labelled],
    said: Sequence[Prediction],
    *,
    delta: float,
    now: float,
) -> Outcome:
    """What the policy does on these rows as it stands, and what other thresholds would do."""
    decisions = [
        policy.decide(Instance(row.text, row.fields), prediction, now=now)
        for row, prediction in zip(rows, said, strict=True)
    ]
    escalated = np.array([decision.escalate for decision in decisions], bool)
    seen = replay(policy, rows, said)
    labelled, undetected = int(seen.labelled.sum()), int((seen.wrong & ~escalated).sum())
    chosen = any(row.chosen for row in rows)
    sample = 0 if chosen else labelled
    return Outcome(
        rows=len(seen),
        escalated=int(escalated.sum()),
        reasons=Counter(decision.reason for decision in decisions if decision.escalate),
        labelled=labelled,
        undetected=undetected,
        bound=upper_bound(undetected, sample, delta) if sample else None,
        chosen=chosen,
        frontier=_frontier(policy, seen, sample),
        bars=_bars(policy, rows, said, wrong=seen.wrong, sample=sample, now=now),
    )


def steps(rows: Rows, *, threshold: float | None, critical: float | None) -> tuple[Step, ...]:
    """The sequence of policies to test, the strictest first; labels are not looked at.

    A threshold that is given stays. Others loosen together, 2 % of these rows at a step.
    """
    scores = coverages(rows.score) if threshold is None else (threshold,)
    masses = (critical,) if critical is not None else _limits(rows.mass)
    length = max(len(scores), len(masses))
    scores, masses = ((each * length)[:length] for each in (scores, masses))
    return tuple(dict.fromkeys(map(Step, scores, masses)))


def prove(rows: Rows, sequence: Sequence[Step], targets: Targets) -> Proof | None:
    """The loosest of the policies that keeps every target; None: not even the strictest does.

    One walk tests all claims on the same policy, all gates included, and ends where the first of
    them fails: so each claim breaks its promise with a probability of at most delta by itself.
    The rows are put in a random order first: a test of mean losses is valid in no other.
    """
    mixed = rows.part(np.random.default_rng(_ORDER).permutation(len(rows)))
    found = walk(sequence, lambda step: _Claims(mixed, step, targets).hold())
    return None if found is None else _Claims(mixed, found, targets).proof()


def parted(rows: Rows, *, seed: int = 0) -> tuple[Rows, Rows]:
    """A part that the sequence of policies is made of, and the part that it is tested on."""
    order = np.random.default_rng(seed).permutation(len(rows))
    first = round(_SEQUENCE_SHARE * len(rows))
    return rows.part(order[:first]), rows.part(order[first:])


class _Claims:
    """All claims on one policy."""

    def __init__(self, rows: Rows, step: Step, targets: Targets) -> None:
        self._rows, self._step, self._targets = rows, step, targets
        self._answered = rows.answered(step, critical=targets.critical is not None)
        self._undetected = int((rows.wrong & self._answered).sum())
        self._concerned = int(rows.concerned.sum())
        self._missed = int((rows.missed & self._answered).sum())
        self._losses = np.where(self._answered, rows.loss, 0.0) / targets.largest
        self._mean = float(self._losses.mean()) if len(rows) else 0.0

    def hold(self) -> bool:
        """Whether every claim passes its test at the level delta."""
        targets, delta = self._targets, self._targets.delta
        if len(self._rows) == 0:
            return False
        if binomial_cdf(self._undetected, len(self._rows), targets.alpha) > delta:
            return False
        if targets.critical is not None and (
            self._concerned == 0
            or binomial_cdf(self._missed, self._concerned, targets.critical) > delta
        ):
            return False
        if targets.severity is None:
            return True
        most = targets.severity / targets.largest  # what these rows lose on average is within it
        return self._mean <= most and betting_p_value(self._losses, most, delta=delta) <= delta

    def proof(self) -> Proof:
        """The figures of the claims."""
        rows, targets, delta = self._rows, self._targets, self._targets.delta
        critical = severity = None
        if targets.critical is not None:
            critical = CriticalClaim(
                alpha=targets.critical,
                rows=self._concerned,
                missed=self._missed,
                upper_bound=upper_bound(self._missed, self._concerned, delta),
                threshold=self._step.critical,
            )
        if targets.severity is not None:
            severity = SeverityClaim(
                alpha=targets.severity,
                largest=targets.largest,
                mean=self._mean * targets.largest,
                upper_bound=max(betting_bound(self._losses, delta), self._mean) * targets.largest,
            )
        return Proof(
            step=self._step,
            rows=len(rows),
            undetected=self._undetected,
            bound=upper_bound(self._undetected, len(rows), delta),
            escalation=float(1.0 - self._answered.mean()),
            critical=critical,
            severity=severity,
        )


def _limits(mass: Floats) -> tuple[float, ...]:
    """Ascending limits below which 2 %, 4 % ... 98 % of these lie, and at the end one for all."""
    return (*sorted(min(-limit, _ALL) for limit in coverages(-mass)[:-1]), _ALL)


def _frontier(policy: EscalationPolicy, rows: Rows, sample: int) -> tuple[Point, ...]:
    """The same policy at every threshold from asking always to asking where it must.

    `sample`: of how many rows errors are a share; 0: of none.
    """
    limit = policy.critical.threshold if policy.critical else _ALL
    points = []
    for threshold in coverages(rows.score):
        step = Step(threshold, limit)
        answered = rows.answered(step, critical=policy.critical is not None)
        points.append(
            Point(
                threshold=threshold,
                escalation=float(1.0 - answered.mean()),
                undetected=float((rows.wrong & answered).sum() / sample) if sample else None,
            )
        )
    return tuple(dict.fromkeys(points))


def _bars(
    policy: EscalationPolicy,
    rows: Sequence[Labelled],
    said: Sequence[Prediction],
    *,
    wrong: Bools,
    sample: int,
    now: float,
) -> tuple[Bar, ...]:
    """The same policy at other limits of familiarity; what the other gates escalate stays so."""
    if all(each.familiarity is None for each in said):
        return ()
    blind = replace(policy, min_familiarity=None)
    others = np.array(
        [
            blind.decide(Instance(row.text, row.fields), prediction, now=now).escalate
            for row, prediction in zip(rows, said, strict=True)
        ],
        bool,
    )
    # One that is not known is strange, as it is to the policy.
    known = np.array([-1.0 if each.familiarity is None else each.familiarity for each in said])
    bars = []
    for least in _LIMITS_TRIED:
        strange = known < least
        escalated = others | strange
        bars.append(
            Bar(
                least=least,
                strange=float(strange.mean()),
                escalation=float(escalated.mean()),
                undetected=float((wrong & ~escalated).sum() / sample) if sample else None,
            )
        )
    return tuple(bars)


def _wrong(said: Prediction, truth: Mapping[str, Sequence[str]]) -> bool:
    """Whether any head differs; the order of flags does not matter."""
    return any(set(head.labels) != set(truth[head.head]) for head in said.heads)

"""Whether a candidate may serve: promote, hold or reject, with the evidence for it.

Each gate is a claim that some share or difference of shares is below its limit, and all gates must
pass. A bad candidate must get through the very gate that it should fail, so no alpha is split
between them (Berger 1982, intersection-union): it is promoted with probability alpha at most,
however often somebody looks. A rejection takes one gate alone, so there alpha is split.

Nothing here promotes: it judges what was observed. Rows must be drawn by chance alone, and not for
how hard they are; whoever adds them sees to that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TypedDict

from gateway.errors import SettingsError
from gateway.shadow.evidence import Evidence, Kind

_DAY_S = 24 * 3600.0

_Known = bool | None  # None: nobody knows


class Gate(StrEnum):
    """What must be shown to be below a limit."""

    DISAGREEMENT = "disagreement"  # share of rows where the candidate differs from the teacher
    NOISE = "noise"  # that share, less the one where the teacher differs from itself
    SERVING = "serving"  # that share, less the one of the student that serves
    LOSSES = "losses"  # of rows where one of the two students is right: the other one is
    CRITICAL = "critical"  # share of critical rows that the candidate misses and keeps
    ESCALATION = "escalation"  # share that it would escalate, less that of the one that serves
    LATENCY = "latency"  # share above the latency budget, less that of the one that serves


class Standing(StrEnum):
    """Where a gate stands."""

    PASSED = "passed"
    FAILED = "failed"  # its opposite is proved
    OPEN = "open"
    INCONCLUSIVE = "inconclusive"  # neither, after as many rows as the terms allow


class Decision(StrEnum):
    """What may be done with the candidate."""

    PROMOTE = "promote"
    HOLD = "hold"
    REJECT = "reject"


class Why(StrEnum):
    """What the decision rests on."""

    PROVED = "proved"  # every gate has passed
    REFUTED = "refuted"  # the opposite of a gate is proved
    EARLY = "early"  # every gate has passed, and the time is not up
    OPEN = "open"  # some gate needs more rows
    INCONCLUSIVE = "inconclusive"  # some gate got all its rows and shows neither


@dataclass(frozen=True, slots=True)
class Pair:
    """What one compared request says of a candidate. None: it is not known of this request."""

    differs: bool | None = None  # the candidate, from the teacher
    serving_differs: bool | None = None  # the student that serves, from the same answer of it
    teacher_differs: bool | None = None  # the teacher asked again, from that answer
    right: bool | None = None  # the candidate, by a gold label
    serving_right: bool | None = None
    missed: bool | None = None  # a critical row that the candidate misses and does not escalate
    escalates: bool | None = None
    serving_escalates: bool | None = None
    slow: bool | None = None  # above the latency budget
    serving_slow: bool | None = None


# Noise and losses need a teacher asked twice, and gold: they are asked for where there are such.
_LIMITS = MappingProxyType({
    Gate.DISAGREEMENT: 0.02,
    Gate.SERVING: 0.01,
    Gate.ESCALATION: 0.02,
    Gate.LATENCY: 0.01,
})  # fmt: skip


@dataclass(frozen=True)
class Terms:
    """What a candidate must prove. They are fixed before its first row.

    A gate without a limit is not asked for.

    `alpha` is the probability, at most, of promoting one that should fail a gate, and of rejecting
    one that should pass all. `minimum_s` and `cycle_s`, seconds, are how long a test runs at least:
    traffic repeats by day and by week, and a part of it is no sample of the whole. `cap` is the
    rows of a gate after which it is inconclusive. Raises SettingsError for terms that cannot be.
    """

    limits: Mapping[Gate, float] = field(default_factory=lambda: _LIMITS)
    alpha: float = 0.05
    minimum_s: float = _DAY_S
    cycle_s: float = 7 * _DAY_S
    cap: int = 50_000  # within as many a rate of 1.75 % is told from a limit of 2 %

    def __post_init__(self) -> None:
        if not self.limits:
            raise SettingsError(
                "promotion: no gate is asked for, so that every candidate would pass",
                mend="give a limit to one gate at least, such as disagreement",
            )
        for gate, limit in self.limits.items():
            low = _GATES[gate].kind.low
            if not low < limit < 1.0:
                raise SettingsError(
                    f"promotion: the limit of {gate} is {limit}",
                    mend=f"choose a limit between {low:g} and 1, without these two",
                )
        if not 0.0 < self.alpha < 1.0:
            raise SettingsError(
                f"promotion: alpha is {self.alpha}", mend="choose one between 0 and 1, such as 0.05"
            )
        if self.cap < 1 or min(self.minimum_s, self.cycle_s) < 0.0:
            raise SettingsError(
                f"promotion: a cap of {self.cap} rows, times of {self.minimum_s:g} s and "
                f"{self.cycle_s:g} s",
                mend="choose one row at least, and times of 0 s at least",
            )

    @property
    def lasts_s(self) -> float:
        """Seconds that a test runs at least."""
        return max(self.minimum_s, self.cycle_s)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one gate. The bounds hold at all times together."""

    gate: Gate
    standing: Standing
    limit: float
    pairs: int  # rows that say something about it
    value: float | None  # their mean; None before the first
    lower: float  # above the limit: failed
    upper: float  # below the limit: passed
    needed: int | None  # further pairs until it passes, as forecast from these; None: never


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be done with a candidate now, and why. JSON carries it as it is."""

    decision: Decision
    why: Why
    findings: tuple[Finding, ...]
    alpha: float  # what this candidate may spend of it
    elapsed_s: float
    remaining_s: float  # until the time is up


class Saved(TypedDict):
    """The state of a trial as plain numbers."""

    began: float
    limits: dict[str, float]
    counts: dict[str, list[float]]


class Trial:
    """One candidate under test. `began` is in seconds of whatever clock `verdict` is given."""

    __slots__ = ("_evidence", "began", "terms")

    def __init__(self, terms: Terms, *, began: float) -> None:
        self.terms = terms
        self.began = began
        self._evidence = {
            gate: Evidence(_GATES[gate].kind) for gate in Gate if gate in terms.limits
        }

    def add(self, pair: Pair) -> None:
        """Observe one compared request."""
        for gate, evidence in self._evidence.items():
            value = _GATES[gate].read(pair)
            if value is not None:
                evidence.add(value)

    def absorb(self, saved: Saved) -> None:
        """Add what another process has seen of the same candidate. Raises DataError.

        What it has seen under another limit says nothing here.
        """
        self.began = min(self.began, saved["began"])
        for gate, evidence in self._evidence.items():
            if saved["limits"].get(gate) == self.terms.limits[gate]:
                counts = saved["counts"].get(gate, [])
                evidence.counts += Evidence.restored(evidence.kind, counts).counts

    def verdict(self, now: float, *, rivals: int = 1, place: int | None = None) -> Verdict:
        """What is to be done with the candidate by now; see `spent` for rivals and place."""
        alpha = spent(self.terms.alpha, rivals=rivals, place=place)
        findings = tuple(self._finding(gate, alpha) for gate in self._evidence)
        elapsed = max(0.0, now - self.began)
        remaining = max(0.0, self.terms.lasts_s - elapsed)
        decision, why = _decide([each.standing for each in findings], early=remaining > 0.0)
        return Verdict(decision, why, findings, alpha, elapsed, remaining)

    def saved(self) -> Saved:
        """The state as plain numbers."""
        return Saved(
            began=self.began,
            limits={gate.value: self.terms.limits[gate] for gate in self._evidence},
            counts={gate.value: evidence.saved() for gate, evidence in self._evidence.items()},
        )

    @classmethod
    def restored(cls, saved: Saved, terms: Terms) -> Trial:
        """Go on from what was saved. Raises DataError when that is not a trial's.

        A gate whose limit has been moved since begins anew: who moves it has looked.
        """
        trial = cls(terms, began=saved["began"])
        for gate, limit in terms.limits.items():
            if saved["limits"].get(gate) == limit:
                counts = saved["counts"].get(gate, [])
                trial._evidence[gate] = Evidence.restored(_GATES[gate].kind, counts)
        return trial

    def _finding(self, gate: Gate, alpha: float) -> Finding:
        evidence, limit = self._evidence[gate], self.terms.limits[gate]
        refuting = alpha / len(self._evidence)  # one gate alone rejects
        if evidence.below(limit) >= math.log(1.0 / alpha):
            standing = Standing.PASSED
        elif evidence.above(limit) >= math.log(1.0 / refuting):
            standing = Standing.FAILED
        elif evidence.rows >= self.terms.cap:
            standing = Standing.INCONCLUSIVE
        else:
            standing = Standing.OPEN
        return Finding(
            gate=gate,
            standing=standing,
            limit=limit,
            pairs=evidence.rows,
            value=evidence.mean,
            lower=evidence.lower(refuting),
            upper=evidence.upper(alpha),
            needed=evidence.needed(limit, alpha),
        )


def spent(alpha: float, *, rivals: int = 1, place: int | None = None) -> float:
    """What one candidate may spend of alpha, so that all together spend no more than it.

    `rivals`: candidates that are under test at the same time (Bonferroni). `place`: 1, 2, 3, ... in
    a sequence without end, of which one is promoted wrongly with probability alpha at most: the
    shares 6 / (pi j)^2 sum to 1. None: no sequence, each candidate has its own alpha.
    """
    if rivals < 1 or (place is not None and place < 1):
        raise ValueError(f"candidates are counted from 1, not {rivals} and {place}")
    share = 1.0 if place is None else 6.0 / (math.pi * place) ** 2
    return alpha * share / rivals


def _decide(standings: Sequence[Standing], *, early: bool) -> tuple[Decision, Why]:
    """A refutation counts at once; all else waits until the time is up."""
    if Standing.FAILED in standings:
        return Decision.REJECT, Why.REFUTED
    if Standing.INCONCLUSIVE in standings:
        return Decision.HOLD, Why.INCONCLUSIVE
    if Standing.OPEN in standings:
        return Decision.HOLD, Why.OPEN
    return (Decision.HOLD, Why.EARLY) if early else (Decision.PROMOTE, Why.PROVED)


def _share(seen: _Known) -> float | None:
    return None if seen is None else float(seen)


def _less(ours: _Known, theirs: _Known) -> float | None:
    return None if ours is None or theirs is None else float(ours) - float(theirs)


def _lost(ours: _Known, theirs: _Known) -> float | None:
    """Whether the candidate lost; None where both are right, or both wrong, or nobody knows."""
    return None if ours is None or theirs is None or ours == theirs else float(theirs)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a gate reads from a pair; None: this one says nothing about it."""

    kind: Kind
    read: Callable[[Pair], float | None]


_GATES: Mapping[Gate, _Reading] = MappingProxyType({
    Gate.DISAGREEMENT: _Reading(Kind.RATE, lambda pair: _share(pair.differs)),
    Gate.NOISE: _Reading(Kind.DIFFERENCE, lambda p: _less(p.differs, p.teacher_differs)),
    Gate.SERVING: _Reading(Kind.DIFFERENCE, lambda p: _less(p.differs, p.serving_differs)),
    Gate.LOSSES: _Reading(Kind.RATE, lambda pair: _lost(pair.right, pair.serving_right)),
    Gate.CRITICAL: _Reading(Kind.RATE, lambda pair: _share(pair.missed)),
    Gate.ESCALATION: _Reading(Kind.DIFFERENCE, lambda p: _less(p.escalates, p.serving_escalates)),
    Gate.LATENCY: _Reading(Kind.DIFFERENCE, lambda pair: _less(pair.slow, pair.serving_slow)),
})  # fmt: skip

"""Whether a candidate may serve: promote, hold or reject, with the evidence for it.

Each gate is a claim that some share or difference of shares is below its limit, and all gates must
pass. A bad candidate must get through the very gate that it should fail, so no alpha is split
between them (Berger 1982, intersection-union): it is promoted with probability alpha at most,
however often somebody looks. A rejection takes one gate alone, so there alpha is split.

Evidence is about what it was seen under: a policy, a student that served beside it, a limit. Where
one of these is another now, the gates that rest on it begin anew; where it comes back they go on.

Nothing here promotes: it judges what was observed. Rows must be drawn by chance alone, and not for
how hard they are; whoever adds them sees to that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypedDict

from gateway.errors import SettingsError
from gateway.shadow.evidence import Evidence, Kind

_DAY_S = 24 * 3600.0
_SILENCE_S = 6 * 3600.0  # between two comparisons: what is longer is no part of a test

Span = tuple[float, float]  # from when to when, in seconds since the epoch

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
    UNCERTIFIED = "uncertified"  # every gate has passed, and its certificate does not hold
    STOPPED = "stopped"  # every gate has passed, and its processes fail
    UNREAD = "unread"  # what was counted before could not be read yet
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


@dataclass(frozen=True, slots=True)
class Footing:
    """What evidence was seen under. What was seen under another says nothing here.

    `policy` is a fingerprint of the policy and the teacher of the candidate, `serving` the id of
    the bundle that serves beside it (empty: none does), `serving_policy` a fingerprint of what that
    one serves under. An answer is slow above `slow_s` seconds.
    """

    policy: str = ""
    serving: str = ""
    serving_policy: str = ""
    slow_s: float = 0.0

    def bears(self, gate: Gate, other: Footing) -> bool:
        """Whether what was seen of a gate under the other one counts under this one."""
        return not self.moved(gate, other)

    def moved(self, gate: Gate, other: Footing) -> tuple[str, ...]:
        """In words, what the gate rests on and is not as it was under the other one."""
        return tuple(
            words
            for name, words in _GATES[gate].rests_on.items()
            if getattr(self, name) != getattr(other, name)
        )


_PLAIN = Footing()

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
    one that should pass all. `minimum_s` and `cycle_s`, seconds, are how long each gate is under
    test at least: traffic repeats by day and by week, and a part of it is no sample of the whole.
    That time runs from one row that says something of the gate to the next, and a silence of more
    than six hours does not count. `cap` is the
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
    compared: int  # rows that were looked at for that
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
    """The state of a trial as plain numbers, most of them by gate.

    `compared`: rows that were looked at; `spans`: from when to when they came; `read`: the first
    and the last that said something.
    """

    began: float
    footing: dict[str, Any]
    limits: dict[str, float]
    counts: dict[str, list[float]]
    compared: dict[str, int]
    spans: dict[str, list[list[float]]]
    read: dict[str, list[float]]


class Trial:
    """One candidate under test, on one footing. `began`: in seconds since the epoch."""

    __slots__ = ("_compared", "_evidence", "_read", "_spans", "began", "footing", "terms")

    def __init__(self, terms: Terms, *, began: float, footing: Footing = _PLAIN) -> None:
        self.terms = terms
        self.began = began
        self.footing = footing
        self._evidence = {
            gate: Evidence(_GATES[gate].kind) for gate in Gate if gate in terms.limits
        }
        self._spans: dict[Gate, list[Span]] = {gate: [] for gate in self._evidence}
        self._read: dict[Gate, Span] = {}  # from the first row that said something to the last
        self._compared = Counter(dict.fromkeys(self._evidence, 0))

    @property
    def until(self) -> float:
        """When something was last observed, in seconds since the epoch."""
        return max((end for spans in self._spans.values() for _, end in spans), default=self.began)

    @property
    def rows(self) -> int:
        """Of the gate that has most."""
        return max((each.rows for each in self._evidence.values()), default=0)

    def since(self, gate: Gate) -> float:
        """When the gate was first under test, in seconds since the epoch."""
        return min((began for began, _ in self._spans[gate]), default=self.began)

    def add(
        self,
        pair: Pair,
        *,
        at: float | None = None,
        footing: Footing | None = None,
        again: bool = False,
    ) -> None:
        """Observe a compared request, at that time: the gates of which it says something heard it.

        With a `footing`, only the gates for which that counts. `again`: it was observed before, and
        now somebody has said more of it.
        """
        for gate, evidence in self._evidence.items():
            if footing is not None and not self.footing.bears(gate, footing):
                continue
            self._compared[gate] += not again
            if at is not None:
                self._spans[gate] = _joined([*self._spans[gate], (at, at)])
            value = _GATES[gate].read(pair)
            if value is None:
                continue
            evidence.add(value)
            if at is not None:
                self._read_at(gate, (at, at))

    def absorb(self, saved: Saved) -> None:
        """Add what was seen elsewhere of the same candidate. Raises DataError.

        What was seen of a gate under another limit, or on another footing, says nothing here.
        """
        for gate in self._shared(saved):
            counts = saved["counts"].get(gate, [])
            self._evidence[gate].counts += Evidence.restored(_GATES[gate].kind, counts).counts
            self._compared[gate] += saved.get("compared", {}).get(gate, 0)
            spans = ((begin, end) for begin, end in saved["spans"].get(gate, []))
            self._spans[gate] = _joined([*spans, *self._spans[gate]])
            if read := saved.get("read", {}).get(gate):
                self._read_at(gate, (read[0], read[1]))
            self.began = min(self.began, saved["began"])

    def moved(self, saved: Saved) -> dict[Gate, tuple[str, ...]]:
        """By gate, in words, why what was seen of it there says nothing here."""
        footing, found = Footing(**saved["footing"]), {}
        for gate, limit in self.terms.limits.items():
            if gate in saved["limits"]:
                other = () if saved["limits"][gate] == limit else ("its limit was moved",)
                found[gate] = (*other, *self.footing.moved(gate, footing))
        return {gate: why for gate, why in found.items() if why}

    def verdict(self, *, rivals: int = 1, place: int | None = None) -> Verdict:
        """What is to be done with the candidate by now; see `spent` for rivals and place.

        The time counts that the gate was tested which was so for the shortest.
        """
        alpha = spent(self.terms.alpha, rivals=rivals, place=place)
        findings = tuple(self._finding(gate, alpha) for gate in self._evidence)
        elapsed = min(self._elapsed(gate) for gate in self._evidence)
        remaining = max(0.0, self.terms.lasts_s - elapsed)
        decision, why = _decide([each.standing for each in findings], early=remaining > 0.0)
        return Verdict(decision, why, findings, alpha, elapsed, remaining)

    def saved(self) -> Saved:
        """The state as plain numbers."""
        return Saved(
            began=self.began,
            footing=asdict(self.footing),
            limits={gate.value: self.terms.limits[gate] for gate in self._evidence},
            counts={gate.value: evidence.saved() for gate, evidence in self._evidence.items()},
            compared={gate.value: rows for gate, rows in self._compared.items()},
            spans={gate.value: [list(each) for each in self._spans[gate]] for gate in self._spans},
            read={gate.value: list(span) for gate, span in self._read.items()},
        )

    @classmethod
    def restored(cls, saved: Saved, terms: Terms) -> Trial:
        """Go on from what was saved. Raises DataError when that is not a trial's.

        A gate whose limit has been moved since begins anew: who moves it has looked.
        """
        trial = cls(terms, began=saved["began"], footing=Footing(**saved["footing"]))
        trial.absorb(saved)
        return trial

    def _shared(self, saved: Saved) -> list[Gate]:
        """The gates of which it says something here."""
        footing = Footing(**saved["footing"])
        return [
            gate
            for gate, limit in self.terms.limits.items()
            if saved["limits"].get(gate) == limit and self.footing.bears(gate, footing)
        ]

    def _read_at(self, gate: Gate, span: Span) -> None:
        first, last = self._read.get(gate, span)
        self._read[gate] = (min(first, span[0]), max(last, span[1]))

    def _elapsed(self, gate: Gate) -> float:
        """Seconds in which rows came, between the first and the last that the gate has read."""
        first, last = self._read.get(gate, (0.0, 0.0))
        spans = self._spans[gate]
        return math.fsum(max(0.0, min(end, last) - max(began, first)) for began, end in spans)

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
            compared=self._compared[gate],
            value=evidence.mean,
            lower=evidence.lower(refuting),
            upper=evidence.upper(alpha),
            needed=evidence.needed(limit, alpha),
        )


def spent(alpha: float, *, rivals: int = 1, place: int | None = None) -> float:
    """What one candidate may spend of alpha, so that all together spend no more than it.

    `rivals`: candidates that are under test at the same time (Bonferroni). `place`: 1, 2, 3, ... in
    a sequence without end, of which one is promoted wrongly with probability alpha at most: the
    shares 6 / (pi j)^2 sum to 1. None: no sequence, each test has its own alpha. A candidate on
    another footing, or under other limits, is another test: then the promise is one for each.
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


def _joined(spans: Iterable[Span]) -> list[Span]:
    """The times that lie in one of them, or between two: both at once are no longer a test."""
    found: list[Span] = []
    for began, end in sorted(spans):
        if found and began <= found[-1][1] + _SILENCE_S:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((began, end))
    return found


_ITS_OWN = {"policy": "its own policy or its teacher changed"}
_BESIDE = {
    **_ITS_OWN,
    "serving": "another student serves",
    "serving_policy": "the policy of the student that serves changed",
}


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a gate reads from a pair; None: this one says nothing about it.

    `rests_on`: parts of the footing, and in words that such a part is another one.
    """

    kind: Kind
    read: Callable[[Pair], float | None]
    rests_on: Mapping[str, str]


_GATES: Mapping[Gate, _Reading] = MappingProxyType({
    Gate.DISAGREEMENT: _Reading(Kind.RATE, lambda pair: _share(pair.differs), _ITS_OWN),
    Gate.NOISE: _Reading(
        Kind.DIFFERENCE, lambda pair: _less(pair.differs, pair.teacher_differs), _ITS_OWN
    ),
    Gate.SERVING: _Reading(
        Kind.DIFFERENCE, lambda pair: _less(pair.differs, pair.serving_differs), _BESIDE
    ),
    Gate.LOSSES: _Reading(Kind.RATE, lambda pair: _lost(pair.right, pair.serving_right), _BESIDE),
    Gate.CRITICAL: _Reading(Kind.RATE, lambda pair: _share(pair.missed), _ITS_OWN),
    Gate.ESCALATION: _Reading(
        Kind.DIFFERENCE, lambda pair: _less(pair.escalates, pair.serving_escalates), _BESIDE
    ),
    Gate.LATENCY: _Reading(
        Kind.DIFFERENCE,
        lambda pair: _less(pair.slow, pair.serving_slow),
        {**_BESIDE, "slow_s": "the latency budget was moved"},
    ),
})  # fmt: skip

"""What the whole decision costs: the p50 of one call with every gate on, beside one student run.

Gates: risk rules on text, field and label, critical labels, severity, domain, certificate and
threshold; once for a request that all of them let pass, once for one that nearly all stop. What the
gates read beside the labels, the score and the p-value, is made with the student's run and counted
on top. Everything is called in turns in one process, so that a busy host slows all of it alike.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.errors import DataError
from gateway.routing.policy import EscalationPolicy, Warrant
from gateway.students.student import Student
from gateway.types import FieldValue, Instance, Prediction, Reason

_TURNS = 1000  # calls of each part
_YEAR_S = 31_536_000.0  # how long the certificate still holds
_MICRO = 1e3  # nanoseconds in a microsecond
_FIELDS: Mapping[str, FieldValue] = {"amount": 12.5, "tier": "gold"}  # no rule stops them
_RISKY: Mapping[str, FieldValue] = {"amount": 12_000.0}
_COURT = "see you in court"  # what the rule on texts looks for
_FAMILIAR = 0.5  # where the bundle cannot tell: the gate compares all the same
_LEAST = 0.01

_STOPPED = {Reason.HIGH_RISK, Reason.OUT_OF_DOMAIN, Reason.NO_CERTIFICATE}


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians, in microseconds. `reading`: calibration, score and p-value, and the distance."""

    confident: float
    escalated: float
    reading: float
    student: float

    @property
    def whole(self) -> float:
        """The dearer decision with all that it reads."""
        return self.escalated + self.reading

    @property
    def share(self) -> float:
        """The same as a share of one student run."""
        return self.whole / self.student

    def __str__(self) -> str:
        return (
            f"decision with all gates on, p50: {self.confident:.1f} µs confident, "
            f"{self.escalated:.1f} µs escalated, {self.whole:.1f} µs with the score and the "
            f"p-value that it reads; one student run {self.student:.0f} µs "
            f"({self.share:.1%})"
        )


def measured(policy: EscalationPolicy, student: Student, texts: Sequence[str]) -> Costs:
    """Each part in turns. Raises DataError where the student answers none of the texts itself."""
    now = time.time()
    policy = replace(
        policy,
        min_familiarity=policy.min_familiarity or _LEAST,
        warrant=Warrant(None, None, expires=now + _YEAR_S),
    )
    plain = Instance(texts[0], _FIELDS)
    sure = _sure(policy, student, plain, texts, now)
    risky, doubtful = Instance(f"{texts[0]}, {_COURT}", _RISKY), replace(sure, familiarity=0.0)
    void = replace(policy, warrant=Warrant(None, None, expires=now))
    held = set(void.decide(risky, doubtful, now=now).reasons)
    if not held >= _STOPPED:
        raise RuntimeError(f"only {held} stop a request that is meant to be stopped")
    encoded = student.encode(texts[:1])
    _, pooled = student.outputs([encoded[0].ids])
    raw, familiarity = student.raw(texts[:1]), student.familiarity
    turn = itertools.cycle(texts)

    def reading() -> None:
        if familiarity is not None:
            familiarity.distances(pooled)
        student.interpret(raw)

    parts: Sequence[Callable[[], object]] = (
        lambda: policy.decide(plain, sure, now=now),
        lambda: void.decide(risky, doubtful, now=now),
        reading,
        lambda: student.predict([next(turn)]),
    )
    spent: list[list[int]] = [[] for _ in parts]
    for _ in range(_TURNS):
        for part, taken in zip(parts, spent, strict=True):
            started = time.perf_counter_ns()
            part()
            taken.append(time.perf_counter_ns() - started)
    return Costs(*(statistics.median(taken) / _MICRO for taken in spent))


def _sure(
    policy: EscalationPolicy, student: Student, plain: Instance, texts: Sequence[str], now: float
) -> Prediction:
    """What the student says of the first text that every gate lets pass."""
    for text in texts:
        (said,) = student.predict([text])
        if said.familiarity is None:
            said = replace(said, familiarity=_FAMILIAR)
        if not policy.decide(plain, said, now=now).escalate:
            return said
    raise DataError(
        "the student answers none of the texts itself", mend="give texts of its own kind"
    )

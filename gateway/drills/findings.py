"""What a drill has found, and what it is held against: the promises for an outage of a teacher.

Nothing here waits or sends: figures go in, promises that were kept or broken come out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.routing.unavailable import Instead
from gateway.settings import TaskSettings
from gateway.types import Route

LOST = "lost"  # no reply came
ERROR = "error"  # the reply is an HTTP error

_SLOWER = 1.2  # times the healthy p95 that confident answers may take in an outage
_SLOWER_MS = 5.0  # or so much more: below it a ratio of small numbers says nothing
_MORE_CALLS = 1.1  # upstream calls for each escalation: retries are a tenth
_FREE_RETRY_S = 10.0  # and one retry in so many seconds is free, for a gateway of little traffic
_CLOSES_S = 15.0  # from recovery to the closed breaker
_PROBE_S = 5.0  # beyond `open_s`, which may be longer, for a probe to come by and be answered


class Kind(StrEnum):
    """What happens to the teacher."""

    DOWN = "teacher-down"
    SLOW = "slow"
    GARBAGE = "garbage"
    LIMITED = "rate-limited"
    FLAKY = "flaky"


@dataclass(frozen=True, slots=True)
class Promise:
    """What is promised of an outage, what was seen, and whether the promise was kept."""

    words: str
    seen: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of the requests of one phase.

    `outcomes` are those of the escalations: a route, `error` for an HTTP status that is one, `lost`
    where no reply came. `calls` are those that reached the teacher's server, by what it did to
    them; `upstream_calls` are all that were begun.
    """

    confident_ok: int
    confident_failed: int
    p95_ms: float | None  # of confident answers, as the client saw them
    outcomes: Counter[str]
    upstream_calls: int
    calls: Counter[str]
    seconds: float

    @property
    def escalations(self) -> int:
        """Requests that were to go to the teacher."""
        return self.outcomes.total()

    @property
    def calls_per_escalation(self) -> float | None:
        """Upstream calls for each of them; None: there were none."""
        return self.upstream_calls / self.escalations if self.escalations else None


@dataclass(frozen=True, slots=True)
class Findings:
    """What a drill has found. Seconds are from the begin of the fault, and of the recovery.

    None: the breaker did not open, or has not closed again.
    """

    kind: Kind
    task: str
    healthy: Figures
    fault: Figures
    recovery: Figures
    opened_s: float | None
    closed_s: float | None
    garbage_accepted: int  # requests with an answer or a stored label that the teacher never gave


def closing_time_s(task: TaskSettings) -> float:
    """Within how many seconds of recovery the breaker of that task's teacher is to be closed."""
    return max(_CLOSES_S, task.teacher.breaker.open_s + _PROBE_S)


def promises(found: Findings, task: TaskSettings) -> tuple[Promise, ...]:
    """What is promised of an outage under these settings, held against what was found."""
    phases = (found.healthy, found.fault, found.recovery)
    return (
        _confident_is_answered(phases),
        _not_slower(found.healthy, found.fault),
        _few_calls(phases),
        _as_the_policy_says(phases, task),
        _no_garbage(found),
        *_opens(found, task),
        _closes(found, closing_time_s(task)),
        _answers_again(found.recovery),
    )


def _confident_is_answered(phases: Sequence[Figures]) -> Promise:
    failed = sum(each.confident_failed for each in phases)
    return Promise(
        "every request that the student is sure of is answered by it",
        f"{failed} of {failed + sum(each.confident_ok for each in phases)} were not",
        kept=not failed,
    )


def _not_slower(healthy: Figures, fault: Figures) -> Promise:
    before, during = healthy.p95_ms or 0.0, fault.p95_ms or 0.0
    most = max(_SLOWER * before, before + _SLOWER_MS)
    return Promise(
        f"p95 of what the student is sure of stays below {_SLOWER:g} times the healthy one, or "
        f"{_SLOWER_MS:g} ms above it",
        f"{during:.1f} ms, healthy {before:.1f} ms",
        kept=during <= most,
    )


def _few_calls(phases: Sequence[Figures]) -> Promise:
    calls = sum(each.upstream_calls for each in phases)
    escalations = sum(each.escalations for each in phases)
    free = math.ceil(sum(each.seconds for each in phases) / _FREE_RETRY_S)
    return Promise(
        f"at most {_MORE_CALLS:g} upstream calls for each escalation, and one in "
        f"{_FREE_RETRY_S:g} s beyond",
        f"{calls} calls, {escalations} escalations",
        kept=calls <= _MORE_CALLS * escalations + free,
    )


def _as_the_policy_says(phases: Sequence[Figures], task: TaskSettings) -> Promise:
    """An escalation may end in an error where the policy prefers one, and is never lost."""
    policy = task.policy
    chosen = {policy.on_unavailable, policy.on_unavailable_high_risk}
    lost = sum(each.outcomes[LOST] for each in phases)
    errors = sum(each.outcomes[ERROR] for each in phases)
    return Promise(
        "every escalation ends as the policy says",
        f"{lost} were lost, {errors} ended in an error",
        kept=not lost and (not errors or Instead.ERROR in chosen),
    )


def _no_garbage(found: Findings) -> Promise:
    accepted = found.garbage_accepted
    return Promise(
        "nothing but a good answer is taken for one, or stored as the teacher's",
        f"{accepted} were",
        kept=not accepted,
    )


def _opens(found: Findings, task: TaskSettings) -> Iterator[Promise]:
    """Of a teacher that is down, and was asked often enough for the breaker to know."""
    if found.kind is Kind.DOWN and found.fault.escalations > task.teacher.breaker.failures:
        seen = "it did not" if found.opened_s is None else f"after {found.opened_s:.1f} s"
        yield Promise("the breaker opens", seen, kept=found.opened_s is not None)


def _closes(found: Findings, limit_s: float) -> Promise:
    seen = "it is not" if found.closed_s is None else f"after {found.closed_s:.1f} s"
    return Promise(
        f"{limit_s:g} s after recovery the breaker is closed",
        seen,
        kept=found.closed_s is not None and found.closed_s <= limit_s,
    )


def _answers_again(recovery: Figures) -> Promise:
    again = recovery.outcomes[Route.TEACHER]
    return Promise(
        "after recovery the teacher answers again", f"it did {again} times", kept=again > 0
    )

"""The figures of /v1/stats: speed, routes, escalation, disagreement and cost, by task.

It counts since the start of the process and keeps durations for an hour; it stores nothing.
Disagreement is kept apart by source. Escalated requests are the hard ones, so their disagreement
says nothing about what the student serves: the disagreement among confident answers, which were
served, comes from audits only.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from gateway.contract.manifest import Task
from gateway.telemetry.latency import SlidingSketch, Window
from gateway.telemetry.pricing import Prices, micro_usd
from gateway.types import Answer, Audit, Bucket, Comparison, Prediction, Reason, Route

OTHER = "other"  # stands for a task that is not configured: names from outside make no keys
WINDOWS: Mapping[str, float] = {"1m": 60.0, "10m": 600.0, "1h": 3600.0}  # seconds

_MILLISECONDS = 1000.0  # in a second
_QUANTILES: Mapping[str, float] = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


class Figures:
    """An observer that keeps the figures of each task. May be used from several threads.

    `clock` gives seconds and never goes back; `prices` are looked up by task.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        *,
        prices: Mapping[str, Prices],
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._since = clock()
        self._lock = threading.Lock()
        self._tasks = {
            task.name: _TaskFigures(
                [head.name for head in task.heads], prices.get(task.name, Prices()), clock
            )
            for task in tasks
        }
        self._other = _TaskFigures([], Prices(), clock)

    def answered(self, answer: Answer) -> None:
        """Count an answer."""
        with self._lock:
            self._tasks.get(answer.task, self._other).answered(answer)

    def audited(self, audit: Audit) -> None:
        """Count an audit."""
        with self._lock:
            self._tasks.get(audit.answer.task, self._other).audited(audit)

    def compared(self, comparison: Comparison) -> None:
        """Count the time of a candidate."""
        with self._lock:
            self._tasks.get(comparison.answer.task, self._other).compared(comparison)

    def spent(self, task: str, bucket: Bucket, micro_usd: int | None) -> None:
        """A call of the teacher has cost that much; None: the task's price, if that is known."""
        with self._lock:
            self._tasks.get(task, self._other).spent(bucket, micro_usd)

    def price(self, task: str, prices: Prices) -> None:
        """What is spent from now on is spent at these prices."""
        with self._lock:
            self._tasks[task].price(prices)

    def snapshot(self) -> dict[str, Any]:
        """All figures, ready for JSON.

            uptime_s
            tasks.<task>
                requests               answers since the start
                routes.<route>         of them, by who answered
                latency.<route or "all">.<1m|10m|1h>
                    requests, per_second, p50_ms, p95_ms, p99_ms    (null: none yet)
                escalation
                    requests, share, by_reason.<reason>.{requests, share}
                disagreement.<head>.<escalated|audited>
                    comparisons, disagreements, share               (null: none yet)
                cost                   micro-USD since the start
                    student            null: the price is not known
                    teacher, audits, avoided    each {known, unknown}: the sum of the known
                                       amounts, and how many amounts are not known; of every
                                       call that was begun, whatever came of it
                    shadow             of candidates, and of a teacher that is asked again; null:
                                       a price is not known
                    total              student + teacher + audits + shadow; null: a part is not
                                       known

        A share is of the requests or comparisons beside it. Where a request of a task that is not
        configured was seen, it is under "other".
        """
        with self._lock:
            shown = dict(self._tasks)
            if self._other.requests:
                shown[OTHER] = self._other
            return {
                "uptime_s": self._clock() - self._since,
                "tasks": {name: figures.snapshot() for name, figures in shown.items()},
            }


class _TaskFigures:
    """The figures of one task. Its owner holds the lock."""

    def __init__(self, heads: Iterable[str], prices: Prices, clock: Callable[[], float]) -> None:
        self._prices = prices
        self._latency = {
            route: SlidingSketch(clock, windows=tuple(WINDOWS.values())) for route in Route
        }
        self._routes: Counter[Route] = Counter()
        self._reasons: Counter[Reason] = Counter()
        self._pairs = {head: {"escalated": _Pairs(), "audited": _Pairs()} for head in heads}
        self._busy = 0.0  # seconds of the student at the present prices
        self._spent = Decimal(0)  # USD, for its seconds at earlier ones
        self._teacher = _Sum()
        self._audits = _Sum()
        self._avoided = _Sum()
        self._again = _Sum()  # calls of a teacher that was asked again
        self._tried = 0.0  # seconds of candidates at the present prices
        self._tried_spent = Decimal(0)  # USD, for their seconds at earlier ones

    @property
    def requests(self) -> int:
        return self._routes.total()

    def price(self, prices: Prices) -> None:
        """Seconds of a price that was not known are charged at the first one that is."""
        usd = self._prices.student_usd(self._busy)
        if usd is not None:
            self._spent += usd
            self._busy = 0.0
            self._tried_spent += self._prices.student_usd(self._tried) or 0
            self._tried = 0.0
        self._prices = prices

    def spent(self, bucket: Bucket, micro_usd: int | None) -> None:
        amount = self._prices.teacher_call if micro_usd is None else micro_usd
        of = {Bucket.AUDIT: self._audits, Bucket.SHADOW: self._again}
        of.get(bucket, self._teacher).add(amount)

    def compared(self, comparison: Comparison) -> None:
        self._tried += comparison.seconds or 0.0

    def answered(self, answer: Answer) -> None:
        self._latency[answer.route].add(answer.stages.total)
        self._routes[answer.route] += 1
        self._busy += answer.stages.busy
        self._avoided.add(answer.cost.avoided)
        if answer.decision.escalate:
            self._reasons[answer.decision.reason] += 1
            if answer.student is not None and answer.teacher is not None:
                self._compare(answer.student, answer.teacher, "escalated")

    def audited(self, audit: Audit) -> None:
        if audit.answer.student is not None:
            self._compare(audit.answer.student, audit.teacher, "audited")

    def snapshot(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "routes": {route.value: self._routes[route] for route in Route},
            "latency": self._read_latency(),
            "escalation": {
                **_shared(self._reasons.total(), self.requests),
                "by_reason": {
                    reason.value: _shared(count, self.requests)
                    for reason, count in sorted(self._reasons.items())
                },
            },
            "disagreement": {
                head: {source: pairs.snapshot() for source, pairs in sources.items()}
                for head, sources in self._pairs.items()
            },
            "cost": self._read_cost(),
        }

    def _compare(self, student: Prediction, teacher: Prediction, source: str) -> None:
        for ours, theirs in zip(student.heads, teacher.heads, strict=False):
            if ours.head in self._pairs:
                self._pairs[ours.head][source].add(differ=ours.labels != theirs.labels)

    def _read_latency(self) -> dict[str, dict[str, dict[str, float | None]]]:
        read: dict[str, dict[str, dict[str, float | None]]] = {"all": {}}
        for name, seconds in WINDOWS.items():
            windows = {route: self._latency[route].window(seconds) for route in Route}
            for route, window in windows.items():
                read.setdefault(route.value, {})[name] = _speed(window)
            first, *rest = windows.values()
            for window in rest:
                first.sketch.merge(window.sketch)
            read["all"][name] = _speed(first)
        return read

    def _read_cost(self) -> dict[str, Any]:
        usd = self._prices.student_usd(self._busy)
        student = None if usd is None else micro_usd(self._spent + usd)
        shadow = self._shadow()
        parts = (self._teacher.value, self._audits.value, student, shadow)
        known = [part for part in parts if part is not None]
        return {
            "student": student,
            "teacher": self._teacher.snapshot(),
            "audits": self._audits.snapshot(),
            "avoided": self._avoided.snapshot(),
            "shadow": shadow,
            "total": sum(known) if len(known) == len(parts) else None,
        }

    def _shadow(self) -> int | None:
        """What candidates and a teacher that was asked again cost; 0 where there were none."""
        again = self._again.value
        usd = self._prices.student_usd(self._tried) if self._tried else Decimal(0)
        return None if again is None or usd is None else again + micro_usd(self._tried_spent + usd)


class _Pairs:
    """How often two models were compared on a head, and how often they differed."""

    __slots__ = ("_compared", "_differed")

    def __init__(self) -> None:
        self._compared = 0
        self._differed = 0

    def add(self, *, differ: bool) -> None:
        self._compared += 1
        self._differed += differ

    def snapshot(self) -> dict[str, float | None]:
        return {
            "comparisons": self._compared,
            "disagreements": self._differed,
            "share": _share(self._differed, self._compared),
        }


class _Sum:
    """A sum of micro-USD of which some amounts may be unknown."""

    __slots__ = ("_known", "_unknown")

    def __init__(self) -> None:
        self._known = 0
        self._unknown = 0

    @property
    def value(self) -> int | None:
        return None if self._unknown else self._known

    def add(self, amount: int | None) -> None:
        if amount is None:
            self._unknown += 1
        else:
            self._known += amount

    def snapshot(self) -> dict[str, int]:
        return {"known": self._known, "unknown": self._unknown}


def _speed(window: Window) -> dict[str, float | None]:
    found = window.sketch.quantiles(list(_QUANTILES.values()))
    return {
        "requests": window.sketch.count,
        "per_second": window.per_second,
        **{
            name: None if value is None else value * _MILLISECONDS
            for name, value in zip(_QUANTILES, found, strict=True)
        },
    }


def _shared(count: int, whole: int) -> dict[str, float | None]:
    return {"requests": count, "share": _share(count, whole)}


def _share(count: int, whole: int) -> float | None:
    return count / whole if whole else None

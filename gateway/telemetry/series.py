"""The series that a task and a teacher write to, found once, so that counting is all that is left.

It reads answers and changes none. What a series is called, and how it is shown, is in `families`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.teachers.guard import Event, Outcome
from gateway.telemetry.families import Families, Teachers
from gateway.telemetry.pricing import Prices
from gateway.types import (
    Answer,
    Audit,
    Bucket,
    Comparison,
    Lapse,
    Prediction,
    Reason,
    Route,
    Source,
)

USD = 1e-6  # of a micro-USD

_ANSWERED = "200"  # HTTP
# There from the start, for an increase is only seen in a series that has been scraped before.
_SWAPS = (
    "swapped", "rolled_back", "proposed", "promoted", "stepped", "took_over", "frozen", "unfrozen",
    "unchanged", "refused", "conflict",
)  # fmt: skip


class TaskSeries:
    """The series of one task, resolved once: looking labels up costs more than counting."""

    def __init__(self, families: Families, task: str, heads: Sequence[str], prices: Prices) -> None:
        requests, predictions, costs = families.requests, families.predictions, families.costs
        self.task = task
        self.price(prices)
        self._requests = {
            route: requests.total.labels(task, route.value, _ANSWERED) for route in Route
        }
        self._duration = {route: requests.duration.labels(task, route.value) for route in Route}
        self._overhead = requests.overhead.labels(task)
        self._queue = requests.queue.labels(task)
        self._student = requests.stage.labels(task, "student")
        self._teacher = requests.stage.labels(task, "teacher")
        self._escalations = {
            reason: requests.escalations.labels(task, reason.value)
            for reason in Reason
            if reason is not Reason.CONFIDENT
        }
        self._confidence = {head: predictions.confidence.labels(task, head) for head in heads}
        self._pairs = {
            source: {
                head: (
                    predictions.comparisons.labels(task, head, "student_teacher", source),
                    predictions.disagreements.labels(task, head, "student_teacher", source),
                )
                for head in heads
            }
            for source in ("escalated", "audit")
        }
        self._predictions = predictions
        self._heads = frozenset(heads)
        self._shadow = predictions.shadow.labels(task)
        self._lapses = {lapse: predictions.lapses.labels(task, lapse.value) for lapse in Lapse}
        self._cost = {
            bucket: (costs.known.labels(task, bucket), costs.unknown.labels(task, bucket))
            for bucket in Bucket
        }
        self._avoided = costs.avoided.labels(task)
        for result in _SWAPS:
            families.students.swaps.labels(task, result)

    def price(self, prices: Prices) -> None:
        """What is counted from now on is counted at these prices."""
        rate = prices.student_usd(1.0)
        self._usd_per_busy_second = None if rate is None else float(rate)
        self._usual = prices.teacher_call

    def answered(self, answer: Answer) -> None:
        """Its route, times, confidence, reason and cost."""
        stages, cost = answer.stages, answer.cost
        self._requests[answer.route].inc()
        self._duration[answer.route].observe(stages.total)
        worked = stages.queue + stages.student + stages.teacher
        self._overhead.observe(max(0.0, stages.total - worked))
        if answer.student is not None:
            self._queue.observe(stages.queue)
            self._student.observe(stages.student)
            for head in answer.student.heads:
                if head.head in self._confidence:
                    self._confidence[head.head].observe(head.confidence)
        if answer.decision.escalate:
            self._escalated(answer)
        self._spend(Bucket.LIVE, self._student_usd(stages.busy))
        if cost.avoided:
            self._avoided.inc(cost.avoided * USD)

    def audited(self, audit: Audit) -> None:
        """The student against the teacher, by head."""
        if audit.answer.student is not None:
            self._compare(audit.answer.student, audit.teacher, "audit")

    def compared(self, comparison: Comparison) -> None:
        """A row against each of the others, by head; the series are looked up, off the hot path."""
        said, teacher = comparison.prediction, comparison.teacher
        if comparison.lapse is not None:
            self._lapses[comparison.lapse].inc()
        if comparison.seconds is not None:
            self._shadow.observe(comparison.seconds)
            self._spend(Bucket.SHADOW, self._student_usd(comparison.seconds))
        self._differ(said, comparison.answer.student, "candidate_student", "shadow")
        source = comparison.source or Source.AUDIT
        self._differ(said, teacher, "candidate_teacher", source.value)
        self._differ(teacher, comparison.second, "teacher_teacher", source.value)

    def _differ(
        self, ours: Prediction | None, theirs: Prediction | None, pair: str, source: str
    ) -> None:
        if ours is None or theirs is None:
            return
        others = {part.head: part.labels for part in theirs.heads}
        for part in ours.heads:
            if part.head in self._heads and part.head in others:
                where = (self.task, part.head, pair, source)
                differ = set(part.labels) != set(others[part.head])
                self._predictions.comparisons.labels(*where).inc()
                # 0 too: a series is there
                self._predictions.disagreements.labels(*where).inc(differ)

    def spent(self, bucket: Bucket, micro_usd: int | None) -> None:
        """A call of the teacher; None: it has cost what is usual, where that is known."""
        self._spend(bucket, _usd(self._usual if micro_usd is None else micro_usd))

    def _escalated(self, answer: Answer) -> None:
        if answer.decision.reason in self._escalations:
            self._escalations[answer.decision.reason].inc()
        self._teacher.observe(answer.stages.teacher)
        if answer.student is not None and answer.teacher is not None:
            self._compare(answer.student, answer.teacher, "escalated")

    def _compare(self, student: Prediction, teacher: Prediction, source: str) -> None:
        pairs = self._pairs[source]
        for ours, theirs in zip(student.heads, teacher.heads, strict=False):
            if ours.head in pairs:
                compared, differed = pairs[ours.head]
                compared.inc()
                if ours.labels != theirs.labels:
                    differed.inc()

    def _student_usd(self, busy: float) -> float | None:
        """From busy time and not from the answer's cost, whose whole micro-USD are mostly 0."""
        return None if self._usd_per_busy_second is None else busy * self._usd_per_busy_second

    def _spend(self, bucket: Bucket, amount: float | None) -> None:
        """Add an amount in USD; an unknown one is counted as such, never as 0."""
        usd, unknown = self._cost[bucket]
        if amount is None:
            unknown.inc()
        else:
            usd.inc(amount)


class TeacherSeries:
    """The series of all guards whose teachers have one name."""

    def __init__(self, teachers: Teachers, teacher: str) -> None:
        self._breaker = teachers.breaker
        self._teacher = teacher
        self._states: tuple[Callable[[], int], ...] = ()
        self.attempts = {
            outcome: teachers.attempts.labels(teacher, outcome.value) for outcome in Outcome
        }
        self.events = {
            Event.RETRY: teachers.retries.labels(teacher),
            Event.HEDGE: teachers.hedges.labels(teacher),
            Event.COALESCED: teachers.coalesced.labels(teacher),
            Event.CACHE_HIT: teachers.cache_hits.labels(teacher),
        }

    def follow(self, state: Callable[[], int]) -> None:
        """Show the worst state of all."""
        self._states = (*self._states, state)
        self._breaker.labels(self._teacher).set_function(self._worst)

    def leave(self, state: Callable[[], int]) -> None:
        """Of a guard that is gone nothing is shown, however often it is said."""
        before, self._states = self._states, tuple(s for s in self._states if s is not state)
        if before and not self._states:
            self._breaker.remove(self._teacher)

    def _worst(self) -> float:
        return max((state() for state in self._states), default=0)


class TeacherWatch:
    """What one guard tells; see gateway.teachers.guard.Watch."""

    def __init__(self, series: TeacherSeries, state: Callable[[], int]) -> None:
        self._series = series
        self._state = state
        series.follow(state)

    def attempted(self, outcome: Outcome) -> None:
        """A call has ended so."""
        self._series.attempts[outcome].inc()

    def noted(self, event: Event) -> None:
        """This has happened."""
        self._series.events[event].inc()

    def closed(self) -> None:
        """The guard is gone; it may say so twice."""
        self._series.leave(self._state)


def _usd(micro: int | None) -> float | None:
    return None if micro is None else micro * USD

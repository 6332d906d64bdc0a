"""Every Prometheus metric, in one place. With `tallies` the only one to know prometheus_client.

Names start with `understudy_`, units are base units. Label values come from configuration and from
our own enumerations, never from a request: a task that is not known counts as "other".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.contract.manifest import Task
from gateway.errors import UnderstudyError
from gateway.routing.budget import Balance
from gateway.shadow.account import Part
from gateway.shadow.alarm import Level
from gateway.shadow.drift import Drift
from gateway.shadow.promotion import Decision
from gateway.shadow.rate import Rate
from gateway.shadow.runner import State
from gateway.shadow.shadow import Candidate
from gateway.shadow.streams import Reading
from gateway.teachers.guard import Event, Outcome, Watch
from gateway.telemetry.pricing import Prices
from gateway.telemetry.tallies import Counter, Histogram
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

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_CANDIDATE = "candidate"  # the role; a task may have several
OTHER = "other"  # a task, a reason or a cause that is not configured

_USD = 1e-6  # of a micro-USD
_SHED = frozenset({429, 503})  # HTTP: the request was fine, the gateway had no room for it
_ANSWERED = "200"
# Seconds, from a quarter of a millisecond (a warm student) to 30 s (a slow teacher), each about
# twice the one before: alerts need the order of magnitude, /v1/stats has the exact quantiles.
_SECONDS = (
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06,
    0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0,
)  # fmt: skip
# Thresholds lie near 1, so that is where the resolution has to be.
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
# There from the start, for an increase is only seen in a series that has been scraped before.
_SWAPS = (
    "swapped", "rolled_back", "proposed", "promoted", "stepped", "took_over", "frozen", "unfrozen",
    "unchanged", "refused", "conflict",
)  # fmt: skip
_LOUD = {Level.CALM: 0, Level.WARN: 1, Level.ALARM: 2}
_JUDGED = {Decision.REJECT: -1, Decision.HOLD: 0, Decision.PROMOTE: 1}
_DOING = {State.STOPPED: 0, State.RESTING: 1, State.STARTING: 2, State.RUNNING: 3}
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Validity:
    """Whether a task's certificate holds, and until when, in seconds since the epoch, if so."""

    valid: bool
    expires: float | None


@dataclass(frozen=True, slots=True)
class Watched:
    """What the watch over a task shows; `incident`: one is open, so that nobody is promoted."""

    readings: Sequence[Reading]
    drift: Drift
    stale: bool
    incident: bool


@dataclass(frozen=True, slots=True)
class Underway:
    """How far a task's canary has come: `step` from 1, since when, and texts over all replicas.

    `absent`: it does not answer in this process, which could not load it.
    """

    step: int
    since: float
    rows: int
    absent: bool


class Metrics:
    """An observer that counts; `render` gives what /metrics shows.

    It is told things on the event loop; `render` may run on any thread.

    `prices` are looked up by task; without them the student's cost is unknown.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        *,
        prices: Mapping[str, Prices] | None = None,
        version: str = __version__,
    ) -> None:
        known = prices or {}
        # A second series for each counter and histogram, which no query here reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._families = _Families(self._registry)
        self._tasks = {
            task.name: _Series(
                self._families,
                task.name,
                [head.name for head in task.heads],
                known.get(task.name, Prices()),
            )
            for task in tasks
        }
        self._other = _Series(self._families, OTHER, [], Prices())
        self._codes = frozenset(_codes(UnderstudyError))
        self._bundles: dict[tuple[str, str], str] = {}
        self._tried: dict[str, frozenset[str]] = {}
        self._teachers: dict[str, _TeacherSeries] = {}
        self._families.build.labels(version).set(1)
        self._families.generation.set(1)
        self._candidates = _Candidates()
        self._registry.register(self._candidates)
        ProcessCollector(registry=self._registry)

    def answered(self, answer: Answer) -> None:
        """Count an answer. On the tail of every request, so it only touches resolved series."""
        series = self._tasks.get(answer.task, self._other)
        series.answered(answer)
        if answer.route is Route.FALLBACK:
            cause = self._code(answer.failure)
            self._families.suppressed.labels(series.task, cause).inc()

    def audited(self, audit: Audit) -> None:
        """Count an audit."""
        self._tasks.get(audit.answer.task, self._other).audited(audit)

    def compared(self, comparison: Comparison) -> None:
        """Count what a candidate said, by whom it is held against."""
        self._tasks.get(comparison.answer.task, self._other).compared(comparison)

    def tried(self, task: str, candidates: Sequence[str]) -> None:
        """These bundles are compared with live traffic now, and no others."""
        for gone in self._tried.get(task, frozenset()) - set(candidates):
            self._families.bundles.remove(task, _CANDIDATE, gone)
            with suppress(KeyError):  # it was never judged
                self._families.verdict.remove(task, gone)
        for name in candidates:
            self._families.bundles.labels(task, _CANDIDATE, name).set(1)
        self._tried[task] = frozenset(candidates)

    def judged(self, task: str, verdicts: Mapping[str, Decision]) -> None:
        """What may be done with the candidates of a task now, by name."""
        for name, decision in verdicts.items():
            if name in self._tried.get(task, ()):
                self._families.verdict.labels(task, name).set(_JUDGED[decision])

    def refused(self, code: int, task: str, reason: str) -> None:
        """Count a request that got an error: its HTTP status, and the error's code as reason."""
        known = task if task in self._tasks else OTHER
        self._families.requests.labels(known, "none", str(code)).inc()
        if code in _SHED:
            self._families.shed.labels(self._code(reason)).inc()

    def spent(self, task: str, bucket: Bucket, micro_usd: int | None) -> None:
        """A call of the teacher has cost that much; None: the task's price, if that is known."""
        self._tasks.get(task, self._other).spent(bucket, micro_usd)

    def cut(self, cause: str) -> None:
        """A connection was closed without its client's wish; `cause` is one of our own words."""
        self._families.cut.labels(cause).inc()

    def entered(self) -> None:
        """A request has come in."""
        self._families.inflight.inc()

    def left(self) -> None:
        """A request has been replied to, or its client has gone."""
        self._families.inflight.dec()

    def batched(self, rows: int, seconds: float) -> None:
        """The student has run a batch."""
        self._families.batch_size.observe(rows)
        self._families.batch_seconds.observe(seconds)

    def installed(self, task: str, role: str, bundle: str | None) -> None:
        """A bundle has taken a role (student, canary, previous); the one before it has left.

        None: nobody has it now.
        """
        before = self._bundles.pop((task, role), None)
        if before is not None:
            self._families.bundles.remove(task, role, before)
        if bundle is not None:
            self._bundles[task, role] = bundle
            self._families.bundles.labels(task, role, bundle).set(1)

    def promoting(self, task: str, share: float) -> None:
        """What share of a task's keys its canary has now; 0: there is none."""
        self._families.canary.labels(task).set(share)

    def climbing(self, canaries: Mapping[str, Underway | None]) -> None:
        """How far the canary of each task has come; None: it has none."""
        families = self._families
        families.canary_since.clear()
        for task, found in canaries.items():
            families.canary_step.labels(task).set(found.step if found else 0)
            families.canary_rows.labels(task).set(found.rows if found else 0)
            families.canary_absent.labels(task).set(found is not None and found.absent)
            if found is not None:
                families.canary_since.labels(task).set(found.since)

    def changed(self, task: str, result: str) -> None:
        """Somebody wanted another student to serve; `result` is one of our own words."""
        self._families.swaps.labels(task, result).inc()

    def configured(self, generation: int) -> None:
        """The settings of this generation hold now; 1 is what the process started with."""
        self._families.generation.set(generation)

    def price(self, task: str, prices: Prices) -> None:
        """What is spent from now on is spent at these prices."""
        self._tasks[task].price(prices)

    def watch(self, teacher: str, state: Callable[[], int]) -> Watch:
        """What counts for the guard of a teacher; `state` is its breaker's, asked when needed."""
        if teacher not in self._teachers:
            self._teachers[teacher] = _TeacherSeries(self._families, teacher)
        return _Watch(self._teachers[teacher], state)

    def budgeted(self, budgets: Mapping[tuple[str, str], Balance]) -> None:
        """The limits and what is left of them, by task and window; there are no others."""
        left, limits = self._families.budget, self._families.budget_limit
        left.clear()
        limits.clear()
        for (task, window), balance in budgets.items():
            left.labels(task, window).set(balance.remaining * _USD)
            limits.labels(task, window).set(balance.limit * _USD)

    def certified(self, validities: Mapping[str, Validity]) -> None:
        """How the certificates of the tasks stand now; a task that is not named has none."""
        valid, expiry = self._families.certificate, self._families.certificate_expiry
        valid.clear()
        expiry.clear()
        for task, validity in validities.items():
            valid.labels(task).set(validity.valid)
            if validity.expires is not None:
                expiry.labels(task).set(validity.expires)

    def watched(self, tasks: Mapping[str, Watched]) -> None:
        """How the alarms and the traffic of the tasks stand now."""
        families = self._families
        for family in (
            families.alarm, families.alarm_statistic, families.drift, families.psi,
            families.psi_limit, families.labels, families.estimated, families.audited,
            families.score_off,
        ):  # fmt: skip
            family.clear()
        for task, seen in tasks.items():
            families.stale.labels(task).set(seen.stale)
            families.incident.labels(task).set(seen.incident)
            for each in seen.readings:
                families.alarm.labels(task, each.stream.value).set(_LOUD[each.level])
                share = each.statistic / each.bar
                families.alarm_statistic.labels(task, each.stream.value).set(share)
            for moved in seen.drift.movements:
                families.drift.labels(task, moved.signal.value).set(moved.distance)
            self._shown(task, seen.drift)

    def _shown(self, task: str, drift: Drift) -> None:
        """What is beside the signals: the mix of classes, and the accuracy of what is served."""
        families = self._families
        for head, mix in drift.mixes.items():
            if mix.shift.limit is not None:
                families.psi.labels(task, head).set(mix.shift.psi)
                families.psi_limit.labels(task, head).set(mix.shift.limit)
            for label, share in mix.shares.items():
                families.labels.labels(task, head, label).set(share)
        if (found := drift.accuracy) is None:
            return
        if found.estimated is not None:
            families.estimated.labels(task).set(found.estimated)
        if found.audited is not None:
            families.audited.labels(task).set(found.audited)
            families.score_off.labels(task).set(found.recalibrate)

    def shadowed(self, tasks: Mapping[str, Sequence[Candidate]]) -> None:
        """How the candidates of the tasks stand now, as far as this process has compared them."""
        self._candidates.tasks = tasks

    def follow_queue(self, task: str, depth: Callable[[], int]) -> None:
        """Show queue_depth from `depth`, which says how many texts wait when asked."""
        self._families.depth.labels(task).set_function(depth)

    def follow_records(
        self, counts: Callable[[], Mapping[str, int]], *, degraded: Callable[[], bool] | None = None
    ) -> None:
        """Show records_total from `counts`, which gives the records by result when asked.

        `degraded` says, when asked, whether the database does not take them now.
        """
        if degraded is not None:
            self._families.degraded.set_function(degraded)
        about = "Records stored, and dropped from a full queue"
        self._registry.register(_Followed("records", about, "result", counts))

    def follow_skips(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Show shadow_skipped_total from `counts`, which gives what was skipped by cause."""
        about = "Audits and looks of candidates that were drawn and did not take place"
        self._registry.register(_Followed("shadow_skipped", about, "cause", counts))

    def follow_served(self, parts: Callable[[], Iterable[Part]]) -> None:
        """Show the served error of `parts`, and how much is known of it."""
        self._registry.register(_FollowedParts(parts))

    def render(self) -> bytes:
        """The text of /metrics, of content type CONTENT_TYPE."""
        return generate_latest(self._registry)

    def _code(self, code: str) -> str:
        return code if code in self._codes else OTHER


class _Families:
    """The metrics by name, without their labels' values."""

    def __init__(self, registry: CollectorRegistry) -> None:  # noqa: PLR0915  one list, and flat
        def counter(name: str, about: str, labels: Sequence[str] = ()) -> Counter:
            made = Counter(f"understudy_{name}", about, labels)
            registry.register(made)
            return made

        def gauge(name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"understudy_{name}", about, labels, registry=registry)

        def histogram(
            name: str,
            about: str,
            labels: Sequence[str] = (),
            buckets: Sequence[float] = _SECONDS,
        ) -> Histogram:
            made = Histogram(f"understudy_{name}", about, labels, buckets)
            registry.register(made)
            return made

        pair = ["task", "head", "pair", "source"]
        self.requests = counter(
            "requests_total",
            "Instances answered, and requests refused (route none), by HTTP status",
            ["task", "route", "code"],
        )
        self.duration = histogram(
            "request_duration_seconds", "From the instance to its answer", ["task", "route"]
        )
        self.overhead = histogram(
            "overhead_seconds", "Duration without queue, student and teacher", ["task"]
        )
        self.stage = histogram(
            "stage_duration_seconds", "Time in the student and in the teacher", ["task", "stage"]
        )
        self.queue = histogram("queue_wait_seconds", "Wait for an idle student worker", ["task"])
        self.escalations = counter(
            "escalations_total", "Requests that went to the teacher", ["task", "reason"]
        )
        self.suppressed = counter(
            "escalations_suppressed_total",
            "Escalations the teacher could not answer, where the student's answer stood",
            ["task", "cause"],
        )
        self.comparisons = counter("comparisons_total", "Two models on one head", pair)
        self.disagreements = counter("disagreements_total", "Two models differed", pair)
        self.shadow = histogram(
            "shadow_duration_seconds", "A candidate's share of its batch", ["task"]
        )
        self.lapses = counter(
            "shadow_lapses_total", "Requests that a candidate said nothing of", ["task", "cause"]
        )
        self.verdict = gauge(
            "shadow_verdict", "-1 reject, 0 hold, 1 promote", ["task", "candidate"]
        )
        self.confidence = histogram(
            "confidence", "Calibrated confidence of the student", ["task", "head"], _CONFIDENCE
        )
        self.cost = counter("cost_usd_total", "Known cost, in USD", ["task", "bucket"])
        self.cost_unknown = counter(
            "cost_unknown_total",
            "Amounts that are not known: of students and of calls",
            ["task", "bucket"],
        )
        self.avoided = counter(
            "cost_avoided_usd_total", "What teacher calls that were not made would cost", ["task"]
        )
        self.attempts = counter(
            "teacher_attempts_total",
            "Calls that were begun, retries and hedges included, by how they ended",
            ["teacher", "outcome"],
        )
        self.retries = counter("teacher_retries_total", "Calls made again", ["teacher"])
        self.hedges = counter("teacher_hedges_total", "Second calls beside late ones", ["teacher"])
        self.coalesced = counter(
            "teacher_coalesced_total", "Requests that joined the call of another", ["teacher"]
        )
        self.cache_hits = counter(
            "teacher_cache_hits_total", "Answers that came from the cache", ["teacher"]
        )
        self.breaker = gauge(
            "breaker_state", "0 closed, 1 half-open, 2 open: no call is let through", ["teacher"]
        )
        self.budget = gauge(
            "budget_remaining_usd",
            "What calls of the teacher may still cost within the window",
            ["task", "window"],
        )
        self.budget_limit = gauge(
            "budget_limit_usd", "What they may cost in all within the window", ["task", "window"]
        )
        self.certificate = gauge(
            "certificate_valid",
            "1 while a certificate holds of what the student serves, 0 where it is void or stale",
            ["task"],
        )
        self.certificate_expiry = gauge(
            "certificate_expiry_timestamp_seconds",
            "When the policy's certificate ends, in seconds since the epoch",
            ["task"],
        )
        self.stale = gauge(
            "certificate_stale",
            "1 while traffic is no longer what it was under this certificate and student",
            ["task"],
        )
        self.alarm = gauge("alarm_level", "0 calm, 1 warns, 2 rings", ["task", "stream"])
        self.alarm_statistic = gauge(
            "alarm_statistic", "As a share of the bar: at 1 it rings", ["task", "stream"]
        )
        self.incident = gauge(
            "incident_open", "1 while nobody is promoted, for something went wrong", ["task"]
        )
        self.drift = gauge(
            "drift_statistic",
            "Mean of a signal, less what it was before it began to drift; 0 while steady",
            ["task", "signal"],
        )
        self.psi = gauge(
            "drift_psi",
            "Population stability index of what a head says, against when it began to serve",
            ["task", "head"],
        )
        self.psi_limit = gauge(
            "drift_psi_limit",
            "What that index passes by chance once in a hundred looks, with so many rows",
            ["task", "head"],
        )
        self.labels = gauge(
            "label_share",
            "Of the student's last answers: with that label",
            ["task", "head", "label"],
        )
        self.estimated = gauge(
            "estimated_accuracy", "Mean score of what the student serves: needs no label", ["task"]
        )
        self.audited = gauge(
            "audited_accuracy", "Share of its audited answers that the teacher would give", ["task"]
        )
        self.score_off = gauge(
            "score_off", "1 where scores and audits differ beyond chance: recalibrate", ["task"]
        )
        self.batch_size = histogram("batch_size", "Texts in a batch", buckets=_ROWS)
        self.batch_seconds = histogram("batch_duration_seconds", "Work on a batch")
        self.depth = gauge("queue_depth", "Texts that wait for the student", ["task"])
        self.inflight = gauge("inflight_requests", "Requests being worked on")
        self.cut = counter(
            "connections_cut_total", "Connections closed without their client's wish", ["cause"]
        )
        self.shed = counter("shed_total", "Requests refused for want of room", ["reason"])
        self.degraded = gauge("records_degraded", "1 while the database takes no records")
        self.bundles = gauge("bundle_info", "1 for each bundle in use", ["task", "role", "bundle"])
        self.canary = gauge("canary_share", "Of a task's keys that its canary answers", ["task"])
        self.canary_step = gauge("canary_step", "Which one it is on, from 1; 0: none", ["task"])
        self.canary_rows = gauge(
            "canary_rows", "Texts that it has answered in this step, over all replicas", ["task"]
        )
        self.canary_since = gauge(
            "canary_since_timestamp_seconds", "When this step began", ["task"]
        )
        self.canary_absent = gauge(
            "canary_absent", "1 where there is a canary that this process cannot load", ["task"]
        )
        self.swaps = counter("swaps_total", "Changes of a task's student", ["task", "result"])
        self.generation = gauge("config_generation", "1, and 1 more for each reload")
        self.build = gauge("build_info", "1, with the version of Understudy", ["version"])


class _Series:
    """The series of one task, resolved once: looking labels up costs more than counting."""

    def __init__(
        self, families: _Families, task: str, heads: Sequence[str], prices: Prices
    ) -> None:
        self.task = task
        self.price(prices)
        self._requests = {
            route: families.requests.labels(task, route.value, _ANSWERED) for route in Route
        }
        self._duration = {route: families.duration.labels(task, route.value) for route in Route}
        self._overhead = families.overhead.labels(task)
        self._queue = families.queue.labels(task)
        self._student = families.stage.labels(task, "student")
        self._teacher = families.stage.labels(task, "teacher")
        self._escalations = {
            reason: families.escalations.labels(task, reason.value)
            for reason in Reason
            if reason is not Reason.CONFIDENT
        }
        self._confidence = {head: families.confidence.labels(task, head) for head in heads}
        self._pairs = {
            source: {
                head: (
                    families.comparisons.labels(task, head, "student_teacher", source),
                    families.disagreements.labels(task, head, "student_teacher", source),
                )
                for head in heads
            }
            for source in ("escalated", "audit")
        }
        self._families = families
        self._heads = frozenset(heads)
        self._shadow = families.shadow.labels(task)
        self._lapses = {lapse: families.lapses.labels(task, lapse.value) for lapse in Lapse}
        self._cost = {
            bucket: (
                families.cost.labels(task, bucket),
                families.cost_unknown.labels(task, bucket),
            )
            for bucket in Bucket
        }
        self._avoided = families.avoided.labels(task)
        for result in _SWAPS:
            families.swaps.labels(task, result)

    def price(self, prices: Prices) -> None:
        rate = prices.student_usd(1.0)
        self._usd_per_busy_second = None if rate is None else float(rate)
        self._usual = prices.teacher_call

    def answered(self, answer: Answer) -> None:
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
            self._avoided.inc(cost.avoided * _USD)

    def audited(self, audit: Audit) -> None:
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
                self._families.comparisons.labels(*where).inc()
                self._families.disagreements.labels(*where).inc(differ)  # 0 too: a series is there

    def spent(self, bucket: Bucket, micro_usd: int | None) -> None:
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


class _TeacherSeries:
    """The series of all guards whose teachers have one name."""

    def __init__(self, families: _Families, teacher: str) -> None:
        self._families = families
        self._teacher = teacher
        self._states: tuple[Callable[[], int], ...] = ()
        self.attempts = {
            outcome: families.attempts.labels(teacher, outcome.value) for outcome in Outcome
        }
        self.events = {
            Event.RETRY: families.retries.labels(teacher),
            Event.HEDGE: families.hedges.labels(teacher),
            Event.COALESCED: families.coalesced.labels(teacher),
            Event.CACHE_HIT: families.cache_hits.labels(teacher),
        }

    def follow(self, state: Callable[[], int]) -> None:
        """Show the worst state of all."""
        self._states = (*self._states, state)
        self._families.breaker.labels(self._teacher).set_function(self._worst)

    def leave(self, state: Callable[[], int]) -> None:
        """Of a guard that is gone nothing is shown; it may say so twice."""
        before, self._states = self._states, tuple(s for s in self._states if s is not state)
        if before and not self._states:
            self._families.breaker.remove(self._teacher)

    def _worst(self) -> float:
        return max((state() for state in self._states), default=0)


class _Watch:
    """What one guard tells; see gateway.teachers.guard.Watch."""

    def __init__(self, series: _TeacherSeries, state: Callable[[], int]) -> None:
        self._series = series
        self._state = state
        series.follow(state)

    def attempted(self, outcome: Outcome) -> None:
        self._series.attempts[outcome].inc()

    def noted(self, event: Event) -> None:
        self._series.events[event].inc()

    def closed(self) -> None:
        self._series.leave(self._state)


class _Followed(Collector):
    """Counts that another room keeps, by one label; read when they are asked for."""

    def __init__(
        self, name: str, about: str, label: str, counts: Callable[[], Mapping[str, int]]
    ) -> None:
        self._name = name
        self._about = about
        self._label = label
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(f"understudy_{self._name}", self._about, labels=[self._label])
        for value, count in self._counts().items():
            family.add_metric([value], count)
        yield family


class _Candidates(Collector):
    """What other rooms count of each candidate; `tasks` are those that were seen last."""

    def __init__(self) -> None:
        self.tasks: Mapping[str, Sequence[Candidate]] = {}

    def collect(self) -> Iterator[Metric]:
        about = "Of a candidate: 0 stopped for good, 1 resting, 2 starting, 3 running"
        state = GaugeMetricFamily("understudy_shadow_state", about, labels=["task", "candidate"])
        about = "Requests that a candidate was compared on"
        compared = CounterMetricFamily(
            "understudy_shadow_compared", about, labels=["task", "candidate"]
        )
        about = "Requests drawn for a candidate and not shown to it"
        shed = CounterMetricFamily(
            "understudy_shadow_shed", about, labels=["task", "candidate", "cause"]
        )
        for task, candidates in self.tasks.items():
            for each in candidates:
                state.add_metric([task, each.name], _DOING[each.runner.state])
                compared.add_metric([task, each.name], each.slices.whole.compared)
                for cause, count in each.runner.shed.items():
                    shed.add_metric([task, each.name, cause.value], count)
        yield from (state, compared, shed)


class _FollowedParts(Collector):
    """The served error, measured in another room; read when it is asked for.

    A part has those of the labels `task`, `head`, `field` and `value` that say what it is of.
    """

    def __init__(self, parts: Callable[[], Iterable[Part]]) -> None:
        self._parts = parts

    def describe(self) -> Iterator[Metric]:
        """The families without their samples: what is measured is not asked at the start."""
        for name, about, _ in _SERVED:
            yield GaugeMetricFamily(name, about)

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets; a rate is absent until it is known."""
        parts = [(_labels_of(part), part.rate) for part in self._parts()]
        for name, about, read in _SERVED:
            family = GaugeMetricFamily(name, about)
            for labels, rate in parts:
                if (value := read(rate)) is not None:
                    family.add_sample(name, labels, value)
            yield family


_SERVED: tuple[tuple[str, str, Callable[[Rate], float | None]], ...] = (
    (
        "understudy_served_error_rate",
        "Estimated share of served answers that the teacher would not have given",
        lambda rate: rate.shown,
    ),
    (
        "understudy_served_error_rate_upper",
        "Upper bound of that share, at 95 % at all times together",
        lambda rate: rate.upper,
    ),
    (
        "understudy_served_disagreement_rate",
        "Estimated share of requests on which student and teacher differ, whoever answered",
        lambda rate: rate.disagreement,
    ),
    (
        "understudy_served_disagreement_rate_upper",
        "Upper bound of that share, at 95 % at all times together",
        lambda rate: rate.disagreement_upper,
    ),
    (
        "understudy_served_rows",
        "Served answers that the served error speaks of",
        lambda rate: rate.rows,
    ),
    (
        "understudy_served_audits",
        "Audits that the served error rests on",
        lambda rate: rate.audits,
    ),
    (
        "understudy_served_void_rows",
        "Served answers in no rate, for the audit that was to speak for them was skipped",
        lambda rate: rate.void,
    ),
)


def _labels_of(part: Part) -> dict[str, str]:
    names = {"task": part.task, "head": part.head, "field": part.field, "value": part.value}
    return {name: value for name, value in names.items() if value is not None}


def _usd(micro: int | None) -> float | None:
    return None if micro is None else micro * _USD


def _codes(error: type[UnderstudyError]) -> Iterator[str]:
    """The codes of an error and of all below it."""
    yield error.code
    for child in error.__subclasses__():
        yield from _codes(child)

"""What the rooms tell /metrics, in their own words; the only file of metrics that they know.

Their names are in `families`, what is counted of a task and of a teacher in `series`, what is only
read when a scrape asks in `collectors`; nothing but these and `tallies` knows prometheus_client.
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
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from gateway import __version__
from gateway.contract.manifest import Task
from gateway.errors import UnderstudyError
from gateway.routing.budget import Balance
from gateway.shadow.account import Part
from gateway.shadow.alarm import Level
from gateway.shadow.drift import Drift
from gateway.shadow.promotion import Decision
from gateway.shadow.shadow import Candidate
from gateway.shadow.streams import Reading
from gateway.teachers.guard import Watch
from gateway.telemetry.collectors import Candidates, Followed, FollowedParts
from gateway.telemetry.families import Families
from gateway.telemetry.pricing import Prices
from gateway.telemetry.series import USD, TaskSeries, TeacherSeries, TeacherWatch
from gateway.types import Answer, Audit, Bucket, Comparison, Route

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OTHER = "other"  # a task, a reason or a cause that is not configured

_CANDIDATE = "candidate"  # the role; a task may have several
_SHED = frozenset({429, 503})  # HTTP: the request was fine, the gateway had no room for it
_LOUD = {Level.CALM: 0, Level.WARN: 1, Level.ALARM: 2}
_JUDGED = {Decision.REJECT: -1, Decision.HOLD: 0, Decision.PROMOTE: 1}


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
        self._families = Families(self._registry)
        self._work = self._families.work
        self._tasks = {
            task.name: TaskSeries(
                self._families,
                task.name,
                [head.name for head in task.heads],
                known.get(task.name, Prices()),
            )
            for task in tasks
        }
        self._other = TaskSeries(self._families, OTHER, [], Prices())
        self._codes = frozenset(_codes(UnderstudyError))
        self._bundles: dict[tuple[str, str], str] = {}
        self._tried: dict[str, frozenset[str]] = {}
        self._teachers: dict[str, TeacherSeries] = {}
        self._families.process.build.labels(version).set(1)
        self._families.process.generation.set(1)
        self._candidates = Candidates()
        self._registry.register(self._candidates)
        ProcessCollector(registry=self._registry)

    def answered(self, answer: Answer) -> None:
        """Count an answer. On the tail of every request, so it only touches resolved series."""
        series = self._tasks.get(answer.task, self._other)
        series.answered(answer)
        if answer.route is Route.FALLBACK:
            cause = self._code(answer.failure)
            self._families.requests.suppressed.labels(series.task, cause).inc()

    def audited(self, audit: Audit) -> None:
        """Count an audit."""
        self._tasks.get(audit.answer.task, self._other).audited(audit)

    def compared(self, comparison: Comparison) -> None:
        """Count what a candidate said, by whom it is held against."""
        self._tasks.get(comparison.answer.task, self._other).compared(comparison)

    def tried(self, task: str, candidates: Sequence[str]) -> None:
        """These bundles are compared with live traffic now, and no others."""
        bundles, verdict = self._families.students.bundles, self._families.predictions.verdict
        for gone in self._tried.get(task, frozenset()) - set(candidates):
            bundles.remove(task, _CANDIDATE, gone)
            with suppress(KeyError):  # it was never judged
                verdict.remove(task, gone)
        for name in candidates:
            bundles.labels(task, _CANDIDATE, name).set(1)
        self._tried[task] = frozenset(candidates)

    def judged(self, task: str, verdicts: Mapping[str, Decision]) -> None:
        """What may be done with the candidates of a task now, by name."""
        for name, decision in verdicts.items():
            if name in self._tried.get(task, ()):
                self._families.predictions.verdict.labels(task, name).set(_JUDGED[decision])

    def refused(self, code: int, task: str, reason: str) -> None:
        """Count a request that got an error: its HTTP status, and the error's code as reason."""
        known = task if task in self._tasks else OTHER
        self._families.requests.total.labels(known, "none", str(code)).inc()
        if code in _SHED:
            self._work.shed.labels(self._code(reason)).inc()

    def spent(self, task: str, bucket: Bucket, micro_usd: int | None) -> None:
        """A call of the teacher has cost that much; None: the task's price, if that is known."""
        self._tasks.get(task, self._other).spent(bucket, micro_usd)

    def cut(self, cause: str) -> None:
        """A connection was closed without its client's wish; `cause` is one of our own words."""
        self._work.cut.labels(cause).inc()

    def entered(self) -> None:
        """A request has come in."""
        self._work.inflight.inc()

    def left(self) -> None:
        """A request has been replied to, or its client has gone."""
        self._work.inflight.dec()

    def batched(self, rows: int, seconds: float) -> None:
        """The student has run a batch."""
        self._work.batch_size.observe(rows)
        self._work.batch_seconds.observe(seconds)

    def installed(self, task: str, role: str, bundle: str | None) -> None:
        """A bundle has taken a role (student, canary, previous); the one before it has left.

        None: nobody has it now.
        """
        bundles = self._families.students.bundles
        before = self._bundles.pop((task, role), None)
        if before is not None:
            bundles.remove(task, role, before)
        if bundle is not None:
            self._bundles[task, role] = bundle
            bundles.labels(task, role, bundle).set(1)

    def promoting(self, task: str, share: float) -> None:
        """What share of a task's keys its canary has now; 0: there is none."""
        self._families.students.canary_share.labels(task).set(share)

    def climbing(self, canaries: Mapping[str, Underway | None]) -> None:
        """How far the canary of each task has come; None: it has none."""
        students = self._families.students
        students.canary_since.clear()
        for task, found in canaries.items():
            students.canary_step.labels(task).set(found.step if found else 0)
            students.canary_rows.labels(task).set(found.rows if found else 0)
            students.canary_absent.labels(task).set(found is not None and found.absent)
            if found is not None:
                students.canary_since.labels(task).set(found.since)

    def changed(self, task: str, result: str) -> None:
        """Somebody wanted another student to serve; `result` is one of our own words."""
        self._families.students.swaps.labels(task, result).inc()

    def configured(self, generation: int) -> None:
        """The settings of this generation hold now; 1 is what the process started with."""
        self._families.process.generation.set(generation)

    def price(self, task: str, prices: Prices) -> None:
        """What is spent from now on is spent at these prices."""
        self._tasks[task].price(prices)

    def watch(self, teacher: str, state: Callable[[], int]) -> Watch:
        """What counts for the guard of a teacher; `state` is its breaker's, asked when needed."""
        if teacher not in self._teachers:
            self._teachers[teacher] = TeacherSeries(self._families.teachers, teacher)
        return TeacherWatch(self._teachers[teacher], state)

    def budgeted(self, budgets: Mapping[tuple[str, str], Balance]) -> None:
        """The limits and what is left of them, by task and window; there are no others."""
        left, limits = self._families.budgets.left, self._families.budgets.limit
        left.clear()
        limits.clear()
        for (task, window), balance in budgets.items():
            left.labels(task, window).set(balance.remaining * USD)
            limits.labels(task, window).set(balance.limit * USD)

    def certified(self, validities: Mapping[str, Validity]) -> None:
        """How the certificates of the tasks stand now; a task that is not named has none."""
        certificates = self._families.certificates
        valid, expiry = certificates.valid, certificates.expiry
        valid.clear()
        expiry.clear()
        for task, validity in validities.items():
            valid.labels(task).set(validity.valid)
            if validity.expires is not None:
                expiry.labels(task).set(validity.expires)

    def watched(self, tasks: Mapping[str, Watched]) -> None:
        """How the alarms and the traffic of the tasks stand now."""
        alarms, drifts = self._families.alarms, self._families.drifts
        for family in (
            alarms.level, alarms.statistic, drifts.statistic, drifts.psi, drifts.psi_limit,
            drifts.labels, drifts.estimated, drifts.audited, drifts.score_off,
        ):  # fmt: skip
            family.clear()
        for task, seen in tasks.items():
            self._families.certificates.stale.labels(task).set(seen.stale)
            alarms.incident.labels(task).set(seen.incident)
            for each in seen.readings:
                alarms.level.labels(task, each.stream.value).set(_LOUD[each.level])
                share = each.statistic / each.bar
                alarms.statistic.labels(task, each.stream.value).set(share)
            for moved in seen.drift.movements:
                drifts.statistic.labels(task, moved.signal.value).set(moved.distance)
            self._shown(task, seen.drift)

    def _shown(self, task: str, drift: Drift) -> None:
        """What is beside the signals: the mix of classes, and the accuracy of what is served."""
        drifts = self._families.drifts
        for head, mix in drift.mixes.items():
            if mix.shift.limit is not None:
                drifts.psi.labels(task, head).set(mix.shift.psi)
                drifts.psi_limit.labels(task, head).set(mix.shift.limit)
            for label, share in mix.shares.items():
                drifts.labels.labels(task, head, label).set(share)
        if (found := drift.accuracy) is None:
            return
        if found.estimated is not None:
            drifts.estimated.labels(task).set(found.estimated)
        if found.audited is not None:
            drifts.audited.labels(task).set(found.audited)
            drifts.score_off.labels(task).set(found.recalibrate)

    def shadowed(self, tasks: Mapping[str, Sequence[Candidate]]) -> None:
        """How the candidates of the tasks stand now, as far as this process has compared them."""
        self._candidates.tasks = tasks

    def follow_queue(self, task: str, depth: Callable[[], int]) -> None:
        """Show queue_depth from `depth`, which says how many texts wait when asked."""
        self._work.depth.labels(task).set_function(depth)

    def follow_records(
        self, counts: Callable[[], Mapping[str, int]], *, degraded: Callable[[], bool] | None = None
    ) -> None:
        """Show records_total from `counts`, which gives the records by result when asked.

        `degraded` says, when asked, whether the database does not take them now.
        """
        if degraded is not None:
            self._work.degraded.set_function(degraded)
        about = "Records stored, and dropped from a full queue"
        self._registry.register(Followed("records", about, "result", counts))

    def follow_skips(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Show shadow_skipped_total from `counts`, which gives what was skipped by cause."""
        about = "Audits and looks of candidates that were drawn and did not take place"
        self._registry.register(Followed("shadow_skipped", about, "cause", counts))

    def follow_served(self, parts: Callable[[], Iterable[Part]]) -> None:
        """Show the served error of `parts`, and how much is known of it."""
        self._registry.register(FollowedParts(parts))

    def render(self) -> bytes:
        """The text of /metrics, of content type CONTENT_TYPE."""
        return generate_latest(self._registry)

    def _code(self, code: str) -> str:
        return code if code in self._codes else OTHER


def _codes(error: type[UnderstudyError]) -> Iterator[str]:
    """The codes of an error and of all below it."""
    yield error.code
    for child in error.__subclasses__():
        yield from _codes(child)

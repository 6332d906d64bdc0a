"""The metrics by name, ordered by what they are about; their labels have no values yet.

Each group is one noun, and each of its attributes one family of /metrics: its name without the
prefix, its help, its labels. They are shown in the order in which they stand here. Nothing is
counted here (see `series`), and what other rooms count themselves is in `collectors`.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge

from gateway.telemetry.tallies import Counter, Histogram

# Seconds, from a quarter of a millisecond (a warm student) to 30 s (a slow teacher), each about
# twice the one before: alerts need the order of magnitude, /v1/stats has the exact quantiles.
_SECONDS = (
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06,
    0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0,
)  # fmt: skip
# Thresholds lie near 1, so that is where the resolution has to be.
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Families:
    """All of them, made in a registry. A name that it has already is refused with ValueError."""

    def __init__(self, registry: CollectorRegistry) -> None:
        make = _Maker(registry)
        self.requests = Requests(make)
        self.predictions = Predictions(make)
        self.costs = Costs(make)
        self.teachers = Teachers(make)
        self.budgets = Budgets(make)
        self.certificates = Certificates(make)
        self.alarms = Alarms(make)
        self.drifts = Drifts(make)
        self.work = Work(make)
        self.students = Students(make)
        self.process = Process(make)


class _Maker:
    """Makes a family, and has the registry show it after those before it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter:
        made = Counter(f"understudy_{name}", about, labels)
        self._registry.register(made)
        return made

    def gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(f"understudy_{name}", about, labels, registry=self._registry)

    def histogram(
        self,
        name: str,
        about: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = _SECONDS,
    ) -> Histogram:
        made = Histogram(f"understudy_{name}", about, labels, buckets)
        self._registry.register(made)
        return made


class Requests:
    """What was asked, where the time went, and why the teacher was asked."""

    def __init__(self, make: _Maker) -> None:
        self.total = make.counter(
            "requests_total",
            "Instances answered, and requests refused (route none), by HTTP status",
            ["task", "route", "code"],
        )
        self.duration = make.histogram(
            "request_duration_seconds", "From the instance to its answer", ["task", "route"]
        )
        self.overhead = make.histogram(
            "overhead_seconds", "Duration without queue, student and teacher", ["task"]
        )
        self.stage = make.histogram(
            "stage_duration_seconds", "Time in the student and in the teacher", ["task", "stage"]
        )
        self.queue = make.histogram(
            "queue_wait_seconds", "Wait for an idle student worker", ["task"]
        )
        self.escalations = make.counter(
            "escalations_total", "Requests that went to the teacher", ["task", "reason"]
        )
        self.suppressed = make.counter(
            "escalations_suppressed_total",
            "Escalations the teacher could not answer, where the student's answer stood",
            ["task", "cause"],
        )


class Predictions:
    """What models said, held against each other; how candidates fare; how sure the student was."""

    def __init__(self, make: _Maker) -> None:
        pair = ["task", "head", "pair", "source"]
        self.comparisons = make.counter("comparisons_total", "Two models on one head", pair)
        self.disagreements = make.counter("disagreements_total", "Two models differed", pair)
        self.shadow = make.histogram(
            "shadow_duration_seconds", "A candidate's share of its batch", ["task"]
        )
        self.lapses = make.counter(
            "shadow_lapses_total", "Requests that a candidate said nothing of", ["task", "cause"]
        )
        self.verdict = make.gauge(
            "shadow_verdict", "-1 reject, 0 hold, 1 promote", ["task", "candidate"]
        )
        self.confidence = make.histogram(
            "confidence", "Calibrated confidence of the student", ["task", "head"], _CONFIDENCE
        )


class Costs:
    """What was paid, and what was saved."""

    def __init__(self, make: _Maker) -> None:
        self.known = make.counter("cost_usd_total", "Known cost, in USD", ["task", "bucket"])
        self.unknown = make.counter(
            "cost_unknown_total",
            "Amounts that are not known: of students and of calls",
            ["task", "bucket"],
        )
        self.avoided = make.counter(
            "cost_avoided_usd_total", "What teacher calls that were not made would cost", ["task"]
        )


class Teachers:
    """The calls of each teacher, and what its guard does about them."""

    def __init__(self, make: _Maker) -> None:
        self.attempts = make.counter(
            "teacher_attempts_total",
            "Calls that were begun, retries and hedges included, by how they ended",
            ["teacher", "outcome"],
        )
        self.retries = make.counter("teacher_retries_total", "Calls made again", ["teacher"])
        self.hedges = make.counter(
            "teacher_hedges_total", "Second calls beside late ones", ["teacher"]
        )
        self.coalesced = make.counter(
            "teacher_coalesced_total", "Requests that joined the call of another", ["teacher"]
        )
        self.cache_hits = make.counter(
            "teacher_cache_hits_total", "Answers that came from the cache", ["teacher"]
        )
        self.breaker = make.gauge(
            "breaker_state", "0 closed, 1 half-open, 2 open: no call is let through", ["teacher"]
        )


class Budgets:
    """What teachers may cost."""

    def __init__(self, make: _Maker) -> None:
        self.left = make.gauge(
            "budget_remaining_usd",
            "What calls of the teacher may still cost within the window",
            ["task", "window"],
        )
        self.limit = make.gauge(
            "budget_limit_usd", "What they may cost in all within the window", ["task", "window"]
        )


class Certificates:
    """What is certified of the policy that serves."""

    def __init__(self, make: _Maker) -> None:
        self.valid = make.gauge(
            "certificate_valid",
            "1 while a certificate holds of what the student serves, 0 where it is void or stale",
            ["task"],
        )
        self.expiry = make.gauge(
            "certificate_expiry_timestamp_seconds",
            "When the policy's certificate ends, in seconds since the epoch",
            ["task"],
        )
        self.stale = make.gauge(
            "certificate_stale",
            "1 while traffic is no longer what it was under this certificate and student",
            ["task"],
        )


class Alarms:
    """Whether what is served has become worse."""

    def __init__(self, make: _Maker) -> None:
        self.level = make.gauge("alarm_level", "0 calm, 1 warns, 2 rings", ["task", "stream"])
        self.statistic = make.gauge(
            "alarm_statistic", "As a share of the bar: at 1 it rings", ["task", "stream"]
        )
        self.incident = make.gauge(
            "incident_open", "1 while nobody is promoted, for something went wrong", ["task"]
        )


class Drifts:
    """Whether the traffic is still what it was, and the scores still mean what they say."""

    def __init__(self, make: _Maker) -> None:
        self.statistic = make.gauge(
            "drift_statistic",
            "Mean of a signal, less what it was before it began to drift; 0 while steady",
            ["task", "signal"],
        )
        self.psi = make.gauge(
            "drift_psi",
            "Population stability index of what a head says, against when it began to serve",
            ["task", "head"],
        )
        self.psi_limit = make.gauge(
            "drift_psi_limit",
            "What that index passes by chance once in a hundred looks, with so many rows",
            ["task", "head"],
        )
        self.labels = make.gauge(
            "label_share",
            "Of the student's last answers: with that label",
            ["task", "head", "label"],
        )
        self.estimated = make.gauge(
            "estimated_accuracy", "Mean score of what the student serves: needs no label", ["task"]
        )
        self.audited = make.gauge(
            "audited_accuracy", "Share of its audited answers that the teacher would give", ["task"]
        )
        self.score_off = make.gauge(
            "score_off", "1 where scores and audits differ beyond chance: recalibrate", ["task"]
        )


class Work:
    """What is being worked on, and what there was no room for."""

    def __init__(self, make: _Maker) -> None:
        self.batch_size = make.histogram("batch_size", "Texts in a batch", buckets=_ROWS)
        self.batch_seconds = make.histogram("batch_duration_seconds", "Work on a batch")
        self.depth = make.gauge("queue_depth", "Texts that wait for the student", ["task"])
        self.inflight = make.gauge("inflight_requests", "Requests being worked on")
        self.cut = make.counter(
            "connections_cut_total", "Connections closed without their client's wish", ["cause"]
        )
        self.shed = make.counter("shed_total", "Requests refused for want of room", ["reason"])
        self.degraded = make.gauge("records_degraded", "1 while the database takes no records")


class Students:
    """Who serves, and how far who is to serve has come."""

    def __init__(self, make: _Maker) -> None:
        self.bundles = make.gauge(
            "bundle_info", "1 for each bundle in use", ["task", "role", "bundle"]
        )
        self.canary_share = make.gauge(
            "canary_share", "Of a task's keys that its canary answers", ["task"]
        )
        self.canary_step = make.gauge(
            "canary_step", "Which one it is on, from 1; 0: none", ["task"]
        )
        self.canary_rows = make.gauge(
            "canary_rows", "Texts that it has answered in this step, over all replicas", ["task"]
        )
        self.canary_since = make.gauge(
            "canary_since_timestamp_seconds", "When this step began", ["task"]
        )
        self.canary_absent = make.gauge(
            "canary_absent", "1 where there is a canary that this process cannot load", ["task"]
        )
        self.swaps = make.counter("swaps_total", "Changes of a task's student", ["task", "result"])


class Process:
    """What runs here, under which settings."""

    def __init__(self, make: _Maker) -> None:
        self.generation = make.gauge("config_generation", "1, and 1 more for each reload")
        self.build = make.gauge("build_info", "1, with the version of Understudy", ["version"])

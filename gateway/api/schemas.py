"""The shapes that go over the wire, for /openapi.json and for the replies that are not in a hurry.

The hot route does not run these models: predict.py reads and writes the same shapes by hand, and a
test holds its replies against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from gateway.api.problems import CONTENT_TYPE
from gateway.contract.certificate import PolicyCertificate
from gateway.contract.manifest import Certificate, Head
from gateway.shadow.account import Served
from gateway.shadow.drift import Movement
from gateway.shadow.mix import Makeup
from gateway.shadow.promotion import Decision
from gateway.shadow.rate import CONFIDENCE, Rate
from gateway.shadow.shadow import Candidate
from gateway.shadow.streams import Reading
from gateway.shadow.trust import Accuracy
from gateway.types import FieldValue, Reason, Route, Wish


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(_Part):
    """One text, with the fields that risk rules may read."""

    text: str
    fields: dict[str, FieldValue] = Field(default={}, max_length=32)
    id: str | None = Field(default=None, max_length=128, description="comes back as input_id")


class PredictRequest(_Part):
    """Exactly one of `input` and `inputs`; `fields` belong to `input`."""

    task: str | None = Field(default=None, description="may be left out where there is only one")
    input: str | None = None
    inputs: list[str | Input] | None = None
    fields: dict[str, FieldValue] | None = Field(default=None, max_length=32)
    route: Wish = Wish.AUTO
    priority: Literal["high", "normal"] = "normal"
    deadline_ms: float | None = Field(
        default=None, gt=0, le=3_600_000, description="an answer that comes later is of no use"
    )
    probabilities: bool = Field(default=False, description="of every label, in the reply")


class CostReply(_Part):
    """Money in USD, rounded to a micro-USD; null is unknown."""

    student: float | None = Field(
        description="one answer's share: 0 is below half a micro-USD. /v1/stats has the exact sum"
    )
    teacher: float | None
    avoided: float | None = Field(description="what the teacher would have cost")
    total: float | None


class TimingReply(_Part):
    """Milliseconds."""

    queue: float
    student: float
    teacher: float
    total: float


class Result(_Part):
    """The answer to one text. Labels and what belongs to them are null on `abstain`."""

    id: str = Field(description="the record's id")
    input_id: str | None = Field(default=None, description="the id that the client gave")
    labels: dict[str, str | list[str]] | None
    confidence: dict[str, float] | None
    score: float | None = Field(description="probability that all heads are right")
    familiarity: float | None = Field(
        description="p-value of the text being of a kind that the student knows; null: not known"
    )
    probabilities: dict[str, dict[str, float]] | None = None
    route: Route
    reason: Reason
    reasons: list[Reason]
    detail: str | None = Field(default=None, description="the risk rule that held")
    bundle: str | None = Field(description="id of the bundle that answered, or the teacher's name")
    truncated: bool
    cost_usd: CostReply
    timing_ms: TimingReply
    failure: str | None = Field(default=None, description="code of the teacher's error")


class Results(_Part):
    """The answers to `inputs`, in their order."""

    results: list[Result]


class ProblemReply(_Part):
    """RFC 9457: what went wrong, and how to mend it."""

    type: str = Field(description="urn:understudy: and the code")
    title: str
    status: int
    detail: str
    code: str = Field(description="stable, for programs")
    mend: str
    instance: str = Field(description="id of the request")


class State(_Part):
    """Whether the gateway lives, or may be sent requests."""

    status: str


class TaskLimits(_Part):
    """What one request may hold, and how much of a text the student reads."""

    max_inputs: int
    max_body_bytes: int
    max_characters: int = Field(description="longer texts are refused")
    read_characters: int | None = Field(
        description="longer texts are cut, and escalated as truncated; null: there is no student"
    )
    read_tokens: int | None = Field(description="the same in tokens")


class TaskReply(_Part):
    """A task that is served here."""

    name: str
    heads: tuple[Head, ...]
    bundle: str = Field(description="of the student; `no_student`: there is none")
    limits: TaskLimits


class TasksReply(_Part):
    """All tasks that are served here."""

    tasks: list[TaskReply]


class CertificateReply(_Part):
    """What is guaranteed of the serving threshold, in numbers and in words."""

    alpha: float
    delta: float
    labels: str
    rows: int
    undetected_errors: int
    upper_bound: float
    issued_at: str
    expires_at: str | None = Field(description="null: while its bundle serves")
    words: str

    @classmethod
    def of(cls, certificate: Certificate | PolicyCertificate) -> Self:
        """A certificate as it is shown: a bundle's own, or that of a whole policy."""
        numbers = certificate.model_dump(mode="json", include=set(cls.model_fields))
        ends = None
        if isinstance(certificate, PolicyCertificate):
            ends = certificate.expires_at.isoformat()
        return cls(**numbers, expires_at=ends, words=in_words(certificate))


class ServingReply(_Part):
    """What answers a task now."""

    student: str = Field(description="name of its bundle; `no_student`: there is none")
    teacher: str
    operating_point: str
    threshold: float | None = Field(description="null: everything is escalated")
    certificate: CertificateReply | None = Field(description="null: nothing is guaranteed")
    certificate_void: str | None = Field(
        description="why the policy's own certificate does not hold, and everything is escalated"
    )
    certificate_stale: bool = Field(
        description="it promises nothing, for traffic has moved; see drift.certificate"
    )
    audit_share: float


class Speed(_Part):
    """Durations and rate within a window; null: no requests yet."""

    requests: int
    per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Share(_Part):
    """A number of requests and their share of all."""

    requests: int
    share: float | None


class Escalation(Share):
    """Requests that went to the teacher, and why."""

    by_reason: dict[str, Share]


class Comparisons(_Part):
    """How often student and teacher were compared, and differed."""

    comparisons: int
    disagreements: int
    share: float | None


class Amount(_Part):
    """Micro-USD: the sum of the known amounts, and how many are not known."""

    known: int
    unknown: int


class Costs(_Part):
    """Micro-USD since the start; null: a price is not known."""

    student: int | None
    teacher: Amount
    audits: Amount
    avoided: Amount
    shadow: int | None = Field(description="candidates, and a teacher that was asked again")
    total: int | None


class RateReply(_Part):
    """A share of wrong answers; null: no audit yet. The bounds hold whenever they are read."""

    rows: int
    audits: int
    void: int = Field(description="answers whose audit, or that of those near them, was skipped")
    estimate: float | None
    lower: float | None
    upper: float | None
    disagreement: float | None = Field(
        description="share in which the student said something else, whoever answered"
    )
    disagreement_upper: float | None


class ServedErrorReply(_Part):
    """How often the answer that was served is not what the teacher says, from audits."""

    confidence: float = Field(description="with which each bound holds, at all times together")
    whole: RateReply = Field(description="any head is wrong")
    heads: dict[str, RateReply]
    labels: dict[str, dict[str, RateReply]] = Field(
        description="by head, then by the label that was served: that head is wrong"
    )
    slices: dict[str, dict[str, RateReply]] = Field(
        description="by field of `audit.slices`, then by its value: any head is wrong"
    )
    void: int = Field(description="answers whose audit, or that of those near them, was skipped")
    unmeasured: int = Field(description="served answers that could not be audited")
    since: float | None = Field(
        description="when the first of the answers came, in seconds since the epoch"
    )

    @classmethod
    def of(cls, served: Served) -> Self:
        """What was measured, as it is shown."""
        return cls(
            confidence=CONFIDENCE,
            whole=_rate(served.whole),
            heads=_rates(served.heads),
            labels={head: _rates(each) for head, each in served.labels.items()},
            slices={field: _rates(each) for field, each in served.fields.items()},
            void=served.void,
            unmeasured=served.unmeasured,
            since=served.since,
        )


class BalanceReply(_Part):
    """A limit on money and what has become of it in the present window, in micro-USD."""

    limit: int
    spent: int
    reserved: int = Field(description="for calls that run")
    remaining: int


class BudgetReply(_Part):
    """What a task's teacher may cost, over all replicas."""

    windows: dict[str, BalanceReply] = Field(description="by window: day and hour, in UTC")
    requests_per_second: float | None


class AlarmReply(_Part):
    """One stream of the student that serves, and its alarm."""

    level: str = Field(description="calm, warn or alarm")
    limit: float = Field(description="of the share")
    share: float | None = Field(description="that was seen; null: no row yet")
    rows: int
    statistic: float = Field(description="it warns at the square root of the bar")
    bar: float = Field(description="where it rings")

    @classmethod
    def of(cls, reading: Reading) -> Self:
        """A reading, as it is shown."""
        return cls(
            level=reading.level,
            limit=reading.limit,
            share=reading.mean,
            rows=reading.rows,
            statistic=reading.statistic,
            bar=reading.bar,
        )


class MovementReply(_Part):
    """One signal of the traffic."""

    state: str = Field(description="steady or drifting")
    mean: float | None = Field(description="since it last changed; null: no row yet")
    before: float | None = Field(description="before it began to drift; null: it is steady")
    rows: int = Field(description="that the mean rests on")
    since: float | None = Field(description="seconds since the epoch")

    @classmethod
    def of(cls, movement: Movement) -> Self:
        """A movement, as it is shown."""
        return cls(
            state=movement.state,
            mean=movement.mean,
            before=movement.before,
            rows=movement.rows,
            since=movement.since,
        )


class MixReply(_Part):
    """What the student says for one head of late, against when it began to serve."""

    shares: dict[str, float] = Field(description="of the last answers, by label")
    rows: int = Field(description="that are compared; 0: there is nothing to compare yet")
    psi: float = Field(description="population stability index")
    limit: float | None = Field(
        description="that the index passes by chance once in a hundred looks; null: no rows yet"
    )
    moved: str | None = Field(description="what contributes most to it")
    state: str = Field(description="steady, or drifting where the index is above its limit")

    @classmethod
    def of(cls, makeup: Makeup) -> Self:
        """A mix, as it is shown."""
        found = makeup.shift
        return cls(
            shares=dict(makeup.shares),
            rows=found.rows,
            psi=found.psi,
            limit=found.limit,
            moved=found.moved,
            state=found.state,
        )


class AccuracyReply(_Part):
    """What the student's scores promise of what it serves, and what audits find."""

    estimated: float | None = Field(description="mean score; null: nothing was served yet")
    audited: float | None = Field(description="share that is right; null: no audit has come")
    audits: int
    lower: float = Field(description="of score less rightness, at 95 % at all times")
    upper: float
    recalibrate: bool = Field(description="the two differ by more than chance and one point")

    @classmethod
    def of(cls, accuracy: Accuracy) -> Self:
        """An accuracy, as it is shown."""
        return cls(
            estimated=accuracy.estimated,
            audited=accuracy.audited,
            audits=accuracy.audits,
            lower=accuracy.lower,
            upper=accuracy.upper,
            recalibrate=accuracy.recalibrate,
        )


class IncidentReply(_Part):
    """Something went wrong, and nobody is promoted until somebody has looked."""

    at: float = Field(description="seconds since the epoch")
    why: str
    student: str | None = Field(description="the one that was sent back, if one was")


class WatchReply(_Part):
    """The alarms of the student that serves, and what traffic does."""

    alarms: dict[str, AlarmReply] = Field(description="by stream")
    drift: dict[str, MovementReply] = Field(description="by signal")
    mix: dict[str, MixReply] = Field(description="by head: what the student says")
    accuracy: AccuracyReply | None = Field(description="null: there is no student")
    certificate_stale: bool = Field(
        description="traffic is no longer what it was under this certificate and student"
    )
    audits_doubled: bool = Field(description="an alarm warns, or traffic drifts")
    incident: IncidentReply | None


class CandidateStats(_Part):
    """A candidate beside what serves; see `GET /admin/v1/shadow` for all of it."""

    state: str = Field(description="starting, running, resting or stopped")
    decision: str | None = Field(description="promote, hold or reject; null: not judged yet")
    compared: int = Field(description="by this process")
    other_than_serving: int
    with_teacher: int
    other_than_teacher: int
    skipped: dict[str, int] = Field(description="requests drawn and not shown to it, by cause")
    lapses: dict[str, int] = Field(description="requests that it said nothing of, by cause")

    @classmethod
    def of(cls, candidate: Candidate, decision: Decision | None) -> Self:
        """A candidate, as it is shown."""
        counts, runner = candidate.slices.whole, candidate.runner
        return cls(
            state=runner.state,
            decision=decision,
            compared=counts.compared,
            other_than_serving=counts.other_than_serving,
            with_teacher=counts.with_teacher,
            other_than_teacher=counts.other_than_teacher,
            skipped={cause.value: count for cause, count in runner.shed.items()},
            lapses={lapse.value: count for lapse, count in runner.lapses.items()},
        )


class CanaryStats(_Part):
    """A student that answers a share of the requests, on its way to serving."""

    bundle: str
    step: int = Field(description="from 1")
    steps: int
    share: float = Field(description="of all keys")
    rows: int = Field(description="texts that it has answered in this step, over all replicas")
    remaining_rows: int = Field(description="before the next step")
    remaining_s: float
    since: float = Field(description="when this step began, in seconds since the epoch")
    began: float = Field(description="when the first one did")
    by: str = Field(description="who asked for it")
    absent: str = Field(description="why it does not answer in this replica; empty: it does")


class TaskStats(_Part):
    """The figures of one task."""

    serving: ServingReply | None
    requests: int
    routes: dict[str, int]
    latency: dict[str, dict[str, Speed]] = Field(description="by route, then by window")
    escalation: Escalation
    disagreement: dict[str, dict[str, Comparisons]] = Field(
        description="by head, then by source: escalated requests are the hard ones, and only "
        "audited ones say how often a served answer was wrong"
    )
    audits_skipped: dict[str, int] = Field(
        description="by cause: audits that were drawn and did not take place; the propensity of "
        "that many answers is void"
    )
    served_error: ServedErrorReply | None = Field(
        description="null: no task of this gateway, see `other`"
    )
    watch: WatchReply | None = Field(description="null: no task of this gateway, see `other`")
    candidates: dict[str, CandidateStats] = Field(description="by the name of their bundle")
    canary: CanaryStats | None = Field(description="null: there is none")
    cost: Costs = Field(description="micro-USD")
    budget: BudgetReply | None = Field(description="of its teacher; null: nothing is limited")


class RecordCounts(_Part):
    """What became of the records since the start."""

    stored: int
    dropped: int
    waiting: int
    degraded: bool = Field(description="the database does not take records now")


class StatsReply(_Part):
    """Speed, routes, escalation, disagreement and cost."""

    uptime_s: float
    draining: bool
    records: RecordCounts
    tasks: dict[str, TaskStats]


def _rate(rate: Rate) -> RateReply:
    return RateReply(
        rows=rate.rows,
        audits=rate.audits,
        void=rate.void,
        estimate=rate.shown,
        lower=rate.lower,
        upper=rate.upper,
        disagreement=rate.disagreement,
        disagreement_upper=rate.disagreement_upper,
    )


def _rates(rates: Mapping[str, Rate]) -> dict[str, RateReply]:
    return {name: _rate(each) for name, each in rates.items()}


def in_words(certificate: Certificate | PolicyCertificate) -> str:
    """A certificate as one sentence, or one for each claim of a policy's."""
    truth = "the gold labels" if certificate.labels == "gold" else "the teacher"
    said = (
        f"at most {percent(certificate.alpha)} of requests are answered by the student and wrong, "
        f"counted against {truth} ({certificate.undetected_errors} in {certificate.rows} rows)"
    )
    sure = f"with {percent(1.0 - certificate.delta)} confidence"
    if not isinstance(certificate, PolicyCertificate):
        return f"{sure}, {said}"
    if (critical := certificate.critical) is not None:
        said += (
            f"; at most {percent(critical.alpha)} of critical requests are answered by the student "
            f"and missed ({critical.missed} in {critical.rows})"
        )
    if (severity := certificate.severity) is not None:
        said += (
            f"; its answers cost at most {severity.alpha:.10g} units of loss a request on average "
            f"({severity.mean:.4g} measured)"
        )
    several = critical is not None or severity is not None
    return f"each {sure}: {said}" if several else f"{sure}, {said}"


def percent(share: float) -> str:
    """A share in percent, with all its digits: a rounded one might promise more."""
    return f"{100.0 * share:.10g}%"


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem documents that a route may reply with, as OpenAPI wants them."""
    schema = ProblemReply.model_json_schema()
    content: Mapping[str, Any] = {CONTENT_TYPE: {"schema": schema}}
    return {status: {"description": "a problem", "content": content} for status in statuses}

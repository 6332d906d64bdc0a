"""The shapes that go over the wire, for /openapi.json and for the replies that are not in a hurry.

The hot route does not run these models: predict.py reads and writes the same shapes by hand, and a
test holds its replies against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from gateway.api.problems import CONTENT_TYPE
from gateway.contract.manifest import Certificate, Head
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
    read_characters: int = Field(description="longer texts are cut, and escalated as truncated")
    read_tokens: int = Field(description="longer texts are cut, and escalated as truncated")


class TaskReply(_Part):
    """A task that is served here."""

    name: str
    heads: tuple[Head, ...]
    bundle: str
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
    words: str

    @classmethod
    def of(cls, certificate: Certificate) -> Self:
        """A certificate as it is shown."""
        numbers = certificate.model_dump(exclude={"score"})
        return cls(**numbers, words=in_words(certificate))


class ServingReply(_Part):
    """What answers a task now."""

    student: str
    teacher: str
    operating_point: str
    threshold: float | None = Field(description="null: everything is escalated")
    certificate: CertificateReply | None = Field(description="null: nothing is guaranteed")
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
    total: int | None


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
    cost: Costs = Field(description="micro-USD")


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


def in_words(certificate: Certificate) -> str:
    """A certificate as one sentence."""
    truth = "the gold labels" if certificate.labels == "gold" else "the teacher"
    return (
        f"with {1 - certificate.delta:.0%} confidence, at most {certificate.alpha:.1%} of requests "
        f"are answered by the student and wrong, counted against {truth} "
        f"({certificate.undetected_errors} in {certificate.rows} rows)"
    )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem documents that a route may reply with, as OpenAPI wants them."""
    schema = ProblemReply.model_json_schema()
    content: Mapping[str, Any] = {CONTENT_TYPE: {"schema": schema}}
    return {status: {"description": "a problem", "content": content} for status in statuses}

"""The values that cross rooms. All are frozen; none knows HTTP, SQL or onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.contract.manifest import Head

FieldValue = str | int | float | bool | None


class Route(StrEnum):
    """Who answered."""

    STUDENT = "student"
    TEACHER = "teacher"
    FALLBACK = "fallback"  # the teacher could not answer, and the student's answer stands
    ABSTAIN = "abstain"  # nobody answered


class Reason(StrEnum):
    """Why a request went to the teacher, or why not (`confident`)."""

    CONFIDENT = "confident"
    LOW_CONFIDENCE = "low_confidence"
    HIGH_RISK = "high_risk"
    TRUNCATED = "truncated"
    STUDENT_FAILED = "student_failed"
    NO_STUDENT = "no_student"  # the task has none yet, or none any more
    REQUESTED = "requested"
    SEVERITY = "severity"  # a mistake would be too dear
    OUT_OF_DOMAIN = "out_of_domain"  # unlike what the student was taught
    NO_CERTIFICATE = "no_certificate"


class Coin(StrEnum):
    """Which coin chose a confident answer for an audit."""

    UNIFORM = "uniform"  # the same for all answers: what is guaranteed rests on it alone
    TARGETED = "targeted"  # falls more often where the student is less sure


class Bucket(StrEnum):
    """What a call of the teacher is made for; what it costs is counted under that."""

    LIVE = "live"  # an escalation
    AUDIT = "audit"  # a look at a confident answer, after the reply
    RETRY = "retry"  # an escalation again, for the call before it failed
    HEDGE = "hedge"  # an escalation a second time, for the call beside it is late
    SHADOW = "shadow"  # a candidate's work, and a teacher asked again: does it repeat itself?


class Wish(StrEnum):
    """Which route the caller asked for; `auto` leaves it to the policy."""

    AUTO = "auto"
    STUDENT = "student"
    TEACHER = "teacher"


class Priority(IntEnum):
    """Who is served first where requests have to wait; the last are shed first."""

    HIGH = 0
    NORMAL = 1
    AUDIT = 2
    SHADOW = 3


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a request is to be answered.

    `deadline`, as time.perf_counter gives it in seconds: an answer that comes later is of no use
    to the caller, so that no step is begun which cannot end before it. None: no deadline.
    """

    wish: Wish = Wish.AUTO
    priority: Priority = Priority.NORMAL
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """One input: text plus optional fields, which risk rules may read."""

    text: str
    fields: Mapping[str, FieldValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeadPrediction:
    """What a model said for one head: one label for a choice, any number for flags.

    `confidence` is the probability that they are right: the head's correctness score, where the
    bundle has one, else its calibrated confidence.
    `probabilities` are calibrated, in the order of the head's labels.
    """

    head: str
    labels: tuple[str, ...]
    confidence: float
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model said about one instance.

    `score` is the calibrated probability that all heads are right. `asked` are the heads with all
    their labels, in the order of `heads`: with them a prediction can be shown without its bundle.
    `familiarity` is the conformal p-value of the text being like those that the model knows; None:
    the bundle cannot tell.
    """

    heads: tuple[HeadPrediction, ...]
    score: float
    truncated: bool
    bundle: str  # id of the bundle that said it
    asked: tuple[Head, ...] = ()
    familiarity: float | None = None

    def agrees(self, other: Prediction) -> bool:
        """Whether both say the same labels for every head."""
        return all(a.labels == b.labels for a, b in zip(self.heads, other.heads, strict=True))


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to escalate. `reason` is the first that held, `reasons` all of them."""

    escalate: bool
    reason: Reason
    reasons: tuple[Reason, ...]
    detail: str = ""  # of the first reason that has one: a risk rule's name, a head, what is void
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Money in integer micro-USD; None is unknown, which is never 0.

    One answer's share of the student is mostly below half a micro-USD, and 0 then says just that.
    What the student costs in sum comes from `Stages.busy`, never from these.
    """

    student: int | None
    teacher: int | None
    avoided: int | None  # what the teacher would have cost, where it was not asked

    @property
    def total(self) -> int | None:
        """What the answer cost, if every part is known."""
        if self.student is None or self.teacher is None:
            return None
        return self.student + self.teacher


@dataclass(frozen=True, slots=True)
class Stages:
    """Where the time of one answer went, in seconds.

    `student` is the time of the batch that the text was in, `busy` the text's share of it: the one
    explains a latency, the other adds up to what the student costs.
    """

    queue: float = 0.0
    student: float = 0.0
    busy: float = 0.0
    teacher: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Draw:
    """How the coins of an audit fell. `coin` of None: no audit; both of them: the uniform one.

    `propensity` is the probability that either falls, `uniform` that of the uniform one. `open`: an
    audit could be made, as far as was known before the coins were tossed.
    """

    propensity: float = 0.0
    uniform: float = 0.0
    coin: Coin | None = None
    open: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets, and all that observers may want to know.

    `prediction` is what was answered (None: abstain); `student` and `teacher` are what each said,
    where it was asked.
    """

    id: str
    task: str
    instance: Instance
    prediction: Prediction | None
    route: Route
    decision: Decision
    student: Prediction | None
    teacher: Prediction | None
    cost: Cost
    stages: Stages
    at: float  # seconds since the epoch, wall clock
    audit_propensity: float = 0.0  # probability with which a confident answer is audited
    failure: str = ""  # code of the error that kept the teacher or the student from answering
    audit_uniform: float = 0.0  # the part of audit_propensity that is the same for all answers
    coin: Coin | None = None  # which fell for an audit; None: it is not audited
    auditable: bool = False  # an audit could be made when it was answered


@dataclass(frozen=True, slots=True)
class Audit:
    """A confident answer that was also shown to the teacher, after the reply."""

    answer: Answer
    teacher: Prediction
    cost: int | None  # micro-USD
    seconds: float


class Lapse(StrEnum):
    """Why a candidate said nothing of a request that it was shown."""

    FAILED = "failed"  # the model raised, or gave numbers that are not finite
    HUNG = "hung"  # it did not end in time, and was ended
    CRASHED = "crashed"  # its process ended


class Source(StrEnum):
    """Why there is a teacher's view of an answer."""

    ESCALATED = "escalated"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a candidate says of a request that was answered, beside what the others said.

    `prediction` of None: it failed, for the reason `lapse`. `escalates`: under its own policy it
    would leave the request to the teacher; one that fails does. `seconds`: of work that it took;
    None: it failed. `propensity`: with which the request was shown to it. `teacher` is the
    teacher's view, where an escalation or an audit (`source`) gave one, `second` that of the
    teacher asked again.

    `by_chance`: the teacher's view is there by a chance that is the same for all requests, however
    hard they are. `policy` is a fingerprint of the policy that the candidate was held against, and
    `serving_policy` of that of the student `serving` (a bundle's id; empty: there is none); None:
    another one answered (a canary), or that policy is another now, so that the two are no pair.
    `serving_escalates`: by its policy that student would leave the request to the teacher. While
    its certificate is stale it may have done so for that alone, and the candidate has no such rule.
    """

    answer: Answer
    candidate: str  # name of its bundle
    prediction: Prediction | None
    escalates: bool
    propensity: float
    seconds: float | None = None
    lapse: Lapse | None = None
    teacher: Prediction | None = None
    source: Source | None = None
    second: Prediction | None = None
    by_chance: bool = False
    policy: str = ""
    serving: str = ""
    serving_policy: str | None = ""
    serving_escalates: bool = False

    @property
    def wished(self) -> bool:
        """Whether the caller chose who answers."""
        return Reason.REQUESTED in self.answer.decision.reasons


class RecordState(StrEnum):
    """What has become of a request's records when its reply goes out."""

    DURABLE = "durable"  # all are committed
    QUEUED = "queued"  # all wait to be committed
    DROPPED = "dropped"  # at least one is lost, and counted
    OFF = "off"  # no records are kept


@dataclass(frozen=True, slots=True)
class Reply:
    """The answers to one request, in the order of its instances, and the state of their records."""

    answers: Sequence[Answer]
    record: RecordState


class Observer(Protocol):
    """Is told of every answer and audit. It must not block and must not raise."""

    def answered(self, answer: Answer) -> None:
        """An answer was given."""

    def audited(self, audit: Audit) -> None:
        """The teacher's view of a confident answer has come."""


class Onlooker(Protocol):
    """Is told of every comparison. It must not block and must not raise."""

    def compared(self, comparison: Comparison) -> None:
        """What a candidate says of a request is known, with all that it is held against."""

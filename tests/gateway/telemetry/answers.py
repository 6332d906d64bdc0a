"""Answers of a small ticket task, as the tests of telemetry and store need them."""

from __future__ import annotations

import numpy as np

from gateway.contract.manifest import Head, HeadKind, Task
from gateway.types import (
    Answer,
    Audit,
    Coin,
    Cost,
    Decision,
    HeadPrediction,
    Instance,
    Prediction,
    Reason,
    Route,
    Stages,
)

TICKETS = Task(
    name="tickets",
    heads=(
        Head(name="intent", kind=HeadKind.CHOICE, labels=("refund", "login")),
        Head(name="risk", kind=HeadKind.FLAGS, labels=("legal",)),
    ),
)
STAGES = Stages(queue=0.001, student=0.002, teacher=0.0, total=0.004)


def prediction(
    intent: str = "refund", *, risk: tuple[str, ...] = (), truncated: bool = False
) -> Prediction:
    """What a model says, sure at 0.9 of the intent and at 0.8 of the flags."""
    return Prediction(
        heads=(
            HeadPrediction("intent", (intent,), 0.9, np.array([0.9, 0.1], np.float32)),
            HeadPrediction("risk", risk, 0.8, np.array([0.2], np.float32)),
        ),
        score=0.72,
        truncated=truncated,
        bundle="b" * 64,
        asked=TICKETS.heads,
    )


def confident(
    number: int = 1,
    *,
    task: str = "tickets",
    stages: Stages = STAGES,
    cost: Cost = Cost(student=1, teacher=0, avoided=2500),  # noqa: B008  frozen
    text: str = "where is my money",
    audit_propensity: float = 0.02,
    coin: Coin | None = None,
) -> Answer:
    """An answer that the student gave."""
    said = prediction()
    return Answer(
        id=identity(number),
        task=task,
        instance=Instance(text, {"amount": 12.5}),
        prediction=said,
        route=Route.STUDENT,
        decision=Decision(
            escalate=False, reason=Reason.CONFIDENT, reasons=(Reason.CONFIDENT,), threshold=0.7
        ),
        student=said,
        teacher=None,
        cost=cost,
        stages=stages,
        at=1_700_000_000.0 + number,
        audit_propensity=audit_propensity,
        audit_uniform=audit_propensity,
        coin=coin,
    )


def escalated(
    number: int = 1,
    *,
    student: Prediction | None = None,
    teacher: Prediction | None = None,
    route: Route = Route.TEACHER,
    reason: Reason = Reason.LOW_CONFIDENCE,
    failure: str = "",
    auditable: bool = True,
) -> Answer:
    """An answer for which the teacher was asked, 40 ms long."""
    said = teacher if route is Route.TEACHER else student
    return Answer(
        id=identity(number),
        task="tickets",
        instance=Instance("sue you"),
        prediction=None if route is Route.ABSTAIN else said,
        route=route,
        decision=Decision(
            escalate=True, reason=reason, reasons=(reason,), detail="lawsuit", threshold=0.7
        ),
        student=student,
        teacher=teacher,
        cost=Cost(student=1, teacher=2500, avoided=0),
        stages=Stages(queue=0.001, student=0.002, teacher=0.04, total=0.05),
        at=1_700_000_000.0 + number,
        failure=failure,
        auditable=auditable,
    )


def audit(answer: Answer, teacher: Prediction, *, cost: int | None = 2500) -> Audit:
    """The teacher's view of an answer."""
    return Audit(answer=answer, teacher=teacher, cost=cost, seconds=0.05)


def identity(number: int) -> str:
    """Ids that sort by their number, as long as real ones."""
    return f"00000000-0000-7000-8000-{number:012d}"

"""Records: what is kept of an answer, and how it is found again.

By default a record keeps the hash of the text and not the text: enough to recognise a repeated one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from sqlalchemy import Connection, Engine, RowMapping, Select, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store import tables
from gateway.types import Answer, Audit, Cost, FieldValue, Prediction, Reason, Route, Stages

StoreText = Literal["none", "hash", "full"]
Labels = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Record:
    """The stored form of an Answer.

    `labels` is what was answered (None: nobody answered). `score`, `confidences` and `bundle` are
    the student's, which the policy weighed (None: it failed). `propensity` is the probability that
    the teacher's view of this answer is known: 1 where it answered, else that of an audit. `text`
    and `fields` are None unless full text is kept.
    """

    id: str
    at: float
    task: str
    route: Route
    reason: Reason
    reasons: tuple[Reason, ...]
    detail: str
    score: float | None
    threshold: float | None
    labels: Labels | None
    confidences: Mapping[str, float] | None
    student_labels: Labels | None
    teacher_labels: Labels | None
    bundle: str | None
    truncated: bool
    text: str | None
    text_sha256: str | None
    fields: Mapping[str, FieldValue] | None
    cost: Cost
    stages: Stages
    audit_propensity: float
    propensity: float
    failure: str

    @classmethod
    def of(cls, answer: Answer, *, text: StoreText) -> Self:
        """What is kept of an answer."""
        student, decision, instance = answer.student, answer.decision, answer.instance
        return cls(
            id=answer.id,
            at=answer.at,
            task=answer.task,
            route=answer.route,
            reason=decision.reason,
            reasons=decision.reasons,
            detail=decision.detail,
            score=student.score if student else None,
            threshold=decision.threshold,
            labels=_labels(answer.prediction),
            confidences={head.head: head.confidence for head in student.heads} if student else None,
            student_labels=_labels(student),
            teacher_labels=_labels(answer.teacher),
            bundle=student.bundle if student else None,
            truncated=student.truncated if student else False,
            text=instance.text if text == "full" else None,
            text_sha256=None if text == "none" else _sha256(instance.text),
            fields=dict(instance.fields) if text == "full" else None,
            cost=answer.cost,
            stages=answer.stages,
            audit_propensity=answer.audit_propensity,
            propensity=1.0 if answer.teacher else answer.audit_propensity,
            failure=answer.failure,
        )

    @classmethod
    def from_row(cls, row: RowMapping) -> Self:
        """A row of the table -> a record."""
        plain = {name: row[name] for name in _PLAIN}
        return cls(
            **plain,
            route=Route(row["route"]),
            reason=Reason(row["reason"]),
            reasons=tuple(Reason(each) for each in row["reasons"]),
            labels=_from_json(row["labels"]),
            student_labels=_from_json(row["student_labels"]),
            teacher_labels=_from_json(row["teacher_labels"]),
            cost=Cost(row["cost_student"], row["cost_teacher"], row["cost_avoided"]),
            stages=Stages(
                queue=row["queue_s"],
                student=row["student_s"],
                busy=row["busy_s"],
                teacher=row["teacher_s"],
                total=row["total_s"],
            ),
        )

    def to_row(self) -> dict[str, Any]:
        """A record -> a row of the table."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "route": self.route.value,
            "reason": self.reason.value,
            "reasons": [reason.value for reason in self.reasons],
            "labels": self.labels,
            "student_labels": self.student_labels,
            "teacher_labels": self.teacher_labels,
            "cost_student": self.cost.student,
            "cost_teacher": self.cost.teacher,
            "cost_avoided": self.cost.avoided,
            "queue_s": self.stages.queue,
            "student_s": self.stages.student,
            "busy_s": self.stages.busy,
            "teacher_s": self.stages.teacher,
            "total_s": self.stages.total,
        }


# Fields whose column has the same name and holds the same value.
_PLAIN = (
    "id",
    "at",
    "task",
    "detail",
    "score",
    "threshold",
    "confidences",
    "bundle",
    "truncated",
    "text",
    "text_sha256",
    "fields",
    "audit_propensity",
    "propensity",
    "failure",
)


def keep(
    connection: Connection, answers: Sequence[Answer], audits: Sequence[Audit], *, text: StoreText
) -> int:
    """Insert answers, then audits, and return how many audits have no record and were left out.

    An id that is there already stays as it is, so that a batch may be tried again. An audit has no
    record when its answer was dropped from a full queue.
    """
    if answers:
        rows = [Record.of(answer, text=text).to_row() for answer in answers]
        connection.execute(_insert(connection, tables.records, "id"), rows)
    if not audits:
        return 0
    wanted = [audit.answer.id for audit in audits]
    column = tables.records.c.id
    known = set(connection.scalars(select(column).where(column.in_(wanted))))
    found = [_audit_row(audit) for audit in audits if audit.answer.id in known]
    if found:
        connection.execute(_insert(connection, tables.audits, "record"), found)
    return len(audits) - len(found)


def latest(
    engine: Engine,
    task: str | None,
    limit: int,
    *,
    route: Route | None = None,
    reason: Reason | None = None,
) -> list[Record]:
    """The newest records first; a task of None means any."""
    query = _chosen(select(tables.records), task, route, reason)
    query = query.order_by(tables.records.c.id.desc()).limit(limit)
    with engine.connect() as connection:
        return [Record.from_row(row) for row in connection.execute(query).mappings()]


def _chosen(
    query: Select[Any], task: str | None, route: Route | None, reason: Reason | None
) -> Select[Any]:
    columns = tables.records.c
    if task is not None:
        query = query.where(columns.task == task)
    if route is not None:
        query = query.where(columns.route == route.value)
    if reason is not None:
        query = query.where(columns.reason == reason.value)
    return query


def _insert(connection: Connection, table: Any, key: str) -> Any:
    """An insert that leaves existing rows alone: the same words, two dialects."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing(index_elements=[key])


def _audit_row(audit: Audit) -> dict[str, Any]:
    student = audit.answer.student
    return {
        "record": audit.answer.id,
        "at": audit.answer.at,
        "teacher_labels": _labels(audit.teacher),
        "agrees": student is not None and student.agrees(audit.teacher),
        "cost": audit.cost,
        "seconds": audit.seconds,
    }


def _labels(prediction: Prediction | None) -> dict[str, tuple[str, ...]] | None:
    return {head.head: head.labels for head in prediction.heads} if prediction else None


def _from_json(labels: dict[str, list[str]] | None) -> dict[str, tuple[str, ...]] | None:
    return None if labels is None else {head: tuple(each) for head, each in labels.items()}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

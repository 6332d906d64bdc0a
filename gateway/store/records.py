"""Records: the stored form of answers, and how they are found, counted and deleted.

By default a record keeps the hash of the text and not the text: enough to recognise a repeated one.
How answers become rows stands in intake.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import ColumnElement, Engine, RowMapping, delete, func, select

from gateway.store import tables
from gateway.store.database import writing
from gateway.types import Coin, Cost, FieldValue, Reason, Route, Stages

Labels = Mapping[str, tuple[str, ...]]
Scores = Mapping[str, Mapping[str, float]]  # head -> label -> its probability, if above 0

_PAGE = 1000  # records read or deleted at once: a few megabytes, and a lock of some milliseconds


@dataclass(frozen=True, slots=True)
class Record:
    """The stored form of an Answer.

    `labels` is what was answered (None: nobody answered). `score`, `familiarity`, `confidences` and
    `bundle` are the student's, which the policy weighed (None: it failed, or cannot tell).
    `propensity` is the probability that the teacher's view of this answer is known: 1 where it
    answered, else that of an audit. `coin` is the one that fell for an audit, `audit_uniform` the
    uniform one's share of `audit_propensity` (None: stored by a version that did not keep either).
    A coin without an audit: it was skipped. `text` and `fields` are None unless full text is kept.
    `teacher_scores` are None where the teacher gave labels and no probabilities.
    """

    id: str
    at: float
    task: str
    route: Route
    reason: Reason
    reasons: tuple[Reason, ...]
    detail: str
    score: float | None
    familiarity: float | None
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
    audit_uniform: float | None
    coin: Coin | None
    teacher_scores: Scores | None

    @classmethod
    def from_row(cls, row: RowMapping) -> Self:
        """A row of the table -> a record."""
        plain = {name: row[name] for name in _PLAIN}
        return cls(
            **plain,
            route=Route(row["route"]),
            reason=Reason(row["reason"]),
            reasons=tuple(Reason(each) for each in row["reasons"]),
            coin=None if row["coin"] is None else Coin(row["coin"]),
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
            "coin": None if self.coin is None else self.coin.value,
        }


# Fields whose column has the same name and holds the same value.
_PLAIN = (
    "id",
    "at",
    "task",
    "detail",
    "score",
    "familiarity",
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
    "audit_uniform",
    "teacher_scores",
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records are meant; None: any.

    Times are seconds since the epoch; `since` is included, `until` is not.
    """

    task: str | None = None
    route: Route | None = None
    reason: Reason | None = None
    since: float | None = None
    until: float | None = None
    text_sha256: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """What must hold of a row."""
        columns = tables.records.c
        equal = {
            columns.task: self.task,
            columns.route: self.route and self.route.value,
            columns.reason: self.reason and self.reason.value,
            columns.text_sha256: self.text_sha256,
        }
        found = [column == value for column, value in equal.items() if value is not None]
        if self.since is not None:
            found.append(columns.id >= first_id(self.since))
        if self.until is not None:
            found.append(columns.id < first_id(self.until))
        return found


@dataclass(frozen=True, slots=True)
class Counts:
    """How many records are meant, and how many audits belong to them."""

    records: int
    audits: int


def first_id(at: float) -> str:
    """The smallest id of that time: an id begins with its milliseconds (RFC 9562, version 7)."""
    digits = f"{max(0, round(at * 1000)):012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"


def latest(engine: Engine, wanted: Selection, limit: int) -> list[Record]:
    """Those records, the newest first."""
    query = select(tables.records).where(*wanted.conditions())
    query = query.order_by(tables.records.c.id.desc()).limit(limit)
    with engine.connect() as connection:
        return [Record.from_row(row) for row in connection.execute(query).mappings()]


def each(engine: Engine, wanted: Selection) -> Iterator[Record]:
    """Those records, the oldest first. Only a page of them is ever in memory.

    Each page is read in a transaction of its own: a long one would keep SQLite's log growing.
    """
    column, last = tables.records.c.id, ""
    page = select(tables.records).where(*wanted.conditions()).order_by(column).limit(_PAGE)
    while True:
        with engine.connect() as connection:
            rows = connection.execute(page.where(column > last)).mappings().all()
        yield from map(Record.from_row, rows)
        if len(rows) < _PAGE:
            return
        last = rows[-1]["id"]


def count(engine: Engine, wanted: Selection) -> Counts:
    """How many there are."""
    records, audits = tables.records, tables.audits
    of_records = select(func.count()).select_from(records).where(*wanted.conditions())
    of_audits = select(func.count()).select_from(audits.join(records)).where(*wanted.conditions())
    with engine.connect() as connection:
        return Counts(connection.scalar(of_records) or 0, connection.scalar(of_audits) or 0)


def purge(engine: Engine, wanted: Selection, *, page: int = _PAGE) -> Iterator[int]:
    """Delete those records, audits and verdicts, a page in each transaction; yields how many went.

    Whoever iterates makes the pauses, and may stop after any page: what is left is found again.
    """
    column, last = tables.records.c.id, ""
    # Rows that another replica is just deleting are left to it; SQLite has no such words.
    query = select(column).where(*wanted.conditions()).order_by(column).limit(page)
    query = query.with_for_update(skip_locked=True)
    while True:
        with writing(engine).begin() as connection:
            ids = connection.scalars(query.where(column > last)).all()
            if ids:
                audited = tables.audits.c.record
                connection.execute(delete(tables.audits).where(audited.in_(ids)))
                judged = tables.verdicts.c.record
                connection.execute(delete(tables.verdicts).where(judged.in_(ids)))
                compared = tables.comparisons.c.record
                connection.execute(delete(tables.comparisons).where(compared.in_(ids)))
                connection.execute(delete(tables.records).where(column.in_(ids)))
        if ids:
            yield len(ids)
        if len(ids) < page:
            return
        last = ids[-1]


def _from_json(labels: dict[str, list[str]] | None) -> dict[str, tuple[str, ...]] | None:
    return None if labels is None else {head: tuple(each) for head, each in labels.items()}

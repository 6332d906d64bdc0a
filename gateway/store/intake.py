"""The intake: answers and audits -> rows of the tables. Written for speed, it decides nothing.

It runs beside the event loop and takes its time from it, so that a row is made straight from the
answer, and goes to the driver without a detour through the expressions of SQLAlchemy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

import orjson
from sqlalchemy import JSON, Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store import tables
from gateway.types import Answer, Audit, FieldValue, Prediction, Reason

StoreText = Literal["none", "hash", "full"]
Row = tuple[Any, ...]

_COLUMNS = tuple(str(each.name) for each in tables.records.columns)
_JSON_COLUMNS = tuple(
    str(each.name) for each in tables.records.columns if isinstance(each.type, JSON)
)
_NAMES = ", ".join(_COLUMNS)
_INTO = f"INSERT INTO {tables.records.name} ({_NAMES})"
_UNLESS_THERE = "ON CONFLICT (id) DO NOTHING"
_INSERT_DOCUMENT = (
    f"{_INTO} SELECT {_NAMES} "  # noqa: S608  our own names
    f"FROM json_populate_recordset(NULL::{tables.records.name}, %s::json) {_UNLESS_THERE}"
)
# Rows in one statement of SQLite. The driver lets go of the interpreter once a statement, and more
# than this gain nothing more (measured: 11 microseconds a row at 1, 6.5 at 32, 7 at 250).
_TOGETHER = 32
_SURE = frozenset({0.0, 1.0})
_DECIMALS = 4  # of a probability that is kept: far below what any teacher is calibrated to
_NO_NUL = "\ufffd"  # in place of a NUL, which PostgreSQL keeps in no text


def keep(
    connection: Connection, answers: Sequence[Answer], audits: Sequence[Audit], *, text: StoreText
) -> int:
    """Insert answers, then audits, and return how many audits have no record and were left out.

    An id that is there already stays as it is, so that a batch may be tried again. An audit has no
    record when its answer was dropped from a full queue.
    """
    rows = [_row(answer, text) for answer in answers]
    if rows and connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_INSERT_DOCUMENT, (_document(rows),))
    else:
        for start in range(0, len(rows), _TOGETHER):
            part = rows[start : start + _TOGETHER]
            connection.exec_driver_sql(_insert(len(part)), tuple(chain.from_iterable(part)))
    return _keep_audits(connection, audits) if audits else 0


@lru_cache(maxsize=_TOGETHER)
def _insert(rows: int) -> str:
    """An insert of so many records into SQLite."""
    row = f"({', '.join('?' * len(_COLUMNS))})"
    return f"{_INTO} VALUES {', '.join([row] * rows)} {_UNLESS_THERE}"


def _document(rows: Sequence[Row]) -> str:
    """All rows as one JSON document, which PostgreSQL takes apart.

    Each value as a parameter of its own costs the driver ten times as much, under the interpreter's
    lock; this cost is the server's.
    """
    objects = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    for each in objects:
        for name in _JSON_COLUMNS:
            if each[name] is not None:
                each[name] = orjson.Fragment(each[name])
    return orjson.dumps(objects).decode()


def _row(answer: Answer, text: StoreText) -> Row:
    """What is kept of an answer, in the order of the table's columns."""
    student, decision, instance = answer.student, answer.decision, answer.instance
    cost, stages = answer.cost, answer.stages
    said = _labels(student)
    full = text == "full"
    return (
        answer.id,
        answer.at,
        answer.task,
        answer.route.value,
        decision.reason.value,
        _reasons(decision.reasons),
        decision.detail,
        student.score if student else None,
        student.familiarity if student else None,
        decision.threshold,
        said if answer.prediction is student else _labels(answer.prediction),
        _json({head.head: head.confidence for head in student.heads}) if student else None,
        said,
        _labels(answer.teacher),
        student.bundle if student else None,
        student.truncated if student else False,
        _kept(instance.text) if full else None,
        None if text == "none" else hashlib.sha256(instance.text.encode()).hexdigest(),
        _fields(instance.fields) if full else None,
        cost.student,
        cost.teacher,
        cost.avoided,
        stages.queue,
        stages.student,
        stages.busy,
        stages.teacher,
        stages.total,
        answer.audit_propensity,
        1.0 if answer.teacher else answer.audit_propensity,
        answer.failure,
        answer.audit_uniform,
        None if answer.coin is None else answer.coin.value,
        None if (scores := _scores(answer.teacher)) is None else _json(scores),
        answer.auditable,
    )


def _fields(given: Mapping[str, FieldValue]) -> str:
    return _json(
        {
            _kept(name): _kept(value) if isinstance(value, str) else value
            for name, value in given.items()
        }
    )


def _kept(text: str) -> str:
    return text.replace("\0", _NO_NUL)


def _keep_audits(connection: Connection, audits: Sequence[Audit]) -> int:
    """Insert the audits whose record is there; returns how many were left out."""
    column = tables.records.c.id
    wanted = [audit.answer.id for audit in audits]
    known = set(connection.scalars(select(column).where(column.in_(wanted))))
    found = [_audit_row(audit) for audit in audits if audit.answer.id in known]
    if found:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        insert = dialect.insert(tables.audits).on_conflict_do_nothing(index_elements=["record"])
        connection.execute(insert, found)
    return len(audits) - len(found)


def _audit_row(audit: Audit) -> dict[str, Any]:
    student = audit.answer.student
    return {
        "record": audit.answer.id,
        "at": audit.answer.at,
        "teacher_labels": {head.head: head.labels for head in audit.teacher.heads},
        "agrees": student is not None and student.agrees(audit.teacher),
        "cost": audit.cost,
        "seconds": audit.seconds,
        "teacher_scores": _scores(audit.teacher),
    }


def _labels(said: Prediction | None) -> str | None:
    return None if said is None else _json({head.head: head.labels for head in said.heads})


def _scores(said: Prediction | None) -> dict[str, dict[str, float]] | None:
    """Per head the probabilities that a teacher gave, rounded, without zeros.

    Where it gave none but 0 and 1 it named labels and no more, and there is nothing to keep.
    """
    if said is None:
        return None
    found = {}
    for head, part in zip(said.asked, said.heads, strict=False):  # who asked nothing named none
        given = part.probabilities.tolist()
        if not _SURE.issuperset(given):
            shares = zip(head.labels, (round(each, _DECIMALS) for each in given), strict=True)
            found[head.name] = {label: share for label, share in shares if share}
    return found or None


@lru_cache(maxsize=256)  # there are few combinations of reasons
def _reasons(reasons: tuple[Reason, ...]) -> str:
    return _json([reason.value for reason in reasons])


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()

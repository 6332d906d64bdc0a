"""What was answered before, read back for those who measure: answers with what their audits said.

An answer that is read back has what its record keeps and no more: no text, no probabilities, no
money. It is good for counting what was right, and for nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Engine, RowMapping, select

from gateway.store.records import Selection
from gateway.store.tables import audits, records
from gateway.types import (
    Answer,
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

_PAGE = 250  # answers read at once: some milliseconds of a thread, beside an event loop that serves
_NOT_KEPT = np.zeros(0, np.float32)
_UNKNOWN = Cost(None, None, None)
_COLUMNS = tuple(
    records.c[name]
    for name in (
        "id", "at", "task", "route", "reason", "score", "labels", "confidences", "student_labels",
        "fields", "audit_propensity", "audit_uniform", "coin", "auditable", "bundle", "reasons",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Remembered:
    """An answer, and what the teacher said in its audit: None where there is no audit of it.

    Not `whole`: it was stored by a version that did not keep all that counting needs. Not `fields`:
    those of its instance were not kept.
    """

    answer: Answer
    audit: Prediction | None
    whole: bool
    fields: bool


def pages(
    engine: Engine, wanted: Selection, *, most: int, page: int = _PAGE
) -> Iterator[Sequence[Remembered]]:
    """Those answers, at `most` so many of the newest, the oldest first, a page at a time."""
    column = records.c.id
    ids = select(column).where(*wanted.conditions())
    with engine.connect() as connection:
        first = connection.scalar(ids.order_by(column.desc()).offset(most).limit(1))
    query = select(*_COLUMNS, audits.c.teacher_labels.label("audited"))
    query = query.select_from(records.outerjoin(audits)).where(*wanted.conditions())
    query, last = query.order_by(column).limit(page), first or ""
    while True:
        with engine.connect() as connection:
            rows = connection.execute(query.where(column > last)).mappings().all()
        if rows:
            # Names of one millisecond are in no order; the clock has them in the order of answers.
            yield [_remembered(row) for row in sorted(rows, key=lambda row: row["at"])]
        if len(rows) < page:
            return
        last = rows[-1]["id"]


def _remembered(row: RowMapping) -> Remembered:
    confidences = row["confidences"] or {}
    said = _prediction(row["labels"], confidences, row["score"])
    student = _prediction(row["student_labels"], confidences, row["score"])
    reason = Reason(row["reason"])
    escalated = reason is not Reason.CONFIDENT
    route = Route(row["route"])
    answer = Answer(
        id=row["id"],
        task=row["task"],
        instance=Instance("", row["fields"] or {}),
        prediction=said,
        route=route,
        decision=Decision(
            escalate=escalated, reason=reason, reasons=tuple(map(Reason, row["reasons"]))
        ),
        student=None if student is None else replace(student, bundle=row["bundle"]),
        teacher=said if route is Route.TEACHER else None,
        cost=_UNKNOWN,
        stages=Stages(),
        at=row["at"],
        audit_propensity=row["audit_propensity"],
        audit_uniform=row["audit_uniform"] or 0.0,
        coin=None if row["coin"] is None else Coin(row["coin"]),
        auditable=bool(row["auditable"]),
    )
    return Remembered(
        answer=answer,
        audit=_prediction(row["audited"], {}, None),
        whole=row["auditable"] is not None,
        fields=row["fields"] is not None,
    )


def _prediction(
    labels: Mapping[str, Sequence[str]] | None,
    confidences: Mapping[str, float],
    score: float | None,
) -> Prediction | None:
    """What was said; what its score was not kept of gets 0, and is not asked for it."""
    if labels is None:
        return None
    heads = tuple(
        HeadPrediction(head, tuple(said), confidences.get(head, 0.0), _NOT_KEPT)
        for head, said in labels.items()
    )
    return Prediction(heads=heads, score=score or 0.0, truncated=False, bundle="")

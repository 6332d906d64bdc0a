"""Comparisons: what candidates said of live requests, as it is stored and read back.

The texts are those of the records, where these keep them: a comparison holds none. A person's word
on an answer finds its comparisons here, and counts in the trial of each candidate once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.contract.manifest import HeadKind
from gateway.shadow.pairing import Labels, Sight
from gateway.store import trials
from gateway.store.database import unless_troubled, writing
from gateway.store.records import first_id
from gateway.store.tables import comparisons, records, verdicts
from gateway.store.trials import Counted
from gateway.types import Comparison, FieldValue, Prediction

_PAGE = 1000  # rows read at once
_DECIMALS = 6  # of a score that is kept


@dataclass(frozen=True, slots=True)
class Compared:
    """A stored comparison. `at` is the answer's, in seconds since the epoch."""

    record: str
    at: float
    sight: Sight


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A request on which a candidate differs. `text` and `fields`: where records keep them."""

    record: str
    at: float
    said: Mapping[str, Sequence[str]]
    score: float
    serving: Mapping[str, Sequence[str]] | None
    teacher: Mapping[str, Sequence[str]] | None
    text: str | None
    fields: Mapping[str, FieldValue] | None


Count = Callable[[Sequence[Compared]], Sequence[Counted]]


def keep(connection: Connection, found: Sequence[Comparison]) -> None:
    """Insert comparisons; one that is there already stays, so that a batch may be tried again."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(comparisons).on_conflict_do_nothing()
    connection.execute(insert, [_row(each) for each in found])


def each(engine: Engine, task: str, candidate: str) -> Iterator[Compared]:
    """All comparisons of a candidate, the oldest first; only a page is ever in memory."""
    column, last = comparisons.c.record, ""
    page = select(comparisons).where(
        comparisons.c.task == task, comparisons.c.candidate == candidate
    )
    page = page.order_by(column).limit(_PAGE)
    while True:
        with engine.connect() as connection:
            rows = connection.execute(page.where(column > last)).mappings().all()
            golds = _golds(connection, [row["record"] for row in rows])
        yield from (_compared(row, golds.get(row["record"])) for row in rows)
        if len(rows) < _PAGE:
            return
        last = rows[-1]["record"]


def worst(engine: Engine, task: str, candidate: str, *, limit: int) -> list[Disagreement]:
    """Where the candidate differs from the teacher, else from who serves: the surest ones first.

    Raises RecordsUnavailable.
    """
    columns = comparisons.c
    differs = or_(
        columns.agrees_teacher.is_(False),
        columns.agrees_teacher.is_(None) & columns.agrees_serving.is_(False),
    )
    query = (
        select(comparisons, records.c.text, records.c.fields)
        .select_from(comparisons.outerjoin(records, records.c.id == columns.record))
        .where(columns.task == task, columns.candidate == candidate)
        .where(differs, columns.labels.is_not(None), columns.score.is_not(None))
        .order_by(columns.agrees_teacher.is_(None), columns.score.desc(), columns.record.desc())
        .limit(limit)
    )
    with unless_troubled("disagreements are not read"), engine.connect() as connection:
        return [_disagreement(row) for row in connection.execute(query).mappings()]


def judge(
    engine: Engine, task: str, candidate: str, count: Count, *, since: float | None = None
) -> int:
    """Let what people say of its comparisons count, each once, whoever looks and however often.

    `count` makes segments of what is new; these are stored in the same transaction in which the
    comparisons are marked. Of several verdicts on an answer the last one counts that is there then.
    `since`, in seconds since the epoch: later verdicts alone are looked at. Returns how many
    comparisons count now. Raises RecordsUnavailable.
    """
    columns, said = comparisons.c, verdicts.c
    new = (columns.task == task, columns.candidate == candidate, columns.judged.is_(None))
    query = select(comparisons, said.labels.label("gold")).select_from(verdicts).where(*new)
    query = query.join(comparisons, columns.record == said.record).order_by(said.id).limit(_PAGE)
    query = query.with_for_update(of=comparisons, skip_locked=True)
    if since is not None:
        query = query.where(said.id >= first_id(since))
    done = 0
    while True:
        with (
            unless_troubled("what people say of candidates' answers is not counted"),
            writing(engine).begin() as connection,
        ):
            rows = connection.execute(query).mappings().all()
            found = {row["record"]: _compared(row, row["gold"]) for row in rows}
            if found:
                mine = (columns.record.in_(found), columns.candidate == candidate)
                connection.execute(update(comparisons).where(*mine).values(judged=True))
                trials.add(connection, task, count(list(found.values())))
        done += len(found)
        if len(rows) < _PAGE:
            return done


def purge(engine: Engine, until: float, *, page: int = _PAGE) -> int:
    """Delete a page of comparisons of answers before that time; returns how many answers' went.

    Most go with their records: these are of answers that were never stored, or dropped.
    """
    column = comparisons.c.record
    old = select(column).distinct().where(column < first_id(until)).order_by(column).limit(page)
    with writing(engine).begin() as connection:
        ids = connection.scalars(old).all()
        if ids:
            connection.execute(delete(comparisons).where(column.in_(ids)))
    return len(ids)


def _golds(connection: Connection, ids: Sequence[str]) -> dict[str, Mapping[str, Sequence[str]]]:
    """By record, what a person said last of it."""
    query = select(verdicts.c.record, verdicts.c.labels).where(verdicts.c.record.in_(ids))
    rows = connection.execute(query.order_by(verdicts.c.id))
    return {row.record: row.labels for row in rows}


def _row(comparison: Comparison) -> dict[str, Any]:
    answer, said = comparison.answer, comparison.prediction
    serving, teacher = answer.student, comparison.teacher
    return {
        "record": answer.id,
        "candidate": comparison.candidate,
        "at": answer.at,
        "task": answer.task,
        "serving": comparison.serving,
        "propensity": comparison.propensity,
        "labels": _labels(said),
        "score": round(said.score, _DECIMALS) if said else None,
        "margin": _margin(said) if said else None,
        "ranks": _ranks(said, teacher or serving) if said else None,
        "escalates": comparison.escalates,
        "seconds": comparison.seconds,
        "lapse": comparison.lapse.value if comparison.lapse else None,
        "serving_labels": _labels(serving),
        "serving_score": round(serving.score, _DECIMALS) if serving else None,
        "serving_escalates": comparison.serving_escalates,
        "serving_seconds": answer.stages.busy if serving else None,
        "teacher_labels": _labels(teacher),
        "source": comparison.source.value if comparison.source else None,
        "second_labels": _labels(comparison.second),
        "by_chance": comparison.by_chance,
        "wished": comparison.wished,
        "agrees_serving": _agrees(said, serving) if comparison.serving_policy is not None else None,
        "agrees_teacher": _agrees(said, teacher),
        "policy": comparison.policy,
        "serving_policy": comparison.serving_policy,
    }


def _labels(said: Prediction | None) -> dict[str, tuple[str, ...]] | None:
    return None if said is None else {head.head: head.labels for head in said.heads}


def _agrees(said: Prediction | None, other: Prediction | None) -> bool | None:
    """Whether both say the same; None: one of them has said nothing."""
    if said is None or other is None:
        return None
    return _sets(_labels(said)) == _sets(_labels(other))


def _margin(said: Prediction) -> float | None:
    """The smallest of its heads': the best probability of a choice less the next one's.

    Of flags it is how far the nearest one is from turning. None: no head has two labels.
    """
    found = []
    for head, part in zip(said.asked, said.heads, strict=False):
        given = sorted(part.probabilities.tolist(), reverse=True)
        if head.kind is HeadKind.FLAGS:
            found += [min(abs(2.0 * each - 1.0) for each in given)] if given else []
        elif len(given) > 1:
            found.append(given[0] - given[1])
    return round(min(found), _DECIMALS) if found else None


def _ranks(said: Prediction, other: Prediction | None) -> dict[str, int] | None:
    """By choice head, the place of what the other says among the candidate's labels, from 1."""
    if other is None:
        return None
    wanted = {part.head: part.labels for part in other.heads}
    found = {}
    for head, part in zip(said.asked, said.heads, strict=False):
        labels = wanted.get(head.name, ())
        if head.kind is HeadKind.CHOICE and len(labels) == 1 and labels[0] in head.labels:
            its = part.probabilities[head.labels.index(labels[0])]
            found[head.name] = 1 + int((part.probabilities > its).sum())
    return found or None


def _compared(row: RowMapping, gold: Mapping[str, Sequence[str]] | None) -> Compared:
    return Compared(
        record=row["record"],
        at=row["at"],
        sight=Sight(
            labels=_sets(row["labels"]),
            escalates=row["escalates"],
            seconds=row["seconds"],
            serving=_sets(row["serving_labels"]),
            serving_escalates=row["serving_escalates"],
            serving_seconds=row["serving_seconds"],
            teacher=_sets(row["teacher_labels"]),
            second=_sets(row["second_labels"]),
            by_chance=row["by_chance"],
            wished=row["wished"],
            policy=row["policy"] or "",
            serves=row["serving"] or "",
            serving_policy=row["serving_policy"],
            gold=_sets(gold),
        ),
    )


def _disagreement(row: RowMapping) -> Disagreement:
    return Disagreement(
        record=row["record"],
        at=row["at"],
        said=row["labels"],
        score=row["score"],
        serving=row["serving_labels"],
        teacher=row["teacher_labels"],
        text=row["text"],
        fields=row["fields"],
    )


def _sets(labels: Mapping[str, Sequence[str]] | None) -> Labels | None:
    return None if labels is None else {head: frozenset(each) for head, each in labels.items()}

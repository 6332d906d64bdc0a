"""The hand-over: records that somebody has labelled -> Example lines, to make students from.

A row is handed over where a teacher answered it, saw it in an audit, or a person gave a verdict of
it, and where its text was kept. Of a text with the same fields that came more than once the latest
counts, and a verdict counts more than a teacher.

An example says with which probability its text was seen at all: for certain where one of the times
it came a teacher answered it, else the chance that an audit's coin fell for one of them. What a
person picked alone has no such probability: whom people judge, they choose.

The records may be more than memory holds: they are read a page at a time, the newest first, and
what has been seen is kept on disk.
"""

from __future__ import annotations

import errno
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Engine,
    RowMapping,
    Select,
    and_,
    exists,
    not_,
    null,
    or_,
    select,
)

from gateway.contract.examples import Example, Label
from gateway.contract.manifest import Head, HeadKind
from gateway.store import tables
from gateway.store.records import Selection
from gateway.types import Reason

SOURCE = "teacher"  # of an example that a teacher has labelled
GOLD = "gold"  # of one that a person has

_PAGE = 1000  # records read at once: a few megabytes
# Whoever has one of these among his reasons came to the teacher whatever a student said of him.
_ANYWAY = frozenset(
    {
        Reason.REQUESTED.value,
        Reason.TRUNCATED.value,
        Reason.STUDENT_FAILED.value,
        Reason.NO_STUDENT.value,
        Reason.NO_CERTIFICATE.value,
    }
)


@dataclass(slots=True)
class Tally:
    """What became of the rows that somebody has labelled."""

    examples: int = 0
    verdicts: int = 0  # of the examples: with the labels of a person
    duplicates: int = 0  # an example of the same text and fields is newer
    without_text: int = 0  # the text was not stored
    strange: int = 0  # of heads or labels that the task does not have, any more or yet


@dataclass(frozen=True, slots=True)
class Handover:
    """The examples of one task, in records from `since` until before `until` (None: no bound).

    `tally` grows while they are read. `folder` takes a scratch file, which goes when all are read.
    """

    engine: Engine
    task: str
    heads: Sequence[Head]
    folder: Path
    since: float | None = None
    until: float | None = None
    tally: Tally = field(default_factory=Tally)

    def examples(self) -> Iterator[Example]:
        """What teachers saw, the newest first, then what people alone judged.

        Raises OSError where the scratch file has no place.
        """
        scratch = self.folder / ".seen.db"
        try:
            with closing(_Seen(scratch)) as seen:
                self._note_times(seen)
                self._note_verdicts(seen)
                for query in (self._taught(), self._judged()):
                    for row in self._rows(query):
                        if (example := self._example(row, seen)) is not None:
                            self.tally.examples += 1
                            self.tally.verdicts += example.source == GOLD
                            yield example
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"a scratch file beside it: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)

    def _note_times(self, seen: _Seen) -> None:
        """How often each text came, and the chance that nobody would have seen it."""
        records = tables.records.c
        columns = (records.id, records.text_sha256, records.propensity)
        for row in self._rows(select(*columns).where(records.text.is_not(null()))):
            seen.came(row["text_sha256"], row["propensity"])

    def _note_verdicts(self, seen: _Seen) -> None:
        """The last verdict of each text with its fields."""
        records, verdicts = tables.records, tables.verdicts
        columns = (records.c.id, records.c.text, records.c.fields)
        said = (verdicts.c.id.label("verdict"), verdicts.c.labels.label("verdict_labels"))
        query = select(*columns, *said).select_from(verdicts.join(records))
        for row in self._rows(query.where(records.c.text.is_not(null()), _last_verdict())):
            seen.judged(_key(row), row["verdict"], row["verdict_labels"])

    def _rows(self, query: Select[Any]) -> Iterator[RowMapping]:
        """The rows of the task and the time, the newest first, a page in each transaction."""
        wanted = Selection(task=self.task, since=self.since, until=self.until)
        column, last = tables.records.c.id, None
        page = query.where(*wanted.conditions()).order_by(column.desc()).limit(_PAGE)
        while True:
            with self.engine.connect() as connection:
                after = page if last is None else page.where(column < last)
                rows = connection.execute(after).mappings().all()
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1]["id"]

    def _taught(self) -> Select[Any]:
        """The rows with a teacher's labels."""
        records, audits = tables.records, tables.audits
        return (
            select(
                *(records.c[name] for name in _COLUMNS),
                audits.c.teacher_labels.label("audited_labels"),
                audits.c.teacher_scores.label("audited_scores"),
            )
            .select_from(records.outerjoin(audits))
            .where(or_(records.c.teacher_labels.is_not(null()), audits.c.record.is_not(null())))
        )

    def _judged(self) -> Select[Any]:
        """The rows with a verdict, and nothing of a teacher."""
        records, audits, verdicts = tables.records, tables.audits, tables.verdicts
        return select(*(records.c[name] for name in _COLUMNS)).where(
            records.c.teacher_labels.is_(null()),
            exists().where(verdicts.c.record == records.c.id),
            not_(exists().where(audits.c.record == records.c.id)),
        )

    def _example(self, row: RowMapping, seen: _Seen) -> Example | None:
        """A row as an example; None, and counted, where it is none."""
        answered = row["teacher_labels"]
        audited = row.get("audited_labels")
        taught = answered is not None or audited is not None
        if row["text"] is None:
            self.tally.without_text += 1
            return None
        key = _key(row)
        gold = _labels(self.heads, seen.verdict(key))
        labels = gold or _labels(self.heads, audited if answered is None else answered)
        if labels is None:
            self.tally.strange += 1
            return None
        if not seen.first(key):
            self.tally.duplicates += 1
            return None
        scores = row.get("audited_scores") if answered is None else row["teacher_scores"]
        return Example(
            text=row["text"],
            labels=labels,
            fields=row["fields"] or {},
            source=GOLD if gold else SOURCE,
            propensity=seen.chance(row["text_sha256"], row["propensity"]) if taught else None,
            scores=scores or {},
            chosen=answered is not None and _ANYWAY.isdisjoint(row["reasons"]),
        )


_COLUMNS = (
    "id",
    "reasons",
    "text",
    "text_sha256",
    "fields",
    "propensity",
    "teacher_labels",
    "teacher_scores",
)


class _Seen:
    """What is known of texts while they are read: tables in a file of our own.

    A text with its fields goes by its key, a text alone by its hash.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute(
            "PRAGMA synchronous = OFF"
        )  # a scratch file: nobody reads it again
        self._connection.execute("PRAGMA journal_mode = OFF")
        for columns in (
            "seen (key BLOB PRIMARY KEY)",
            "times (text TEXT PRIMARY KEY, number INTEGER, missed REAL)",
            "verdicts (key BLOB PRIMARY KEY, id TEXT, labels BLOB)",
        ):
            self._connection.execute(f"CREATE TABLE {columns} WITHOUT ROWID")
        self._connection.execute("BEGIN")

    def first(self, key: bytes) -> bool:
        """Note it; whether it comes for the first time."""
        found = self._connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,))
        return found.rowcount == 1

    def came(self, text: str, propensity: float) -> None:
        """Note that a text came once, and was seen with this probability."""
        self._connection.execute(
            "INSERT INTO times VALUES (?, 1, ?) ON CONFLICT (text) DO UPDATE "
            "SET number = number + 1, missed = missed * excluded.missed",
            (text, 1.0 - propensity),
        )

    def chance(self, text: str, propensity: float) -> float:
        """The probability that the text was seen at one of the times that it came.

        `propensity` is that of the time in question: it is the only one, or less than all together.
        """
        found = self._connection.execute(
            "SELECT number, missed FROM times WHERE text = ?", (text,)
        ).fetchone()
        if found is None or found[0] == 1:  # it came after the others were counted, or once
            return propensity
        return 1.0 - float(found[1])

    def judged(self, key: bytes, name: str, labels: Mapping[str, Sequence[str]]) -> None:
        """Note a verdict by its id; the last one counts."""
        self._connection.execute(
            "INSERT INTO verdicts VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET id = excluded.id, labels = excluded.labels WHERE excluded.id > id",
            (key, name, orjson.dumps(labels)),
        )

    def verdict(self, key: bytes) -> Mapping[str, Sequence[str]] | None:
        """What people said last of it; None: nothing."""
        query = "SELECT labels FROM verdicts WHERE key = ?"
        found = self._connection.execute(query, (key,)).fetchone()
        said: Mapping[str, Sequence[str]] | None = found and orjson.loads(found[0])
        return said

    def close(self) -> None:
        self._connection.close()


def _key(row: RowMapping) -> bytes:
    """What a text with its fields is called."""
    said = orjson.dumps([row["text"], row["fields"] or {}], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(said).digest()


def _last_verdict() -> ColumnElement[bool]:
    """That a row of `verdicts` is the last of its record: then pages by record miss none."""
    later = tables.verdicts.alias()
    mine = tables.verdicts.c
    return not_(exists().where(and_(later.c.record == mine.record, later.c.id > mine.id)))


def _labels(
    heads: Sequence[Head], said: Mapping[str, Sequence[str]] | None
) -> dict[str, Label] | None:
    """The labels as an example has them; None: there are none, or they are not of these heads."""
    if said is None or said.keys() != {head.name for head in heads}:
        return None
    found: dict[str, Label] = {}
    for head in heads:
        labels = said[head.name]
        if not set(labels) <= set(head.labels):
            return None
        if head.kind is HeadKind.FLAGS:
            found[head.name] = tuple(labels)
        elif len(labels) == 1:
            found[head.name] = labels[0]
        else:
            return None
    return found

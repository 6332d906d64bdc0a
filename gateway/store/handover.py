"""The hand-over: records that a teacher has labelled -> Example lines, to make students from.

A row is handed over where a teacher answered it, or saw it in an audit, and where its text was
kept. Of a text with the same fields that came more than once the latest counts. The records may be
more than memory holds: they are read a page at a time, the newest first, and what has been seen is
kept on disk.
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
from sqlalchemy import Engine, RowMapping, Select, null, or_, select

from gateway.contract.examples import Example, Label
from gateway.contract.manifest import Head, HeadKind
from gateway.store import tables
from gateway.store.records import Selection
from gateway.types import Reason

SOURCE = "teacher"  # of every example: whose labels they are

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
    """What became of the rows that a teacher has labelled."""

    examples: int = 0
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
        """All of them, the newest first. Raises OSError where the scratch file has no place."""
        scratch = self.folder / ".seen.db"
        try:
            with closing(_Seen(scratch)) as seen:
                for row in self._rows():
                    if (example := self._example(row, seen)) is not None:
                        self.tally.examples += 1
                        yield example
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"a scratch file beside it: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)

    def _rows(self) -> Iterator[RowMapping]:
        """The rows with a teacher's labels, a page in each transaction."""
        page, column, last = self._page(), tables.records.c.id, None
        while True:
            query = page if last is None else page.where(column < last)
            with self.engine.connect() as connection:
                rows = connection.execute(query).mappings().all()
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1]["id"]

    def _page(self) -> Select[Any]:
        records, audits = tables.records, tables.audits
        wanted = Selection(task=self.task, since=self.since, until=self.until)
        return (
            select(
                *(records.c[name] for name in _COLUMNS),
                audits.c.teacher_labels.label("audited_labels"),
                audits.c.teacher_scores.label("audited_scores"),
            )
            .select_from(records.outerjoin(audits))
            .where(*wanted.conditions())
            .where(or_(records.c.teacher_labels.is_not(null()), audits.c.record.is_not(null())))
            .order_by(records.c.id.desc())
            .limit(_PAGE)
        )

    def _example(self, row: RowMapping, seen: _Seen) -> Example | None:
        """A row as an example; None, and counted, where it is none."""
        audited = row["teacher_labels"] is None
        said = row["audited_labels" if audited else "teacher_labels"]
        labels = _labels(self.heads, said)
        if row["text"] is None:
            self.tally.without_text += 1
        elif labels is None:
            self.tally.strange += 1
        elif not seen.first(row["text"], row["fields"] or {}):
            self.tally.duplicates += 1
        else:
            return Example(
                text=row["text"],
                labels=labels,
                fields=row["fields"] or {},
                source=SOURCE,
                propensity=row["propensity"],
                scores=row["audited_scores" if audited else "teacher_scores"] or {},
                chosen=not audited and _ANYWAY.isdisjoint(row["reasons"]),
            )
        return None


_COLUMNS = (
    "id",
    "reasons",
    "text",
    "fields",
    "propensity",
    "teacher_labels",
    "teacher_scores",
)


class _Seen:
    """Which texts with which fields have come: a set that lies in a file."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute(
            "PRAGMA synchronous = OFF"
        )  # a scratch file: nobody reads it again
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._connection.execute("BEGIN")

    def first(self, text: str, fields: Mapping[str, Any]) -> bool:
        """Note them; whether they come for the first time."""
        said = orjson.dumps([text, fields], option=orjson.OPT_SORT_KEYS)
        key = hashlib.sha256(said).digest()
        found = self._connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,))
        return found.rowcount == 1

    def close(self) -> None:
        self._connection.close()


def _labels(heads: Sequence[Head], said: Mapping[str, Sequence[str]]) -> dict[str, Label] | None:
    """The labels as an example has them; None: they are not of these heads."""
    if said.keys() != {head.name for head in heads}:
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

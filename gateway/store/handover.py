"""The hand-over: records that a teacher has labelled -> Example lines, to make students from.

A row is handed over where a teacher answered it, or saw it in an audit, and where its text was
kept. Of a text with the same fields that came more than once the latest counts, and its propensity
is the chance that any of them was seen: each had a coin of its own. The records may be more than
memory holds: they are read a page at a time, and what is known of their texts is kept on disk.

Where there are audits, the rows speak for all requests by their chances. What a student chose while
nothing could be audited does not: the requests beside it had no chance at all, so it is left out.
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
from sqlalchemy import Engine, RowMapping, Select, exists, null, or_, select

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
    unaudited: int = 0  # a student chose it, while those that it did not choose had no chance


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
                audits = self._has_audits()
                for row in self._rows(self._chances()):
                    if not (audits and _alone(row)):
                        seen.note(row["text_sha256"], row["fields"] or {}, row["propensity"])
                for row in self._rows(self._taught()):
                    if (example := self._example(row, seen, audits=audits)) is not None:
                        self.tally.examples += 1
                        yield example
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"a scratch file beside it: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)

    def _rows(self, wanted: Select[Any]) -> Iterator[RowMapping]:
        """The rows, the newest first, a page in each transaction."""
        column, last = tables.records.c.id, None
        page = wanted.order_by(column.desc()).limit(_PAGE)
        while True:
            query = page if last is None else page.where(column < last)
            with self.engine.connect() as connection:
                rows = connection.execute(query).mappings().all()
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1]["id"]

    def _chances(self) -> Select[Any]:
        """All rows that might have been handed over, seen by a teacher or not."""
        records = tables.records
        return (
            select(*(records.c[name] for name in _CHANCES), _TAUGHT.label("taught"))
            .where(*self._selection().conditions())
            .where(records.c.text.is_not(null()), records.c.propensity > 0.0)
        )

    def _taught(self) -> Select[Any]:
        """The rows with a teacher's labels."""
        records, audits = tables.records, tables.audits
        return (
            select(
                *(records.c[name] for name in (*_CHANCES, *_COLUMNS)),
                _TAUGHT.label("taught"),
                audits.c.teacher_labels.label("audited_labels"),
                audits.c.teacher_scores.label("audited_scores"),
            )
            .select_from(records.outerjoin(audits))
            .where(*self._selection().conditions())
            .where(or_(_TAUGHT, audits.c.record.is_not(null())))
        )

    def _has_audits(self) -> bool:
        joined = tables.records.join(tables.audits)
        found = select(tables.audits.c.record).select_from(joined)
        query = select(exists(found.where(*self._selection().conditions())))
        with self.engine.connect() as connection:
            return bool(connection.scalar(query))

    def _selection(self) -> Selection:
        return Selection(task=self.task, since=self.since, until=self.until)

    def _example(self, row: RowMapping, seen: _Seen, *, audits: bool) -> Example | None:
        """A row as an example; None, and counted, where it is none."""
        audited = not row["taught"]
        said = row["audited_labels" if audited else "teacher_labels"]
        labels = _labels(self.heads, said)
        if row["text"] is None:
            self.tally.without_text += 1
        elif labels is None:
            self.tally.strange += 1
        elif audits and _alone(row):
            self.tally.unaudited += 1
        elif (chance := seen.first(row["text_sha256"], row["fields"] or {})) is None:
            self.tally.duplicates += 1
        else:
            return Example(
                text=row["text"],
                labels=labels,
                fields=row["fields"] or {},
                source=SOURCE,
                # A row that came since the chances were noted has its own at least.
                propensity=max(row["propensity"], chance),
                scores=row["audited_scores" if audited else "teacher_scores"] or {},
                chosen=_chosen(row),
            )
        return None


_CHANCES = ("id", "reasons", "text_sha256", "fields", "propensity", "auditable")
_COLUMNS = ("text", "teacher_labels", "teacher_scores")
_TAUGHT = tables.records.c.teacher_labels.is_not(null())


def _chosen(row: RowMapping) -> bool:
    """Whether the teacher answered it for what a student had said."""
    return bool(row["taught"]) and _ANYWAY.isdisjoint(row["reasons"])


def _alone(row: RowMapping) -> bool:
    """Whether a student chose it while no audit could be made, or nobody kept whether one could."""
    return _chosen(row) and not row["auditable"]


class _Seen:
    """The texts with their fields that have come, and what is known of each, in a file."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute(
            "PRAGMA synchronous = OFF"
        )  # a scratch file: nobody reads it again
        self._connection.execute("PRAGMA journal_mode = OFF")
        # `chance`: that a teacher saw any request with this text and these fields.
        self._connection.execute(
            "CREATE TABLE seen (key BLOB PRIMARY KEY, chance REAL, given INTEGER) WITHOUT ROWID"
        )
        self._connection.execute("BEGIN")

    def note(self, text: str, fields: Mapping[str, Any], propensity: float) -> None:
        """Note a request with the text of that SHA-256, which a teacher saw with this chance."""
        self._connection.execute(
            "INSERT INTO seen VALUES (?, ?, 0) "
            "ON CONFLICT (key) DO UPDATE SET chance = chance + (1.0 - chance) * excluded.chance",
            (_key(text, fields), propensity),
        )

    def first(self, text: str, fields: Mapping[str, Any]) -> float | None:
        """The chance that a teacher saw any request with them; None when they come again."""
        key = _key(text, fields)
        row = self._connection.execute("SELECT chance, given FROM seen WHERE key = ?", (key,))
        chance, given = row.fetchone() or (0.0, False)  # 0: it came since the others were noted
        self._connection.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, 1)", (key, chance))
        return None if given else float(chance)

    def close(self) -> None:
        self._connection.close()


def _key(text: str, fields: Mapping[str, Any]) -> bytes:
    said = orjson.dumps([text, fields], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(said).digest()


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

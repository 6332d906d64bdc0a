"""The hand-over: records that somebody has labelled -> Example lines, to make students from.

A row is handed over where a teacher answered it, saw it in an audit, or a person gave a verdict of
it, and where its text was kept. Of a text with the same fields that came more than once the latest
counts, and a verdict counts more than a teacher.

The propensity of an example is the chance that a teacher saw any of the times that its text came, 1
- (1 - p) (1 - q) ...: each had a coin of its own. Whoever learns reads the text alone, and takes
texts as one that differ in case or spaces, or in their fields: so the chance is theirs together,
and those whom nobody saw count in it too. What a person picked alone has none: whom people judge,
they choose.

Where there are audits, the rows speak for all requests by their chances. What a student chose while
nothing could be audited does not: the requests beside it had no chance at all, so it is left out,
or has no propensity where a person judged it.

The records may be more than memory holds: they are read a page at a time, the newest first, and
what is known of their texts is kept on disk.
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

from gateway.contract.examples import Example, Label, folded
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
        """What teachers saw, the newest first, then what people alone judged.

        Raises OSError where the scratch file has no place.
        """
        scratch = self.folder / ".seen.db"
        try:
            with closing(_Seen(scratch)) as seen:
                audits = self._has_audits()
                self._note_chances(seen, audits=audits)
                self._note_verdicts(seen)
                for row, by_chance in self._handed(audits=audits):
                    if (example := self._example(row, seen, by_chance=by_chance)) is not None:
                        self.tally.examples += 1
                        self.tally.verdicts += example.source == GOLD
                        yield example
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"a scratch file beside it: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)

    def _note_chances(self, seen: _Seen, *, audits: bool) -> None:
        """The chances of all rows that a teacher might have seen, whether one did or not."""
        records = tables.records
        query = select(*_TRACES, records.c.text).where(
            records.c.text.is_not(null()), records.c.propensity > 0.0
        )
        for row in self._rows(query):
            if not (audits and _alone(row)):
                seen.came(_text_key(row), row["propensity"])

    def _note_verdicts(self, seen: _Seen) -> None:
        """The last verdict of each text with its fields."""
        records, verdicts = tables.records, tables.verdicts
        columns = (records.c.id, records.c.text_sha256, records.c.fields)
        said = (verdicts.c.id.label("verdict"), verdicts.c.labels.label("verdict_labels"))
        query = select(*columns, *said).select_from(verdicts.join(records))
        for row in self._rows(query.where(records.c.text.is_not(null()), _last_verdict())):
            seen.judged(_key(row), row["verdict"], row["verdict_labels"])

    def _rows(self, query: Select[Any]) -> Iterator[RowMapping]:
        """The rows of the task and the time, the newest first, a page in each transaction."""
        column, last = tables.records.c.id, None
        page = query.where(*self._selection().conditions()).order_by(column.desc()).limit(_PAGE)
        while True:
            with self.engine.connect() as connection:
                after = page if last is None else page.where(column < last)
                rows = connection.execute(after).mappings().all()
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1]["id"]

    def _handed(self, *, audits: bool) -> Iterator[tuple[RowMapping, bool]]:
        """The rows to hand over, and whether chance, and no person, has picked them."""
        for row in self._rows(self._taught()):
            if not (audits and _alone(row)):
                yield row, True
            elif not row["judged"]:
                self.tally.unaudited += 1
        for row in self._rows(self._judged()):
            if not row["taught"] or (audits and _alone(row)):
                yield row, False

    def _taught(self) -> Select[Any]:
        """The rows with a teacher's labels."""
        records, audits = tables.records, tables.audits
        return (
            select(
                *_TRACES,
                *_COLUMNS,
                _JUDGED.label("judged"),
                audits.c.teacher_labels.label("audited_labels"),
                audits.c.teacher_scores.label("audited_scores"),
            )
            .select_from(records.outerjoin(audits))
            .where(or_(_TAUGHT, audits.c.record.is_not(null())))
        )

    def _judged(self) -> Select[Any]:
        """The rows with a verdict that no audit has seen."""
        audited = exists().where(tables.audits.c.record == tables.records.c.id)
        return select(*_TRACES, *_COLUMNS).where(_JUDGED, not_(audited))

    def _has_audits(self) -> bool:
        joined = tables.records.join(tables.audits)
        found = select(tables.audits.c.record).select_from(joined)
        query = select(exists(found.where(*self._selection().conditions())))
        with self.engine.connect() as connection:
            return bool(connection.scalar(query))

    def _selection(self) -> Selection:
        return Selection(task=self.task, since=self.since, until=self.until)

    def _example(self, row: RowMapping, seen: _Seen, *, by_chance: bool) -> Example | None:
        """A row as an example; None, and counted, where it is none."""
        if row["text"] is None:
            self.tally.without_text += 1
            return None
        key = _key(row)
        whose = "teacher" if row["taught"] else "audited"
        gold = _labels(self.heads, seen.verdict(key))
        labels = gold or _labels(self.heads, row[f"{whose}_labels"] if by_chance else None)
        if labels is None:
            self.tally.strange += 1
            return None
        if not seen.first(key):
            self.tally.duplicates += 1
            return None
        chance = seen.chance(_text_key(row))
        return Example(
            text=row["text"],
            labels=labels,
            fields=row["fields"] or {},
            source=GOLD if gold else SOURCE,
            # A row that came since the chances were noted has its own at least.
            propensity=max(row["propensity"], chance) if by_chance else None,
            scores=row.get(f"{whose}_scores") or {},
            chosen=by_chance and _chosen(row),
        )


_TAUGHT = tables.records.c.teacher_labels.is_not(null())
_JUDGED = exists().where(tables.verdicts.c.record == tables.records.c.id)
_TRACES = (
    *(tables.records.c[name] for name in ("id", "reasons", "text_sha256", "fields")),
    *(tables.records.c[name] for name in ("propensity", "auditable")),
    _TAUGHT.label("taught"),
)
_COLUMNS = tuple(tables.records.c[name] for name in ("text", "teacher_labels", "teacher_scores"))


def _chosen(row: RowMapping) -> bool:
    """Whether the teacher answered it for what a student had said."""
    return bool(row["taught"]) and _ANYWAY.isdisjoint(row["reasons"])


def _alone(row: RowMapping) -> bool:
    """Whether a student chose it while no audit could be made, or nobody kept whether one could."""
    return _chosen(row) and not row["auditable"]


class _Seen:
    """The texts that have come, by key, and what is known of each, in a file."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute(
            "PRAGMA synchronous = OFF"
        )  # a scratch file: nobody reads it again
        self._connection.execute("PRAGMA journal_mode = OFF")
        for columns in (
            "chances (key BLOB PRIMARY KEY, chance REAL)",  # that a teacher saw any such request
            "seen (key BLOB PRIMARY KEY)",
            "verdicts (key BLOB PRIMARY KEY, id TEXT, labels BLOB)",
        ):
            self._connection.execute(f"CREATE TABLE {columns} WITHOUT ROWID")
        self._connection.execute("BEGIN")

    def came(self, key: bytes, propensity: float) -> None:
        """Note a request of that text, which a teacher saw with this chance."""
        self._connection.execute(
            "INSERT INTO chances VALUES (?, ?) "
            "ON CONFLICT (key) DO UPDATE SET chance = chance + (1.0 - chance) * excluded.chance",
            (key, propensity),
        )

    def chance(self, key: bytes) -> float:
        """That a teacher saw any request of that text; 0: it came since they were noted."""
        row = self._connection.execute("SELECT chance FROM chances WHERE key = ?", (key,))
        (chance,) = row.fetchone() or (0.0,)
        return float(chance)

    def first(self, key: bytes) -> bool:
        """Whether nobody has asked for that text with these fields before."""
        query = "INSERT OR IGNORE INTO seen VALUES (?)"
        return self._connection.execute(query, (key,)).rowcount == 1

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
    said = orjson.dumps([row["text_sha256"], row["fields"] or {}], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(said).digest()


def _text_key(row: RowMapping) -> bytes:
    """What a text is called, however it is written."""
    return hashlib.sha256(folded(row["text"]).encode(errors="surrogatepass")).digest()


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

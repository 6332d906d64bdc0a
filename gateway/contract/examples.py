"""Example: one line of teaching data, what the online side hands to the offline side.

One JSON object a line, schema version 1. Also what `distill` makes of a user's table.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from gateway.errors import DataError

SCHEMA_VERSION = 1

Label = str | tuple[str, ...]
Field = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Example:
    """A text and what is known about its labels.

    `labels` is the gold label of each head (a string for a choice, a tuple for flags); empty where
    there is none. `propensity` is the probability with which the text was observed at all, however
    it was written and with whatever fields: rows of one `folded` text share it. None: nobody knows
    it, as of a row that a person picked, which can be learnt from and measures nothing. Rows of the
    same `group` (a conversation, a customer) are never split apart. `scores` is, per head, the
    probability that a teacher gave each label; a label that is left out had none. `chosen`: the row
    was observed because of what a student said of it, as escalated ones are.
    """

    text: str
    labels: Mapping[str, Label] = field(default_factory=dict)
    fields: Mapping[str, Field] = field(default_factory=dict)
    group: str | None = None
    source: str = "gold"
    propensity: float | None = 1.0
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    chosen: bool = False

    @property
    def id(self) -> str:
        """Hash of the text, the row's name in caches."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:24]


def folded(text: str) -> str:
    """The form in which two texts are one: after NFKC, case folding and whitespace folding."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


_EXAMPLE = TypeAdapter(Example)


def write(path: Path, examples: Iterable[Example]) -> int:
    """Write examples as JSON lines; returns how many."""
    count = 0
    with path.open("wb") as file:
        for example in examples:
            row = {
                "schema_version": SCHEMA_VERSION,
                "text": example.text,
                "labels": dict(example.labels),
                "fields": dict(example.fields),
                "group": example.group,
                "source": example.source,
                "propensity": example.propensity,
                "scores": {head: dict(each) for head, each in example.scores.items()},
                "chosen": example.chosen,
            }
            file.write(orjson.dumps(row) + b"\n")
            count += 1
    return count


def read(path: Path) -> Iterator[Example]:
    """Read what `write` wrote. Raises DataError with the line's number."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = orjson.loads(line)
                example = _parse(row)
            except ValueError as error:
                raise DataError(
                    f"{path}, line {number}: not an example: {_cause(error)}",
                    mend="write the file with `understudy`, or remove the line",
                ) from error
            yield example


def _parse(row: Any) -> Example:
    version = row.pop("schema_version", None) if isinstance(row, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema version {version!r}; this version reads {SCHEMA_VERSION}")
    return _EXAMPLE.validate_python(row, extra="forbid")


def _cause(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"

"""Lines of traffic whose right labels may be known: what a policy is replayed on.

One JSON object a line, in any of three forms: an Example (gateway.contract.examples), an exported
record that kept its text, or plainly `text`, `labels` (head -> label, a list for flags) and
`fields`. It reads, and holds labels against the task; it never guesses one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.contract.manifest import HeadKind, Task
from gateway.errors import DataError

Truth = Mapping[str, tuple[str, ...]]  # head -> its label, or its flags


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text with its fields, and the right labels of every head; None: they are not known.

    `chosen`: whether it is labelled depends on what a student said, as with records, and with the
    examples made of them, which have the teacher's labels where they were escalated; or a person
    picked it, so that its propensity is not known. Such rows are no random sample.
    """

    text: str
    fields: Mapping[str, str | int | float | bool | None]
    truth: Truth | None
    chosen: bool = False
    propensity: float = 1.0


class _Line(BaseModel):
    """What is read of a line; an exported record has more keys, which say nothing here."""

    model_config = ConfigDict(extra="ignore", strict=True)

    text: str | None = None
    labels: dict[str, str | list[str]] | None = None
    teacher_labels: dict[str, list[str]] | None = None
    fields: dict[str, str | int | float | bool | None] | None = None
    propensity: float | None = Field(default=1.0, ge=0.0, le=1.0)
    route: str | None = None  # only a record has one
    chosen: bool = False  # only an Example says so


def read(path: Path, task: Task) -> list[Labelled]:
    """All lines of a file, held against the heads and labels of the task.

    Raises DataError, which names the line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", mend="name a file of JSON lines") from error
    found = list(_each(path, lines, task))
    if not found:
        raise DataError(f"{path}: there is no line in it", mend="write one JSON object a line")
    return found


def _each(path: Path, lines: Iterable[bytes], task: Task) -> Iterator[Labelled]:
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            yield _labelled(_Line.model_validate(orjson.loads(raw)), task)
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: {_cause(error)}",
                mend='write {"text": ..., "labels": {head: label}}, with every head of the task',
            ) from error


def _labelled(line: _Line, task: Task) -> Labelled:
    if line.text is None:
        raise ValueError("there is no text; records keep it where records.text is full")
    recorded = line.route is not None
    given: Mapping[str, Any] | None = line.teacher_labels if recorded else line.labels
    return Labelled(
        text=line.text,
        fields=line.fields or {},
        truth=_truth(given, task) if given else None,
        chosen=recorded or line.chosen or line.propensity is None,
        propensity=1.0 if line.propensity is None else line.propensity,
    )


def _truth(given: Mapping[str, str | list[str]], task: Task) -> Truth:
    """The labels of every head. Raises ValueError for what the task does not have."""
    truth = {}
    for head in task.heads:
        if head.name not in given:
            raise ValueError(f"the head {head.name!r} has no label")
        said = given[head.name]
        labels = (said,) if isinstance(said, str) else tuple(said)
        if unknown := sorted(set(labels) - set(head.labels)):
            raise ValueError(f"the head {head.name!r} has no label {unknown[0]!r}")
        if head.kind is HeadKind.CHOICE and len(labels) != 1:
            raise ValueError(f"the head {head.name!r} has one label, not {len(labels)}")
        truth[head.name] = labels
    return truth


def _cause(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}"

"""What is sent, and what must come back: bodies of texts or of a file, and labels to check with.

Bodies are made once, before the load starts, and go out in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import orjson

from distill.demo.traffic import traffic
from gateway.errors import DataError

T = TypeVar("T")
Check = Callable[[int, bytes], bool]  # number of the body, body of the reply -> is it right?

TICKETS = 2000  # bodies where no file is named: many lengths, and made in a tenth of a second


@dataclass(frozen=True, slots=True)
class ExpectedLabels:
    """A check: the reply to each body carries these `labels` (of many inputs: a list of them)."""

    labels: Sequence[Any]

    def __call__(self, number: int, body: bytes) -> bool:
        """Whether the reply to body `number` says what was expected."""
        try:
            reply = orjson.loads(body)
            said = [each["labels"] for each in reply["results"]] if "results" in reply else None
            found = reply["labels"] if said is None else said
        except (ValueError, KeyError, TypeError):
            return False
        return bool(found == self.labels[number])


def texts(path: Path) -> list[str]:
    """The texts of a file, one a line. Raises DataError when there is none."""
    found = [line.strip() for line in _lines(path)]
    return _some([line for line in found if line], path, "write one text a line")


def of_texts(inputs: Sequence[str], *, rows: int = 1, task: str | None = None) -> list[bytes]:
    """Bodies for POST /v1/predict: one text each, or `rows` of them, going round."""
    common = {"task": task} if task else {}
    if rows == 1:
        return [orjson.dumps(common | {"input": text}) for text in inputs]
    return [orjson.dumps(common | {"inputs": group}) for group in groups(inputs, rows)]


def groups(inputs: Sequence[T], rows: int) -> list[list[T]]:
    """The inputs in turn, `rows` at a time; the last group is filled up from the first one on."""
    source = cycle(inputs)
    return [list(islice(source, rows)) for _ in range(-(-len(inputs) // rows))]


def of_tickets(seed: int, *, task: str | None = None, count: int = TICKETS) -> list[bytes]:
    """Bodies of the demo's live traffic, with the amount that its risk rule reads."""
    common = {"task": task} if task else {}
    return [
        orjson.dumps(common | {"input": ticket.text, "fields": {"amount": ticket.amount}})
        for ticket in islice(traffic(seed=seed), count)
    ]


def of_file(path: Path) -> list[bytes]:
    """Bodies as they stand in a JSON lines file. Raises DataError naming the line."""
    found = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(
                f"{path}:{number}: not JSON: {error}", mend="write one JSON body a line"
            ) from error
        found.append(line.strip().encode())
    return _some(found, path, "write one JSON body a line")


def expected(path: Path, count: int) -> ExpectedLabels:
    """A check from a JSON lines file: the `labels` of each body, in their order.

    Raises DataError when there are not exactly `count` of them.
    """
    found = [orjson.loads(line) for line in of_file(path)]
    if len(found) != count:
        raise DataError(
            f"--expect {path}: {len(found)} lines for {count} bodies",
            mend="write the labels of every body, one JSON value a line",
        )
    return ExpectedLabels(found)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", mend="name a UTF-8 file") from error


def _some(found: list[T], path: Path, mend: str) -> list[T]:
    if not found:
        raise DataError(f"{path}: nothing in it", mend=mend)
    return found

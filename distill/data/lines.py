"""Example lines as data of a recipe: what a gateway handed over, or traces that were imported.

A file of them is known by the schema version that each line carries. It refuses to take what a
teacher said for gold: whose labels a line holds, its `source` says.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from gateway.contract import examples
from gateway.contract.examples import Example
from gateway.errors import DataError


@dataclass(frozen=True, slots=True)
class Lines:
    """A whole file. The n-th example stands on its n-th line."""

    path: Path
    sha256: str
    examples: tuple[Example, ...]


def are_in(path: Path) -> bool:
    """Whether a file holds Example lines, as far as its first line tells."""
    if path.suffix.lower() != ".jsonl":
        return False
    try:
        with path.open("rb") as file:
            first = orjson.loads(file.readline())
    except (OSError, orjson.JSONDecodeError):
        return False  # what it is instead is told by who reads it as a table
    return isinstance(first, dict) and {"schema_version", "text"} <= first.keys()


def read(path: Path) -> Lines:
    """Read a file whole. Raises DataError, which names the line."""
    found = tuple(examples.read(path))
    for number, each in enumerate(found, 1):
        if fault := _fault(each):
            raise DataError(
                f"{path}, line {number}: {fault}",
                mend="write it again with `understudy handover` or `understudy traces import`",
            )
    with path.open("rb") as file:
        return Lines(path, hashlib.file_digest(file, "sha256").hexdigest(), found)


def teacher_labelled(path: Path) -> bool:
    """Whether a file holds Example lines with labels of a teacher. Raises DataError."""
    return are_in(path) and any(
        each.labels and each.source == "teacher" for each in examples.read(path)
    )


def _fault(example: Example) -> str:
    """What is wrong with a line, if anything is."""
    if not example.text.strip():
        return "the text is empty"
    if example.propensity is not None and not 0.0 < example.propensity <= 1.0:
        return f"propensity {example.propensity:g} is no probability of a row that is there"
    for head, scores in example.scores.items():
        if not _are_probabilities(scores):
            return f"the scores of the head {head!r} are no probabilities"
    return ""


def _are_probabilities(scores: Mapping[str, float]) -> bool:
    return all(math.isfinite(each) and 0.0 <= each <= 1.0 for each in scores.values())

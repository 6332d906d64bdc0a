"""What every stage works with, and how the rows of its material are read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

from distill.certify import Gold
from distill.corpus import Material
from distill.progress import Narrator
from distill.recipe import Recipe
from distill.train import gold_of
from distill.workspace import Workspace
from gateway.contract.bundle import Bundle
from gateway.contract.encoding import Encoding
from gateway.contract.examples import Example


@dataclass(frozen=True, slots=True)
class Job:
    """What every stage of a run works with; `teacher` is None where there is no bundle of it."""

    recipe: Recipe
    workspace: Workspace
    narrator: Narrator
    material: Material
    teacher: Bundle | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # of stages in runs before this one

    def gold(self, rows: Sequence[Example]) -> tuple[Gold, ...]:
        """The labels of the rows, one array a head."""
        return gold_of(self.material.task, [row.labels for row in rows])


def texts_of(rows: Sequence[Example]) -> list[str]:
    """The text of each row."""
    return [row.text for row in rows]


def ids_of(encoding: Encoding, rows: Sequence[Example]) -> list[list[int]]:
    """The token ids of each row, cut where the encoding cuts."""
    return [each.ids for each in encoding.encode(texts_of(rows))]


def now() -> str:
    """The time as a bundle states it: ISO 8601, UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")

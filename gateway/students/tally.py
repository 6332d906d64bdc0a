"""How many texts a canary has answered in its step, over all processes that share a registry.

Each process has a file of its own beside roles.json, which says what it has counted of which step;
the sum of the files of a step is what all have counted. So no replica waits for another, and what
one had counted before it was started again is not lost. The files are no proof of anything: one
that cannot be read counts nothing, and a power cut may cost the last second of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.contract.manifest import Name

_PREFIX = ".canary-"


class Count(BaseModel):
    """So many texts, of the step of that canary which began at `since`, seconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Name
    since: float
    rows: int = Field(default=0, ge=0)


class Tally:
    """The counts of one task. `process` names this one's file. All of it blocks."""

    def __init__(self, folder: Path, process: str) -> None:
        self._folder = folder
        self._own = folder / f"{_PREFIX}{process}.json"
        self._said: Count | None = None

    def total(self, mine: Count) -> int:
        """Say what this process has counted of a step; returns what all have.

        Files of steps before it are removed: nobody will ask for them.
        """
        self._say(mine)
        rows = mine.rows
        for path, count in self._others():
            if (count.bundle, count.since) == (mine.bundle, mine.since):
                rows += count.rows
            elif count.since < mine.since:
                path.unlink(missing_ok=True)
        return rows

    def _say(self, mine: Count) -> None:
        """Write it down, unless it is there. A disk that takes nothing costs the others' sum."""
        if mine == self._said or (not mine.rows and self._said is None):
            return
        aside = self._own.with_suffix(".new")
        with suppress(OSError):
            aside.write_text(mine.model_dump_json())
            aside.replace(self._own)
            self._said = mine

    def _others(self) -> Iterator[tuple[Path, Count]]:
        for path in self._folder.glob(f"{_PREFIX}*.json"):
            if path != self._own:
                with suppress(OSError, ValidationError):  # it is gone, or not whole
                    yield path, Count.model_validate_json(path.read_bytes())

"""The student of a task, and how it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from gateway.settings.part import Part


class StudentSettings(Part):
    """The bundle that serves first, and how whichever bundle serves is run."""

    bundle: Path | None = Field(
        default=None, description="null: none serves, until one is added to the running gateway"
    )
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="that answer at once; auto: as tuned, else the cores"
    )
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="of one ORT call; auto: as tuned, else 1"
    )
    run_in: Literal["processes", "threads"] = Field(
        default="processes", description="where its workers run"
    )
    tuning: Path = Field(
        default=Path("understudy.tuned.json"), description="what `understudy tune` found here"
    )
    operating_point: str = "default"
    queue: int = Field(default=4096, ge=1, description="texts that may wait")
    max_wait_ms: float = Field(
        default=500.0, gt=0.0, description="a request that would wait longer is refused"
    )
    max_batch: int = Field(default=32, ge=1, le=1024)
    max_batch_tokens: int = Field(default=1024, ge=1, description="estimated, in one batch")

    def anchored(self, folder: Path) -> Self:
        """The same with paths that no longer depend on the current folder."""
        return self.model_copy(
            update={
                "bundle": self.bundle and folder / self.bundle,
                "tuning": folder / self.tuning,
            }
        )

"""A gateway that is opened beside one that may run: the same parts, and nothing of it disturbed."""
# ruff: noqa: PLC0415  imports stand inside the functions: --help then comes in a fraction of a second

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.assembly import Gateway
    from gateway.settings import Settings


@asynccontextmanager
async def open_aside(settings: Settings) -> AsyncIterator[Gateway]:
    """Open everything as `serve` would, with records of its own, which go when it closes."""
    import tempfile

    from gateway.assembly import open_gateway
    from gateway.telemetry import logs

    logs.configure("warning", json=False)  # on standard error, away from what is printed
    with tempfile.TemporaryDirectory() as folder:
        beside = {"path": Path(folder) / "records.db", "url": None}
        records = settings.records.model_copy(update=beside)
        chosen = settings.model_copy(update={"records": records})
        async with open_gateway(chosen, aside=True) as gateway:
            yield gateway


def one_task(settings: Settings, task: str | None) -> tuple[str, Settings]:
    """The task that is meant, and settings for it alone, light enough to ask it a few things.

    No name means the only task. Raises UsageError.
    """
    names = list(settings.tasks)
    if task is None and len(names) == 1:
        task = names[0]
    if task not in settings.tasks:
        raise UsageError(
            f"there is no task {task!r} in the settings" if task else "there are several tasks",
            mend=f"give --task with one of: {', '.join(names)}",
        )
    chosen = settings.tasks[task]
    student = chosen.student.model_copy(update={"workers": 1, "run_in": "threads"})
    # A safety net ends after some days, and what is certified has to hold without it too.
    promotion = chosen.promotion.model_copy(update={"safety_net": None})
    tasks = {task: chosen.model_copy(update={"student": student, "promotion": promotion})}
    return task, settings.model_copy(update={"tasks": tasks})

"""The demo: the whole loop on synthetic tickets, from nothing to live traffic and its bill.

It does what a user would do: the same pipeline, the same `understudy serve` in a process of its
own, and requests over HTTP. A second start finds its bundles and goes straight to serving.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
from rich.console import Console
from rich.live import Live

from distill import pipeline, recipe
from distill.demo import crowd, house, live, project, summary
from distill.demo.traffic import traffic
from distill.progress import Narrator
from distill.workspace import Workspace
from gateway import settings

_TIMEOUT_S = 30.0  # of a look: a busy machine is no reason to give up
_LOOK_S = 0.5  # between two looks at /v1/stats on a terminal
_LINE_S = 5.0  # between two lines where there is none


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be shown. `rate` is in requests a second; `seconds` None: until Ctrl-C."""

    folder: Path
    tickets: int
    seed: int
    rate: float
    seconds: float | None
    recipe: str = project.RECIPE


def run(plan: Plan, *, fresh: bool, as_json: bool) -> None:
    """Teach, distil, serve, send traffic, sum up."""
    began = time.monotonic()
    narrator = Narrator()
    if fresh:
        _forget(plan.folder)
    narrator.note(
        "Understudy: a small student learns from a teacher, then answers first", style="bold"
    )
    project.write(plan.folder, count=plan.tickets, seed=plan.seed, recipe=plan.recipe)
    orders = recipe.load(plan.folder / recipe.FILE_NAME)
    workspace = Workspace(plan.folder)
    narrator.note("\nThe teacher: six layers of MiniLM, fine-tuned on gold labels", style="green")
    teacher = pipeline.teach(orders, workspace, narrator)
    narrator.note("\nThe student: two of its layers, distilled from its answers", style="green")
    student = pipeline.distill(orders, workspace, narrator)
    stages = {f"teacher_{name}": seconds for name, seconds in teacher.seconds.items()} | {
        f"student_{name}": seconds for name, seconds in student.seconds.items() if name != "collect"
    }
    narrator.note(f"\nreport: {student.report}")
    seen = crowd.Seen()
    starting = time.monotonic()
    with house.gateway(plan.folder) as url:
        stages["gateway_start"] = time.monotonic() - starting
        narrator.note(f"serving on {url}\n")
        stats = asyncio.run(_watch(plan, url, seen, narrator.console))
    first = seen.first_answer_at
    found = summary.figures(
        teacher=teacher,
        student=student,
        stats=stats,
        seen=seen,
        stages=stages,
        first_answer_s=None if first is None else first - began,
    )
    if as_json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    Console().print(summary.table(found))
    Console().print(
        f"Next: read {student.report}, or serve it yourself:\n"
        f"  understudy serve --config {plan.folder / settings.FILE}",
        highlight=False,
    )


async def _watch(plan: Plan, url: str, seen: crowd.Seen, console: Console) -> dict[str, Any]:
    """Send traffic and show it until the time is up or Ctrl-C; returns the last stats."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if plan.seconds is not None:
        loop.call_later(plan.seconds, stop.set)
    sending = asyncio.create_task(
        crowd.send(url, traffic(seed=plan.seed), rate=plan.rate, seen=seen, stop=stop)
    )
    async with httpx2.AsyncClient(base_url=url, timeout=_TIMEOUT_S) as client:
        if console.is_terminal:
            await _show(plan, client, seen, stop, console)
        else:
            await _tell(client, seen, stop, console)
        await sending
        return await _stats(client)


async def _show(
    plan: Plan, client: httpx2.AsyncClient, seen: crowd.Seen, stop: asyncio.Event, console: Console
) -> None:
    title = f"tickets, live at {plan.rate:g} requests a second"
    hint = "Ctrl-C ends" if plan.seconds is None else f"ends by itself after {plan.seconds:g} s"
    with Live(console=console, auto_refresh=False) as view:
        over = False
        while not over:  # the last screen is of the end
            over = await _set_within(stop, _LOOK_S)
            stats = await _stats(client)
            view.update(live.screen(stats, seen, title=title, hint=hint), refresh=True)


async def _tell(
    client: httpx2.AsyncClient, seen: crowd.Seen, stop: asyncio.Event, console: Console
) -> None:
    over = False
    while not over:
        over = await _set_within(stop, _LINE_S)
        console.print(live.line(await _stats(client), seen))


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def _stats(client: httpx2.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/v1/stats")).raise_for_status().json()
    return found


def _forget(folder: Path) -> None:
    """Remove what an earlier demo has trained and recorded."""
    for name in ("runs", "bundles"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in folder.glob("understudy.db*"):
        path.unlink()

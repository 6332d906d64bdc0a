"""The story: a serving student, those who come for its place, a fall, and how it is made good.

It does what a user would do: `understudy distill`, `serve`, `students add`, `shadow status`,
`students promote`, `improve`, each in a process of its own, and requests over HTTP. Canary steps,
alarms and rollbacks are the gateway's. Labels are the clerk's; gold is known to the sender alone,
and is only counted. An act that does not end as it must ends the story with an error.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import orjson
from rich.console import Console

from distill import recipe
from distill.demo import house
from distill.story import cast, picture
from distill.story.acts import ACTS
from distill.story.cast import School
from distill.story.chronicle import Chronicle
from distill.story.clerk import DELAY_S, MODEL, WRONG, Clerk
from distill.story.desk import Desk, understudy
from distill.story.play import Play
from distill.story.telling import Telling
from distill.workspace import Workspace
from gateway import cores, settings
from gateway.errors import BundleMissing

PICTURE = "story.png"
CHRONICLE = "chronicle.json"

# Fast on purpose. A shop has a day where the story has seconds, and hundreds of thousands of rows
# where it has hundreds; the gates, the ladder and the alarms are the same.
_SETTINGS = """\
version: 1
server: {{host: 127.0.0.1, port: 8080}}
tasks:
  tickets:
    student: {{bundle: {bundle}}}
    teacher: {{openai: {{url: '{teacher}', model: {model}}}}}
    audit: {{share: 0.2}}
    shadow:
      share: 1.0
      busy: 1.0                # a candidate has seconds here, too
      gates:
        disagreement: 0.12     # with the teacher, in what it would answer itself
        serving: 0.10          # more of that than the one that serves
        escalation: 0.12       # more left to the teacher than by the one that serves
        latency: null          # two cores and three students are no place to compare speed
        minimum_s: 0
        cycle_s: 0
    promotion:
      automatic: false
      steps:
        - {{share: 0.01, minimum_s: 1, rows: 5}}
        - {{share: 0.05, minimum_s: 1, rows: 20}}
        - {{share: 0.25, minimum_s: 1, rows: 100}}
        - {{share: 1.0, minimum_s: 1, rows: 300}}
      alarm: {{disagreement: 0.25}}
    alarms: {{action: rollback, error: {error}}}
    drift: {{certificate: warn}}
    # Prices for illustration: what a hosted large model may ask, and two small cores.
    prices: {{teacher_usd_per_1000: 2.00, instance_usd_per_hour: 0.10}}
records: {{path: understudy.db, text: full}}
logging: {{level: info}}
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be told. `rate` is in requests a second; `port` 0: any that is free."""

    folder: Path
    seed: int = 0
    rate: float = 150.0
    port: int = 0
    school: School = field(default_factory=School)
    error: float = 0.2  # of audited answers, above which the alarm rings


def run(plan: Plan, *, fresh: bool, as_json: bool) -> None:
    """Tell it from beginning to end. Raises StageFailed where an act does not end as it must."""
    _forget(plan.folder, trained=fresh)
    telling, chronicle = Telling(Console(stderr=True, highlight=False)), Chronicle()
    found = asyncio.run(_told(plan, telling, chronicle))
    if as_json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    summary = Telling(Console(highlight=False))
    summary.finale(found)
    summary.say(f"picture: {plan.folder / PICTURE}")


async def _told(plan: Plan, telling: Telling, chronicle: Chronicle) -> dict[str, Any]:
    began = time.monotonic()
    figures: dict[str, dict[str, Any]] = {}
    clerk = Clerk()
    telling.say("Understudy: how a student comes, falls, and comes back", style="bold")
    telling.say(
        f"The teacher is the ticket world itself: asked as a chat model is, wrong on {WRONG:.0%} "
        f"of the texts, {1000 * DELAY_S:.0f} ms an answer."
    )
    cast.write(plan.folder, clerk, plan.school, seed=plan.seed)
    bundles = await _distilled(plan, telling)
    seconds = {"distil": time.monotonic() - began}
    try:
        async with clerk.served() as teacher, httpx2.AsyncClient() as client:
            _write_settings(plan, bundles, teacher.url)
            with house.gateway(plan.folder, port=plan.port) as url:
                telling.say(f"\n{bundles[cast.FIRST].name} serves on {url}")
                play = Play(
                    desk=Desk(plan.folder, url, client),
                    clerk=clerk,
                    chronicle=chronicle,
                    telling=telling,
                    bundles=bundles,
                    seed=plan.seed,
                    rate=plan.rate,
                )
                for number, act in enumerate(ACTS, 1):
                    started = time.monotonic()
                    chronicle.happened("act", act.title)
                    telling.act(number, act.title, act.about)
                    figures[act.name] = await act.played(play, figures)
                    seconds[act.name] = time.monotonic() - started
                cost = (await play.desk.stats())["cost"]
    finally:
        if chronicle.answers:
            chronicle.write(plan.folder / CHRONICLE)
            picture.draw(chronicle, plan.folder / PICTURE)
    seconds["all"] = time.monotonic() - began
    traffic = {
        "answers": chronicle.answers,
        "failed": play.seen.failed,
        "turned_away": play.seen.turned_away,
    }
    return {"traffic": traffic, "acts": figures, "cost_micro_usd": cost, "seconds": seconds}


async def _distilled(plan: Plan, telling: Telling) -> Mapping[str, Path]:
    """The bundles of the cast by role: distilled side by side, one on a core."""
    telling.say("\nFour students learn from what the teacher has said before")
    room = asyncio.Semaphore(max(1, cores.available()))

    async def distilled(role: str) -> tuple[str, Path]:
        project = plan.folder / role
        words = ("distill", "--recipe", str(project / recipe.FILE_NAME))
        async with room:
            telling.typed(*words)
            await understudy(*words, log=project / "distill.log", threads=1)
        bundle = Workspace(project).linked("student")
        if bundle is None:
            raise BundleMissing(f"{project} has no student", mend="tell the story with --fresh")
        telling.say(f"  {role}: {bundle.name}")
        return role, bundle

    # The one that takes longest begins.
    longest_first = [role.name for role in reversed(cast.ROLES)]
    return dict(await asyncio.gather(*map(distilled, longest_first)))


def _write_settings(plan: Plan, bundles: Mapping[str, Path], teacher: str) -> None:
    text = _SETTINGS.format(
        bundle=bundles[cast.FIRST].resolve().relative_to(plan.folder.resolve()),
        teacher=teacher,
        model=MODEL,
        error=plan.error,
    )
    (plan.folder / settings.FILE).write_text(text, encoding="utf-8")


def _forget(folder: Path, *, trained: bool) -> None:
    """Remove what was served in an earlier telling; what was `trained` before too, if so."""
    gone = [folder / "students", folder / cast.NEXT]
    gone += [folder / role.name for role in cast.ROLES] if trained else []
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    for path in (*folder.glob("understudy.db*"), folder / "commands.log"):
        path.unlink(missing_ok=True)

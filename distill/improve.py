"""One turn of the flywheel: what live traffic has taught -> the next student, under test.

    hand over -> distil -> check -> add        each step is done once

A round is a folder beside the recipe. One that was interrupted goes on with the examples that it
has, and knows since when they are; one whose student would answer nothing takes new ones the next
time, since then too. A new round takes all that the records hold, unless it is told since when. It
promotes nobody: it ends with a candidate.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from distill import pipeline
from distill.pipeline import Sealed
from distill.progress import Narrator
from distill.recipe import Recipe
from distill.workspace import Workspace
from gateway.api.schemas import ServingReply
from gateway.api.stats import serving
from gateway.cli.aside import one_task, open_aside
from gateway.cli.handover import hand_over, told, when
from gateway.cli.remote import reach
from gateway.cli.students import send
from gateway.errors import StageFailed, UsageError
from gateway.settings import RegistrySettings, Settings, TaskSettings, load

ROUNDS = "rounds"  # beside the recipe
HANDOVER = "handover.jsonl"
SINCE = "since.json"  # what --since said of the examples
ADDED = "added.json"  # which candidate came of a round, and where: then it has ended

_STEPS = 4


@dataclass(frozen=True, slots=True)
class Gateways:
    """The gateways that are improved, as the command line names them."""

    config: Path
    admin: Sequence[str] | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Improved:
    """What came of a round: a candidate at each of these URLs."""

    number: int
    sealed: Sealed
    urls: tuple[str, ...]


def improve(
    recipe: Recipe,
    gateways: Gateways,
    narrator: Narrator,
    *,
    since: str | None = None,
    allow_biased: bool = False,
    fresh: bool = False,
) -> Improved:
    """Go one round, or on with one that was interrupted unless it is to be `fresh`.

    `since` is where the examples begin, as `understudy handover` reads it; None: where those of
    this round began before, else with the first record. Raises UsageError where
    the recipe and the settings are of different tasks, or the round has examples since another
    time, StageFailed where the new student would answer nothing, and what the steps raise; what
    earlier steps did is kept.
    """
    name, settings = one_task(load(gateways.config), recipe.task)
    folder = _round(recipe.folder / ROUNDS, fresh=fresh)
    number = int(folder.name)
    file = _handed(folder / HANDOVER, gateways.config, name, since, narrator)

    _begin(narrator, 2, "distil the next student from the examples and the recipe's own data")
    plan = recipe.handed(file, allow_biased=allow_biased)
    try:
        sealed = pipeline.distill(plan, Workspace(recipe.folder), narrator)
    except UsageError:
        file.unlink()  # too little, or not to be used: the next try takes what has come since
        raise

    _begin(narrator, 3, "check what it would do under the policy that it would serve under")
    try:
        narrator.note(f"  {asyncio.run(_check(settings, name, sealed))}")
    except StageFailed:
        file.unlink()  # with these examples it always comes to the same
        raise

    _begin(narrator, 4, "add it as a candidate")
    reached = reach(gateways.config, gateways.admin, gateways.key_file)
    replies = dict(send(reached, name, sealed.bundle.path))
    for url, reply in replies.items():
        if not reply["compared"]:
            raise StageFailed(
                f"{sealed.bundle.name} is at {url}, and is not compared there: {reply['note']}",
                mend="mend that, and run `understudy improve` again: it goes on with this round",
            )
    urls = tuple(replies)
    added = {"bundle": sealed.bundle.name, "id": sealed.bundle.id, "urls": urls}
    (folder / ADDED).write_text(json.dumps(added, indent=2) + "\n")
    return Improved(number, sealed, urls)


def _begin(narrator: Narrator, number: int, title: str) -> None:
    narrator.note(f"{number}/{_STEPS} {title}", style="bold")


def _round(rounds: Path, *, fresh: bool) -> Path:
    """The folder of the round that has not ended, or of a new one."""
    numbers = [int(each.name) for each in rounds.glob("*") if each.name.isdecimal()]
    last = max(numbers, default=0)
    ended = fresh or not last or (rounds / str(last) / ADDED).is_file()
    folder = rounds / str(last + 1 if ended else last)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _handed(file: Path, config: Path, task: str, since: str | None, narrator: Narrator) -> Path:
    """The examples of the round: those that it has, or those that the records hold now.

    Raises UsageError where it has some since another time than is wanted, and like `hand_over`.
    """
    _begin(narrator, 1, "hand over what teachers and people have said of live traffic")
    noted = file.with_name(SINCE)
    before = noted.read_text() if noted.is_file() else None
    begun, exactly = (json.loads(before)[key] if before else None for key in ("since", "exactly"))
    if file.is_file():
        if since not in (None, begun):
            raise UsageError(
                f"--since {since}: this round has the examples since {begun or 'the beginning'}",
                mend="leave --since out to go on with it, or begin a new round with --fresh",
            )
        narrator.note(f"  kept from an earlier start: {file}", style="dim")
        return file
    if since in (None, begun):
        since = begun  # a try that took its examples away has left since when they were
    else:
        exactly = _exactly(since)  # seven days before now are other ones tomorrow
    try:
        noted.write_text(json.dumps({"since": since, "exactly": exactly}) + "\n")
        _, tally = hand_over(file, config, task, since=exactly)
    except BaseException:
        noted.unlink(missing_ok=True)
        if before is not None:
            noted.write_text(before)
        raise
    narrator.note(f"  {told(tally, task)} in {file}")
    return file


def _exactly(since: str) -> str:
    """A time or a span before now -> the time. Raises UsageError."""
    at = datetime.fromtimestamp(when(since, "--since") or 0.0, UTC)
    return at.isoformat(timespec="seconds")


async def _check(settings: Settings, task: str, sealed: Sealed) -> str:
    """Open the new student as the gateway would: what it would promise. Raises StageFailed.

    A certificate of the policy is of the student that serves, as a rule. Then this one is looked at
    without, as it is while it is a candidate; to serve it needs one of its own.
    """
    old = settings.tasks[task]
    student = old.student.model_copy(update={"bundle": sealed.bundle.path})
    chosen = old.model_copy(update={"student": student})
    found, due = await _stands(settings, task, chosen), ""
    if found is not None and found.certificate_void and old.policy.certificate is not None:
        due = f"; to serve it needs a certificate in the place of {old.policy.certificate.name}"
        bare = old.policy.model_copy(update={"certificate": None})
        found = await _stands(settings, task, chosen.model_copy(update={"policy": bare}))
    if found is None or found.threshold is None:
        raise StageFailed(
            f"the new student {sealed.bundle.name} has no certified threshold: it would answer "
            "nothing",
            mend="let more audited traffic come and run it again: it hands over anew; or allow a "
            "larger certificate.alpha in the recipe",
        )
    promise = found.certificate.words if found.certificate else "no certificate covers it"
    return f"{sealed.bundle.name} answers from a score of {found.threshold:.4g} on: {promise}{due}"


async def _stands(settings: Settings, task: str, chosen: TaskSettings) -> ServingReply | None:
    """With what the task would be served under these settings of it."""
    with tempfile.TemporaryDirectory() as folder:
        registry = RegistrySettings(path=Path(folder))  # empty: who serves now is not asked
        update = {"tasks": {task: chosen}, "registry": registry}
        async with open_aside(settings.model_copy(update=update)) as gateway:
            return serving(gateway.settings, gateway.tasks[task])

"""The cast of the story: five students of one task, and what each has seen of the clerk's log.

    worse    a tenth of the log
    first    two fifths: it serves when the curtain rises
    equal    the same two fifths, learnt at another pace
    better   the whole log
    next     the whole log, and what live traffic has taught since: `understudy improve` makes it

All make the same promise and differ in how often they can keep it: a student that knows less leaves
more to the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from distill.demo import tickets
from distill.demo.dice import Dice
from distill.demo.tickets import Ticket
from distill.demo.traffic import LIVE
from distill.recipe import FILE_NAME
from distill.story.clerk import HEAD, Clerk

WORSE, FIRST, EQUAL, BETTER, NEXT = "worse", "first", "equal", "better", "next"

_LOG = "log.jsonl"  # in a project: what the clerk has said


@dataclass(frozen=True, slots=True)
class Role:
    """A student that is distilled before the story: its share of the log, and its pace."""

    name: str
    share: float
    learning_rate: float


ROLES = (
    Role(WORSE, share=0.1, learning_rate=5.0e-4),
    Role(FIRST, share=0.4, learning_rate=5.0e-4),
    Role(EQUAL, share=0.4, learning_rate=4.0e-4),
    Role(BETTER, share=1.0, learning_rate=5.0e-4),
)


@dataclass(frozen=True, slots=True)
class School:
    """How students are made. `promise` is the alpha of their certificates."""

    tickets: int = 4500  # in the clerk's log
    epochs: int = 4
    again: int = 3  # epochs of the next student, which has more rows
    promise: float = 0.05
    base: str = "minilm"


_RECIPE = """\
version: 1
task: tickets
data:
  path: {log}
  heads:
    {head}: {{kind: choice, column: {head}, labels: [{labels}]}}
  split: {{calibration: 0.08, certification: 0.20, test: 0.04}}{handover}
teacher: {{base: {base}}}
student:
  max_tokens: 64
  augment: 0
  training:
    epochs: {epochs}
    learning_rate: {learning_rate}
    losses: [{{name: cross_entropy}}]
certificate: {{alpha: {promise}, delta: 0.05}}
gates: {{label_flips: 0.02, confident_flips: 0.01}}  # of so few rows one is more than the usual
prices: {{teacher_usd_per_1000: 2.00, instance_usd_per_hour: 0.10}}
seed: {seed}
"""

# The whole of live traffic is handed over, so that fewer rows of it than by default have to prove.
_HANDOVER = """
  handover:
    path: handover.jsonl
    split: {calibration: 0.10, certification: 0.20, test: 0.05}"""


def write(folder: Path, clerk: Clerk, school: School, *, seed: int) -> None:
    """Write a project for each of the cast: the clerk's log, and a recipe."""
    drawn = tickets.distinct(tickets.stream(Dice(f"log/{seed}"), LIVE))
    world = list(islice(drawn, school.tickets))
    for role in ROLES:
        lines = world[: round(role.share * len(world))]
        _write(folder / role.name, clerk, lines, _recipe(role, school, seed=seed, handover=""))
    again = replace(school, epochs=school.again)
    heir = _recipe(ROLES[-1], again, seed=seed, handover=_HANDOVER)
    _write(folder / NEXT, clerk, world, heir)


def _write(project: Path, clerk: Clerk, lines: Sequence[Ticket], recipe: str) -> None:
    project.mkdir(parents=True, exist_ok=True)
    clerk.log(project / _LOG, lines)
    (project / FILE_NAME).write_text(recipe, encoding="utf-8")


def _recipe(role: Role, school: School, *, seed: int, handover: str) -> str:
    return _RECIPE.format(
        log=_LOG,
        head=HEAD.name,
        labels=", ".join(HEAD.labels),
        handover=handover,
        base=school.base,
        epochs=school.epochs,
        learning_rate=role.learning_rate,
        promise=school.promise,
        seed=seed,
    )

"""Traffic that drifts, replayed through a gateway: CLINC150, whose texts of no intent become 18 %.

    python -m benchmarks.drift --data FOLDER --out FOLDER [--seed N] [--certificate warn]

The first time it trains a teacher and a student, as `python -m benchmarks` does, and takes theirs
where that has run. Then it asks a real gateway, text by text, on a clock of its own, and says for
each share of strangers what was escalated, how much was handled rightly, and what the watch saw.
An escalation is the right way to handle a text that is of no intent.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from gateway import settings
from gateway.assembly import Gateway, open_gateway
from gateway.errors import UnderstudyError
from gateway.shadow.window import State
from gateway.types import Answer, Instance, Terms

SHARES = (0.0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.18)  # of texts that are of no intent, by phase
_STEP_S = 1.0  # between two texts on the clock of the replay: a quiet gateway


@dataclass(frozen=True, slots=True)
class Asked:
    """A text and what is so: head -> labels; None: it is of none that the task knows."""

    text: str
    truth: Mapping[str, tuple[str, ...]] | None


@dataclass(frozen=True, slots=True)
class Phase:
    """What came of the texts of one share of strangers.

    `handled`: share that went to the teacher, or was answered rightly by the student. `moved`: the
    signals that drift when it ends. `audits`: the probability of an audit by then.
    """

    share: float
    escalated: float
    handled: float
    moved: tuple[str, ...]
    stale: bool
    audits: float


class Clock:
    """Seconds since the epoch that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        """The present."""
        return self.now


def replay(
    path: Path,
    known: Sequence[Asked],
    strangers: Sequence[Asked],
    *,
    rows: int,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
) -> list[Phase]:
    """Ask the gateway of those settings `rows` texts of each share; both kinds are drawn at random.

    The settings have one task. Raises what opening the gateway raises.
    """
    traffic = _Traffic(known, strangers, random.Random(seed))  # noqa: S311  which text comes
    return asyncio.run(_replay(path, traffic, rows, shares))


@dataclass(frozen=True, slots=True)
class _Traffic:
    """Texts as they come."""

    known: Sequence[Asked]
    strangers: Sequence[Asked]
    chance: random.Random

    def text(self, share: float) -> Asked:
        """The next one; with probability `share` a stranger."""
        return self.chance.choice(self.strangers if self.chance.random() < share else self.known)


async def _replay(path: Path, traffic: _Traffic, rows: int, shares: Sequence[float]) -> list[Phase]:
    clock = Clock()
    async with open_gateway(settings.load(path), clock=clock) as gateway:
        return [await _phase(gateway, clock, traffic, rows, share) for share in shares]


async def _phase(
    gateway: Gateway, clock: Clock, traffic: _Traffic, rows: int, share: float
) -> Phase:
    escalated = handled = 0
    audits = 0.0
    for _ in range(rows):
        clock.now += _STEP_S
        asked = traffic.text(share)
        (answer,) = (await gateway.answer(None, [Instance(asked.text)], Terms())).answers
        escalated += answer.decision.escalate
        handled += answer.decision.escalate or _right(answer, asked)
        audits = answer.audit_uniform or audits
    (succession,) = gateway.successions.values()
    await succession.auditor.close()
    movements = succession.watch.drift().movements
    return Phase(
        share=share,
        escalated=escalated / rows,
        handled=handled / rows,
        moved=tuple(each.signal.value for each in movements if each.state is State.DRIFTING),
        stale=succession.watch.stale,
        audits=audits,
    )


def _right(answer: Answer, asked: Asked) -> bool:
    if asked.truth is None or answer.prediction is None:
        return False
    said = {each.head: each.labels for each in answer.prediction.heads}
    return said == dict(asked.truth)


def table(phases: Sequence[Phase]) -> str:
    """The phases as Markdown."""
    lines = ["| Strangers | Escalated | Handled rightly | Drifting | Stale | Audits |"]
    lines.append("|---|---|---|---|---|---|")
    for each in phases:
        moved, stale = ", ".join(each.moved) or "-", "yes" if each.stale else "no"
        lines.append(
            f"| {each.share:.0%} | {each.escalated:.1%} | {each.handled:.2%} | {moved} | {stale} "
            f"| {each.audits:.0%} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        told = table(_clinc150(options))
    except UnderstudyError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    sys.stdout.write(told)
    return 0


def _clinc150(options: argparse.Namespace) -> list[Phase]:
    from benchmarks import trial  # noqa: PLC0415  torch takes seconds, and a replay needs none
    from benchmarks.corpora import clinc150  # noqa: PLC0415
    from distill.progress import Narrator  # noqa: PLC0415

    out, seed = options.out, options.seed
    corpus = clinc150(options.data / "clinc150", out)
    done = trial.run(corpus, out / f"clinc150-s{seed}", Narrator(), seed=seed)
    known = [Asked(*each) for each in zip(done.test.texts, done.test.truth, strict=True)]
    strangers = [Asked(text, None) for text in done.strangers.texts]
    document = _document(done.student.path, done.teacher.path, options.certificate)
    with tempfile.TemporaryDirectory() as folder:  # what a replay before has seen is not remembered
        place = Path(folder) / "understudy.yaml"
        place.write_text(yaml.safe_dump(document))
        return replay(place, known, strangers, rows=options.rows, seed=seed)


def _document(student: Path, teacher: Path, stale: str | None) -> dict[str, object]:
    """Settings of one task as `understudy init` writes them, without records."""
    task: dict[str, object] = {
        "student": {"bundle": str(student.absolute()), "run_in": "threads"},
        "teacher": {"bundle": str(teacher.absolute())},
    }
    if stale is not None:
        task["drift"] = {"certificate": stale}
    return {"version": 1, "tasks": {"clinc150": task}, "records": {"enabled": False}}


def _parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        "python -m benchmarks.drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--data", type=Path, required=True, help="the folder of the public data sets")
    add("--out", type=Path, default=Path("build/bench-routing"), help="where projects are")
    add("--rows", type=int, default=2000, help="texts of each share")
    add("--seed", type=int, default=0, help="of the project, and of which text comes when")
    add("--certificate", help="what a stale one means, as in drift.certificate of the settings")
    return found


if __name__ == "__main__":
    sys.exit(main())

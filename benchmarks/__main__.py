"""Routing on CLINC150 and BANKING77, and the flywheel on BANKING77, over several seeds.

    python -m benchmarks --data FOLDER --out FOLDER --seeds 3 --corpora clinc150,banking77
    python -m benchmarks flywheel --data FOLDER --seeds 5

Routing trains, certifies and measures: a seed takes half an hour on two cores. It can be stopped
and goes on where it was; figures.json, tables.md and two plots are written into --out. The flywheel
trains on a biased log with weights and without, on a frozen encoder: minutes in all. It writes
flywheel.json and flywheel.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import figures, flywheel, page, plots, trial
from benchmarks.corpora import CORPORA
from benchmarks.figures import Figures
from distill.progress import Narrator
from gateway.errors import UnderstudyError, UsageError

_OUT = Path("build/bench-routing")
_TURNED = "banking77"  # the flywheel's corpus


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        names, seeds = _names(options.corpora), _positive(options.seeds)
        if options.what == "flywheel":
            sys.stdout.write(_turn(options.data, options.out, seeds=seeds))
            return 0
        found = _run(options.data, options.out, names, seeds=seeds)
    except UnderstudyError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    told = page.tables(found)
    (options.out / "tables.md").write_text(told, encoding="utf-8")
    plots.cost_quality(found, options.out / "cost-quality.png")
    plots.risk_coverage(found, options.out / "risk-coverage.png")
    sys.stdout.write(f"{told}\nwritten: {options.out}\n")
    return 0


def _run(data: Path, out: Path, names: Sequence[str], *, seeds: int) -> list[Figures]:
    narrator = Narrator()
    found = []
    for name in names:
        corpus = CORPORA[name](data / name, out)
        for seed in range(seeds):
            narrator.note(f"{name}, seed {seed}", style="bold")
            done = trial.run(corpus, out / f"{name}-s{seed}", narrator, seed=seed)
            found.append(figures.measure(done))
            shown = json.dumps([asdict(each) for each in found], indent=1)
            (out / "figures.json").write_text(shown + "\n", encoding="utf-8")
    return found


def _turn(data: Path, out: Path, *, seeds: int) -> str:
    """The flywheel on BANKING77, with its own data beside and without; its table."""
    encoded = flywheel.encode(CORPORA[_TURNED](data / _TURNED, out))
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(seeds):
        found += [
            flywheel.turn(_TURNED, encoded, seed=seed, audited=audited, beside_own=beside)
            for audited in flywheel.AUDITED
            for beside in (False, True)
        ]
        shown = json.dumps([asdict(each) for each in found], indent=1)
        (out / "flywheel.json").write_text(shown + "\n", encoding="utf-8")
    told = flywheel.table(found)
    (out / "flywheel.md").write_text(told, encoding="utf-8")
    return told


def _parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("what", nargs="?", choices=("routing", "flywheel"), default="routing")
    add("--data", type=Path, required=True, help="the folder of the public data sets")
    add("--out", type=Path, default=_OUT, help="where projects and figures go")
    add("--seeds", type=int, default=3, help="how many, from 0 on")
    add("--corpora", default=",".join(CORPORA), help="which of them, by commas")
    return found


def _names(listed: str) -> list[str]:
    names = [name.strip() for name in listed.split(",")]
    for name in names:
        if name not in CORPORA:
            raise UsageError(
                f"--corpora: there is no {name!r}", mend=f"name some of {', '.join(CORPORA)}"
            )
    return names


def _positive(seeds: int) -> int:
    if seeds < 1:
        raise UsageError(f"--seeds is {seeds}", mend="give 1 or more")
    return seeds


if __name__ == "__main__":
    sys.exit(main())

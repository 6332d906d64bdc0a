"""`understudy handover`: what the teacher answered, as examples from which students are made."""
# ruff: noqa: PLC0415  imports stand inside the functions: --help then comes in a fraction of a second

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.aside import one_task
from gateway.cli.records import moment, opened
from gateway.cli.terminal import AsJson, Config, print_json
from gateway.errors import DataError

if TYPE_CHECKING:
    from gateway.store.handover import Tally

_AGO = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}  # seconds


def handover(
    out: Annotated[Path, typer.Option(help="The examples; an older file is replaced.")],
    config: Config = Path("understudy.yaml"),
    task: Annotated[
        str | None, typer.Option(help="May be left out where there is only one.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="From that date or time on, UTC; 7d: the last seven days.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before that date or time, UTC.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write stored answers of the teacher as examples, from which a student is distilled."""
    name, tally = hand_over(out, config, task, since=since, until=until)
    if as_json:
        shown = {
            "task": name,
            "out": str(out),
            "examples": tally.examples,
            "verdicts": tally.verdicts,
            "duplicates": tally.duplicates,
            "without_text": tally.without_text,
            "strange": tally.strange,
            "unaudited": tally.unaudited,
        }
        print_json(shown)
        return
    print(f"{told(tally, name)} in {out}; left out: {_left(tally)}")
    if tally.without_text:
        print("note: records.text: full keeps the texts of requests from now on")
    print(f"next: understudy init {name} --data {out}, then understudy distill")


def hand_over(
    out: Path,
    config: Path,
    task: str | None,
    *,
    since: str | None = None,
    until: str | None = None,
) -> tuple[str, Tally]:
    """Write the examples into `out`, whole or not at all: the task, and what became of its rows.

    Raises DataError where there are none, UsageError for what cannot be meant or written, and what
    the settings and the database raise.
    """
    from gateway.assembly import registry_of
    from gateway.cli.draft import draft
    from gateway.contract import examples
    from gateway.settings import load
    from gateway.store.handover import Handover
    from gateway.succession.seat import heads_served

    name, settings = one_task(load(config), task)
    heads = heads_served(name, settings.tasks[name], registry_of(name, settings))
    first, last = when(since, "--since"), when(until, "--until")
    with opened(config) as engine, draft(out, "--out") as made:
        found = Handover(engine, name, heads, made.parent, since=first, until=last)
        examples.write(made, found.examples())
        tally = found.tally
        if not tally.examples:
            raise DataError(f"there is nothing to hand over: {_left(tally)}", mend=_mend(tally))
    return name, tally


def told(tally: Tally, task: str) -> str:
    """How many examples there are, and how many of them people have judged."""
    judged = f" ({tally.verdicts} with a person's verdict)" if tally.verdicts else ""
    return f"{tally.examples} examples of {task}{judged}"


def _left(tally: Tally) -> str:
    return (
        f"{tally.duplicates} of a text that came again later, {tally.without_text} without their "
        f"text, {tally.strange} of other heads or labels, {tally.unaudited} that a student chose "
        "while nothing could be audited"
    )


def _mend(tally: Tally) -> str:
    if tally.without_text:
        return "set records.text: full, which keeps the texts of requests, and wait for traffic"
    return "let requests go to the teacher first, or name a longer time"


def when(value: str | None, option: str) -> float | None:
    """A date, a time, or a span before now -> seconds since the epoch. Raises UsageError."""
    span = _AGO.fullmatch(value or "")
    if span is None:
        return moment(value, option)
    return time.time() - int(span[1]) * _UNITS[span[2]]

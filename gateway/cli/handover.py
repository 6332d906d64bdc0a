"""`understudy handover`: what the teacher answered, as examples from which students are made."""
# ruff: noqa: PLC0415  imports stand inside the functions: --help then comes in a fraction of a second

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.aside import one_task
from gateway.cli.records import moment, opened
from gateway.cli.terminal import AsJson, Config, print_json
from gateway.errors import DataError, UsageError

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
    from gateway.contract import examples
    from gateway.seat import heads_of
    from gateway.settings import load
    from gateway.store.handover import Handover

    name, settings = one_task(load(config), task)
    heads = heads_of(name, settings.tasks[name])
    first, last = _moment(since, "--since"), _moment(until, "--until")
    with opened(config) as engine, _whole(out) as draft:
        found = Handover(engine, name, heads, draft.parent, since=first, until=last)
        examples.write(draft, found.examples())
        tally = found.tally
        if not tally.examples:
            raise DataError(f"there is nothing to hand over: {_told(tally)}", mend=_mend(tally))
    if as_json:
        shown = {
            "task": name,
            "out": str(out),
            "examples": tally.examples,
            "duplicates": tally.duplicates,
            "without_text": tally.without_text,
            "strange": tally.strange,
        }
        print_json(shown)
        return
    print(f"{tally.examples} examples of {name} in {out}; left out: {_told(tally)}")
    if tally.without_text:
        print("note: records.text: full keeps the texts of requests from now on")
    print(f"next: understudy init {name} --data {out}, then understudy distill")


def _told(tally: Tally) -> str:
    return (
        f"{tally.duplicates} of a text that came again later, {tally.without_text} without their "
        f"text, {tally.strange} of other heads or labels"
    )


def _mend(tally: Tally) -> str:
    if tally.without_text:
        return "set records.text: full, which keeps the texts of requests, and wait for traffic"
    return "let requests go to the teacher first, or name a longer time"


def _moment(value: str | None, option: str) -> float | None:
    """A date, a time, or a span before now -> seconds since the epoch. Raises UsageError."""
    span = _AGO.fullmatch(value or "")
    if span is None:
        return moment(value, option)
    return time.time() - int(span[1]) * _UNITS[span[2]]


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A draft that takes its name when it is complete; one that fails leaves what was there.

    It lies in a folder of its own beside the file, which goes in any case. Raises UsageError.
    """
    import tempfile

    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            yield draft
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(path)
    except OSError as error:
        raise UsageError(
            f"--out {path}: {error.strerror}", mend="name a file that this user may write"
        ) from error

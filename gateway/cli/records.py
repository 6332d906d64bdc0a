"""`understudy records`: what was answered, as it is stored: look at it, take it out, delete it.

All of it works beside a gateway that runs.
"""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gateway.cli.terminal import AsJson, Config, print_json, print_tables, table
from gateway.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from gateway.store.database import Database
    from gateway.store.records import Record, Selection

_PATIENCE = 30.0  # seconds that a command waits for the gateway's commits; nobody waits for it
_PAUSE = 0.05  # seconds between two pages of a purge, in which the gateway writes
_DAY = 86_400.0  # seconds

_Choice = TypeVar("_Choice", bound=StrEnum)
_Task = Annotated[str | None, typer.Option("--task", help="Of this task only.")]
_RouteName = Annotated[
    str | None, typer.Option("--route", help="student, teacher, fallback or abstain.")
]
_ReasonName = Annotated[str | None, typer.Option("--reason", help="For example low_confidence.")]
Since = Annotated[str | None, typer.Option("--since", help="From that date or time on, UTC.")]
_Until = Annotated[str | None, typer.Option("--until", help="Before that date or time, UTC.")]

records = typer.Typer(help="Look at stored answers, export and delete them.", no_args_is_help=True)


@records.command("query")
def query(
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    route: _RouteName = None,
    reason: _ReasonName = None,
    since: Since = None,
    until: _Until = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest stored answers."""
    from gateway.store import records as stored

    wanted = _selection(task, route, reason, since, until)
    with opened(config) as engine:
        found = stored.latest(engine, wanted, limit)
    if as_json:
        print_json([record.to_row() for record in found])
        return
    columns = "at task route reason score labels ms"
    print_tables(table(f"{len(found)} records", columns, map(_record_row, found)))


@records.command("export")
def export(
    config: Config = Path("understudy.yaml"),
    output: Annotated[
        Path | None, typer.Option(help="This file, once it is whole; else standard output.")
    ] = None,
    task: _Task = None,
    route: _RouteName = None,
    reason: _ReasonName = None,
    since: Since = None,
    until: _Until = None,
) -> None:
    """Stored answers as JSON lines, the oldest first."""
    from gateway.cli.draft import draft

    wanted = _selection(task, route, reason, since, until)
    with opened(config) as engine:
        if output is None:
            _print(engine, wanted)
            return
        with draft(output, "--output") as made, made.open("x", encoding="utf-8") as file:
            number = _write(engine, wanted, file)
    print(f"{number} records in {output}")


@records.command("purge")
def purge(
    config: Config = Path("understudy.yaml"),
    before: Annotated[str | None, typer.Option(help="Older than that date or time, UTC.")] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, help="Older than so many days.")
    ] = None,
    text_sha256: Annotated[str | None, typer.Option(help="Of the text with this hash.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Of this text; - reads it from standard input.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete, and not only count.")] = False,
) -> None:
    """Delete records with their audits: old ones, or those of one text. Without --yes: count."""
    from gateway.store import records as stored

    wanted = _condemned(before, older_than, text_sha256, text)
    with opened(config) as engine:
        meant = stored.count(engine, wanted)
        if not yes:
            print(f"{meant.records} records and {meant.audits} audits would go")
            print("next: the same with --yes; what is gone does not come back")
            return
        gone = 0
        for number in stored.purge(engine, wanted):
            gone += number
            time.sleep(_PAUSE)
    print(f"{gone} records are gone, with their audits")


@contextmanager
def opened(config: Path) -> Iterator[Database]:
    """The database of those settings, as a guest of the gateway that owns it."""
    from gateway.settings import load
    from gateway.store.database import open_database

    settings = load(config).records
    if settings.url is None and not settings.path.exists():
        raise SettingsError(
            f"records.path: there are no records at {settings.path}",
            mend="`understudy serve` makes the file",
        )
    engine = open_database(settings.database, busy_s=_PATIENCE, guest=True)
    try:
        yield engine
    finally:
        engine.dispose()


def _print(engine: Database, wanted: Selection) -> None:
    """Write to standard output; who reads it may have seen enough before the end."""
    import os

    try:
        _write(engine, wanted, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


def _write(engine: Database, wanted: Selection, file: IO[str]) -> int:
    """Write those records as JSON lines, page by page; returns how many."""
    import orjson

    from gateway.store import records as stored

    number = 0
    for number, record in enumerate(stored.each(engine, wanted), 1):  # noqa: B007
        file.write(orjson.dumps(record.to_row()).decode() + "\n")
    return number


def _selection(
    task: str | None, route: str | None, reason: str | None, since: str | None, until: str | None
) -> Selection:
    from gateway.store.records import Selection
    from gateway.types import Reason, Route

    return Selection(
        task=task,
        route=_one_of(Route, route, "--route"),
        reason=_one_of(Reason, reason, "--reason"),
        since=moment(since, "--since"),
        until=moment(until, "--until"),
    )


def _condemned(
    before: str | None, older_than: float | None, text_sha256: str | None, text: str | None
) -> Selection:
    """What is to be deleted. Raises UsageError where that would be everything, or is not clear."""
    import hashlib
    import re

    from gateway.store.records import Selection

    given = [each is not None for each in (before, older_than, text_sha256, text)]
    if sum(given) != 1:
        raise UsageError(
            "purge needs to know which records, by one option",
            mend="give one of: --before, --older-than, --text-sha256, --text",
        )
    until = moment(before, "--before")
    if older_than is not None:
        until = time.time() - older_than * _DAY
    if text is not None:
        said = sys.stdin.read().removesuffix("\n") if text == "-" else text
        text_sha256 = hashlib.sha256(said.encode()).hexdigest()
    if text_sha256 is not None and not re.fullmatch("[0-9a-f]{64}", text_sha256):
        raise UsageError("--text-sha256: no SHA-256", mend="write 64 hexadecimal digits")
    return Selection(until=until, text_sha256=text_sha256)


def _record_row(record: Record) -> Sequence[Any]:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(record.at, UTC).isoformat(sep=" ", timespec="seconds")
    said = [f"{head}={'+'.join(labels) or '-'}" for head, labels in (record.labels or {}).items()]
    return (
        at,
        record.task,
        record.route,
        record.reason,
        record.score,
        " ".join(said),
        record.stages.total * 1000,
    )


def moment(value: str | None, option: str) -> float | None:
    """A date or a time -> seconds since the epoch; one without a zone is UTC."""
    from datetime import UTC, datetime

    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise UsageError(
            f"{option} {value!r}: neither a date nor a time",
            mend="write 2026-01-31, or 2026-01-31T12:00:00+02:00",
        ) from error
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _one_of(kind: type[_Choice], value: str | None, option: str) -> _Choice | None:
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(kind)
        raise UsageError(
            f"{option} {value!r}: no such one", mend=f"name one of: {known}"
        ) from error

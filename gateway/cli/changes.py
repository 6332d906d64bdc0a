"""`understudy changes`: who let what serve, when and why, and whether the log of it still holds.

It reads the database beside a gateway that runs, and changes nothing.
"""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.records import Since, moment, opened
from gateway.cli.terminal import AsJson, Config, print_json, print_tables, table
from gateway.errors import LogBroken

if TYPE_CHECKING:
    from gateway.store.changes import Row

_SHORT = 12  # digits of a hash that a table shows

changes = typer.Typer(
    help="Who changed what serves, and whether the log holds.", no_args_is_help=True
)


@changes.command("list")
def list_changes(
    config: Config = Path("understudy.yaml"),
    task: Annotated[str | None, typer.Option(help="Of this task only.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest changes."""
    from gateway.store.changes import latest

    with opened(config) as engine:
        found = latest(engine, limit, task=task, since=moment(since, "--since"))
    if as_json:
        print_json([asdict(row) for row in found])
        return
    columns = "number at task who what from to why hash"
    print_tables(table(f"{len(found)} changes", columns, map(_cells, found)))


@changes.command("verify")
def verify(
    config: Config = Path("understudy.yaml"),
    anchor: Annotated[
        str | None, typer.Option(help="NUMBER:HASH of a row, as an earlier verify printed it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold every row against its hash and its neighbours; status 1 names the first wrong one."""
    from gateway.store.changes import Anchor
    from gateway.store.changes import verify as verified

    kept = None if anchor is None else Anchor.parse(anchor)
    with opened(config) as engine:
        finding = verified(engine, kept)
    flaw = finding.flaw
    if as_json:
        wrong = None if flaw is None else asdict(flaw)
        print_json({"rows": finding.end.number, "anchor": str(finding.end), "flaw": wrong})
    if flaw is not None:
        raise LogBroken(
            f"{flaw.words} ({flaw.fault})",
            mend="compare with a copy of the database; nothing from that row on can be relied on",
        )
    if not as_json:
        print(f"{finding.end.number} rows, each as it was written and in its place")
        print(f"anchor, to be kept elsewhere: {finding.end}")


def _cells(row: Row) -> Sequence[Any]:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(row.at, UTC).isoformat(sep=" ", timespec="seconds")
    hash_ = row.hash[:_SHORT]
    return row.number, at, row.task, row.who, row.what, row.old, row.new, row.why, hash_

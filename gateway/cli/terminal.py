"""What a terminal shows: tables, JSON, and what went wrong."""
# ruff: noqa: PLC0415  imports stand inside the functions: --help then comes in a fraction of a second

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.errors import UnderstudyError

if TYPE_CHECKING:
    from rich.table import Table

Config = Annotated[Path, typer.Option(help="The settings file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

_PIPE_WIDTH = 160  # columns where nobody says how wide the output is


def complain(error: UnderstudyError) -> None:
    """Say on standard error what went wrong and how to mend it."""
    print(f"understudy: {error}", file=sys.stderr)


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested mappings -> dotted keys and their values."""
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def table(title: str, columns: str, rows: Iterable[Sequence[Any]]) -> Table:
    """A table; `columns` are their names, parted by spaces."""
    from rich.table import Table
    from rich.text import Text

    made = Table(*columns.split(), title=title, title_justify="left")
    for row in rows:
        # Text, not str: brackets in a label are no markup.
        made.add_row(*(Text(_cell(value), overflow="fold") for value in row))
    return made


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return ", ".join(_cell(each) for each in value) or "-"
        case dict():
            parts = (f"{name}={_cell(each)}" for name, each in value.items() if each is not None)
            return " ".join(parts) or "-"
        case _:
            return str(value) or "-"


def print_tables(*tables: Table) -> None:
    """Print tables, as wide as the terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    for each in tables:
        console.print(each, "", sep="\n")


def print_json(content: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(content, indent=2, ensure_ascii=False, default=str))

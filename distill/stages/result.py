"""What a stage has found out: one value, kept as JSON in the stage's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

Result = TypeVar("Result")

_FILE = "result.json"


def write(content: object, folder: Path) -> None:
    """Write a dataclass into the folder of its stage."""
    (folder / _FILE).write_bytes(TypeAdapter(type(content)).dump_json(content, indent=2))


def read(kind: type[Result], folder: Path) -> Result:
    """What a finished stage has written; pydantic's ValidationError where it is of another kind."""
    return TypeAdapter(kind).validate_json((folder / _FILE).read_bytes())

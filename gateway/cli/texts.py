"""Texts that a person gives to a command, in a file of one text a line."""

from __future__ import annotations

from pathlib import Path

from gateway.errors import DataError


def lines(path: Path) -> list[str]:
    """The lines that are not blank. Raises DataError."""
    try:
        found = [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}", mend="name a text file") from error
    if not found:
        raise DataError(f"{path}: no text in it", mend="write one text a line")
    return found

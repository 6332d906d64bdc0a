"""A file that takes its name when it is complete; one that fails leaves what was there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import UsageError


@contextmanager
def draft(path: Path, option: str) -> Iterator[Path]:
    """Where to write what `path`, which `option` names, shall hold.

    It lies in a folder of its own beside the file, which goes in any case. Raises UsageError.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            made = Path(folder) / path.name
            yield made
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(path)
    except OSError as error:
        raise UsageError(
            f"{option} {path}: {error.strerror}", mend="name a file that this user may write"
        ) from error

"""Fixtures that start real processes, and end what a test has left running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.acceptance.process import Process
from tests.factories import settings_file

Starter = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Start a gateway on a tiny bundle; takes what `settings_file` takes, or a `config`."""
    with ExitStack() as stack:

        def starter(*, config: Path | None = None, **sections: object) -> Process:
            path = config or settings_file(tmp_path, **sections)  # type: ignore[arg-type]
            return stack.enter_context(closing(Process(path)))

        yield starter

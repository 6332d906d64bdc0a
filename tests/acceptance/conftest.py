"""Fixtures that start real processes, and end what a test has left running."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.process import Process
from tests.factories import CONFIDENT, UNSURE, settings_file

Starter = Callable[..., Process]

_TEXTS = (
    CONFIDENT,
    UNSURE,
    "fraud",
    "urgent: my lawyer says fraud",
    "maybe it is urgent and maybe it is not, but I want my refund and I want it now",
    "hello",
)


@dataclass(frozen=True, slots=True)
class Served:
    """A student to put under load, and texts for it.

    By default a tiny one; `pytest --bundle PATH --texts FILE` names a real one.
    """

    start: Starter
    texts: Sequence[str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Start a gateway on a tiny bundle; takes what `settings_file` takes, or a `config`."""
    with ExitStack() as stack:

        def starter(*, config: Path | None = None, **sections: object) -> Process:
            served = {"run_in": "processes", **sections}  # as by default
            path = config or settings_file(tmp_path, **served)  # type: ignore[arg-type]
            return stack.enter_context(closing(Process(path)))

        yield starter


@pytest.fixture
def served(start: Starter, request: pytest.FixtureRequest) -> Served:
    """The student under load; `start` takes sections of its task."""
    bundle, texts = request.config.getoption("bundle"), request.config.getoption("texts")
    if (bundle is None) != (texts is None):
        raise pytest.UsageError("--bundle and --texts go together")

    def starter(*, student: Mapping[str, Any] | None = None, **task: Any) -> Process:
        run = {"workers": 2 if bundle is None else "auto", **(student or {})}
        if bundle is None:
            return start(tickets={"student": run} | task)
        given: dict[str, Any] = {"teacher": {"scripted": {"labels": {}}}} | task
        return start(student=bundle, tickets={**given, "student": run})

    return Served(starter, _TEXTS if texts is None else texts.read_text().splitlines())

"""What a person sees while a long command works: bars on a terminal, plain lines elsewhere.

Everything goes to standard error, so that standard output stays free for results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_S = 10.0  # between two plain lines of one task

Advance = Callable[[int, int], None]  # (done, in all)


class Narrator:
    """Tells what happens: stages, notes, and progress within a stage."""

    def __init__(
        self,
        console: Console | None = None,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False)
        self._clock = clock

    def note(self, text: str, *, style: str = "") -> None:
        """One line, shown as it is: brackets in a path are no markup."""
        self.console.print(text, style=style or None, markup=False, soft_wrap=True)

    def stage(self, name: str, event: str) -> None:
        """A stage has `started`, is `finished`, or was `kept` from an earlier start."""
        if event == "kept":
            self.note(f"{name}: kept from an earlier start", style="dim")
        elif event == "started":
            self.note(name, style="bold")

    @contextmanager
    def bar(self, title: str, unit: str = "texts") -> Iterator[Advance]:
        """A bar with rate and time left; a line every ten seconds where there is no terminal."""
        if not self.console.is_terminal:
            yield _Lines(self.console, title, unit, self._clock)
            return
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=None, rate="")
            started = self._clock()

            def advance(done: int, total: int) -> None:
                rate = done / max(1e-9, self._clock() - started)
                progress.update(task, completed=done, total=total, rate=f"{rate:,.0f} {unit}/s")

            yield advance


class _Lines:
    """Progress as plain lines."""

    def __init__(self, console: Console, title: str, unit: str, clock: Callable[[], float]) -> None:
        self._console = console
        self._title = title
        self._unit = unit
        self._clock = clock
        self._started = self._said = clock()

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if now - self._said < _LINE_EVERY_S:
            return
        self._said = now
        rate = done / (now - self._started)
        left = (total - done) / rate if rate else 0.0
        self._console.print(
            f"  {self._title}: {done:,} of {total:,} {self._unit}, "
            f"{rate:,.0f} {self._unit}/s, {left:,.0f} s left"
        )

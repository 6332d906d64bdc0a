"""A process and all that came of it, as /proc shows them: processor time, memory, the end.

Servers start helpers, and some of those leave their parent's session: whoever counts the first
process alone flatters them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")  # of processor time in a second
_KIB = 1024  # bytes
_GRACE_S = 8.0  # between asking processes to end and ending them; Ray takes four
_LOOK_S = 0.05  # between two looks at whether it has ended


@dataclass(frozen=True, slots=True)
class _Entry:
    parent: int
    session: int
    state: str
    cpu_s: float  # its own, and that of children which it has waited for


class Tree:
    """The process `root`, which leads a session, and its descendants at any time."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._seen = {root}

    def cpu_s(self) -> float:
        """Processor time of all of them so far, in seconds."""
        entries = dict(_entries())
        return sum(entries[each].cpu_s for each in self._members(entries))

    def pss_mb(self) -> float:
        """Their memory in MB (10^6 bytes): what they share is counted once."""
        members = self._members(dict(_entries()))
        return sum(_pss_bytes(each) for each in members) / 1e6

    def rss_mb(self, word: str = "") -> float:
        """Resident memory of the first process in MB, or of its children with that word."""
        chosen = self.running(word) if word else [self._root]
        return sum(_bytes_of(each, "status", "VmRSS:") for each in chosen) / 1e6

    def running(self, word: str) -> list[int]:
        """The children of the first whose command line has that word; looking takes no time."""
        found: list[int] = []
        for threads in (_PROC / str(self._root) / "task").glob("*/children"):
            with suppress(OSError):  # that thread has ended since
                found += map(int, threads.read_text().split())
        return [each for each in found if word in _command(each)]

    def end(self) -> None:
        """Ask the first one to end, then whoever it leaves behind; end those that do not."""
        self._members(dict(_entries()))
        _signal([self._root], signal.SIGTERM)
        self._gone_within(_GRACE_S, only=self._root)
        _signal(self._alive(), signal.SIGTERM)
        if not self._gone_within(_GRACE_S):
            _signal(self._alive(), signal.SIGKILL)
            self._gone_within(_GRACE_S)

    def _members(self, entries: dict[int, _Entry]) -> set[int]:
        """Those that are here now. Whoever was one stays one, also when its parent has gone."""
        found = {
            number
            for number, entry in entries.items()
            if number in self._seen or entry.session == self._root
        }
        grown = True
        while grown:
            more = {number for number, entry in entries.items() if entry.parent in found} - found
            found |= more
            grown = bool(more)
        self._seen |= found
        return found

    def _alive(self) -> list[int]:
        entries = dict(_entries())
        return [each for each in self._members(entries) if entries[each].state != "Z"]

    def _gone_within(self, seconds: float, *, only: int | None = None) -> bool:
        until = time.monotonic() + seconds
        while (left := self._alive()) and (only is None or only in left):
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_S)
        return True


def _entries() -> Iterator[tuple[int, _Entry]]:
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):  # it has ended since
            # The name, in parentheses, may hold anything: the fields begin after the last one.
            fields = (folder / "stat").read_text(encoding="latin-1").rpartition(")")[2].split()
            ticks = sum(int(fields[place]) for place in (11, 12, 13, 14))
            yield (
                int(folder.name),
                _Entry(int(fields[1]), int(fields[3]), fields[0], ticks / _TICKS),
            )


def _pss_bytes(number: int) -> int:
    return _bytes_of(number, "smaps_rollup", "Pss:")


def _bytes_of(number: int, file: str, name: str) -> int:
    with suppress(OSError):  # it has ended since, or is somebody else's
        for line in (_PROC / str(number) / file).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * _KIB
    return 0


def _command(number: int) -> str:
    with suppress(OSError):  # it has ended since
        return (_PROC / str(number) / "cmdline").read_text(errors="replace")
    return ""


def _signal(numbers: list[int], which: signal.Signals) -> None:
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, which)

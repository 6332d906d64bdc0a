"""Requests in flight on the connections of one process: sends, collects, counts.

Both loops drive one of these. They decide when a request leaves; this decides nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.errors import UsageError
from loadtests.bodies import Check
from loadtests.tally import Tally
from loadtests.wire import Line, Lines, Reply, Target, WireError

_SWEEP_S = 0.1  # how often requests in flight are looked through for one that takes too long
_TIMING = re.compile(
    rb"server-timing: *queue;dur=([\d.]+), student;dur=([\d.]+), teacher;dur=([\d.]+), "
    rb"total;dur=([\d.]+)",
    re.IGNORECASE,
)
_MS = 1000.0  # milliseconds in a second


@dataclass(frozen=True, slots=True)
class Share:
    """What one process sends: of all requests every `processes`-th, from `place` on."""

    target: Target
    requests: Sequence[bytes]
    connections: int
    place: int
    processes: int
    timeout_s: float
    check: Check | None
    timing: bool


def shares(
    url: str,
    bodies: Sequence[bytes],
    *,
    connections: int,
    processes: int,
    headers: Mapping[str, str] | None,
    timeout_s: float,
    check: Check | None,
    timing: bool,
) -> list[Share]:
    """The work of each process. Raises UsageError when there is not enough for each."""
    if not bodies:
        raise UsageError("there is no body to send", mend="name texts")
    if not 0 < processes <= connections:
        raise UsageError(
            f"--processes {processes}, --connections {connections}: each needs a connection",
            mend="open at least one connection for each process",
        )
    target = Target.parse(url)
    requests = [target.request(body, headers or {}) for body in bodies]
    return [
        Share(
            target,
            requests,
            connections=len(range(place, connections, processes)),
            place=place,
            processes=processes,
            timeout_s=timeout_s,
            check=check,
            timing=timing,
        )
        for place in range(processes)
    ]


class Exchange:
    """The requests of one process, from the start at `origin` on (seconds of time.monotonic)."""

    def __init__(self, share: Share, lines: Lines, origin: float) -> None:
        self.tally = Tally()
        self.in_flight = 0
        self._share = share
        self._lines = lines
        self._origin = origin
        self._next_sweep = origin

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around the whole run: notes how much processor time it takes."""
        busy, began = time.process_time(), time.monotonic()
        yield
        self.tally.worked(time.process_time() - busy, time.monotonic() - began)

    def send(self, line: Line, number: int, due: float) -> bool:
        """Send this process's request `number`, meant to leave at `due`; False: it failed."""
        share, tally = self._share, self.tally
        line.number = (share.place + number * share.processes) % len(share.requests)
        line.due = due
        now = time.monotonic()
        line.leave_if_idle(now)
        line.sent = now
        tally.sent += 1
        tally.last_send = line.sent - self._origin
        self.in_flight += 1
        try:
            line.send(share.requests[line.number])
        except WireError as error:
            self._fail(line, error.cause)
            return False
        return True

    def collect(self, ready: Sequence[tuple[int, int]], now: float) -> list[Line]:
        """Take in what has come by `now`; returns the lines that are free again."""
        free, by_number = [], self._lines.by_number
        for descriptor, _ in ready:
            line = by_number.get(descriptor)
            if line is None:
                continue  # closed since
            try:
                line.flush()
                reply = line.receive()
            except WireError as error:
                if self._fail(line, error.cause):
                    free.append(line)
                continue
            if reply is not None and line.number >= 0:
                self._count(line, reply, now)
                free.append(line)
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_S
            free += self._overdue(now)
        return free

    def give_up(self) -> None:
        """Count what is still in flight as timed out."""
        if self.in_flight:
            self.tally.failures["timeout"] += self.in_flight

    def _count(self, line: Line, reply: Reply, now: float) -> None:
        share, tally = self._share, self.tally
        tally.replied(reply, now - line.due, now - line.sent)
        tally.ended = now - self._origin
        if share.check and reply.status < 300 and not share.check(line.number, reply.body):
            tally.wrong += 1
        if share.timing:
            _note_timing(tally, reply, now - line.sent)
        line.idle_since = now
        line.number = -1
        self.in_flight -= 1

    def _fail(self, line: Line, cause: str) -> bool:
        """Close the line; whether a request was on it (an idle one may be closed at any time)."""
        line.close()
        if line.number < 0:
            return False
        self.tally.failures[cause] += 1
        line.number = -1
        self.in_flight -= 1
        return True

    def _overdue(self, now: float) -> list[Line]:
        latest = now - self._share.timeout_s
        found = [line for line in self._lines.all if line.number >= 0 and line.sent < latest]
        for line in found:
            self._fail(line, "timeout")
        return found


def _note_timing(tally: Tally, reply: Reply, seen: float) -> None:
    found = _TIMING.search(reply.head)
    if found is None:
        return
    queue, student, teacher, total = (float(value) / _MS for value in found.groups())
    elsewhere = queue + student + teacher
    tally.inside.append(total - elsewhere)
    tally.outside.append(seen - elsewhere)

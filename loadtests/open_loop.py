"""An open loop: requests leave by the clock, whether or not the answers before them are there.

    python -m loadtests.open_loop http://127.0.0.1:8080/v1/predict --rate 500 --seconds 10

Latency counts from the moment a request was meant to leave, so that a server that stalls for a
second is charged for everybody who would have waited (no coordinated omission). A generator that
could not keep its own schedule has measured itself: the run is refused, with exit status 3.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import UsageError
from loadtests import command
from loadtests.bodies import Check
from loadtests.crew import Start, together
from loadtests.exchange import Exchange, Share, shares
from loadtests.tally import Punctuality, Result, Tally, result
from loadtests.wire import Line, Lines, connected

MAX_REQUESTS = 5_000_000  # of one run: their latencies fit in 100 MB
LATE_MS = 5.0  # a send later than this is late: more would show in a p95 of a few milliseconds
LATE_SHARE = 0.01  # of the sends may be late: what a p99 does not see

_PAUSE_S = 0.1  # the longest wait without a look at the clock


class Arrivals(StrEnum):
    """How far apart requests are."""

    POISSON = "poisson"  # as independent people come
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When requests leave: `count` of them, at `rate` a second."""

    rate: float
    count: int
    arrivals: Arrivals
    seed: int

    def times(self) -> list[float]:
        """Seconds since the start, ascending; the same ones for the same seed."""
        if self.arrivals is Arrivals.CONSTANT:
            return [number / self.rate for number in range(self.count)]
        source = random.Random(self.seed)
        now, found = 0.0, []
        for _ in range(self.count):
            now += source.expovariate(self.rate)
            found.append(now)
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process sends, and when."""

    share: Share
    schedule: Schedule

    def times(self) -> list[float]:
        """When this process's requests leave, in seconds since the start."""
        return self.schedule.times()[self.share.place :: self.share.processes]


def run(
    url: str,
    bodies: Sequence[bytes],
    *,
    rate: float,
    seconds: float = 10.0,
    arrivals: Arrivals = Arrivals.POISSON,
    connections: int = 64,
    processes: int = 1,
    headers: Mapping[str, str] | None = None,
    check: Check | None = None,
    timing: bool = False,
    timeout_s: float = 10.0,
    late_ms: float = LATE_MS,
    late_share: float = LATE_SHARE,
    seed: int = 0,
) -> Result:
    """Send `rate` requests a second for so long, bodies in turn, and say what came back.

    `connections` are shared out among the processes. `check(number, body)` says whether the reply
    to body `number` is right. `timing` reads the Server-Timing of replies. The run ends at most
    `timeout_s` after the last send. It is refused when more than `late_share` of the sends were
    more than `late_ms` behind schedule although a connection was free, or when a process had no
    time to spare. Raises UsageError for numbers that make no run, and when nothing listens.
    """
    schedule = Schedule(rate, _count(rate, seconds), arrivals, seed)
    parts = shares(
        url,
        bodies,
        connections=connections,
        processes=processes,
        headers=headers,
        timeout_s=timeout_s,
        check=check,
        timing=timing,
    )
    tally = together(_generate, [Plan(share, schedule) for share in parts])
    punctuality = Punctuality.of(tally, rate=rate, limit_ms=late_ms, allowed_share=late_share)
    return result(
        tally, url=url, connections=connections, processes=processes, punctuality=punctuality
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.parser("python -m loadtests.open_loop", __doc__)
    add = parser.add_argument
    add("--rate", type=float, default=100.0, help="requests a second")
    add("--arrivals", type=Arrivals, choices=list(Arrivals), default=Arrivals.POISSON)
    add("--late-ms", type=float, default=LATE_MS, help="a send later than this is late")
    add("--late-share", type=float, default=LATE_SHARE, help="more late sends: refused")
    options = parser.parse_args(arguments)
    return command.carry_out(
        options,
        lambda work: run(
            work.url,
            work.bodies,
            rate=options.rate,
            seconds=options.seconds,
            arrivals=options.arrivals,
            connections=options.connections,
            processes=options.processes,
            headers=work.headers,
            check=work.check,
            timing=options.timing,
            timeout_s=options.timeout,
            late_ms=options.late_ms,
            late_share=options.late_share,
            seed=options.seed,
        ),
    )


def _generate(plan: Plan, start: Start) -> Tally:
    """One process: connect, wait for the word, drive."""
    times = plan.times()
    with connected(plan.share.target, plan.share.connections) as lines:
        origin = start()
        exchange = Exchange(plan.share, lines, origin)
        with exchange.working():
            _drive(exchange, lines, [origin + each for each in times], plan.share.timeout_s)
        return exchange.tally


def _drive(exchange: Exchange, lines: Lines, due: Sequence[float], timeout_s: float) -> None:
    """Send everything when it is due; then wait for what is in flight."""
    clock, tally = time.monotonic, exchange.tally
    free: deque[Line] = deque(lines.all)  # first in, first out: as many users, each one uses all
    number, count, free_since = 0, len(due), 0.0
    give_up = (due[-1] if due else 0.0) + timeout_s
    tally.planned = count
    now = clock()
    while (number < count or exchange.in_flight) and now < give_up:
        while number < count and free and due[number] <= now:
            line = free.popleft()
            at_best = max(due[number], free_since)
            tally.starved += free_since > due[number]
            if not exchange.send(line, number, due[number]):
                free.append(line)
            tally.late.append(line.sent - at_best)
            number += 1
            now = clock()
        waits = number < count and free
        ready = lines.wait_precisely(min(due[number] - now, _PAUSE_S) if waits else _PAUSE_S)
        now = clock()
        back = exchange.collect(ready, now)
        if back:
            if not free:
                free_since = now
            free.extend(back)
    if number < count:
        tally.failures["unsent"] += count - number
    exchange.give_up()


def _count(rate: float, seconds: float) -> int:
    """How many requests that makes. Raises UsageError when they are none or too many."""
    wanted = rate * seconds
    if not (rate > 0 and seconds > 0 and wanted <= MAX_REQUESTS):
        raise UsageError(
            f"--rate {rate:g} for {seconds:g} seconds: no run",
            mend=f"choose a rate and a time that make 1 to {MAX_REQUESTS} requests",
        )
    return math.ceil(wanted)


if __name__ == "__main__":
    raise SystemExit(main())

"""A closed loop: so many connections, each sends its next request when the answer is there.

    python -m loadtests.closed_loop http://127.0.0.1:8080/v1/predict --connections 64 --seconds 5

It finds saturation: throughput at full load, and what a request costs then. Its latencies count
from the send, so that a stall is seen once a connection; for latency at a given rate there is
open_loop.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.errors import UsageError
from loadtests import command
from loadtests.bodies import Check
from loadtests.crew import Start, together
from loadtests.exchange import Exchange, Share, shares
from loadtests.tally import Result, Tally, result
from loadtests.wire import Lines, connected

MAX_REQUESTS = 5_000_000  # of one run: their latencies fit in 100 MB

_PAUSE_S = 0.1  # the longest wait without a look at the clock


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process sends, and how long."""

    share: Share
    seconds: float
    count: int


def run(
    url: str,
    bodies: Sequence[bytes],
    *,
    connections: int = 64,
    seconds: float = 10.0,
    count: int = MAX_REQUESTS,
    processes: int = 1,
    headers: Mapping[str, str] | None = None,
    check: Check | None = None,
    timing: bool = False,
    timeout_s: float = 10.0,
) -> Result:
    """Keep every connection busy for so long, or for `count` requests, and say what came back.

    `check(number, body)` says whether the reply to body `number` is right. `timing` reads the
    Server-Timing of replies. What is in flight at the end is waited for, at most `timeout_s`.
    Raises UsageError for numbers that make no run, and when nothing listens.
    """
    if not 0 < seconds < float("inf") or not processes <= count <= MAX_REQUESTS:
        raise UsageError(
            f"--seconds {seconds:g}, --count {count}: no run",
            mend=f"choose a time above 0 and a count of 1 to {MAX_REQUESTS}",
        )
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
    plans = [Plan(share, seconds, len(range(share.place, count, processes))) for share in parts]
    tally = together(_generate, plans)
    return result(tally, url=url, connections=connections, processes=processes)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.parser("python -m loadtests.closed_loop", __doc__)
    parser.add_argument("--count", type=int, default=MAX_REQUESTS, help="at most so many requests")
    options = parser.parse_args(arguments)
    return command.carry_out(
        options,
        lambda work: run(
            work.url,
            work.bodies,
            connections=options.connections,
            seconds=options.seconds,
            count=options.count,
            processes=options.processes,
            headers=work.headers,
            check=work.check,
            timing=options.timing,
            timeout_s=options.timeout,
        ),
    )


def _generate(plan: Plan, start: Start) -> Tally:
    """One process: connect, wait for the word, drive."""
    with connected(plan.share.target, plan.share.connections) as lines:
        origin = start()
        time.sleep(max(0.0, origin - time.monotonic()))
        exchange = Exchange(plan.share, lines, origin)
        with exchange.working():
            _drive(exchange, lines, plan, origin)
        exchange.tally.planned = exchange.tally.sent
        return exchange.tally


def _drive(exchange: Exchange, lines: Lines, plan: Plan, origin: float) -> None:
    """Keep every line busy until the time or the count is up; then wait for the rest."""
    clock, send, tally = time.monotonic, exchange.send, exchange.tally
    ends = origin + plan.seconds
    give_up = ends + plan.share.timeout_s
    now, free = origin, list(lines.all)
    while now < give_up:
        if now < ends:
            for line in free:
                if tally.sent < plan.count:
                    send(line, tally.sent, clock())  # a line that cannot connect stays away
        if not exchange.in_flight:
            break
        ready = lines.wait(_PAUSE_S)
        now = clock()
        free = exchange.collect(ready, now)
    exchange.give_up()


if __name__ == "__main__":
    raise SystemExit(main())

"""What the commands of both loops share: options, what to send, the table, the exit status.

Exit status: 0 the run stands, 2 a mistake in what was asked, 3 the run is refused.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gateway.errors import UnderstudyError, UsageError
from loadtests import bodies
from loadtests.bodies import Check
from loadtests.tally import Latency, Result

REFUSED = 3  # exit status of a run that proves nothing
KEY_VARIABLE = "UNDERSTUDY_API_KEY"

_WIDTH = 100  # columns where nobody says how wide the output is


@dataclass(frozen=True, slots=True)
class Work:
    """What is sent where, and how replies are checked."""

    url: str
    bodies: Sequence[bytes]
    headers: Mapping[str, str]
    check: Check | None


def parser(program: str, about: str | None) -> argparse.ArgumentParser:
    """A parser with the options of both loops."""
    found = argparse.ArgumentParser(
        program, description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("url", help="for example http://127.0.0.1:8080/v1/predict")
    sent = found.add_mutually_exclusive_group()
    sent.add_argument("--texts", type=Path, help="a file with one text a line; else tickets")
    sent.add_argument("--bodies", type=Path, help="a file with one JSON body a line")
    add("--rows", type=int, default=1, help="texts in one request; with --texts")
    add("--task", help="the task to ask, where the gateway serves several")
    add("--expect", type=Path, help="a file with the labels of each body, one JSON value a line")
    add("--header", action="append", default=[], metavar="'NAME: VALUE'", help="may be repeated")
    add("--api-key", default=os.environ.get(KEY_VARIABLE), help=f"or {KEY_VARIABLE}")
    add("--seconds", type=float, default=10.0, help="how long requests are sent")
    add("--connections", type=int, default=64, help="of all processes together")
    add("--processes", type=int, default=1, help="that send")
    add("--timeout", type=float, default=10.0, help="seconds that a request may take")
    add("--seed", type=int, default=0, help="of tickets and of random arrivals")
    add("--timing", action="store_true", help="read the gateway's own time from its replies")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    return found


def carry_out(options: argparse.Namespace, drive: Callable[[Work], Result]) -> int:
    """Drive what the options ask for, print what came of it, and return the exit status."""
    try:
        result = drive(_work(options))
    except UnderstudyError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    if options.json:
        sys.stdout.write(result.to_json().decode() + "\n")
    else:
        Console(width=None if sys.stdout.isatty() else _WIDTH).print(table(result))
    if result.refusal:
        sys.stderr.write(f"refused: {result.refusal}\n")
        return REFUSED
    return 0


def table(result: Result) -> Table:
    """A Result for people."""
    found = Table(
        title=f"{result.loop} loop, {result.connections} connections, {result.url}",
        show_header=False,
    )
    found.add_column(style="bold")
    found.add_column()
    for name, value in _rows(result):
        found.add_row(name, value)
    return found


def _rows(result: Result) -> list[tuple[str, str]]:
    rows = [("time", f"{result.seconds:.2f} s")]
    if result.punctuality:
        intended = result.punctuality.intended_per_s
        rows.append(("sent", f"{result.sent_per_s:,.1f}/s of {intended:,.1f}/s intended"))
    rows.append(("answered 2xx", f"{result.succeeded:,} ({result.succeeded_per_s:,.1f}/s)"))
    rows.append(("errors", f"{result.errors:,} of {result.requests:,}"))
    rows += [(f"  status {status}", f"{count:,}") for status, count in result.statuses.items()]
    rows += [(f"  code {code}", f"{count:,}") for code, count in result.codes.items()]
    rows += [(f"  {cause}", f"{count:,}") for cause, count in result.failures.items()]
    if result.wrong:
        rows.append(("  wrong", f"{result.wrong:,}"))
    if result.latency:
        rows.append(("latency", _spread(result.latency)))
    rows += [
        (f"  of {status}", _spread(latency))
        for status, latency in result.by_status.items()
        if not 200 <= status < 300
    ]
    if result.overhead:
        rows.append(("gateway's own time", _spread(result.overhead.inside)))
        rows.append(("  as clients see it", _spread(result.overhead.outside)))
    if on_time := result.punctuality:
        if on_time.behind:
            rows.append(("behind schedule", _spread(on_time.behind)))
        rows.append(("  over the limit", f"{on_time.late_share:.2%} by {on_time.limit_ms:g} ms"))
        rows.append(("  no free connection", f"{on_time.starved:,}"))
    rows.append(("generator", f"{result.generator_us:.1f} µs of processor time a request"))
    return rows


def _spread(latency: Latency) -> str:
    return (
        f"p50 {latency.p50:.2f}  p95 {latency.p95:.2f}  p99 {latency.p99:.2f}  "
        f"max {latency.max:.2f} ms"
    )


def _work(options: argparse.Namespace) -> Work:
    if options.rows < 1 or (options.rows > 1 and options.texts is None):
        raise UsageError(f"--rows {options.rows}: not possible here", mend="name --texts with it")
    if options.bodies:
        sent = bodies.of_file(options.bodies)
    elif options.texts:
        sent = bodies.of_texts(bodies.texts(options.texts), rows=options.rows, task=options.task)
    else:
        sent = bodies.of_tickets(options.seed, task=options.task)
    check = bodies.expected(options.expect, len(sent)) if options.expect else None
    return Work(options.url, sent, _headers(options), check)


def _headers(options: argparse.Namespace) -> dict[str, str]:
    found = {}
    for given in options.header:
        name, colon, value = given.partition(":")
        if not colon or not name.strip() or "\n" in given or "\r" in given:
            raise UsageError(f"--header {given!r}: no header", mend="write 'NAME: VALUE'")
        found[name.strip()] = value.strip()
    if options.api_key:
        found["authorization"] = f"Bearer {options.api_key}"
    return found

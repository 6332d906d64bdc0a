"""Understudy next to what people would use instead: the same bundle, one after the other.

    python -m loadtests.compare --bundle PATH --texts FILE --seconds 5 --peers naive,litserve

Prints tables, and writes figures.json and plot.png. Peers are installed on first use, each into an
environment of its own below build/peers.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from rich.console import Console

from distill.demo.traffic import traffic
from gateway.errors import BundleMissing, UnderstudyError, UsageError
from loadtests import bodies
from loadtests.compare import report
from loadtests.compare.contest import RATE, compare
from loadtests.compare.contestants import OURS, PEERS, Contestant
from loadtests.compare.environment import ROOT

BUNDLE = Path("understudy-demo/bundles/student")
OUTPUT = ROOT / "build" / "bench-serving"

_WIDTH = 130  # columns where nobody says how wide the output is


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended as well
    try:
        comparison = compare(
            _bundle(options.bundle),
            bodies.texts(options.texts) if options.texts else _tickets(),
            [OURS, *_peers(options.peers)],
            seconds=_positive("--seconds", options.seconds),
            rate=_positive("--rate", options.rate),
            tell=lambda line: print(f"measuring: {line}", file=sys.stderr),  # noqa: T201
        )
        options.out.mkdir(parents=True, exist_ok=True)
    except UnderstudyError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    figures, plot = options.out / "figures.json", options.out / "plot.png"
    figures.write_bytes(comparison.to_json())
    report.plot(comparison, plot)
    console.print(report.tables(comparison))
    console.print(f"written: {figures}, {plot}", soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m loadtests.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=BUNDLE, help="the student that everybody serves")
    add("--texts", type=Path, help="a file with one text a line; else tickets of the demo")
    add("--seconds", type=float, default=5.0, help="of each load")
    add("--rate", type=float, default=RATE, help="requests/s of our open loop")
    add("--peers", default=",".join(PEERS), help="names with commas between; none: ours alone")
    add("--out", type=Path, default=OUTPUT, help="the folder for figures.json and plot.png")
    return parser


def _bundle(path: Path) -> Path:
    if not path.exists():
        raise BundleMissing(
            f"--bundle {path}: there is no bundle", mend="run `make demo`, or name another"
        )
    return path


def _peers(names: str) -> list[Contestant]:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if wanted == ["none"]:
        return []
    for name in wanted:
        if name not in PEERS:
            raise UsageError(
                f"--peers: there is no peer {name!r}", mend=f"name some of: {', '.join(PEERS)}"
            )
    return [PEERS[name] for name in wanted]


def _positive(option: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise UsageError(f"{option} {value:g}: not possible", mend="give a number above 0")
    return value


def _tickets() -> list[str]:
    return [ticket.text for ticket in islice(traffic(seed=0), bodies.TICKETS)]


if __name__ == "__main__":
    raise SystemExit(main())

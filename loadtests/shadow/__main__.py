"""What a candidate in the shadow costs those who are answered, whatever it does.

    python -m loadtests.shadow --bundle PATH --texts FILE --seconds 2 --rounds 12

Starts a gateway without a shadow, and one each with a candidate that is well, hangs, crashes again
and again, or takes ten times as long; each sees all requests. All are asked in turn at one fixed
rate, and by a few connections that are always busy. `none again` is a second gateway without a
shadow: how far its ratio is from 1 is what such a run cannot tell.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from rich.console import Console

from distill.demo.traffic import traffic
from gateway.errors import BundleMissing, UnderstudyError, UsageError
from loadtests import bodies
from loadtests.shadow import report
from loadtests.shadow.copies import copied, dragged
from loadtests.shadow.rounds import Pace, measured
from loadtests.shadow.stage import Variant

BUNDLE = Path("understudy-demo/bundles/student")
NAMES = ("again", "healthy", "hangs", "crashes", "slow")

_WIDTH = 160  # columns where nobody says how wide the output is
_TIMED = 20  # texts by which the slow candidate is timed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended as well
    try:
        bundle = _bundle(options.bundle)
        texts = bodies.texts(options.texts) if options.texts else _tickets()
        pace = _pace(options)
        names = _names(options.variants)
        with tempfile.TemporaryDirectory(prefix="understudy-shadow-") as name:
            slow, drag = bundle, 1.0
            if "slow" in names:
                slow, drag = dragged(bundle, Path(name), texts[:_TIMED], times=options.times)
            same = copied(bundle, Path(name))
            beside: dict[str, Callable[[], Variant]] = {
                "again": lambda: Variant("none again"),
                "healthy": lambda: Variant("healthy", same),
                "hangs": lambda: Variant("hangs", same, signal.SIGSTOP),
                "crashes": lambda: Variant("crashes", same, signal.SIGKILL),
                "slow": lambda: Variant(f"{drag:.1f} times slower", slow),
            }
            found = measured(
                bundle,
                texts,
                [Variant("none"), *(beside[each]() for each in names)],
                pace,
                drag=drag,
                tell=lambda line: print(line, file=sys.stderr),  # noqa: T201  a command
            )
    except UnderstudyError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    if options.json:
        sys.stdout.write(found.to_json().decode() + "\n")
    else:
        console.print(report.tables(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m loadtests.shadow",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=BUNDLE, help="the student that serves")
    add("--texts", type=Path, help="a file with one text a line; else tickets of the demo")
    add("--seconds", type=float, default=2.0, help="of a turn")
    add("--rounds", type=int, default=12, help="turns of each gateway under each loop")
    add("--within", type=float, default=float("inf"), help="seconds, after which no round begins")
    add(
        "--rate",
        type=float,
        default=0.0,
        help="of the open loop; 0: 40 %% of the closed",
    )
    add("--connections", type=int, default=2, help="of the closed loop")
    add("--times", type=float, default=10.0, help="as long takes the slow candidate")
    add("--variants", default=",".join(NAMES), help="names with commas between")
    add("--seed", type=int, default=0, help="of the order of turns, and of arrivals")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def _bundle(path: Path) -> Path:
    if not path.exists():
        raise BundleMissing(
            f"--bundle {path}: there is no bundle", mend="run `make demo`, or name another"
        )
    return path.resolve()


def _pace(options: argparse.Namespace) -> Pace:
    possible = (
        0 < options.seconds < float("inf")
        and options.rounds > 0
        and 0 <= options.rate < float("inf")
        and options.times > 1
    )
    if not possible:
        raise UsageError(
            f"--seconds {options.seconds:g}, --rounds {options.rounds}, --rate {options.rate:g}, "
            f"--times {options.times:g}: no run",
            mend="give a time and rounds above 0, a rate of 0 or more, and more than 1 time",
        )
    return Pace(
        seconds=options.seconds,
        rounds=options.rounds,
        rate=options.rate,
        connections=options.connections,
        seed=options.seed,
        within=options.within,
    )


def _names(given: str) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in NAMES:
            raise UsageError(
                f"--variants: there is no variant {name!r}",
                mend=f"name some of: {', '.join(NAMES)}",
            )
    return [name for name in NAMES if name in names]


def _tickets() -> list[str]:
    return [ticket.text for ticket in islice(traffic(seed=0), bodies.TICKETS)]


if __name__ == "__main__":
    raise SystemExit(main())

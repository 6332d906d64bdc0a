"""A process that notes changes: argv is a database, what it does and how often.

`note N` adds N rows, each in a transaction of its own; `hold` says "held" in the middle of one, and
waits to be killed. Before it begins it says "ready" and waits for a line.
"""

from __future__ import annotations

import sys
import time

from gateway.store.changes import Changes, Entry, What
from gateway.store.database import open_database

_PATIENT_S = 60.0  # for who holds the log: it may be killed while it has no processor to end on


def held() -> float:
    """The time, once somebody says so: it is asked for while the log is locked."""
    print("held", flush=True)  # noqa: T201
    sys.stdin.readline()
    return time.time()


def main(where: str, wish: str, number: str) -> None:
    """Open the log, add to it, and end in order."""
    engine = open_database(where, busy_s=_PATIENT_S)
    changes = Changes(engine, clock=held if wish == "hold" else time.time)
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    for each in range(int(number)):
        changes.append(Entry(what=What.SWAP, who=f"{wish}-{number}", new=f"bundle-{each}"))
    engine.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A process that spends: argv is a database, what is wanted and how.

`spend N` asks for N calls at once and prints how many were granted; `hold` reserves all there is,
says so, and waits to be killed. Before it asks it says "ready" and waits for a line.
"""

from __future__ import annotations

import asyncio
import sys

from gateway.errors import BudgetExhausted
from gateway.routing.budget import Budget, Limits, Window
from gateway.store.database import open_database
from gateway.store.ledger import Ledger

LIMIT, CALL = 100_000, 1000  # micro-USD: a hundred calls
LIMITS = Limits(usd={Window.DAY: LIMIT, Window.HOUR: LIMIT}, call=CALL, expiry_s=60.0)
TASK = "tickets"


async def granted(budget: Budget, calls: int) -> int:
    """How many of so many concurrent calls get a reservation; the others are refused."""

    async def call() -> bool:
        try:
            reservation = await budget.reserve(None)
        except BudgetExhausted:
            return False
        reservation.settle(None)
        return True

    return sum(await asyncio.gather(*(call() for _ in range(calls))))


def main(where: str, wish: str, number: str) -> None:
    """Open the ledger, ask, and end in order."""
    engine = open_database(where)
    at = float(number)
    ledger = Ledger(engine, clock=(lambda: at) if wish == "hold" else None)
    budget = Budget(TASK, LIMITS, ledger)
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    if wish == "hold":
        asyncio.run(budget.reserve(LIMIT))
        print("held", flush=True)  # noqa: T201
        sys.stdin.readline()
    else:
        print(asyncio.run(granted(budget, int(number))), flush=True)  # noqa: T201
    ledger.close()
    engine.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])

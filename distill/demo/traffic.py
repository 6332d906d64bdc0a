"""Live traffic for the demo: tickets without end, new texts, the same customers again and again.

More of it is dangerous or about much money than in the teaching data, for risk rules to catch.
"""

from __future__ import annotations

from collections.abc import Iterator

from distill.demo.dice import Dice
from distill.demo.tickets import Mix, Ticket, stream

LIVE = Mix(dangerous=1.4, large=0.12, customers=400)


def traffic(*, seed: int) -> Iterator[Ticket]:
    """Tickets as they come in, without end, the same ones for the same seed.

    Its seeds are not those of the teaching data: seed 1 here and there give other texts.
    """
    return stream(Dice(f"traffic/{seed}"), LIVE)

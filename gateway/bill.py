"""What a word of a teacher's may be billed: one rule for answers and for errors."""

from __future__ import annotations


class Billed:
    """What a word of a teacher's, good or bad, may be billed.

    `cost`: micro-USD, where the teacher says so. Not `asked`: no call was begun for it. `unpriced`:
    further calls that were begun for it, of which no cost is known.
    """

    __slots__ = ()

    cost: int | None
    asked: bool
    unpriced: int

    def bill(self, price: int | None) -> int | None:
        """What it cost in all, in micro-USD, where a call of unknown cost has this price.

        None: a call was begun of which neither is known.
        """
        if not self.asked:
            return 0
        unknown = self.unpriced + (self.cost is None)
        if unknown and price is None:
            return None
        return (self.cost or 0) + unknown * (price or 0)

"""The coins that choose which confident answers the teacher also sees, after the reply.

One falls for all alike: whatever is guaranteed rests on it, for it looks at nothing. The other
falls more often where the student is less sure, so that as many calls teach more; estimates are
weighted for it. Both are tossed before anybody is told of the answer, so that its record says
which one fell, and with which probability it might have.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.types import Coin, Draw

_NOT_DRAWN = Draw()
_NO_AUDIT_NEEDED = Draw(open=True)


def _always() -> bool:
    return True


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Coins:
    """`uniform` is the probability of the one coin, `targeted` the largest of the other.

    The targeted coin falls with probability targeted * 2 sqrt(s (1 - s)) at the score s: the spread
    of "is it wrong", which is largest at a score of one half (Zrnic and Candes 2024, arXiv
    2403.03208). While `ready` says that no audit could be made none is tossed: that is known before
    they would fall, so it chooses no answer for what the teacher says of it. While `doubled` says
    that something wants a closer look the uniform coin falls twice as often; what is on the record
    is the probability with which it fell.
    """

    uniform: float = 0.0
    targeted: float = 0.0
    random: random.Random = field(default_factory=random.Random, repr=False)
    ready: Callable[[], bool] = field(default=_always, repr=False)
    doubled: Callable[[], bool] = field(default=_never, repr=False)

    @property
    def share(self) -> float:
        """The probability of the uniform coin now."""
        return min(1.0, 2.0 * self.uniform) if self.doubled() else self.uniform

    def toss(self, score: float | None) -> Draw:
        """Toss both for an answer of that score; None: the teacher has spoken already."""
        uniform = self.share
        if not (uniform or self.targeted) or not self.ready():
            return _NOT_DRAWN
        if score is None:
            return _NO_AUDIT_NEEDED
        aimed = self._aimed(score) if self.targeted else 0.0
        coin = None
        if self.random.random() < uniform:
            coin = Coin.UNIFORM
        elif aimed and self.random.random() < aimed:
            coin = Coin.TARGETED
        # Written so that without a second coin it is the first one's share to the last digit.
        return Draw(uniform + (1.0 - uniform) * aimed, uniform, coin, open=True)

    def _aimed(self, score: float) -> float:
        return self.targeted * 2.0 * math.sqrt(max(0.0, score * (1.0 - score)))

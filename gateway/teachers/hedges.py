"""How often a late call gets a second one beside it, of which the first good answer counts.

J. Dean and L. Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013.
"""

from __future__ import annotations

_SAVED = 5.0  # hedges that a teacher which is mostly in time may save up


class HedgeBudget:
    """A bucket into which each call puts `share` of a hedge; it begins empty."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = 0.0

    def called(self) -> None:
        """A call is made, for the first time."""
        self._tokens = min(_SAVED, self._tokens + self._share)

    def take(self) -> bool:
        """Whether a call may be hedged; then it is counted as hedged."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

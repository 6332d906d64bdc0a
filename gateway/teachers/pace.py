"""How long a teacher's last answers took."""

from __future__ import annotations

import statistics
from collections import deque

_REMEMBERED = 64  # durations: enough for a median that follows the teacher within minutes
_ENOUGH = 20  # of them for a 95th percentile: fewer have none


class Pace:
    """The durations of the last answers, in seconds."""

    def __init__(self) -> None:
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)

    def took(self, seconds: float) -> None:
        """An answer took that long."""
        self._durations.append(seconds)

    @property
    def median(self) -> float:
        """Half of them took longer; 0 while there are none."""
        return statistics.median(self._durations) if self._durations else 0.0

    @property
    def p95(self) -> float | None:
        """One in twenty took longer; None while there are too few to say."""
        if len(self._durations) < _ENOUGH:
            return None
        return sorted(self._durations)[int(0.95 * len(self._durations))]

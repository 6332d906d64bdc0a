"""How long a teacher's last answers took."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable

_REMEMBERED = 64  # durations: enough for a median that follows the teacher
_FRESH_S = 60.0  # how long one counts: who is refused for its sake is not refused for ever
_ENOUGH = 20  # of them for a 95th percentile: fewer have none


class Pace:
    """The durations of the answers of the last minute, in seconds.

    `clock` gives seconds and never goes back.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._took: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)  # when, how long

    def took(self, seconds: float) -> None:
        """An answer took that long."""
        self._took.append((self._clock(), seconds))

    @property
    def median(self) -> float:
        """Half of them took longer; 0 while there are none."""
        durations = self._durations()
        return statistics.median(durations) if durations else 0.0

    @property
    def p95(self) -> float | None:
        """One in twenty took longer; None while there are too few to say."""
        durations = self._durations()
        if len(durations) < _ENOUGH:
            return None
        return sorted(durations)[int(0.95 * len(durations))]

    def _durations(self) -> list[float]:
        oldest = self._clock() - _FRESH_S
        while self._took and self._took[0][0] <= oldest:
            self._took.popleft()
        return [seconds for _, seconds in self._took]

"""How often a teacher is asked again, and after what pause.

A teacher that fails because it has too much to do is not helped by being asked twice. So retries
are a share of the calls, whatever fails, and their pauses are random, so that callers who failed
together do not come back together (M. Brooker, "Exponential Backoff and Jitter", 2015).
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable

_WINDOW_S = 10.0  # over which the share holds: long against a pause, short against an outage
_FLOOR = 1  # retries in a window that a quiet gateway has, whose share would be less than one
_FIRST_S = 0.2  # the longest pause before the first retry; twice as long before each one after
_LONGEST_S = 5.0  # of a pause: beyond it most requests are given up


class RetryBudget:
    """At most `share` of the calls of the last ten seconds are retried, and one in any case.

    `clock` gives seconds and never goes back.
    """

    def __init__(self, share: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._calls: deque[float] = deque()
        self._retries: deque[float] = deque()

    def called(self) -> None:
        """A call is made, for the first time."""
        now = self._clock()
        _drop(self._calls, now)
        self._calls.append(now)

    def take(self) -> bool:
        """Whether a call may be made again; then it is counted as made."""
        now = self._clock()
        _drop(self._calls, now)
        _drop(self._retries, now)
        if len(self._retries) + 1 > max(_FLOOR, self._share * len(self._calls)):
            return False
        self._retries.append(now)
        return True


def pause(retry: int, random_source: random.Random) -> float:
    """Seconds before the retry of that number, from 0: anything up to the longest of its turn."""
    return random_source.uniform(0.0, min(_LONGEST_S, _FIRST_S * 2**retry))


def _drop(times: deque[float], now: float) -> None:
    while times and times[0] <= now - _WINDOW_S:
        times.popleft()

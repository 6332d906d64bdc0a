"""The breaker: no more calls to a teacher that fails or drags, until a single one has gone well.

It counts what it is told and says whether a call may begin. It makes no call, waits for nothing and
has no timer: its state follows from the clock whenever it is asked.

The three states are those of M. Nygard, "Release It!" (2007); the two ratios over a sliding window
are those of Resilience4j.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

_REMEMBERED = 1024  # calls of the window that are kept: at higher rates it is shorter than it says


class State(IntEnum):
    """Whether calls may begin. The numbers are those that the metrics show."""

    CLOSED = 0  # they may
    HALF_OPEN = 1  # one may, and decides
    OPEN = 2  # none may


@dataclass(frozen=True, slots=True)
class Limits:
    """When a breaker opens, and for how long.

    `failures` in a row open it. So does a share of `error_ratio` of failures, or of `slow_ratio` of
    calls that took `slow_s` or longer, among at least `calls` of the last `window_s` seconds.
    """

    failures: int = 5
    window_s: float = 30.0
    calls: int = 20
    error_ratio: float = 0.5
    slow_ratio: float = 0.8
    slow_s: float = 8.0
    open_s: float = 10.0  # also the least time between two probes


_USUAL = Limits()


@dataclass(frozen=True, slots=True)
class _Ended:
    at: float
    failed: bool
    slow: bool


class Breaker:
    """Lets calls begin, or not. `clock` gives seconds and never goes back.

    Every call that `enter` lets in is reported once: by `ended`, or by `give_back` when it was not
    begun after all. What was let in before the state last changed has no say any more.
    """

    def __init__(
        self, limits: Limits = _USUAL, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._era = 0  # of which state a call is; raised with each change
        self._next_probe: float | None = None  # None: closed
        self._probing = False
        self._row = 0  # failures since the last success
        self._ended: deque[_Ended] = deque()
        self._failed = 0  # of those in `_ended`
        self._slow = 0

    @property
    def state(self) -> State:
        """The state at this moment."""
        if self._next_probe is None:
            return State.CLOSED
        due = self._probing or self._clock() >= self._next_probe
        return State.HALF_OPEN if due else State.OPEN

    @property
    def wait_s(self) -> float:
        """Seconds until a call may begin; 0: it may now."""
        return 0.0 if self._next_probe is None else max(0.0, self._next_probe - self._clock())

    def enter(self) -> int | None:
        """A ticket for a call that may begin now; None: it may not."""
        if self._next_probe is not None:
            now = self._clock()
            if now < self._next_probe:
                return None
            # From its begin, so that a probe that hangs does not put the next one off.
            self._next_probe = now + self._limits.open_s
            self._probing = True
            self._era += 1
        return self._era

    def give_back(self, ticket: int) -> None:
        """The call was not begun: where it was a probe, another one may go at once."""
        if ticket == self._era and self._probing:
            self._probing = False
            self._next_probe = self._clock()

    def ended(self, ticket: int, *, ok: bool | None, seconds: float) -> None:
        """The call has ended. `ok` None: it says nothing of the teacher, whose caller had gone."""
        if ticket != self._era:
            return
        slow = seconds >= self._limits.slow_s
        if self._probing:
            self._probing = False
            if ok and not slow:
                self._close()
        elif ok is not None and self._next_probe is None:
            self._remember(_Ended(self._clock(), failed=not ok, slow=slow))
            if self._too_bad():
                self._open()

    def _remember(self, ended: _Ended) -> None:
        self._row = self._row + 1 if ended.failed else 0
        self._ended.append(ended)
        self._failed += ended.failed
        self._slow += ended.slow
        oldest = ended.at - self._limits.window_s
        while self._ended[0].at < oldest or len(self._ended) > _REMEMBERED:
            gone = self._ended.popleft()
            self._failed -= gone.failed
            self._slow -= gone.slow

    def _too_bad(self) -> bool:
        limits, calls = self._limits, len(self._ended)
        if self._row >= limits.failures:
            return True
        return calls >= limits.calls and (
            self._failed >= limits.error_ratio * calls or self._slow >= limits.slow_ratio * calls
        )

    def _open(self) -> None:
        self._era += 1
        self._next_probe = self._clock() + self._limits.open_s
        self._forget()

    def _close(self) -> None:
        self._era += 1
        self._next_probe = None
        self._forget()

    def _forget(self) -> None:
        """A new state begins without what the one before it saw."""
        self._ended.clear()
        self._row = self._failed = self._slow = 0

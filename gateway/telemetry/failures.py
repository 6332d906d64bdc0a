"""Failures that an answer survives, as log lines: few, so that an outage cannot fill a disk.

It counts nothing for dashboards (metrics do) and is never handed the text of a request.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

import structlog

from gateway.errors import UnderstudyError

_PAUSE = 1.0  # seconds between two lines of a kind: enough to see when an outage began and ended
_LONGEST = 300  # characters of a message; errors of libraries can be pages long

_LOG = structlog.get_logger(__name__)


class FailureLog:
    """Warns of what failed for one task, at most once a second for each kind.

    A line says how many of its kind were suppressed since the line before it. `clock` gives seconds
    and never goes back.
    """

    def __init__(self, task: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._task = task
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._suppressed: Counter[str] = Counter()

    def tell(self, kind: Literal["student", "teacher"], error: UnderstudyError) -> None:
        """Log the error, or count it for the next line."""
        now = self._clock()
        if now < self._silent_until.get(kind, -math.inf):
            self._suppressed[kind] += 1
            return
        self._silent_until[kind] = now + _PAUSE
        _LOG.warning(
            f"{kind}_failed",
            task=self._task,
            code=error.code,
            type=type(error.__cause__ or error).__name__,
            error=error.message[:_LONGEST],
            suppressed=self._suppressed.pop(kind, 0),
        )

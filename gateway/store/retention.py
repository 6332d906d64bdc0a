"""Retention: records that are older than a number of days are deleted, a few at a time.

It has no thread and no connection of its own. The writer gives it a turn between two commits, so
that a purge of any length delays no commit for longer than one page takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from gateway.store import comparisons, records, trials
from gateway.store.records import Selection

_PAUSE = 0.1  # seconds between two pages: 10,000 records a second, and most of the time for writes
_ROUND = 600.0  # seconds between two rounds; a record may outlive its day by that much
_DAY = 86_400.0  # seconds

_log = structlog.get_logger(__name__)


class Retention:
    """Takes turns. `days` of None: everything is kept.

    `clock` gives seconds since the epoch, `ticks` seconds that never go back.
    """

    def __init__(
        self,
        engine: Engine,
        days: float | None,
        *,
        page: int = 1000,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._days = days
        self._page = page
        self._clock = clock
        self._ticks = ticks
        self._due = ticks()

    def keep_for(self, days: float | None) -> None:
        """From the next round on, keep records for so many days. May be called from any thread."""
        self._days = days

    def wait(self) -> float:
        """Seconds until the next turn is due."""
        return max(0.0, self._due - self._ticks())

    def turn(self) -> None:
        """Delete one page if a turn is due. A database that cannot is asked again next round.

        Last of all go comparisons that have no record, and the slices of what was counted then.
        """
        if self.wait() > 0:
            return
        days = self._days
        if days is None:
            self._due = self._ticks() + _ROUND
            return
        until = self._clock() - days * _DAY
        try:
            gone = next(records.purge(self._engine, Selection(until=until), page=self._page), 0)
            if gone < self._page:
                gone = comparisons.purge(self._engine, until, page=self._page)
            if gone < self._page:
                trials.forget(self._engine, until)
        except DBAPIError as error:
            _log.warning("old records stay for now", error=str(error.orig))
            gone = 0
        self._due = self._ticks() + (_PAUSE if gone == self._page else _ROUND)

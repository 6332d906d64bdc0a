"""The write-behind observer: takes answers and audits at once, commits them a little later.

What is offered goes on a bounded queue; one thread takes all that waits and commits it together, so
batches grow exactly as fast as the disk is slow. Nothing is lost without being counted.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from gateway.store import records
from gateway.store.database import writing
from gateway.store.records import StoreText
from gateway.types import Answer, Audit

_FIRST_PAUSE = 0.1  # seconds before the second attempt: a lock is usually gone by then
_LONGEST_PAUSE = 2.0  # seconds: a database that is back is noticed this soon

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """What became of all that was offered: offered = stored + dropped + waiting, always."""

    offered: int
    stored: int
    dropped: int

    @property
    def waiting(self) -> int:
        """Offered, and neither stored nor dropped yet."""
        return self.offered - self.stored - self.dropped


class RecordWriter:
    """An observer that stores. `answered` and `audited` cost microseconds and never raise.

    `capacity` bounds what waits, `batch` what is committed together. While the database cannot be
    written, the batch is kept and tried again. What the database refuses for good (a value that it
    cannot hold) is dropped alone, and logged.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        capacity: int = 20_000,
        batch: int = 500,
        store_text: StoreText = "hash",
    ) -> None:
        self._engine = writing(engine)
        self._capacity = capacity
        self._batch = batch
        self._store_text: StoreText = store_text
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._leaving = threading.Condition(self._lock)
        self._queue: deque[Answer | Audit] = deque()
        self._answers = _Ledger()
        self._audits = _Ledger()
        self._deadline = math.inf  # monotonic seconds; finite: closing
        self._thread = threading.Thread(target=self._run, name="record-writer", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def records(self) -> Account:
        """The account of the answers; one that is stored already counts as stored."""
        with self._lock:
            return self._answers.account()

    @property
    def audits(self) -> Account:
        """The account of the audits; one whose answer was dropped is dropped with it."""
        with self._lock:
            return self._audits.account()

    @property
    def stored(self) -> int:
        """Answers that are committed."""
        return self.records.stored

    @property
    def dropped(self) -> int:
        """Answers that are lost: the queue was full, or the time to close was up."""
        return self.records.dropped

    def answered(self, answer: Answer) -> None:
        """Queue an answer; a full queue drops it."""
        self._offer(answer, self._answers)

    def audited(self, audit: Audit) -> None:
        """Queue an audit; a full queue drops it."""
        self._offer(audit, self._audits)

    def close(self, timeout: float = 10.0) -> None:
        """Store what waits and end the thread; what is not stored after `timeout` s is dropped.

        A commit that is under way then may still succeed, so the drops are an upper bound.
        """
        with self._lock:
            self._deadline = min(self._deadline, time.monotonic() + timeout)
            self._arrived.notify_all()
            self._leaving.notify_all()
        self._thread.join(timeout)
        with self._lock:
            self._drop_all()

    def _offer(self, value: Answer | Audit, ledger: _Ledger) -> None:
        with self._lock:
            ledger.offered += 1
            if self._closing or self._answers.waiting + self._audits.waiting > self._capacity:
                ledger.dropped += 1
                return
            self._queue.append(value)
            self._arrived.notify()

    @property
    def _closing(self) -> bool:
        return self._deadline < math.inf

    def _run(self) -> None:
        while batch := self._take():
            self._store(batch)

    def _take(self) -> list[Answer | Audit]:
        """All that waits, up to a batch; sleeps while nothing does; empty: the end."""
        with self._lock:
            while not self._queue and not self._closing:
                self._arrived.wait()
            return [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]

    def _store(self, batch: Sequence[Answer | Audit]) -> None:
        """Try until the batch is committed, refused for good, or given up at the end."""
        pause = _FIRST_PAUSE
        while (error := self._attempt(batch)) is not None and self._wait_after(error, pause):
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _attempt(self, batch: Sequence[Answer | Audit]) -> DBAPIError | None:
        """Commit the batch; returns an error that may pass, so that it is worth to try again."""
        try:
            self._commit(batch)
        except (DataError, IntegrityError) as error:
            self._store_singly(batch, error)
        except DBAPIError as error:
            return error
        except Exception as error:  # noqa: BLE001  one bad value must not end the thread
            self._store_singly(batch, error)
        return None

    def _commit(self, batch: Sequence[Answer | Audit]) -> None:
        answers = [value for value in batch if isinstance(value, Answer)]
        audits = [value for value in batch if isinstance(value, Audit)]
        with self._engine.begin() as connection:
            orphans = records.keep(connection, answers, audits, text=self._store_text)
        with self._lock:
            self._answers.settle(stored=len(answers))
            self._audits.settle(stored=len(audits) - orphans, dropped=orphans)

    def _store_singly(self, batch: Sequence[Answer | Audit], error: Exception) -> None:
        """Something in the batch is refused: find it, drop it alone, store the others."""
        if len(batch) > 1:
            for value in batch:
                self._store([value])
            return
        _log.error("a record was refused and dropped", error=type(error).__name__)
        ledger = self._answers if isinstance(batch[0], Answer) else self._audits
        with self._lock:
            ledger.settle(dropped=1)

    def _wait_after(self, error: DBAPIError, pause: float) -> bool:
        """Wait for the next attempt; false: the time to close is up, and all was dropped."""
        _log.warning("records wait, the database does not take them", error=str(error.orig))
        with self._lock:
            self._leaving.wait(max(0.0, min(pause, self._deadline - time.monotonic())))
            if time.monotonic() < self._deadline:
                return True
            self._drop_all()
            return False

    def _drop_all(self) -> None:
        """Give up what waits. The lock is held."""
        self._queue.clear()
        self._answers.settle(dropped=self._answers.waiting)
        self._audits.settle(dropped=self._audits.waiting)


class _Ledger:
    """The account while it is being kept. Its owner holds the lock."""

    __slots__ = ("dropped", "offered", "stored")

    def __init__(self) -> None:
        self.offered = 0
        self.stored = 0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        return self.offered - self.stored - self.dropped

    def settle(self, *, stored: int = 0, dropped: int = 0) -> None:
        """Move what waits; nothing can move twice, even where `close` gave up a running commit."""
        self.stored += min(stored, self.waiting)
        self.dropped += min(dropped, self.waiting)

    def account(self) -> Account:
        return Account(self.offered, self.stored, self.dropped)

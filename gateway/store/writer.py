"""The write-behind observer: takes answers and audits at once, commits them a little later.

What is offered goes on a bounded queue; one thread takes all that waits and commits it together, so
batches grow exactly as fast as the disk is slow. Nothing is lost without being counted.

No lock is taken on the way in. Each number here has one thread that writes it, the one that offers
or the one that commits, and where a thread looks before it sleeps, it says so first.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from gateway.store import comparisons, intake
from gateway.store.database import writing
from gateway.store.intake import StoreText
from gateway.store.retention import Retention
from gateway.types import Answer, Audit, Comparison

_FIRST_PAUSE = 0.1  # seconds before the second attempt: a lock is usually gone by then
_LONGEST_PAUSE = 2.0  # seconds: a database that is back is noticed this soon
# Bytes of an answer in memory beside its text and fields: two predictions of 77 labels (measured).
_WEIGHT = 3000
_FIELD_WEIGHT = 60  # bytes of a field beside its name and value
_MIB = 1 << 20
_SILENCE = 1.0  # seconds between two lines on refused records: the count says how many there were

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
    """An observer that stores. `answered` and `audited` cost a microsecond and never raise.

    They are called by one thread. `capacity` and `max_bytes` bound what waits, `batch` what is
    committed together; less than a batch waits `linger_s` for company before each commit. While the
    database cannot be written, the batch is kept and tried again. What the database refuses for
    good (a value that it cannot hold) is dropped alone, and logged. `retention` gets its turns
    between commits.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        capacity: int = 20_000,
        max_bytes: int = 64 * _MIB,
        batch: int = 1000,
        linger_s: float = 0.0,
        store_text: StoreText = "hash",
        retention: Retention | None = None,
    ) -> None:
        self._engine = writing(engine)
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._batch = batch
        self._linger_s = linger_s
        self._store_text: StoreText = store_text
        self._retention = retention
        self._queue: deque[_Queued] = deque()
        self._answers = _Ledger()
        self._audits = _Ledger()
        self._comparisons = _Ledger()
        # Positions count what was queued, answers and audits alike, in the order of the queue.
        self.accepted = 0  # the last that was queued; written by who offers
        self.settled = 0  # all up to here is committed or lost; written by the thread, as are:
        self.last_lost = 0
        self.degraded = False  # the database did not take the last batch
        self._weight_in = 0  # bytes: queued since the start; written by who offers
        self._weight_out = 0  # bytes: settled since the start; written by the thread
        self._refused_at = 0  # which of the offered answers was the last to find no room
        self._silent_until = -math.inf  # monotonic seconds
        self._told: Callable[[int, Collection[int]], None] = _nobody
        self._asleep = False
        self._arrived = threading.Event()
        self._leaving = threading.Event()
        self._deadline = math.inf  # monotonic seconds; finite: closing
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="record-writer", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def records(self) -> Account:
        """The account of the answers; one that is stored already counts as stored."""
        return self._answers.account(ended=self._ended)

    @property
    def audits(self) -> Account:
        """The account of the audits; one whose answer was dropped is dropped with it."""
        return self._audits.account(ended=self._ended)

    @property
    def comparisons(self) -> Account:
        """The account of what candidates said."""
        return self._comparisons.account(ended=self._ended)

    def answered(self, answer: Answer) -> None:
        """Queue an answer; a full queue drops it."""
        self._answers.offered += 1
        if not self._offer(answer, answer):
            self._answers.refused += 1
            self._refused_at = self._answers.offered

    def audited(self, audit: Audit) -> None:
        """Queue an audit; a full queue drops it."""
        self._audits.offered += 1
        if not self._offer(audit, audit.answer):
            self._audits.refused += 1

    def compared(self, comparison: Comparison) -> None:
        """Queue a comparison; a queue that is half full drops it: the rest is for answers."""
        self._comparisons.offered += 1
        crowded = self.accepted - self.settled >= self._capacity / 2
        if crowded or not self._offer(comparison, comparison.answer):
            self._comparisons.refused += 1

    def queued(self, count: int) -> bool:
        """Whether the `count` answers that were offered last all found room."""
        return self._refused_at <= self._answers.offered - count

    def follow(self, told: Callable[[int, Collection[int]], None]) -> None:
        """Have `told` called after each commit, by the thread, with `settled` and what was lost."""
        self._told = told

    def close(self, timeout: float = 10.0) -> None:
        """Store what waits and end the thread; what is not stored after `timeout` s is dropped.

        A commit that is under way then may still succeed, so the drops are an upper bound.
        """
        self._deadline = min(self._deadline, time.monotonic() + timeout)
        self._leaving.set()
        self._arrived.set()
        self._thread.join(timeout)
        self._ended = True

    def _offer(self, value: Answer | Audit | Comparison, answer: Answer) -> bool:
        weight = self._weight_in + _WEIGHT + sys.getsizeof(answer.instance.text)
        if answer.instance.fields:
            weight += _weight_of_fields(answer)
        if (
            self.accepted - self.settled >= self._capacity
            or weight - self._weight_out > self._max_bytes
            or self._closing
        ):
            return False
        self._weight_in = weight
        self.accepted += 1
        self._queue.append((value, weight))
        if self._asleep:
            self._arrived.set()
        return True

    @property
    def _closing(self) -> bool:
        return self._deadline < math.inf

    def _run(self) -> None:
        while time.monotonic() < self._deadline:
            batch = self._take()
            if batch:
                self._store(batch)
            elif self._closing:
                break
            if self._retention is not None and not self._closing:
                self._retention.turn()
        self._give_up()

    def _take(self) -> list[_Queued]:
        """What waits, up to a batch; sleeps while nothing does. Empty: there is other work."""
        if not self._queue:
            self._sleep()
        if self._linger_s and 0 < len(self._queue) < self._batch:
            self._leaving.wait(self._linger_s)
        return [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]

    def _sleep(self) -> None:
        """Sleep until something arrives, the end comes, or old records are due."""
        self._asleep = True
        if not self._queue and not self._closing:  # again: it may have come before the flag was up
            self._arrived.wait(None if self._retention is None else self._retention.wait())
        self._asleep = False
        self._arrived.clear()

    def _store(self, batch: Sequence[_Queued]) -> None:
        """Try until the batch is committed, refused for good, or given up at the end."""
        pause = _FIRST_PAUSE
        while (error := self._attempt(batch)) is not None:
            if not self.degraded:
                self.degraded = True
                _log.warning("records wait, the database does not take them", error=str(error.orig))
            if not self._wait(pause):
                return
            pause = min(2 * pause, _LONGEST_PAUSE)
        if self.degraded:
            self.degraded = False
            _log.warning("the database takes records again", waiting=self.records.waiting)

    def _attempt(self, batch: Sequence[_Queued]) -> DBAPIError | None:
        """Commit the batch; returns an error that may pass, so that it is worth to try again."""
        try:
            self._commit(batch)
        except (DataError, IntegrityError) as error:
            self._store_parts(batch, error)
        except DBAPIError as error:
            return error
        except Exception as error:  # noqa: BLE001  one bad value must not end the thread
            self._store_parts(batch, error)
        return None

    def _commit(self, batch: Sequence[_Queued]) -> None:
        answers = [value for value, _ in batch if isinstance(value, Answer)]
        audits = [value for value, _ in batch if isinstance(value, Audit)]
        compared = [value for value, _ in batch if isinstance(value, Comparison)]
        with self._engine.begin() as connection:
            orphans = intake.keep(connection, answers, audits, text=self._store_text)
            if compared:
                comparisons.keep(connection, compared)
        self._answers.stored += len(answers)
        self._audits.stored += len(audits) - orphans
        self._audits.lost += orphans
        self._comparisons.stored += len(compared)
        self._settle(batch)

    def _store_parts(self, batch: Sequence[_Queued], error: Exception) -> None:
        """Something in the batch is refused: find it by halving, drop it alone, keep the rest."""
        if len(batch) > 1:
            middle = len(batch) // 2
            for part in (batch[:middle], batch[middle:]):
                if time.monotonic() < self._deadline:  # what was given up is not overtaken
                    self._store(part)
            return
        if (now := time.monotonic()) >= self._silent_until:
            self._silent_until = now + _SILENCE
            _log.error("a record was refused and dropped", error=type(error).__name__)
        self._ledger_of(batch[0][0]).lost += 1
        self.last_lost = self.settled + 1
        self._settle(batch, lost=(self.last_lost,))

    def _ledger_of(self, value: Answer | Audit | Comparison) -> _Ledger:
        if isinstance(value, Answer):
            return self._answers
        return self._audits if isinstance(value, Audit) else self._comparisons

    def _settle(self, batch: Sequence[_Queued], *, lost: Collection[int] = ()) -> None:
        self._weight_out = batch[-1][1]
        self.settled += len(batch)
        self._told(self.settled, lost)

    def _wait(self, pause: float) -> bool:
        """Wait for the next attempt; false: the time to close is up."""
        if self._closing:  # the event is set for good by now
            time.sleep(max(0.0, min(pause, self._deadline - time.monotonic())))
        else:
            self._leaving.wait(pause)
        return time.monotonic() < self._deadline

    def _give_up(self) -> None:
        """The end: what still waits is lost, and whoever waits for it is told."""
        self._ended = True
        first, self.settled = self.settled + 1, self.accepted
        self._queue.clear()
        if first <= self.settled:
            self.last_lost = self.settled
            self._told(self.settled, range(first, self.settled + 1))


# A value that waits, and the bytes queued since the start up to and with it.
_Queued = tuple[Answer | Audit | Comparison, int]


class _Ledger:
    """The account while it is being kept.

    Who offers writes `offered` and `refused`, the thread writes `stored` and `lost`.
    """

    __slots__ = ("lost", "offered", "refused", "stored")

    def __init__(self) -> None:
        self.offered = 0
        self.refused = 0
        self.stored = 0
        self.lost = 0

    def account(self, *, ended: bool) -> Account:
        """Read while others write: what moves meanwhile counts as waiting."""
        stored, dropped = self.stored, self.refused + self.lost
        offered = self.offered
        return Account(offered, stored, offered - stored if ended else dropped)


def _weight_of_fields(answer: Answer) -> int:
    fields = answer.instance.fields
    return sum(
        sys.getsizeof(name) + sys.getsizeof(value) + _FIELD_WEIGHT for name, value in fields.items()
    )


def _nobody(_position: int, _lost: Collection[int]) -> None:
    """Nobody asks to be told."""

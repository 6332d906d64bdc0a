"""The ledger: what each task's teacher was reserved and has cost, exact over threads and replicas.

All that waits is booked together: a turn locks the row of its task, reads how the task stands, lets
the rules of gateway/routing/budget.py decide, writes, and commits; only then is anybody told. On
PostgreSQL replicas take the same lock; a SQLite file has one writer at a time by itself. One thread
of its own does that, so that the event loop never waits for a disk.

Nothing is kept in memory that a crash could lose, but settlements that wait for a database which
is gone: until they are booked, what was reserved counts, up to its expiry.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog
from sqlalchemy import Connection, Engine, Select, case, delete, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from gateway.errors import BudgetExhausted
from gateway.routing.budget import Balance, Limits, Order, Shortage, Standing, Window
from gateway.store.database import writing
from gateway.store.tables import budgets, reservations, spending

_TOGETHER = 1000  # orders in one transaction: some milliseconds under the lock
_DAY = 86_400.0  # seconds
_REMEMBERED = 40 * _DAY  # windows older than that are deleted: a month can still be looked up
# Reservations that nobody settled count no more after minutes; a word on one is heard for a day.
_UNSETTLED = _DAY
_AT_SERVER = text("SELECT extract(epoch FROM clock_timestamp())")

_log = structlog.get_logger(__name__)


class Ledger:
    """Keeps the account of all tasks. May be used from any thread.

    `clock` gives seconds since the epoch. None: the clock of the PostgreSQL server, which replicas
    have in common wherever they run; for SQLite that of this machine. Where the clock was set back,
    what was reserved in its future counts as reserved now, so that it expires in time.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] | None = None) -> None:
        self._engine = writing(engine)
        self._clock = clock
        self._waiting: deque[_Entry] = deque()
        self._door = threading.Lock()  # for `_due`
        self._due = False  # a turn is to come that takes what waits
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    def reserve(self, order: Order, limits: Limits) -> Future[Shortage | None]:
        """Commit a reservation, or say why there is none.

        The future raises BudgetExhausted where the database does not take it: what is not on the
        books is not spent.
        """
        asked = _Asked(order.task, order, limits)
        self._enter(asked)
        return asked.answer

    def settle(self, order: Order, cost: int) -> None:
        """The order has cost that much, in micro-USD; of several words on one the first counts."""
        settled = _Settled(order.task, order.id, cost)
        try:
            self._enter(settled)
        except RuntimeError:  # closing: the last turn takes it, or it expires
            self._waiting.append(settled)

    def look(self, task: str, limits: Limits) -> Future[Mapping[Window, Balance]]:
        """What has become of the task's limits. The future raises like that of `reserve`."""
        looked = _Looked(task, limits)
        self._enter(looked)
        return looked.answer

    def close(self) -> None:
        """End the thread and book what waits, in one last try."""
        self._thread.shutdown(cancel_futures=True)
        self._book()

    def _enter(self, entry: _Entry) -> None:
        """Let a turn take it: the one that is to come anyway, or a new one."""
        with self._door:
            if not self._due:
                self._thread.submit(self._book)
                self._due = True
            self._waiting.append(entry)

    def _book(self) -> None:
        """Book all that waits."""
        with self._door:
            self._due = False  # what comes from now on may come too late for this turn
        while self._waiting:
            turns: defaultdict[str, _Turn] = defaultdict(_Turn)
            for _ in range(min(_TOGETHER, len(self._waiting))):
                entry = self._waiting.popleft()
                turns[entry.task].add(entry)
            kept = [each for task, turn in turns.items() for each in self._try(task, turn)]
            self._waiting.extendleft(reversed(kept))
            if kept:
                return  # they wait for whoever comes next, and go before them

    def _try(self, task: str, turn: _Turn) -> Sequence[_Settled]:
        """Book a turn and tell who asked; returns the settlements that could not be booked."""
        try:
            try:
                tell = self._commit(task, turn)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                tell = self._commit(task, turn)  # the server is back, the connection was of old
        except Exception as error:  # noqa: BLE001  whatever it is, nobody may wait for ever
            cause = error.orig if isinstance(error, DBAPIError) else error
            _log.warning("the budget cannot be kept", task=task, error=str(cause))
            turn.fail(error)
            return turn.settled
        tell()
        return ()

    def _commit(self, task: str, turn: _Turn) -> Callable[[], None]:
        """Book a turn; returns what tells those who asked."""
        with self._engine.begin() as connection:
            paced = _lock(connection, task)
            now = self._now(connection)
            ours = reservations.c.task == task
            connection.execute(
                update(reservations).where(ours, reservations.c.at > now).values(at=now)
            )
            if turn.settled:
                first = {each.id: each.cost for each in reversed(turn.settled)}
                _settle(connection, task, first, now)
            limits = turn.limits
            if limits is None:
                return _nothing
            standing = _standing(connection, task, limits, now, paced)
            decided = [(each, standing.grant(each.order, limits)) for each in turn.asked]
            granted = [each.order for each, shortage in decided if shortage is None]
            if limits.usd and granted:
                rows = [
                    {"id": each.id, "task": task, "amount": each.amount, "at": now}
                    for each in granted
                ]
                connection.execute(insert(reservations), rows)
            if standing.paced != paced:
                connection.execute(
                    update(budgets).where(budgets.c.task == task).values(paced=standing.paced)
                )
            balances = standing.balances(limits)

        def tell() -> None:
            for asked, shortage in decided:
                asked.answer.set_result(shortage)
            for looked in turn.looked:
                looked.answer.set_result(balances)

        return tell

    def _now(self, connection: Connection) -> float:
        """Read under the lock, so that turns follow each other in its time too."""
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name == "postgresql":
            return float(connection.scalar(_AT_SERVER) or 0.0)
        return time.time()


@dataclass(frozen=True, slots=True)
class _Asked:
    """Somebody waits for a reservation."""

    task: str
    order: Order
    limits: Limits
    answer: Future[Shortage | None] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Looked:
    """Somebody wants to know how a task stands."""

    task: str
    limits: Limits
    answer: Future[Mapping[Window, Balance]] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Settled:
    """What an order has cost; nobody waits for that."""

    task: str
    id: str
    cost: int


_Entry = _Asked | _Looked | _Settled


@dataclass(slots=True)
class _Turn:
    """All that is booked for one task at once. Settlements come first: they make room."""

    asked: list[_Asked] = field(default_factory=list)
    looked: list[_Looked] = field(default_factory=list)
    settled: list[_Settled] = field(default_factory=list)
    limits: Limits | None = None  # the newest of those who ask; None: nobody does

    def add(self, entry: _Entry) -> None:
        """Take an entry in, unless who asked has left."""
        if isinstance(entry, _Settled):
            self.settled.append(entry)
        elif entry.answer.set_running_or_notify_cancel():
            self.limits = entry.limits
            if isinstance(entry, _Asked):
                self.asked.append(entry)
            else:
                self.looked.append(entry)

    def fail(self, error: Exception) -> None:
        """Tell who asked that nothing was booked."""
        waiting: Sequence[_Asked | _Looked] = (*self.asked, *self.looked)
        for each in waiting:
            failure = BudgetExhausted(
                f"the budget of {each.task} cannot be kept: its database does not take it",
                mend="see that the database of the records can be written",
            )
            failure.__cause__ = error
            each.answer.set_exception(failure)


def _lock(connection: Connection, task: str) -> int:
    """Lock the task's row until the transaction ends; returns its `paced`."""
    wanted = select(budgets.c.paced).where(budgets.c.task == task).with_for_update()
    found = connection.scalar(wanted)
    if found is None:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        first = dialect.insert(budgets).values(task=task, paced=0)
        connection.execute(first.on_conflict_do_nothing())
        found = connection.scalar(wanted)
    return int(found or 0)


def _standing(
    connection: Connection, task: str, limits: Limits, now: float, paced: int
) -> Standing:
    """How the task stands, its lock being held."""
    spent, reserved = dict.fromkeys(Window, 0), dict.fromkeys(Window, 0)
    if limits.usd:
        for window in Window:
            spent[window] = connection.scalar(_spent(task, window, now)) or 0
        sums = [
            func.sum(case((reservations.c.at >= window.start(now), reservations.c.amount), else_=0))
            for window in Window
        ]
        live = reservations.c.at > now - limits.expiry_s
        row = connection.execute(select(*sums).where(reservations.c.task == task, live)).one()
        reserved = {window: int(each or 0) for window, each in zip(Window, row, strict=True)}
    return Standing(now, spent, reserved, paced)


def _settle(connection: Connection, task: str, costs: Mapping[str, int], now: float) -> None:
    """Take the reservations off, and add what they cost to the windows that they were made in.

    One that is gone was settled before, perhaps by a commit whose outcome was not heard of.
    """
    named = reservations.c.id.in_(costs)
    sums: defaultdict[tuple[Window, int], int] = defaultdict(int)
    for row in connection.execute(select(reservations.c.id, reservations.c.at).where(named)):
        for window in Window:
            sums[window, window.start(row.at)] += costs[row.id]
    connection.execute(delete(reservations).where(named))
    for (window, start), cost in sums.items():
        if cost:
            _spend(connection, task, window, start, cost, now)


def _spend(
    connection: Connection, task: str, window: Window, start: int, cost: int, now: float
) -> None:
    """Add to a window; where it is the first of it, what is long past is deleted."""
    row = {"task": task, "window": window.value, "start": start}
    more = update(spending).where(*(spending.c[name] == value for name, value in row.items()))
    if connection.execute(more.values(spent=spending.c.spent + cost)).rowcount:
        return
    connection.execute(insert(spending).values(**row, spent=cost))
    connection.execute(
        delete(spending).where(spending.c.task == task, spending.c.start < now - _REMEMBERED)
    )
    connection.execute(
        delete(reservations).where(
            reservations.c.task == task, reservations.c.at < now - _UNSETTLED
        )
    )


def _spent(task: str, window: Window, now: float) -> Select[tuple[int]]:
    return select(spending.c.spent).where(
        spending.c.task == task,
        spending.c.window == window.value,
        spending.c.start == window.start(now),
    )


def _nothing() -> None:
    """Nobody asked."""

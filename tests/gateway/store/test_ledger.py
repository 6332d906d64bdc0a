"""The ledger on real databases: exact over tasks, threads and processes, and after a kill."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import psycopg
import pytest
from sqlalchemy import Engine, func, select

from gateway.errors import BudgetExhausted
from gateway.routing.budget import Balance, Budget, Limits, Order, Shortage, Window
from gateway.store import tables
from gateway.store.database import open_database
from gateway.store.ledger import Ledger
from tests.gateway.store.conftest import PATIENT_S, SOON
from tests.gateway.store.spender import CALL, LIMIT, LIMITS, TASK, granted
from tests.patience import until
from tests.postgres import Cluster

DAY, HOUR = Window.DAY, Window.HOUR
NOON = 1_700_049_600.0  # 2023-11-15 12:00:00 UTC
SPENDER = Path(__file__).with_name("spender.py")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        """The time that was set."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books(database: str | Path) -> Iterator[Engine]:
    """A database that is waited for."""
    engine = open_database(database, busy_s=PATIENT_S)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(books: Engine, clock: Clock) -> Iterator[Ledger]:
    opened = Ledger(books, clock=clock)
    yield opened
    opened.close()


class Account:
    """A task's account, one call after the other."""

    def __init__(self, ledger: Ledger, limits: Limits = LIMITS) -> None:
        self._ledger = ledger
        self._limits = limits
        self._orders = 0

    def reserve(self, amount: int) -> Order | Shortage:
        """The order that was granted, or why it was not."""
        self._orders += 1
        order = Order(f"{id(self)}-{self._orders}", TASK, amount)
        return self._ledger.reserve(order, self._limits).result(SOON) or order

    def settle(self, order: Order | Shortage, cost: int) -> None:
        """What an order has cost."""
        assert isinstance(order, Order)
        self._ledger.settle(order, cost)

    def balance(self, window: Window) -> tuple[int, int]:
        """Spent and reserved."""
        found: Balance = self._ledger.look(TASK, self._limits).result(SOON)[window]
        return found.spent, found.reserved


@pytest.fixture
def account(ledger: Ledger) -> Account:
    return Account(ledger)


def test_of_a_thousand_concurrent_calls_exactly_a_hundred_are_granted(ledger: Ledger) -> None:
    assert asyncio.run(granted(Budget(TASK, LIMITS, ledger), 1000)) == 100
    assert Account(ledger).balance(DAY) == (LIMIT, 0)


def test_of_a_thousand_calls_of_many_threads_exactly_a_hundred_are_granted(
    ledger: Ledger,
) -> None:
    accounts = [Account(ledger) for _ in range(8)]

    def spend(account: Account) -> int:
        return sum(isinstance(account.reserve(CALL), Order) for _ in range(125))

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(spend, accounts)) == 100
    assert accounts[0].balance(HOUR) == (0, LIMIT)


def test_a_rate_is_exact_for_a_thousand_concurrent_calls(ledger: Ledger, clock: Clock) -> None:
    budget = Budget(TASK, Limits(per_second=100.0), ledger)
    assert asyncio.run(granted(budget, 1000)) == 100
    clock.now += 0.5
    assert asyncio.run(granted(budget, 1000)) == 50


def started(where: str | Path, wish: str, number: float) -> subprocess.Popen[str]:
    """A process that is ready to spend."""
    process = subprocess.Popen(
        [sys.executable, SPENDER, str(where), wish, str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert heard(process) == "ready"
    return process


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_two_processes_on_one_server_never_overspend(cluster: Cluster) -> None:
    where = cluster.new_database()
    processes = [started(where, "spend", 500) for _ in range(2)]
    for each in processes:
        tell(each)
    counts = [int(heard(each)) for each in processes]
    for each in processes:
        each.communicate(timeout=SOON)
        assert each.returncode == 0
    assert sum(counts) == 100
    engine = open_database(where)
    ledger = Ledger(engine)
    assert Account(ledger).balance(DAY) == (LIMIT, 0)
    ledger.close()
    engine.dispose()


def test_what_a_killed_process_held_is_free_after_its_expiry_and_not_before(
    database: str | Path, clock: Clock, account: Account
) -> None:
    process = started(database, "hold", NOON)
    tell(process)
    assert heard(process) == "held"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=SOON)
    assert process.returncode == -signal.SIGKILL
    clock.now = NOON + 59.9
    assert account.balance(DAY) == (0, LIMIT)
    assert account.reserve(1) == Shortage(DAY, 0)
    clock.now = NOON + 60.0
    assert account.balance(DAY) == (0, 0)
    assert isinstance(account.reserve(LIMIT), Order)


def test_a_settlement_replaces_what_was_reserved_and_counts_once(account: Account) -> None:
    first, second = account.reserve(CALL), account.reserve(CALL)
    account.settle(first, 300)
    account.settle(first, 0)
    account.settle(first, 999)
    assert account.balance(DAY) == account.balance(HOUR) == (300, CALL)
    account.settle(second, 0)
    assert account.balance(DAY) == (300, 0)


def test_a_call_that_cost_more_than_was_reserved_is_spent_in_full(account: Account) -> None:
    account.settle(account.reserve(CALL), LIMIT + 5)
    assert account.balance(DAY) == (LIMIT + 5, 0)
    assert account.reserve(0) == Shortage(DAY, 0)


def test_a_word_that_comes_after_the_expiry_counts_all_the_same(
    account: Account, clock: Clock
) -> None:
    late = account.reserve(CALL)
    clock.now += 61.0
    assert account.balance(DAY) == (0, 0)
    account.settle(late, 700)
    account.settle(late, 700)
    assert account.balance(DAY) == (700, 0)


def test_a_new_hour_and_a_new_day_begin_at_nothing(account: Account, clock: Clock) -> None:
    clock.now = NOON + 12 * 3600 - 1.0  # 23:59:59
    account.settle(account.reserve(LIMIT), LIMIT)
    assert account.reserve(CALL) == Shortage(DAY, 0)
    clock.now += 1.0
    assert account.balance(DAY) == account.balance(HOUR) == (0, 0)
    account.settle(account.reserve(CALL), CALL)
    clock.now += 3600.0
    assert account.balance(HOUR) == (0, 0)
    assert account.balance(DAY) == (CALL, 0)


def test_a_call_over_midnight_belongs_to_the_day_it_was_reserved_in(
    account: Account, clock: Clock
) -> None:
    clock.now = NOON + 12 * 3600 - 1.0
    over = account.reserve(CALL)
    clock.now += 2.0
    assert account.balance(DAY) == (0, 0)
    account.settle(over, 900)
    assert account.balance(DAY) == (0, 0)
    clock.now -= 2.0
    assert account.balance(DAY) == (900, 0)


def test_a_clock_that_was_set_back_keeps_nothing_reserved_beyond_its_expiry(
    account: Account, clock: Clock
) -> None:
    account.reserve(LIMIT)
    clock.now = NOON - 7200.0
    assert account.balance(HOUR) == (0, LIMIT)
    clock.now += 59.0
    assert account.reserve(1) == Shortage(DAY, 0)
    clock.now += 1.0
    assert isinstance(account.reserve(LIMIT), Order)


def test_a_clock_that_jumps_ahead_forgets_nothing_of_its_day(
    account: Account, clock: Clock
) -> None:
    account.settle(account.reserve(LIMIT), LIMIT)
    clock.now += 3 * 86_400.0
    assert account.balance(DAY) == (0, 0)
    clock.now = NOON + 1.0
    assert account.reserve(CALL) == Shortage(DAY, 0)


def test_a_restart_forgets_nothing(books: Engine, clock: Clock) -> None:
    before = Ledger(books, clock=clock)
    account = Account(before)
    account.settle(account.reserve(CALL), 400)
    account.reserve(CALL)
    before.close()
    after = Ledger(books, clock=clock)
    assert Account(after).balance(DAY) == (400, CALL)
    after.close()


def test_tasks_have_accounts_of_their_own(ledger: Ledger) -> None:
    mine, other = (Budget(name, LIMITS, ledger) for name in (TASK, "mails"))

    async def spend() -> tuple[int, int]:
        done = await asyncio.gather(granted(mine, 150), granted(other, 150))
        return done[0], done[1]

    assert asyncio.run(spend()) == (100, 100)


def test_what_is_long_past_is_deleted(account: Account, books: Engine, clock: Clock) -> None:
    account.settle(account.reserve(CALL), CALL)
    account.reserve(CALL)  # nobody ever settles it
    clock.now += 41 * 86_400.0
    account.settle(account.reserve(CALL), CALL)
    assert account.balance(DAY) == (CALL, 0)
    with books.connect() as connection:
        starts = set(connection.scalars(select(tables.spending.c.start)))
        open_orders = connection.scalar(select(func.count()).select_from(tables.reservations))
    assert starts == {DAY.start(clock.now), HOUR.start(clock.now)}
    assert open_orders == 0


def test_the_clock_of_replicas_is_that_of_their_server(cluster: Cluster) -> None:
    engine = open_database(cluster.new_database())
    with engine.connect() as connection:
        earliest = connection.exec_driver_sql("SELECT extract(epoch FROM now())").scalar_one()
    ledger = Ledger(engine)
    Account(ledger).reserve(CALL)
    with engine.connect() as connection:
        at = connection.scalar(select(tables.reservations.c.at))
        latest = connection.exec_driver_sql("SELECT extract(epoch FROM now())").scalar_one()
    assert float(earliest) <= (at or 0.0) <= float(latest)
    ledger.close()
    engine.dispose()


def test_a_connection_that_the_server_has_closed_costs_no_reservation(cluster: Cluster) -> None:
    where = cluster.new_database()
    engine = open_database(where)
    ledger = Ledger(engine, clock=lambda: NOON)
    account = Account(ledger)
    account.reserve(CALL)
    of_others = (
        "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with closing(psycopg.connect(where, autocommit=True)) as other:
        other.execute(f"SELECT pg_terminate_backend(pid) {of_others}".encode())
        left = f"SELECT pid {of_others}".encode()
        until(lambda: other.execute(left).fetchone() is None)  # it ends in its own time
    assert isinstance(account.reserve(CALL), Order)
    assert account.balance(DAY) == (0, 2 * CALL)
    ledger.close()
    engine.dispose()


@pytest.fixture
def file_books(tmp_path: Path) -> Iterator[Callable[[], Ledger]]:
    """Ledgers on one file, which say at once when it is locked."""
    engine = open_database(tmp_path / "records.db", busy_s=0.01)
    opened: list[Ledger] = []

    def ledger() -> Ledger:
        opened.append(Ledger(engine, clock=lambda: NOON))
        return opened[-1]

    yield ledger
    for each in opened:
        each.close()
    engine.dispose()


def test_nothing_is_granted_that_cannot_be_booked_and_no_settlement_is_lost(
    file_books: Callable[[], Ledger], tmp_path: Path
) -> None:
    account = Account(file_books())
    held = account.reserve(CALL)
    with closing(sqlite3.connect(tmp_path / "records.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        account.settle(held, 600)
        with pytest.raises(BudgetExhausted, match="its database does not take it"):
            account.reserve(CALL)
    assert account.balance(DAY) == (600, 0)


def test_the_last_settlements_are_booked_at_the_end(file_books: Callable[[], Ledger]) -> None:
    first = file_books()
    account = Account(first)
    held = [account.reserve(CALL) for _ in range(20)]
    for each in held:
        account.settle(each, 10)
    first.close()
    account.settle(held[0], 10)  # too late to be heard, and nothing is wrong with that
    assert Account(file_books()).balance(DAY) == (200, 0)


def test_a_pile_that_cannot_be_booked_is_not_tried_entry_by_entry(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "records.db")
    begun, go = Event(), Event()
    turns: list[str] = []

    def clock() -> float:
        turns.append("one")
        begun.set()
        assert go.wait(SOON)
        raise OSError("the disk is gone")

    ledger = Ledger(engine, clock=clock)
    order = Order("one", TASK, CALL)
    ledger.settle(order, 1)
    assert begun.wait(SOON)
    for _ in range(100):
        ledger.settle(order, 1)
    go.set()
    ledger._thread.submit(int).result(SOON)  # behind all turns that are to come
    assert len(turns) == 2
    ledger.close()
    assert len(turns) == 3
    with pytest.raises(RuntimeError):
        ledger.reserve(order, LIMITS)
    engine.dispose()

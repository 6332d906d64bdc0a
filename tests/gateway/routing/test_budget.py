"""The rules of a budget by hand-made standings, and a purse on a real ledger."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.errors import BudgetExhausted
from gateway.routing.budget import Balance, Budget, Limits, Order, Shortage, Standing, Window
from gateway.store.database import open_database
from gateway.store.ledger import Ledger

DAY, HOUR = Window.DAY, Window.HOUR
NOON = 1_700_049_600.0  # 2023-11-15 12:00:00 UTC
NO_MONEY = dict.fromkeys(Window, 0)
SOON = 120.0  # seconds; far beyond what any wait here takes


@pytest.fixture(autouse=True)
def _patient_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks waits for the ledger, however slow its disk is."""
    monkeypatch.setattr("gateway.routing.budget._LOOK_S", 60.0)


def standing(*, at: float = NOON, spent: int = 0, reserved: int = 0, paced: int = 0) -> Standing:
    return Standing(at, dict.fromkeys(Window, spent), dict.fromkeys(Window, reserved), paced)


def order(amount: int = 0, *, audit: bool = False) -> Order:
    return Order("1", "tickets", amount, audit)


def test_windows_begin_with_the_day_and_the_hour_in_utc() -> None:
    midnight = NOON - 12 * 3600
    assert DAY.start(NOON) == DAY.start(midnight) == midnight
    assert DAY.start(midnight - 0.001) == midnight - 86_400
    assert HOUR.start(NOON + 3599.9) == NOON
    assert HOUR.start(NOON + 3600) == NOON + 3600


def test_the_last_call_that_fits_is_granted_and_the_next_is_not() -> None:
    limits = Limits(usd={DAY: 100}, call=40)
    now = standing(spent=20)
    assert now.grant(order(40), limits) is None
    assert now.grant(order(40), limits) is None
    assert now.reserved[DAY] == 80
    assert now.grant(order(40), limits) == Shortage(DAY, 0)
    assert now.balances(limits) == {DAY: Balance(100, 20, 80)}
    assert now.balances(limits)[DAY].remaining == 0


def test_the_tighter_window_decides_and_a_refusal_takes_nothing() -> None:
    limits = Limits(usd={DAY: 1000, HOUR: 50}, per_second=1.0, call=40)
    now = standing(spent=30)
    assert now.grant(order(40), limits) == Shortage(HOUR, 20)
    assert (now.reserved, now.paced) == (NO_MONEY, 0)


def test_what_was_overspent_leaves_nothing_even_for_a_free_call() -> None:
    now = standing(spent=120)
    assert now.grant(order(0), Limits(usd={DAY: 100}, call=0)) == Shortage(DAY, 0)
    assert now.balances(Limits(usd={DAY: 100}, call=0))[DAY].remaining == 0


def test_audits_leave_their_share_to_live_calls() -> None:
    limits = Limits(usd={DAY: 100}, call=10, audit_reserve=0.25)
    now = standing(spent=70)
    assert now.grant(order(10, audit=True), limits) == Shortage(DAY, 5)
    assert now.grant(order(10), limits) is None
    assert now.grant(order(5, audit=True), limits) == Shortage(DAY, 0)


def test_a_limit_in_usd_without_a_price_is_no_limit_that_can_be_kept() -> None:
    with pytest.raises(ValueError, match="needs the price"):
        Limits(usd={DAY: 100})


def test_a_second_s_calls_may_come_at_once_and_then_one_each_pause() -> None:
    limits = Limits(per_second=3.0)  # a pause of 333,334 microseconds
    now = standing()
    assert [now.grant(order(), limits) for _ in range(4)] == [None, None, None, Shortage(None)]
    later = standing(at=NOON + 0.3333, paced=now.paced)
    assert later.grant(order(), limits) == Shortage(None)
    later = standing(at=NOON + 0.334, paced=now.paced)
    assert [later.grant(order(), limits) for _ in range(2)] == [None, Shortage(None)]


def test_in_ten_seconds_come_the_burst_and_ten_seconds_calls_and_no_more() -> None:
    limits = Limits(per_second=5.0)
    paced, granted = 0, 0
    for step in range(10_001):
        now = standing(at=NOON + step / 1000, paced=paced)
        granted += now.grant(order(), limits) is None
        paced = now.paced
    assert granted == 5 + 50


def test_less_than_one_call_a_second_lets_one_through() -> None:
    limits = Limits(per_second=0.1)
    now = standing()
    assert [now.grant(order(), limits) for _ in range(2)] == [None, Shortage(None)]
    assert standing(at=NOON + 10.0, paced=now.paced).grant(order(), limits) is None


def test_audits_leave_whole_calls_of_a_burst() -> None:
    limits = Limits(per_second=10.0, audit_reserve=0.25)  # two calls are kept
    now = standing()
    audits = [now.grant(order(audit=True), limits) for _ in range(9)]
    assert audits == [None] * 8 + [Shortage(None)]
    assert [now.grant(order(), limits) for _ in range(3)] == [None, None, Shortage(None)]


def test_a_clock_that_was_set_back_leaves_no_debt_of_calls() -> None:
    limits = Limits(per_second=2.0)
    now = standing()
    assert now.grant(order(), limits) is None
    before = standing(at=NOON - 3600.0, paced=now.paced)
    assert before.grant(order(), limits) == Shortage(None)
    assert standing(at=NOON - 3599.5, paced=before.paced).grant(order(), limits) is None


def test_a_clock_that_jumps_ahead_finds_one_burst_and_not_more() -> None:
    limits = Limits(per_second=2.0)
    now = standing()
    assert now.grant(order(), limits) is None
    ahead = standing(at=NOON + 86_400.0, paced=now.paced)
    granted = [ahead.grant(order(), limits) for _ in range(3)]
    assert granted == [None, None, Shortage(None)]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    engine = open_database(tmp_path / "records.db", busy_s=0.01)
    opened = Ledger(engine, clock=lambda: NOON)
    yield opened
    opened.close()
    engine.dispose()


def left(budget: Budget) -> dict[Window, int]:
    asyncio.run(budget.look())
    return {window: each.remaining for window, each in budget.seen.items()}


def test_a_purse_reserves_the_price_or_what_it_is_told_and_settles_what_it_cost(
    ledger: Ledger,
) -> None:
    budget = Budget("tickets", Limits(usd={DAY: 1000, HOUR: 500}, call=40), ledger)

    async def spend() -> None:
        known = await budget.reserve(100)
        (await budget.reserve(None)).settle(None)
        (await budget.reserve(None)).release()
        known.settle(7)

    asyncio.run(spend())
    assert left(budget) == {DAY: 953, HOUR: 453}


def test_a_refusal_says_what_is_left_and_what_to_do(ledger: Ledger) -> None:
    budget = Budget("tickets", Limits(usd={HOUR: 2_500_000}, call=3_000_000), ledger)
    with pytest.raises(BudgetExhausted) as problem:
        asyncio.run(budget.reserve(None))
    assert problem.value.message == (
        "the budget of tickets for this hour leaves 2.5 USD to a call, which may cost 3 USD"
    )
    assert problem.value.mend == (
        "wait for the next hour in UTC, or raise tasks.tickets.budget.usd_per_hour"
    )
    assert not problem.value.asked


def test_a_rate_alone_needs_no_price(ledger: Ledger) -> None:
    budget = Budget("tickets", Limits(per_second=1.0), ledger)

    async def spend() -> None:
        (await budget.reserve(None)).settle(None)
        with pytest.raises(BudgetExhausted, match="asks its teacher 1 times a second") as problem:
            await budget.reserve(None)
        assert "requests_per_second" in problem.value.mend

    asyncio.run(spend())
    assert left(budget) == {}


def test_without_limits_nothing_is_booked(ledger: Ledger) -> None:
    budget = Budget("tickets", Limits(), ledger)

    async def spend() -> None:
        for cost in (1, None):
            (await budget.reserve(None)).settle(cost)
        (await budget.reserve(5)).release()

    asyncio.run(spend())
    budget.follow(Limits(usd={DAY: 100}, call=1))
    assert left(budget) == {DAY: 100}


def test_new_limits_hold_at_once_and_what_was_spent_stays_spent(ledger: Ledger) -> None:
    budget = Budget("tickets", Limits(usd={DAY: 100, HOUR: 100}, call=100), ledger)

    async def spend() -> None:
        (await budget.reserve(None)).settle(None)
        with pytest.raises(BudgetExhausted):
            await budget.reserve(None)
        await budget.look()
        budget.follow(Limits(usd={DAY: 250}, call=100))
        assert set(budget.seen) == {DAY}
        (await budget.reserve(None)).settle(None)
        with pytest.raises(BudgetExhausted):
            await budget.reserve(None)

    asyncio.run(spend())
    assert left(budget) == {DAY: 50}


def test_who_leaves_while_a_reservation_is_made_holds_none(tmp_path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()

    def clock() -> float:
        entered.set()
        assert gate.wait(SOON)
        return NOON

    engine = open_database(tmp_path / "records.db")
    ledger = Ledger(engine, clock=clock)
    budget = Budget("tickets", Limits(usd={DAY: 100}, call=60), ledger)

    async def leave() -> None:
        asking = asyncio.create_task(budget.reserve(None))
        assert await asyncio.to_thread(entered.wait, SOON)  # within the transaction
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        gate.set()

    asyncio.run(leave())
    assert left(budget) == {DAY: 100}
    ledger.close()
    engine.dispose()


def test_a_locked_database_leaves_what_was_seen_last(ledger: Ledger, tmp_path: Path) -> None:
    budget = Budget("tickets", Limits(usd={DAY: 100}, call=60), ledger)
    assert left(budget) == {DAY: 100}
    with closing(sqlite3.connect(tmp_path / "records.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert left(budget) == {DAY: 100}
        with pytest.raises(BudgetExhausted, match="its database does not take it"):
            asyncio.run(budget.reserve(None))

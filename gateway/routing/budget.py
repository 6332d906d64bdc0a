"""What the teacher may cost: the limits of a task, what is left of them, and who gets some of it.

Money is reserved before a call, at the most that it may cost, and settled after it. The rules stand
here and are pure; the ledger (gateway/store/ledger.py) applies them under a lock and commits what
comes of them. Windows are the calendar's day and hour in UTC; a call belongs to those in which it
was reserved, whenever it ends.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Protocol

from gateway import identity
from gateway.errors import BudgetExhausted
from gateway.types import Bucket

_MICRO = 1_000_000  # micro-USD in a USD, and microseconds in a second
_LOOK_S = 1.0  # for the ledger to say what is left; who looks is then told what it said last


class Window(StrEnum):
    """A stretch of the calendar for which there may be a limit, in UTC."""

    DAY = "day"
    HOUR = "hour"

    def start(self, at: float) -> int:
        """When the window of that moment began; both in seconds since the epoch.

        POSIX time has no leap seconds, so that every day has 86,400 of them.
        """
        seconds = 86_400 if self is Window.DAY else 3600
        return math.floor(at / seconds) * seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """What a task's teacher may cost. Money in micro-USD.

    `usd` has the limit of each window that has one, `call` is the most that one call costs, and
    `audit_reserve` the share of every limit that audits leave to live calls. `expiry_s`: after that
    many seconds a reservation that nobody settled counts no more. Raises ValueError where there is
    a limit in USD and no price.
    """

    usd: Mapping[Window, int] = field(default_factory=dict)
    per_second: float | None = None
    call: int | None = None
    audit_reserve: float = 0.0
    expiry_s: float = 120.0

    def __post_init__(self) -> None:
        if self.usd and self.call is None:
            raise ValueError("a budget in USD needs the price of a call")

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return bool(self.usd) or self.per_second is not None

    @property
    def pause(self) -> int | None:
        """Microseconds from a call to the next at the full rate, rounded up; None: no rate."""
        return None if self.per_second is None else math.ceil(_MICRO / self.per_second)

    @property
    def burst(self) -> int:
        """Calls that may come at once after a rest: those of one second, at least one."""
        return max(1, math.floor(self.per_second or 0.0))


@dataclass(frozen=True, slots=True)
class Order:
    """The wish to call the teacher once, for at most `amount` micro-USD."""

    id: str
    task: str
    amount: int
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why an order is refused: its limit, and what is left of it for this order, in micro-USD."""

    limit: Window | None  # None: the rate
    left: int = 0


@dataclass(frozen=True, slots=True)
class Balance:
    """A limit and what has become of it, in micro-USD."""

    limit: int
    spent: int
    reserved: int

    @property
    def remaining(self) -> int:
        """What may still be reserved."""
        return max(0, self.limit - self.spent - self.reserved)


@dataclass(slots=True)
class Standing:
    """How a task stands at a moment: read under the ledger's lock, changed by what is granted.

    `paced` is the moment, in microseconds since the epoch, at which the calls so far would have
    come to an end had they kept the rate (the theoretical arrival time of ITU-T I.371, a token
    bucket in one number).
    """

    at: float  # seconds since the epoch
    spent: dict[Window, int]
    reserved: dict[Window, int]
    paced: int

    def grant(self, order: Order, limits: Limits) -> Shortage | None:
        """Take what the order wants, or say what it lacks; then nothing is taken."""
        for window, limit in limits.usd.items():
            kept = math.ceil(limit * limits.audit_reserve) if order.audit else 0
            left = limit - kept - self.spent[window] - self.reserved[window]
            if order.amount > left:
                return Shortage(window, max(0, left))
        reached = self._pace(limits, audit=order.audit)
        if reached is None:
            return Shortage(None)
        self.paced = reached
        for window in self.reserved:
            self.reserved[window] += order.amount
        return None

    def balances(self, limits: Limits) -> dict[Window, Balance]:
        """What has become of each limit in USD."""
        return {
            window: Balance(limit, self.spent[window], self.reserved[window])
            for window, limit in limits.usd.items()
        }

    def _pace(self, limits: Limits, *, audit: bool) -> int | None:
        """Where `paced` comes to with one call more; None: that would be too fast."""
        pause = limits.pause
        if pause is None:
            return self.paced
        now = math.floor(self.at * _MICRO)
        full = limits.burst * pause
        # A clock that was set back, or a rate that was lowered, finds an empty bucket and no debt.
        self.paced = min(self.paced, now + full)
        reached = max(self.paced, now) + pause
        kept = math.floor(limits.burst * limits.audit_reserve) * pause if audit else 0
        return reached if reached - now <= full - kept else None


class Reservation(Protocol):
    """Money put aside for one call. The first word counts; without one it expires."""

    def settle(self, cost: int | None) -> None:
        """The call was begun and cost that much, in micro-USD; None: what was reserved."""

    def release(self) -> None:
        """The call was not begun, and cost nothing."""


class Purse(Protocol):
    """Where the money of a call comes from."""

    async def reserve(self, micro_usd: int | None, *, bucket: Bucket = Bucket.LIVE) -> Reservation:
        """Put the most that a call may cost aside; None: the task's price. An audit comes last.

        What is reserved is committed before this returns. Raises BudgetExhausted.
        """


class Ledger(Protocol):
    """What keeps the account. It may be used from any thread and never blocks one."""

    def reserve(self, order: Order, limits: Limits) -> Future[Shortage | None]:
        """Commit a reservation, or say why there is none."""

    def settle(self, order: Order, cost: int) -> None:
        """The order has cost that much; of several words on one order the first counts."""

    def look(self, task: str, limits: Limits) -> Future[Mapping[Window, Balance]]:
        """What has become of the task's limits."""


Told = Callable[[Bucket, int | None], None]


class Budget:
    """The purse of a task, for its live calls and its audits.

    `told` hears of every call that was begun what it was made for, and what it cost in micro-USD as
    the ledger has it; None: neither ledger nor teacher knows. Whatever became of the call, and of
    the request that it was made for. Without a `ledger` nothing is limited.
    """

    def __init__(
        self, task: str, limits: Limits, ledger: Ledger | None, told: Told | None = None
    ) -> None:
        self.task = task
        self.limits = limits
        self.seen: Mapping[Window, Balance] = {}  # as the ledger said it last
        self._ledger = ledger
        self._told = told or _nobody

    def follow(self, limits: Limits) -> None:
        """From now on these limits hold; what has been spent stays spent."""
        self.limits = limits
        self.seen = {window: each for window, each in self.seen.items() if window in limits.usd}

    async def reserve(self, micro_usd: int | None, *, bucket: Bucket = Bucket.LIVE) -> Reservation:
        """See Purse. A task without limits reserves nothing."""
        limits, ledger, told = self.limits, self._ledger, partial(self._told, bucket)
        if not limits or ledger is None:
            return _Free(told)
        most = limits.call if micro_usd is None else micro_usd
        audit = bucket in {Bucket.AUDIT, Bucket.SHADOW}
        order = Order(identity.answer_id(), self.task, most or 0, audit)  # 0: only the rate counts
        pending = ledger.reserve(order, limits)
        try:
            shortage = await asyncio.wrap_future(pending)
        except asyncio.CancelledError:  # it may yet be granted, and nobody would settle it
            pending.add_done_callback(lambda _: ledger.settle(order, 0))
            raise
        if shortage is not None:
            raise self._exhausted(order, shortage)
        return _Held(ledger, order, told, booked=bool(limits.usd))

    async def look(self) -> None:
        """Ask what is left, for `seen`. A ledger that does not say so soon leaves it as it was."""
        limits, ledger = self.limits, self._ledger
        if not limits.usd or ledger is None:
            return
        try:
            async with asyncio.timeout(_LOOK_S):
                seen = await asyncio.wrap_future(ledger.look(self.task, limits))
        except (TimeoutError, BudgetExhausted):
            return
        if limits is self.limits:
            self.seen = seen

    def _exhausted(self, order: Order, shortage: Shortage) -> BudgetExhausted:
        key = f"tasks.{self.task}.budget"
        who = "an audit" if order.audit else "a call"
        if shortage.limit is None:
            return BudgetExhausted(
                f"{self.task} asks its teacher {self.limits.per_second:g} times a second already",
                mend=f"send requests more slowly, or raise {key}.requests_per_second",
            )
        window = shortage.limit
        return BudgetExhausted(
            f"the budget of {self.task} for this {window} leaves {_usd(shortage.left)} USD to "
            f"{who}, which may cost {_usd(order.amount)} USD",
            mend=f"wait for the next {window} in UTC, or raise {key}.usd_per_{window}",
        )


class _Held:
    """A reservation that the ledger holds; not `booked`: it keeps the rate alone, and no money."""

    def __init__(
        self, ledger: Ledger, order: Order, told: Callable[[int | None], None], *, booked: bool
    ) -> None:
        self._ledger = ledger
        self._order = order
        self._told = told
        self._booked = booked

    def settle(self, cost: int | None) -> None:
        charged = self._order.amount if cost is None else cost
        self._ledger.settle(self._order, charged)
        self._told(charged if self._booked else cost)

    def release(self) -> None:
        self._ledger.settle(self._order, 0)


class _Free:
    """A reservation where nothing is limited."""

    def __init__(self, told: Callable[[int | None], None]) -> None:
        self._told = told

    def settle(self, cost: int | None) -> None:
        self._told(cost)

    def release(self) -> None:
        pass


def _nobody(_bucket: Bucket, _cost: int | None) -> None:
    """Nobody asks to be told."""


def _usd(micro: int) -> str:
    return f"{micro / _MICRO:g}"

"""What stands around every teacher, so that nothing it does costs more than its own answers.

A call ends in time. Few enough run at once, few enough wait. Few enough are made again or twice. A
teacher that fails is left alone until it has recovered. The same question is not asked twice at the
same time. The guard never looks at what an answer says, and never makes one up.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, Protocol

from gateway.contract.manifest import Task
from gateway.errors import (
    BudgetExhausted,
    TeacherError,
    TeacherGarbled,
    TeacherLimited,
    TeacherRefused,
    TeacherTimeout,
    TeacherUnavailable,
)
from gateway.routing.budget import Purse, Reservation
from gateway.teachers.base import Chooser, Chosen, Said, Teacher
from gateway.teachers.breaker import Breaker, State
from gateway.teachers.cache import AnswerCache, digest
from gateway.teachers.call import Call, looked_at, no_place
from gateway.teachers.hedges import HedgeBudget
from gateway.teachers.pace import Pace
from gateway.teachers.retries import RetryBudget, pause
from gateway.types import Bucket, Instance, Prediction, Priority

Question = Callable[[], Coroutine[Any, Any, Said]]  # asks the teacher once

_WAITING = 16  # calls that may wait for each one that runs; more would hardly be answered in time
_CALM_S = 5.0  # after a 429, before a second call may be begun beside a late one
_LONGEST_REST_S = 60.0  # that a 429 is believed: who says more is tried once a minute
_RETRY_SHARE = 0.1  # of the calls, where nobody says otherwise
_SLOW = 0.5  # of the timeout: what was cut short then was late, while nobody knows what is usual


class Outcome(StrEnum):
    """How an attempt ended."""

    OK = "ok"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    GARBLED = "garbled"
    LIMITED = "limited"
    CANCELLED = "cancelled"  # nobody waited for it any more


_OUTCOMES: tuple[tuple[type[TeacherError], Outcome], ...] = (
    (TeacherRefused, Outcome.REFUSED),
    (TeacherTimeout, Outcome.TIMEOUT),
    (TeacherGarbled, Outcome.GARBLED),
    (TeacherLimited, Outcome.LIMITED),
)
# What an outcome says of the teacher: well, not well, or nothing. A refusal is about one request,
# unless it is lasting.
_WELL = {Outcome.OK: True, Outcome.REFUSED: None, Outcome.CANCELLED: None}


class Event(StrEnum):
    """What else a guard does that is worth counting."""

    RETRY = "retry"  # a call is made again
    HEDGE = "hedge"  # a late call gets a second one beside it
    COALESCED = "coalesced"  # a request joins the call of another
    CACHE_HIT = "cache_hit"  # an answer comes from the cache


class Watch(Protocol):
    """Counts what a guard does. It must not block and must not raise."""

    def attempted(self, outcome: Outcome) -> None:
        """An attempt has ended."""

    def noted(self, event: Event) -> None:
        """Something else has happened."""

    def closed(self) -> None:
        """The guard is gone."""


class _Unwatched:
    """Where nobody counts."""

    def attempted(self, outcome: Outcome) -> None:
        pass

    def noted(self, event: Event) -> None:
        pass

    def closed(self) -> None:
        pass


class Guard:
    """A teacher whose calls end in time and of which at most `concurrency` run at once.

    A call that finds no place waits for one, within its own deadline. A call is not begun with less
    time left than half of the last ones took: it would mostly be paid for and not be used. Nor is
    one begun before the time at which the teacher said that it may be asked again.

    `timeout_s` is for one attempt; a call has up to 1 + `retries` of them. `purse` is asked before
    each. Without `hedges` no call gets a second one beside it, without `cache` no answer is kept;
    `coalesce`: identical inputs share one call. `sleep` waits for so many seconds, and `clock`
    gives seconds and never goes back.
    """

    def __init__(
        self,
        teacher: Teacher,
        *,
        timeout_s: float,
        concurrency: int,
        retries: int = 0,
        retry_budget: RetryBudget | None = None,
        breaker: Breaker | None = None,
        hedges: HedgeBudget | None = None,
        cache: AnswerCache | None = None,
        coalesce: bool = False,
        purse: Purse | None = None,
        watch: Watch | None = None,
        random_source: random.Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._teacher = teacher
        self._chooser = teacher if isinstance(teacher, Chooser) else None
        self._timeout = timeout_s
        self._concurrency = concurrency
        self._places = asyncio.Semaphore(concurrency)
        self._retries = retries
        self._retry_budget = retry_budget or RetryBudget(_RETRY_SHARE)
        self._breaker = breaker or Breaker()
        self._hedges = hedges
        self._cache = cache
        self._coalesce = coalesce
        self._purse = purse
        self._watch: Watch = watch or _Unwatched()
        self._random = random_source or random.Random()  # noqa: S311  spreads pauses
        self._sleep = sleep
        self._calls = 0  # that run or wait
        self._shared: dict[bytes, Call] = {}
        self._clock = clock
        self._pace = Pace(clock=clock)
        self._calm_at = clock()  # when the last 429 is long enough ago
        self._rests_until = clock()  # when the teacher may be asked again, as it said

    @property
    def name(self) -> str:
        """The guarded teacher's name."""
        return self._teacher.name

    @property
    def task(self) -> Task:
        """The guarded teacher's task."""
        return self._teacher.task

    @property
    def busy(self) -> bool:
        """Whether no place is free or the teacher rests: a call had better come later."""
        return self._calls >= self._concurrency or self._rest_s > 0

    @property
    def state(self) -> State:
        """The breaker's: whether calls are let through."""
        return self._breaker.state

    async def answer(
        self,
        instance: Instance,
        *,
        hint: Prediction | None = None,
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> Said:
        """Ask the teacher. `deadline` as time.perf_counter gives it.

        `hint` is what the student said: a teacher that is several may choose one of them by it, and
        that is all that it is for. Inputs are identical where the same one is asked.
        An audit, by its priority, is asked once: no retry, no second call beside it. So is the
        shadow, and of it neither the cache nor a call of somebody else is the answer: whoever asks
        again wants to know what the teacher says this time.
        Raises TeacherTimeout, TeacherUnavailable, TeacherLimited, BudgetExhausted or what the
        teacher raises; the error says whether the call was begun.
        """
        chosen = self._chosen(instance, hint)
        key = self._key(instance, chosen)
        again = priority is Priority.SHADOW
        if not again and self._cache is not None and (kept := self._cache.find(key)) is not None:
            self._watch.noted(Event.CACHE_HIT)
            return Said(kept, cost=0, asked=False)
        call = self._shared.get(key) if self._coalesce and not again else None
        if call is not None and call.open:
            self._watch.noted(Event.COALESCED)
        else:
            self._check_time(None if deadline is None else deadline - time.perf_counter())
            self._check_breaker()
            self._check_rest()
            self._check_room()
            call = self._begin(lambda: chosen.answer(instance), key, shared=not again)
        return await call.wait(deadline, priority)

    async def close(self) -> None:
        """Close the guarded teacher."""
        self._watch.closed()
        await self._teacher.close()

    def _chosen(self, instance: Instance, hint: Prediction | None) -> Chosen:
        """Who of the teacher is asked, where it is several; else itself."""
        if self._chooser is None:
            return Chosen("", self._teacher.answer)
        return self._chooser.choose(instance, hint)

    def _key(self, instance: Instance, chosen: Chosen) -> bytes:
        """What identical inputs have in common; nothing, where nobody asks for it."""
        if self._cache is None and not self._coalesce:
            return b""
        return digest(instance, self.name, chosen.name)

    def _begin(self, question: Question, key: bytes, *, shared: bool) -> Call:
        self._calls += 1
        self._retry_budget.called()
        if self._hedges is not None:
            self._hedges.called()
        call = Call(self.name, lambda begun: self._work(begun, question, key))
        call.on_end(lambda: self._ended(call, key))
        if self._coalesce and shared:
            self._shared[key] = call
        return call

    def _ended(self, call: Call, key: bytes) -> None:
        self._calls -= 1
        if self._shared.get(key) is call:
            del self._shared[key]

    async def _work(self, call: Call, question: Question, key: bytes) -> Said:
        """All that is done for one input, whoever waits for it."""
        try:
            said = await self._insist(call, question)
        except TeacherError as error:
            call.charge(error)
            raise
        if self._cache is not None:
            self._cache.keep(key, said.prediction)
        return call.bill(said)

    async def _insist(self, call: Call, question: Question) -> Said:
        """Ask; and ask again where that may help, is in the budget, and in time."""
        failed: TeacherError | None = None
        attempt = 0
        while True:
            call.bucket = _made_for(call, Bucket.RETRY if attempt else Bucket.LIVE)
            try:
                return await self._ask(call, question)
            except TeacherError as error:
                if call.bucket is Bucket.AUDIT and call.priority < Priority.AUDIT:
                    continue  # who joined an audit that failed has a call of its own
                if failed is not None and not error.asked:
                    raise failed from error  # there was an attempt, and it is what went wrong
                seconds = self._pause(call, error, attempt)
                if seconds is None:
                    raise
                failed = error
            self._watch.noted(Event.RETRY)
            await self._sleep(seconds)
            attempt += 1

    def _pause(self, call: Call, error: TeacherError, attempt: int) -> float | None:
        """Seconds until the teacher is asked again; None: it is not."""
        if (
            attempt >= self._retries
            or call.priority >= Priority.AUDIT
            or not _again(error, attempt)
        ):
            return None
        seconds = pause(attempt, self._random)
        if isinstance(error, TeacherLimited):
            seconds += error.retry_after or 0.0
        left = call.left
        room = self._timeout if left is None else left - self._pace.median
        closed = max(self._breaker.wait_s, self._rest_s) > seconds
        if seconds >= room or closed or not self._retry_budget.take():
            return None
        return seconds

    async def _ask(self, call: Call, question: Question) -> Said:
        """One attempt; and where it is late and may be hedged, a second one beside it."""
        usual = self._pace.p95
        if self._hedges is None or usual is None or call.priority >= Priority.AUDIT:
            return await self._attempt(call, question)
        racing = {self._racer(call, question)}
        try:
            await asyncio.wait(racing, timeout=usual)
            (first,) = racing
            if not first.done() and self._may_hedge(self._hedges):
                self._watch.noted(Event.HEDGE)
                racing.add(self._racer(call, question, hedge=True))
            return await _first_good(racing, first)
        finally:
            for each in racing:
                each.cancel()
            await asyncio.wait(racing)

    def _racer(self, call: Call, question: Question, *, hedge: bool = False) -> asyncio.Task[Said]:
        """One attempt beside another, whose error perhaps nobody asks for."""
        racer = asyncio.create_task(self._attempt(call, question, hedge=hedge))
        racer.add_done_callback(looked_at)
        return racer

    def _may_hedge(self, hedges: HedgeBudget) -> bool:
        """Whether the teacher is well and has room, and the budget has some left."""
        calm = self._clock() >= self._calm_at
        well = self._breaker.state is State.CLOSED
        return calm and well and not self._places.locked() and hedges.take()

    async def _attempt(self, call: Call, question: Question, *, hedge: bool = False) -> Said:
        """Ask once, when there is a place, time, and money."""
        async with self._place():
            if not hedge:  # who waits may be another by now
                call.bucket = _made_for(call, call.bucket)
            self._check_time(call.left)
            self._check_rest()
            ticket = self._breaker.enter()
            if ticket is None:
                raise self._left_alone()
            reservation = await self._reserve(Bucket.HEDGE if hedge else call.bucket, ticket)
            started = time.perf_counter()
            outcome, cost, lasting = Outcome.CANCELLED, None, False
            call.begun += 1
            try:
                said = await self._in_time(question)
                outcome, cost = Outcome.OK, said.cost
            except TeacherError as error:
                outcome, cost = _outcome(error), error.cost
                lasting = isinstance(error, TeacherRefused) and error.lasting
                if isinstance(error, TeacherLimited):
                    self._rest(error)
                raise
            finally:
                seconds = time.perf_counter() - started
                if outcome is Outcome.CANCELLED and call.overdue and self._was_slow(seconds):
                    outcome = Outcome.TIMEOUT
                if cost is not None:
                    call.costs.append(cost)
                if reservation is not None:
                    reservation.settle(cost)
                well = False if lasting else _WELL.get(outcome, False)
                self._breaker.ended(ticket, ok=well, seconds=seconds)
                if outcome is Outcome.OK:
                    self._pace.took(seconds)
                self._watch.attempted(outcome)
            return said

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the places. Raises TeacherTimeout."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._places.acquire()
        except TimeoutError as error:
            raise no_place(self.name, self._timeout) from error
        try:
            yield
        finally:
            self._places.release()

    async def _reserve(self, bucket: Bucket, ticket: int) -> Reservation | None:
        """The money for an attempt, where somebody counts it. Raises BudgetExhausted."""
        if self._purse is None:
            return None
        try:
            return await self._purse.reserve(None, bucket=bucket)
        except BaseException:
            self._breaker.give_back(ticket)
            raise

    async def _in_time(self, question: Question) -> Said:
        """What the teacher says within the timeout. Whatever it raises becomes a TeacherError."""
        try:
            async with asyncio.timeout(self._timeout):
                return await question()
        except TeacherError:
            raise
        except TimeoutError as error:
            raise TeacherTimeout(f"{self.name} did not answer in {self._timeout:.3g} s") from error
        except Exception as error:  # a teacher that breaks is down: the policy knows what to do
            raise TeacherUnavailable(f"{self.name} broke: {type(error).__name__}") from error

    @property
    def _rest_s(self) -> float:
        """Seconds until the teacher may be asked, as it said; 0: it may now."""
        return max(0.0, self._rests_until - self._clock())

    def _rest(self, limited: TeacherLimited) -> None:
        """Ask nothing until the teacher said that it may be asked; and hedge not for a while."""
        now = self._clock()
        self._calm_at = now + _CALM_S
        rest = min(limited.retry_after or 0.0, _LONGEST_REST_S)
        self._rests_until = max(self._rests_until, now + rest)

    def _was_slow(self, seconds: float) -> bool:
        """Whether an attempt that was cut short had had the time that nearly all answers take.

        A caller in a hurry does not make a teacher slow.
        """
        usual = self._pace.p95
        return seconds >= (_SLOW * self._timeout if usual is None else usual)

    def _check_time(self, left: float | None) -> None:
        """Raises TeacherTimeout where so few seconds are left that the answer would be too late."""
        usual = self._pace.median
        if left is not None and left <= usual:
            raise TeacherTimeout(
                f"{self.name} was not asked: {max(0.0, left):.3g} s are left, "
                f"half of its answers take longer than {usual:.3g} s",
                mend="allow the request more time",
                asked=False,
            )

    def _check_breaker(self) -> None:
        """Raises TeacherUnavailable while the teacher is left alone."""
        if self._breaker.wait_s > 0:
            raise self._left_alone()

    def _check_rest(self) -> None:
        """Raises TeacherLimited until the teacher said that it may be asked again."""
        left = self._rest_s
        if left > 0:
            raise TeacherLimited(
                f"{self.name} was not asked: it takes no more for another {left:.3g} s",
                mend="ask it less often, or have its limit raised",
                asked=False,
                retry_after=left,
            )

    def _check_room(self) -> None:
        """Raises TeacherUnavailable where too many wait."""
        if self._calls >= self._concurrency * (1 + _WAITING):
            raise TeacherUnavailable(
                f"{self._calls} calls to {self.name} run or wait already",
                mend="try again later",
                asked=False,
            )

    def _left_alone(self) -> TeacherUnavailable:
        return TeacherUnavailable(
            f"{self.name} was not asked: its last calls failed, and it is left alone for another "
            f"{self._breaker.wait_s:.3g} s",
            mend="see why it fails; it is tried again by itself",
            asked=False,
        )


async def _first_good(racing: set[asyncio.Task[Said]], first: asyncio.Task[Said]) -> Said:
    """The first good answer; where none is good, the error of the `first` attempt is raised."""
    pending = racing
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            if each.exception() is None:
                return each.result()
    return first.result()


def _made_for(call: Call, otherwise: Bucket) -> Bucket:
    """An audit's while nobody else waits for the call; the shadow's is nobody else's."""
    if call.priority is Priority.SHADOW:
        return Bucket.SHADOW
    if call.priority is Priority.AUDIT:
        return Bucket.AUDIT
    return Bucket.LIVE if otherwise is Bucket.AUDIT else otherwise


def _again(error: TeacherError, attempt: int) -> bool:
    """Whether asking again may help. What is garbled twice stays so."""
    if not error.asked or isinstance(error, TeacherRefused | BudgetExhausted):
        return False
    return not isinstance(error, TeacherGarbled) or attempt == 0


def _outcome(error: TeacherError) -> Outcome:
    return next((each for kind, each in _OUTCOMES if isinstance(error, kind)), Outcome.UNAVAILABLE)

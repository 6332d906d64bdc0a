"""The guard: a call ends in time, only so many run at once, and a teacher that fails is spared."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.errors import (
    BudgetExhausted,
    TeacherError,
    TeacherGarbled,
    TeacherLimited,
    TeacherRefused,
    TeacherTimeout,
    TeacherUnavailable,
)
from gateway.routing.budget import Reservation
from gateway.teachers import call as calls
from gateway.teachers import guard as guards
from gateway.teachers.base import Said
from gateway.teachers.breaker import Breaker, Limits, State
from gateway.teachers.cache import AnswerCache
from gateway.teachers.guard import Event, Guard, Outcome
from gateway.teachers.hedges import HedgeBudget
from gateway.teachers.retries import RetryBudget
from gateway.teachers.scripted import ScriptedTeacher
from gateway.types import Bucket, Instance, Priority
from tests.factories import TASK
from tests.gateway.telemetry.clock import Clock

ASKED = Instance("hello")
SOON = 30.0  # seconds; far beyond what any wait here takes
HANG = "hang"  # what a planned teacher may do: never answer


class Planned(ScriptedTeacher):
    """Does call by call as planned: raises, names its cost, or hangs. After that it just answers.

    At an event it waits, and then it was too late. `begun` are the inputs in the order in which it
    was asked, `left` how many calls were cancelled.
    """

    def __init__(
        self, *plan: TeacherError | RuntimeError | asyncio.Event | int | str | None
    ) -> None:
        super().__init__(TASK, labels={})
        self._plan = list(plan)
        self.begun: list[Instance] = []
        self.left = 0
        self._more = asyncio.Event()

    async def asked(self, times: int) -> None:
        """Wait until it has been asked so often."""
        while len(self.begun) < times:
            self._more.clear()
            await self._more.wait()

    async def answer(self, instance: Instance) -> Said:
        """Do what is next."""
        self.begun.append(instance)
        self._more.set()
        turn = self._plan.pop(0) if self._plan else None
        if isinstance(turn, Exception):
            raise turn
        if isinstance(turn, asyncio.Event):
            await turn.wait()
            raise TeacherTimeout("late")
        if turn == HANG:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.left += 1
                raise
        said = await super().answer(instance)
        return Said(said.prediction, cost=turn if isinstance(turn, int) else None)


@dataclass
class Counted:
    """A watch that keeps what it is told."""

    attempts: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    gone: bool = False

    def attempted(self, outcome: Outcome) -> None:
        """Count it."""
        self.attempts[outcome.value] += 1

    def noted(self, event: Event) -> None:
        """Count it."""
        self.events[event.value] += 1

    def closed(self) -> None:
        """Keep it."""
        self.gone = True


@dataclass
class Wallet:
    """A purse with money for so many calls. `settled`: the costs; "free": not begun.

    `live_alone`: what is left is kept for escalations.
    """

    calls: int = 100
    live_alone: bool = False
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    buckets: list[Bucket] = field(default_factory=list)
    settled: list[int | str | None] = field(default_factory=list)
    audits: int = 0

    async def reserve(self, micro_usd: int | None, *, bucket: Bucket = Bucket.LIVE) -> Reservation:
        """Grant, or raise."""
        assert micro_usd is None
        self.asked.set()
        await asyncio.sleep(0)
        if not self.calls or (self.live_alone and bucket is Bucket.AUDIT):
            raise BudgetExhausted("all is spent")
        self.calls -= 1
        self.audits += bucket is Bucket.AUDIT
        self.buckets.append(bucket)
        return _Held(self)


class _Held:
    def __init__(self, wallet: Wallet) -> None:
        self._wallet = wallet

    def settle(self, cost: int | None) -> None:
        """Keep what it was."""
        self._wallet.settled.append(cost)

    def release(self) -> None:
        """Keep that it was given back."""
        self._wallet.settled.append("free")


def guarded(teacher: ScriptedTeacher, **more: Any) -> Guard:
    """A guard that retries once, and does not wait before it."""
    given: dict[str, Any] = {"timeout_s": SOON, "concurrency": 8, "retries": 1, "sleep": Slept()}
    return Guard(teacher, **(given | more))


@dataclass
class Slept:
    """Waits no time but that of a clock, and remembers how long it would have been."""

    pauses: list[float] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    async def __call__(self, seconds: float) -> None:
        """Let the others run."""
        self.pauses.append(seconds)
        self.clock.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of deadlines. It stands still, so that none is over before a call has begun.

    Who waits for one waits as long as the event loop says.
    """
    told = Clock()
    for room in (guards, calls):
        monkeypatch.setattr(room, "time", SimpleNamespace(perf_counter=told))
    return told


def state(guard: Guard) -> State:
    """Its breaker's state, which a type checker cannot know to be that of the line before."""
    return guard.state


def touchy() -> Breaker:
    """A breaker that one failure opens, for good: its clock stands still."""
    return Breaker(Limits(failures=1), clock=Clock())


class AtOnce(random.Random):
    """Draws the shortest pause."""

    def uniform(self, a: float, b: float) -> float:
        """The lower end."""
        return min(a, b)


async def settled() -> None:
    """Let everything go on that is not waiting for us."""
    for _ in range(20):
        await asyncio.sleep(0)


def warmed(guard: Guard, *, seconds: float = 0.0) -> Guard:
    """The same guard, whose teacher took so long for its last answers."""
    for _ in range(20):
        guard._pace.took(seconds)
    return guard


class Patient(ScriptedTeacher):
    """Answers when it is let, and remembers how its calls ended."""

    def __init__(self) -> None:
        super().__init__(TASK, labels={})
        self.free = asyncio.Event()
        self.started = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0
        self.closed = False

    async def answer(self, instance: Instance) -> Said:
        """Wait to be let."""
        self.started.set()
        self.waiting += 1
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().answer(instance)

    async def close(self) -> None:
        """Remember it."""
        self.closed = True


def test_an_answer_in_time_is_handed_on() -> None:
    teacher = ScriptedTeacher(TASK, labels={"intent": "fraud"})
    guard = Guard(teacher, timeout_s=30.0, concurrency=1)
    assert asyncio.run(guard.answer(ASKED)).prediction.heads[0].labels == ("fraud",)
    assert (guard.name, guard.task) == ("scripted", TASK)


def test_a_late_answer_is_a_timeout_and_its_work_is_ended() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = Guard(teacher, timeout_s=0.001, concurrency=1)
        for _ in range(2):  # the second is let in, so the first has given its place back
            with pytest.raises(
                TeacherTimeout, match=r"scripted did not answer in 0\.001 s"
            ) as late:
                await guard.answer(ASKED)
            assert late.value.asked
        assert teacher.cancelled == 2

    asyncio.run(work())


def test_a_call_waits_for_a_place_and_one_beyond_the_bound_is_refused_at_once() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = Guard(teacher, timeout_s=30.0, concurrency=2)
        calls = [asyncio.create_task(guard.answer(ASKED)) for _ in range(2 + 2 * 16)]
        await settled()
        assert teacher.waiting == 2  # the others wait for a place
        with pytest.raises(
            TeacherUnavailable, match="34 calls to scripted run or wait already"
        ) as full:
            await guard.answer(ASKED)
        assert not full.value.asked
        teacher.free.set()
        await asyncio.gather(*calls)
        assert teacher.calls == 34

    asyncio.run(work())


def test_a_call_that_found_no_place_in_its_time_was_not_begun(clock: Clock) -> None:
    async def work() -> None:
        teacher = Patient()
        guard = Guard(teacher, timeout_s=30.0, concurrency=1)
        first = asyncio.create_task(guard.answer(ASKED))
        await teacher.started.wait()
        with pytest.raises(TeacherTimeout, match="was not asked: no place was free in") as caught:
            await guard.answer(ASKED, deadline=clock.now + 0.001)
        assert not caught.value.asked
        teacher.free.set()
        await first
        assert teacher.calls == 1

    asyncio.run(work())


def test_it_is_busy_while_no_place_is_free() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = Guard(teacher, timeout_s=30.0, concurrency=1)
        assert not guard.busy
        call = asyncio.create_task(guard.answer(ASKED))
        await teacher.started.wait()
        assert guard.busy
        teacher.free.set()
        await call
        assert not guard.busy

    asyncio.run(work())


def test_a_caller_who_goes_ends_the_call_and_gives_its_place_back() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = Guard(teacher, timeout_s=30.0, concurrency=1)
        call = asyncio.create_task(guard.answer(ASKED))
        await teacher.started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert teacher.cancelled == 1
        teacher.free.set()
        await guard.answer(ASKED)

    asyncio.run(work())


def test_a_failure_is_handed_on_and_gives_its_place_back() -> None:
    async def work() -> None:
        guard = Guard(ScriptedTeacher(TASK, labels={}, fail_every=1), timeout_s=30.0, concurrency=1)
        for _ in range(2):
            with pytest.raises(TeacherUnavailable, match="as it was told to") as failed:
                await guard.answer(ASKED)
            assert failed.value.asked

    asyncio.run(work())


def test_closing_closes_the_teacher() -> None:
    async def work() -> None:
        teacher = Patient()
        await Guard(teacher, timeout_s=30.0, concurrency=1).close()
        assert teacher.closed

    asyncio.run(work())


def test_a_deadline_ends_a_call_before_the_timeout_does(clock: Clock) -> None:
    async def work() -> None:
        guard = Guard(Patient(), timeout_s=30.0, concurrency=1)
        with pytest.raises(TeacherTimeout, match="scripted did not answer in"):
            await guard.answer(ASKED, deadline=clock.now + 0.001)

    asyncio.run(work())


def test_a_call_is_not_begun_with_less_time_than_half_of_the_answers_took(clock: Clock) -> None:
    async def work() -> None:
        teacher = ScriptedTeacher(TASK, labels={})
        guard = Guard(teacher, timeout_s=30.0, concurrency=1, clock=Clock())
        for seconds in (1.0, 5.0, 9.0):
            guard._pace.took(seconds)
        with pytest.raises(TeacherTimeout, match=r"was not asked: .* half of its answers") as short:
            await guard.answer(ASKED, deadline=clock.now + 4.0)
        assert not short.value.asked
        assert teacher.calls == 0
        await guard.answer(ASKED, deadline=clock.now + 60.0)
        assert teacher.calls == 1

    asyncio.run(work())


def test_answers_of_long_ago_refuse_nobody() -> None:
    async def work() -> None:
        clock, teacher = Clock(), ScriptedTeacher(TASK, labels={})
        guard = warmed(guarded(teacher, clock=clock), seconds=2 * SOON)
        with pytest.raises(TeacherTimeout, match="was not asked"):
            await guard.answer(ASKED, deadline=time.perf_counter() + SOON)
        clock.now += 60.0
        await guard.answer(ASKED, deadline=time.perf_counter() + SOON)
        assert teacher.calls == 1

    asyncio.run(work())


def test_a_call_that_failed_is_made_again_once() -> None:
    async def work() -> None:
        watch, slept = Counted(), Slept()
        teacher = Planned(TeacherUnavailable("down"), 700)
        guard = guarded(teacher, watch=watch, sleep=slept, random_source=random.Random(0))
        said = await guard.answer(ASKED)
        assert len(teacher.begun) == 2
        assert watch.attempts == {"unavailable": 1, "ok": 1}
        assert watch.events == {"retry": 1}
        assert slept.pauses == [random.Random(0).uniform(0.0, 0.2)]
        # One call said that it cost 700; that of the other is not known.
        assert (said.cost, said.unpriced, said.asked) == (700, 1, True)
        assert said.bill(2500) == 3200
        assert said.bill(None) is None

    asyncio.run(work())


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TeacherUnavailable("down"), True),
        (TeacherTimeout("late"), True),
        (TeacherGarbled("nonsense"), True),
        (TeacherLimited("too many"), True),
        (TeacherRefused("wrong key"), False),
        (BudgetExhausted("no money"), False),
        (TeacherUnavailable("no place", asked=False), False),
    ],
)
def test_it_is_asked_again_only_where_that_may_help(error: TeacherError, *, again: bool) -> None:
    async def work() -> None:
        teacher = Planned(error)
        guard = guarded(teacher)
        if again:
            await guard.answer(ASKED)
        else:
            with pytest.raises(type(error)):
                await guard.answer(ASKED)
        assert len(teacher.begun) == 1 + again

    asyncio.run(work())


def test_what_is_garbled_twice_is_not_asked_a_third_time() -> None:
    async def work() -> None:
        garbled = Planned(*(TeacherGarbled("nonsense", cost=300) for _ in range(9)))
        many = RetryBudget(1.0, clock=Clock())
        for _ in range(9):
            many.called()
        with pytest.raises(TeacherGarbled) as failed:
            await guarded(garbled, retries=5, retry_budget=many).answer(ASKED)
        assert len(garbled.begun) == 2
        assert (failed.value.asked, failed.value.cost) == (True, 600)
        down = Planned(*(TeacherUnavailable("down") for _ in range(9)))
        with pytest.raises(TeacherUnavailable) as failed_too:
            await guarded(down, retries=3, retry_budget=many).answer(ASKED)
        assert len(down.begun) == 4
        assert failed_too.value.cost is None  # none of the four said
        assert (failed_too.value.unpriced, failed_too.value.bill(2500)) == (3, 10_000)
        assert failed_too.value.bill(None) is None

    asyncio.run(work())


def test_when_all_calls_fail_a_tenth_is_made_again_and_no_more() -> None:
    async def work() -> None:
        watch, teacher = Counted(), Planned(*(TeacherUnavailable("down") for _ in range(300)))
        never = Breaker(Limits(failures=1000, calls=1000))
        guard = guarded(
            teacher, watch=watch, breaker=never, retry_budget=RetryBudget(0.1, clock=Clock())
        )
        for number in range(200):
            with pytest.raises(TeacherUnavailable):
                await guard.answer(Instance(str(number)))
        assert len(teacher.begun) == 220
        assert watch.events == {"retry": 20}

    asyncio.run(work())


def test_a_teacher_that_says_when_to_come_back_is_not_asked_before() -> None:
    async def work() -> None:
        slept = Slept()
        teacher = Planned(TeacherLimited("too many", retry_after=3.0))
        guard = guarded(teacher, sleep=slept, clock=slept.clock)
        await guard.answer(ASKED, deadline=time.perf_counter() + SOON)
        (pause,) = slept.pauses
        assert 3.0 <= pause <= 3.2

    asyncio.run(work())


@pytest.mark.parametrize(("said", "rests"), [(3.0, 3.0), (7200.0, 60.0)])
def test_before_the_time_that_a_teacher_said_nobody_asks_it(said: float, rests: float) -> None:
    async def work() -> None:
        clock, watch = Clock(), Counted()
        teacher = Planned(TeacherLimited("too many", retry_after=said))
        guard = guarded(teacher, retries=0, concurrency=1, clock=clock, watch=watch)
        calls = [asyncio.create_task(guard.answer(ASKED)) for _ in range(3)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        limited = [each for each in errors if isinstance(each, TeacherLimited)]
        assert [each.asked for each in limited] == [True, False, False]  # two had waited
        clock.now += rests - 1.0
        with pytest.raises(TeacherLimited, match="takes no more for another 1 s") as spared:
            await guard.answer(ASKED)
        assert (spared.value.asked, spared.value.retry_after) == (False, 1.0)
        assert watch.attempts == {"limited": 1}
        assert guard.busy
        clock.now += 1.0
        assert not guard.busy
        await guard.answer(ASKED)
        assert len(teacher.begun) == 2

    asyncio.run(work())


@pytest.mark.parametrize("left", [2.0, None])
def test_a_wait_beyond_the_deadline_or_the_timeout_is_not_begun(
    clock: Clock, left: float | None
) -> None:
    """Without a deadline nobody waits longer for a retry than for an answer."""

    async def work() -> None:
        teacher, slept = Planned(TeacherLimited("too many", retry_after=2.5)), Slept()
        guard = guarded(teacher, timeout_s=2.5, sleep=slept)
        deadline = None if left is None else clock.now + left
        with pytest.raises(TeacherLimited):
            await guard.answer(ASKED, deadline=deadline)
        assert slept.pauses == []

    asyncio.run(work())


def test_an_audit_is_asked_once() -> None:
    async def work() -> None:
        teacher = Planned(TeacherUnavailable("down"))
        with pytest.raises(TeacherUnavailable):
            await guarded(teacher).answer(ASKED, priority=Priority.AUDIT)
        assert len(teacher.begun) == 1

    asyncio.run(work())


def test_a_teacher_that_breaks_is_a_teacher_that_is_down() -> None:
    async def work() -> None:
        teacher = Planned(RuntimeError("a bug"), RuntimeError("a bug"))
        with pytest.raises(TeacherUnavailable, match="scripted broke: RuntimeError") as broken:
            await guarded(teacher).answer(ASKED)
        assert broken.value.asked
        assert isinstance(broken.value.__cause__, RuntimeError)

    asyncio.run(work())


def test_after_five_failures_the_teacher_is_left_alone_and_nobody_is_billed() -> None:
    async def work() -> None:
        clock, watch = Clock(), Counted()
        teacher = Planned(*(TeacherUnavailable("down") for _ in range(5)))
        guard = guarded(teacher, retries=0, breaker=Breaker(clock=clock), watch=watch)
        for _ in range(5):
            assert state(guard) is State.CLOSED
            with pytest.raises(TeacherUnavailable, match="down") as failed:
                await guard.answer(ASKED)
            assert failed.value.asked
        assert state(guard) is State.OPEN
        for _ in range(100):
            with pytest.raises(TeacherUnavailable, match="left alone for another 10 s") as spared:
                await guard.answer(ASKED)
            assert not spared.value.asked
        assert len(teacher.begun) == 5
        clock.now += 10.0
        await guard.answer(ASKED)  # it has recovered
        assert state(guard) is State.CLOSED
        assert watch.attempts == {"unavailable": 5, "ok": 1}

    asyncio.run(work())


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (TeacherUnavailable("down"), True),
        (TeacherTimeout("late"), True),
        (TeacherGarbled("nonsense"), True),
        (TeacherLimited("too many"), True),
        (TeacherRefused("this request is wrong"), False),
        (TeacherRefused("the key is wrong", lasting=True), True),
    ],
)
def test_whatever_makes_it_useless_opens_the_breaker(error: TeacherError, *, opens: bool) -> None:
    async def work() -> None:
        guard = guarded(Planned(*([error] * 5)), retries=0, breaker=Breaker(clock=Clock()))
        for _ in range(5):
            with pytest.raises(type(error)):
                await guard.answer(ASKED)
        assert state(guard) is (State.OPEN if opens else State.CLOSED)

    asyncio.run(work())


def test_those_who_wait_for_a_place_when_it_opens_are_sent_away() -> None:
    async def work() -> None:
        teacher = Planned(TeacherUnavailable("down"))
        guard = guarded(teacher, concurrency=1, retries=0, breaker=touchy())
        calls = [asyncio.create_task(guard.answer(ASKED)) for _ in range(10)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert len(teacher.begun) == 1
        assert [isinstance(each, TeacherUnavailable) and each.asked for each in errors] == [
            True,
            *[False] * 9,
        ]

    asyncio.run(work())


def test_a_retry_that_the_breaker_would_refuse_is_not_waited_for() -> None:
    async def work() -> None:
        slept, teacher = Slept(), Planned(TeacherUnavailable("down"))
        guard = guarded(teacher, sleep=slept, breaker=touchy())
        with pytest.raises(TeacherUnavailable, match="down"):
            await guard.answer(ASKED)
        assert slept.pauses == []

    asyncio.run(work())


def test_a_call_cut_short_by_its_caller_counts_only_where_the_teacher_was_late(
    clock: Clock,
) -> None:
    async def work() -> None:
        for usual, becomes in ((60.0, State.CLOSED), (0.0, State.OPEN)):
            watch = Counted()
            guard = guarded(Planned(HANG), breaker=touchy(), watch=watch)
            for seconds in (0.0,) * 13 + (usual,) * 12:  # the median is 0, the 95th percentile not
                guard._pace.took(seconds)
            with pytest.raises(TeacherTimeout, match="did not answer in"):
                await guard.answer(ASKED, deadline=clock.now + 0.01)
            assert state(guard) is becomes
            assert watch.attempts == {"cancelled" if usual else "timeout": 1}

    asyncio.run(work())


@pytest.mark.parametrize(("timeout_s", "becomes"), [(SOON, State.CLOSED), (0.2, State.OPEN)])
def test_while_nobody_knows_what_is_usual_half_of_the_timeout_is_late(
    clock: Clock, timeout_s: float, becomes: State
) -> None:
    class Dawdling(Planned):
        async def answer(self, instance: Instance) -> Said:
            clock.now += 0.15
            return await super().answer(instance)

    async def work() -> None:
        guard = guarded(Dawdling(HANG), timeout_s=timeout_s, breaker=touchy())
        with pytest.raises(TeacherTimeout):
            await guard.answer(ASKED, deadline=clock.now + 0.15)
        assert state(guard) is becomes

    asyncio.run(work())


def test_a_client_that_leaves_says_nothing_of_the_teacher() -> None:
    async def work() -> None:
        watch, wallet = Counted(), Wallet()
        guard = guarded(Planned(HANG), breaker=touchy(), watch=watch, purse=wallet)
        call = asyncio.create_task(guard.answer(ASKED))
        await settled()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert state(guard) is State.CLOSED
        assert watch.attempts == {"cancelled": 1}
        assert wallet.settled == [None]  # it was begun, and may be billed
        assert not guard.busy

    asyncio.run(work())


def test_the_same_input_at_the_same_time_is_one_call_and_billed_once() -> None:
    async def work() -> None:
        watch, teacher = Counted(), Planned(900)
        guard = guarded(teacher, coalesce=True, watch=watch)
        asked = [Instance("hello", {"a": 1, "b": 2}), Instance("hello", {"b": 2, "a": 1})] * 5
        said = await asyncio.gather(*(guard.answer(each) for each in asked))
        assert len(teacher.begun) == 1
        assert watch.events == {"coalesced": 9}
        assert sorted(each.bill(2500) or 0 for each in said) == [0] * 9 + [900]
        assert [each.asked for each in said].count(True) == 1
        assert {id(each.prediction) for each in said} == {id(said[0].prediction)}
        await guard.answer(asked[0])  # one after the other they are two
        assert len(teacher.begun) == 2

    asyncio.run(work())


def test_inputs_that_differ_in_a_field_are_two_calls() -> None:
    async def work() -> None:
        teacher = Planned()
        guard = guarded(teacher, coalesce=True)
        asked = [Instance("hello", {"a": 1}), Instance("hello", {"a": 2}), Instance("hello")]
        await asyncio.gather(*(guard.answer(each) for each in asked))
        assert teacher.begun == asked

    asyncio.run(work())


def test_a_shared_failure_reaches_all_and_is_billed_once() -> None:
    async def work() -> None:
        teacher = Planned(TeacherRefused("wrong key", status=401))
        guard = guarded(teacher, coalesce=True)
        calls = [guard.answer(ASKED) for _ in range(3)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert len(teacher.begun) == 1
        refused = [each for each in errors if isinstance(each, TeacherRefused)]
        assert [(each.message, each.status, each.asked) for each in refused] == [
            ("wrong key", 401, True),
            ("wrong key", 401, False),
            ("wrong key", 401, False),
        ]

    asyncio.run(work())


def test_a_caller_who_leaves_a_shared_call_does_not_end_it() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = guarded(teacher, coalesce=True)
        first, second = (asyncio.create_task(guard.answer(ASKED)) for _ in range(2))
        await settled()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert teacher.cancelled == 0
        with pytest.raises(TeacherTimeout) as late:  # its deadline is its own
            await guard.answer(ASKED, deadline=time.perf_counter() + 0.001)
        assert not late.value.asked  # who stays is billed
        teacher.free.set()
        assert (await second).asked
        assert (teacher.waiting, teacher.calls) == (1, 1)

    asyncio.run(work())


def test_when_nobody_waits_any_more_a_shared_call_is_cancelled() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = guarded(teacher, coalesce=True)
        callers = [asyncio.create_task(guard.answer(ASKED)) for _ in range(3)]
        await settled()
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        assert teacher.cancelled == 1
        teacher.free.set()
        await guard.answer(ASKED)  # what was cancelled is not joined
        assert teacher.waiting == 2

    asyncio.run(work())


def test_a_live_request_that_joins_an_audit_has_its_retry() -> None:
    async def work() -> None:
        late = asyncio.Event()
        teacher = Planned(late)
        guard = guarded(teacher, coalesce=True, random_source=AtOnce())
        audit = asyncio.create_task(guard.answer(ASKED, priority=Priority.AUDIT))
        await settled()
        live = asyncio.create_task(guard.answer(ASKED))
        await settled()
        late.set()
        await asyncio.gather(audit, live)
        assert len(teacher.begun) == 2

    asyncio.run(work())


def test_a_live_request_that_joins_an_audit_is_not_refused_for_its_reserve() -> None:
    async def work() -> None:
        teacher, wallet = Planned(900), Wallet(live_alone=True)
        guard = guarded(teacher, coalesce=True, purse=wallet)
        audit = asyncio.create_task(guard.answer(ASKED, priority=Priority.AUDIT))
        await wallet.asked.wait()
        said = await guard.answer(ASKED)
        assert said.prediction == (await audit).prediction
        assert wallet.buckets == [Bucket.LIVE]
        with pytest.raises(BudgetExhausted):
            await guard.answer(ASKED, priority=Priority.AUDIT)

    asyncio.run(work())


def test_a_live_request_that_joins_an_audit_which_fails_has_a_call_of_its_own() -> None:
    async def work() -> None:
        late, watch, wallet = asyncio.Event(), Counted(), Wallet()
        guard = guarded(Planned(late, 900), coalesce=True, purse=wallet, watch=watch, retries=0)
        audit = asyncio.create_task(guard.answer(ASKED, priority=Priority.AUDIT))
        await settled()
        live = asyncio.create_task(guard.answer(ASKED))
        await settled()
        late.set()
        assert (await live).prediction == (await audit).prediction
        assert wallet.buckets == [Bucket.AUDIT, Bucket.LIVE]
        assert watch.events == {"coalesced": 1}  # it is no retry

    asyncio.run(work())


def test_money_is_asked_for_by_what_a_call_is_made_for() -> None:
    async def work() -> None:
        wallet = Wallet()
        await guarded(Planned(TeacherGarbled("nonsense")), purse=wallet).answer(ASKED)
        await hedged(Planned(HANG, 500), purse=wallet).answer(ASKED)
        await guarded(Planned(), purse=wallet).answer(ASKED, priority=Priority.AUDIT)
        assert wallet.buckets == ["live", "retry", "live", "hedge", "audit"]

    asyncio.run(work())


def test_an_answer_is_remembered_and_costs_nothing_the_second_time() -> None:
    async def work() -> None:
        clock, watch, wallet = Clock(), Counted(), Wallet()
        teacher = Planned(TeacherRefused("not now"), 900)
        guard = guarded(
            teacher,
            cache=AnswerCache(answers=10, ttl_s=60.0, clock=clock),
            watch=watch,
            purse=wallet,
        )
        with pytest.raises(TeacherRefused):
            await guard.answer(ASKED)
        first, second = await guard.answer(ASKED), await guard.answer(ASKED)
        assert len(teacher.begun) == 2  # a failure is not remembered
        assert second.prediction is first.prediction
        assert (first.asked, first.bill(2500)) == (True, 900)
        assert (second.asked, second.bill(2500), second.bill(None)) == (False, 0, 0)
        assert watch.events == {"cache_hit": 1}
        assert wallet.settled == [None, 900]
        await guard.answer(Instance("hello", {"tier": "gold"}))
        clock.now += 60.0
        await guard.answer(ASKED)
        assert len(teacher.begun) == 4

    asyncio.run(work())


def test_money_is_reserved_before_every_attempt_and_settled_after_it() -> None:
    async def work() -> None:
        wallet = Wallet()
        teacher = Planned(TeacherGarbled("nonsense", cost=300), 400)
        said = await guarded(teacher, purse=wallet).answer(ASKED)
        assert wallet.settled == [300, 400]
        assert (said.cost, said.unpriced) == (700, 0)
        await guarded(Planned(), purse=wallet).answer(ASKED, priority=Priority.AUDIT)
        assert wallet.settled == [300, 400, None]
        assert (wallet.calls, wallet.audits) == (97, 1)

    asyncio.run(work())


def test_a_failure_that_cost_nothing_is_not_paid_for() -> None:
    async def work() -> None:
        wallet, teacher = Wallet(), Planned(TeacherLimited("too many", cost=0))
        with pytest.raises(TeacherLimited) as failed:
            await guarded(teacher, purse=wallet, retries=0).answer(ASKED)
        assert wallet.settled == [0]
        assert (failed.value.asked, failed.value.bill(2500)) == (True, 0)
        said = await guarded(
            Planned(TeacherUnavailable("refused", cost=0)), random_source=AtOnce()
        ).answer(ASKED)
        assert said.bill(2500) == 2500  # of the second call alone

    asyncio.run(work())


def test_without_money_the_teacher_is_not_asked_and_the_breaker_not_told() -> None:
    async def work() -> None:
        clock, teacher = Clock(), Planned(TeacherUnavailable("down"))
        wallet = Wallet(calls=1)
        guard = guarded(teacher, breaker=Breaker(Limits(failures=1), clock=clock), purse=wallet)
        with pytest.raises(TeacherUnavailable):
            await guard.answer(ASKED)
        clock.now += 10.0
        for _ in range(3):  # the call that may try is not used up by those who cannot pay
            with pytest.raises(BudgetExhausted) as refused:
                await guard.answer(ASKED)
            assert not refused.value.asked
        assert len(teacher.begun) == 1
        wallet.calls = 1
        await guard.answer(ASKED)
        assert state(guard) is State.CLOSED

    asyncio.run(work())


def test_a_retry_without_money_shows_what_went_wrong_first() -> None:
    async def work() -> None:
        teacher = Planned(TeacherGarbled("nonsense"))
        with pytest.raises(TeacherGarbled, match="nonsense") as failed:
            await guarded(teacher, purse=Wallet(calls=1)).answer(ASKED)
        assert failed.value.asked

    asyncio.run(work())


def hedged(teacher: Planned, **more: Any) -> Guard:
    """A guard that hedges, of a teacher whose answers take no time at all."""
    budget = HedgeBudget(1.0)
    return warmed(guarded(teacher, hedges=budget, retries=0, **more))


def test_a_late_call_gets_a_second_one_and_the_first_good_answer_wins() -> None:
    async def work() -> None:
        watch, wallet, teacher = Counted(), Wallet(), Planned(HANG, 500)
        said = await hedged(teacher, watch=watch, purse=wallet).answer(ASKED)
        assert teacher.left == 1  # the loser is cancelled
        assert watch.events == {"hedge": 1}
        assert watch.attempts == {"ok": 1, "cancelled": 1}
        assert sorted(wallet.settled, key=str) == [500, None]
        assert (said.cost, said.unpriced) == (500, 1)
        assert said.bill(2500) == 3000

    asyncio.run(work())


def test_a_second_call_that_fails_leaves_the_first_one_its_time() -> None:
    async def work() -> None:
        teacher = Patient()
        guard = warmed(guarded(teacher, hedges=HedgeBudget(1.0), purse=Wallet(calls=1)))
        call = asyncio.create_task(guard.answer(ASKED))
        await teacher.started.wait()
        await asyncio.sleep(0.01)  # the second one finds no money
        teacher.free.set()
        assert (await call).unpriced == 0

    asyncio.run(work())


def test_when_both_calls_fail_the_first_ones_error_is_told() -> None:
    async def work() -> None:
        guard = hedged(Planned(HANG, TeacherGarbled("nonsense")), timeout_s=0.05)
        with pytest.raises(TeacherTimeout):
            await guard.answer(ASKED)

    asyncio.run(work())


def test_a_client_that_leaves_ends_both_calls() -> None:
    async def work() -> None:
        watch, teacher = Counted(), Planned(HANG, HANG)
        call = asyncio.create_task(hedged(teacher, watch=watch).answer(ASKED))
        await teacher.asked(2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert teacher.left == 2
        assert watch.attempts == {"cancelled": 2}

    asyncio.run(work())


async def begun_in(guard: Guard, teacher: Planned, **terms: Any) -> int:
    """How many calls there are for one late answer."""
    call = asyncio.create_task(guard.answer(ASKED, **terms))
    await teacher.asked(1)
    await asyncio.sleep(0.01)  # far beyond what its answers take
    call.cancel()
    await asyncio.wait({call})
    return len(teacher.begun)


def test_a_late_call_gets_no_second_one_where_that_would_do_harm() -> None:
    async def work() -> None:
        cold = Planned(HANG)
        guard = guarded(cold, hedges=HedgeBudget(1.0))
        assert await begun_in(guard, cold) == 1  # what is late is not known yet
        audited = Planned(HANG)
        assert await begun_in(hedged(audited), audited, priority=Priority.AUDIT) == 1
        full = Planned(HANG)
        assert await begun_in(hedged(full, concurrency=1), full) == 1
        dear = Planned(HANG)
        assert await begun_in(warmed(guarded(dear, hedges=HedgeBudget(0.05))), dear) == 1
        fine = Planned(HANG)
        assert await begun_in(hedged(fine), fine) == 2

    asyncio.run(work())


def test_after_a_429_and_while_it_recovers_no_call_is_hedged() -> None:
    async def work() -> None:
        limited = Planned(TeacherLimited("too many"), HANG)
        guard = hedged(limited, clock=Clock())
        with pytest.raises(TeacherLimited):
            await guard.answer(ASKED)
        limited.begun.clear()
        assert await begun_in(guard, limited) == 1
        clock, sick = Clock(), Planned(TeacherUnavailable("down"), HANG)
        guard = hedged(sick, breaker=Breaker(Limits(failures=1), clock=clock))
        with pytest.raises(TeacherUnavailable):
            await guard.answer(ASKED)
        clock.now += 10.0
        sick.begun.clear()
        assert await begun_in(guard, sick) == 1

    asyncio.run(work())


def test_a_call_that_something_below_breaks_off_is_an_error_and_no_cancellation() -> None:
    async def work() -> None:
        class Stray(ScriptedTeacher):
            async def answer(self, instance: Instance) -> Said:
                raise asyncio.CancelledError(instance)

        guard = guarded(Stray(TASK, labels={}))
        with pytest.raises(TeacherUnavailable, match="broke the call off"):
            await guard.answer(ASKED)

    asyncio.run(work())


def test_who_counts_is_told_that_the_guard_is_gone() -> None:
    watch = Counted()
    asyncio.run(guarded(Planned(), watch=watch).close())
    assert watch.gone


def complaints(work: Callable[[], Coroutine[Any, Any, None]]) -> list[str]:
    """What the event loop complains of while that runs."""
    said: list[str] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: said.append(context["message"]))
        await work()
        gc.collect()

    asyncio.run(run())
    return said


def test_an_error_of_the_call_that_lost_is_looked_at() -> None:
    class Sore(Planned):
        async def answer(self, instance: Instance) -> Said:
            try:
                return await super().answer(instance)
            except asyncio.CancelledError as error:
                raise TeacherUnavailable("hung up") from error

    async def work() -> None:
        await hedged(Sore(HANG, 500)).answer(ASKED)

    assert complaints(work) == []


@pytest.mark.parametrize("turns", range(6))
def test_an_error_that_comes_as_its_caller_leaves_is_looked_at(turns: int) -> None:
    class Sore(Patient):
        async def answer(self, instance: Instance) -> Said:
            await super().answer(instance)
            raise TeacherUnavailable("down")

    async def work() -> None:
        teacher = Sore()
        guard = guarded(teacher, retries=0)
        call = asyncio.create_task(guard.answer(ASKED))
        await teacher.started.wait()
        teacher.free.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})
        if not call.cancelled():
            call.exception()

    assert complaints(work) == []

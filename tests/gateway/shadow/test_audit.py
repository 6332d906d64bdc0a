"""The audit: what was drawn is shown, observers are told, and nothing is in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from gateway.errors import BudgetExhausted
from gateway.routing.budget import Reservation
from gateway.shadow.audit import Auditor, Skip
from gateway.teachers.base import Said
from gateway.teachers.breaker import Breaker, Limits
from gateway.teachers.guard import Guard
from gateway.teachers.scripted import ScriptedTeacher
from gateway.telemetry.pricing import Prices
from gateway.types import Answer, Audit, Bucket, Coin, Instance
from tests.gateway.telemetry.answers import TICKETS, confident, identity
from tests.gateway.telemetry.clock import Clock

PRICES = Prices(teacher_usd_per_1000=Decimal("2.5"))


@pytest.fixture(autouse=True)
def _long_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lasts for some seconds lasts here, however long a machine takes for a test."""
    for limit in ("_PATIENCE_S", "_POOR_S"):
        monkeypatch.setattr(f"gateway.shadow.audit.{limit}", 3600.0)


@dataclass
class Told:
    """An observer that remembers what it is told."""

    audits: list[Audit] = field(default_factory=list)

    def answered(self, answer: Answer) -> None:
        """No answers here."""

    def audited(self, audit: Audit) -> None:
        """Remember it."""
        self.audits.append(audit)


class Poor:
    """A purse in which nothing is left."""

    async def reserve(self, _micro_usd: int | None, *, bucket: Bucket = Bucket.LIVE) -> Reservation:
        """Refuse."""
        raise BudgetExhausted(f"nothing is left, {bucket=}")


class Patient(ScriptedTeacher):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__(TICKETS, labels={"intent": "login"})
        self.free = asyncio.Event()
        self.most = 0  # at once
        self._now = 0

    async def answer(self, instance: Instance) -> Said:
        """Wait to be let."""
        self._now += 1
        self.most = max(self.most, self._now)
        said = await super().answer(instance)
        await self.free.wait()
        self._now -= 1
        return said


def auditor(
    teacher: ScriptedTeacher,
    *told: Told,
    prices: Prices = PRICES,
    places: int = 64,
    skipped: Callable[[Answer], None] = lambda _answer: None,
) -> Auditor:
    return Auditor(
        teacher=Guard(teacher, timeout_s=30.0, concurrency=places),
        prices=prices,
        observers=told,
        skipped=skipped,
    )


def drawn(number: int = 1, coin: Coin = Coin.UNIFORM) -> Answer:
    return confident(number, audit_propensity=1.0, coin=coin)


def test_a_drawn_answer_is_shown_to_the_teacher_and_every_observer_is_told() -> None:
    async def work() -> None:
        teacher = ScriptedTeacher(TICKETS, labels={"intent": "login"})
        one, two = Told(), Told()
        audits = auditor(teacher, one, two)
        answer = drawn()
        audits.answered(answer)
        assert one.audits == []  # the reply does not wait for it
        await audits.close()
        assert one.audits == two.audits
        (audit,) = one.audits
        assert audit.answer is answer
        assert audit.teacher.heads[0].labels == ("login",)
        assert audit.cost == 2500
        assert audit.seconds >= 0.0
        audits.audited(audit)  # its own word is nothing to it
        assert teacher.calls == 1

    asyncio.run(work())


def test_an_answer_that_was_not_drawn_is_not_shown() -> None:
    async def work() -> None:
        told, teacher = Told(), ScriptedTeacher(TICKETS, labels={})
        audits = auditor(teacher, told)
        audits.answered(confident(audit_propensity=1.0))
        audits.answered(drawn(2, Coin.TARGETED))
        await audits.close()
        assert [audit.answer.id for audit in told.audits] == [identity(2)]
        assert teacher.calls == 1

    asyncio.run(work())


def test_so_many_audits_run_and_no_more_are_to_be_drawn() -> None:
    async def work() -> None:
        told, teacher = Told(), Patient()
        audits = auditor(teacher, told)
        for number in range(32):
            assert audits.ready
            audits.answered(drawn(number))
        assert not audits.ready
        audits.answered(drawn(32))  # drawn with others of one request, when there was room
        teacher.free.set()
        await audits.close()
        assert audits.ready
        assert len(told.audits) == 33
        assert audits.skipped.total() == 0

    asyncio.run(work())


def test_an_audit_waits_for_a_place_that_nobody_else_wants() -> None:
    async def work() -> None:
        told, teacher = Told(), Patient()
        audits = auditor(teacher, told, places=2)
        assert audits.ready
        for number in range(5):
            audits.answered(drawn(number))
        for _ in range(5):  # the first two take the places, the others find none
            await asyncio.sleep(0)
        assert teacher.calls == 2
        assert not audits.ready
        teacher.free.set()
        await audits.close()
        assert teacher.most == 2
        assert len(told.audits) == 5

    asyncio.run(work())


def test_an_audit_that_never_finds_a_place_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.shadow.audit._PATIENCE_S", 0.0)

    async def work() -> None:
        told, teacher = Told(), Patient()
        void: list[Answer] = []
        audits = auditor(teacher, told, places=1, skipped=void.append)
        audits.answered(drawn(1))
        audits.answered(drawn(2))
        for _ in range(5):
            await asyncio.sleep(0)
        assert [answer.id for answer in void] == [identity(2)]
        assert +audits.skipped == {Skip.BUSY: 1}
        teacher.free.set()
        await audits.close()

    asyncio.run(work())


def test_after_an_audit_that_there_was_no_money_for_none_is_drawn_for_a_while() -> None:
    async def work() -> None:
        guard = Guard(
            ScriptedTeacher(TICKETS, labels={}), timeout_s=30.0, concurrency=4, purse=Poor()
        )
        audits = Auditor(teacher=guard, prices=PRICES, observers=[], skipped=lambda _answer: None)
        assert audits.ready
        audits.answered(drawn())
        await audits.close()
        assert +audits.skipped == {Skip.FAILED: 1}
        assert not audits.ready

    asyncio.run(work())


def test_a_teacher_that_fails_is_counted_and_told_to_nobody() -> None:
    async def work() -> None:
        told = Told()
        void: list[Answer] = []
        teacher = ScriptedTeacher(TICKETS, labels={}, fail_every=1)
        audits = auditor(teacher, told, skipped=void.append)
        answer = drawn()
        audits.answered(answer)
        await audits.close()
        assert told.audits == []
        assert void == [answer]
        assert +audits.skipped == {Skip.FAILED: 1}

    asyncio.run(work())


def test_closing_waits_for_the_audits_that_run() -> None:
    async def work() -> None:
        told, teacher = Told(), Patient()
        audits = auditor(teacher, told)
        audits.answered(drawn())
        closing = asyncio.create_task(audits.close())
        await asyncio.sleep(0)
        assert not closing.done()
        teacher.free.set()
        await closing
        assert len(told.audits) == 1
        await audits.close()  # nothing runs: nothing to wait for

    asyncio.run(work())


def test_an_unknown_price_stays_unknown() -> None:
    async def work() -> None:
        told = Told()
        audits = auditor(ScriptedTeacher(TICKETS, labels={}), told, prices=Prices())
        audits.answered(drawn())
        await audits.close()
        assert told.audits[0].cost is None

    asyncio.run(work())


def test_a_teacher_that_is_left_alone_is_not_audited_until_it_has_recovered() -> None:
    async def work() -> None:
        told, clock = Told(), Clock()
        teacher = ScriptedTeacher(TICKETS, labels={}, fail_every=1)
        guard = Guard(
            teacher,
            timeout_s=30.0,
            concurrency=4,
            retries=3,
            breaker=Breaker(Limits(failures=2), clock=clock),
        )
        audits = Auditor(
            teacher=guard, prices=PRICES, observers=[told], skipped=lambda _answer: None
        )
        for number in range(4):
            audits.answered(drawn(number))
            await audits.close()
        assert teacher.calls == 2  # an audit is asked once, whatever the settings say of retries
        assert +audits.skipped == {Skip.FAILED: 2, Skip.DOWN: 2}
        assert not audits.ready
        clock.now += 60.0  # one call may try again; it is not an audit's to make
        audits.answered(drawn())
        await audits.close()
        assert teacher.calls == 2
        assert audits.skipped[Skip.DOWN] == 3

    asyncio.run(work())


def test_an_audit_whose_answer_was_paid_for_already_costs_nothing() -> None:
    async def work() -> None:
        told, teacher = Told(), ScriptedTeacher(TICKETS, labels={})
        guard = Guard(teacher, timeout_s=30.0, concurrency=4, coalesce=True)
        audits = Auditor(
            teacher=guard, prices=PRICES, observers=[told], skipped=lambda _answer: None
        )
        audits.answered(drawn())
        audits.answered(drawn())  # the same text, at the same time
        await audits.close()
        assert teacher.calls == 1
        assert sorted(audit.cost or 0 for audit in told.audits) == [0, 2500]

    asyncio.run(work())

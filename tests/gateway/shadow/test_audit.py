"""The audit: the right share is drawn, observers are told, and nothing is in the way."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from gateway.shadow.audit import Auditor, Skip
from gateway.teachers.base import Said
from gateway.teachers.guard import Guard
from gateway.teachers.scripted import ScriptedTeacher
from gateway.telemetry.pricing import Prices
from gateway.types import Answer, Audit, Instance
from tests.gateway.telemetry.answers import TICKETS, confident

PRICES = Prices(teacher_usd_per_1000=Decimal("2.5"))


@dataclass
class Told:
    """An observer that remembers what it is told."""

    audits: list[Audit] = field(default_factory=list)

    def answered(self, answer: Answer) -> None:
        """No answers here."""

    def audited(self, audit: Audit) -> None:
        """Remember it."""
        self.audits.append(audit)


class Coin(random.Random):
    """Falls as it is told, side after side."""

    def __init__(self, *falls: float) -> None:
        super().__init__(0)
        self._falls = list(falls)

    def random(self) -> float:
        """The next fall."""
        return self._falls.pop(0)


class Patient(ScriptedTeacher):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__(TICKETS, labels={"intent": "login"})
        self.free = asyncio.Event()

    async def answer(self, instance: Instance) -> Said:
        """Wait to be let."""
        said = await super().answer(instance)
        await self.free.wait()
        return said


def auditor(
    teacher: ScriptedTeacher,
    *told: Told,
    coin: random.Random | None = None,
    prices: Prices = PRICES,
    places: int = 64,
) -> Auditor:
    return Auditor(
        teacher=Guard(teacher, timeout_s=30.0, concurrency=places),
        prices=prices,
        observers=told,
        random_source=coin or random.Random(0),
    )


def test_a_drawn_answer_is_shown_to_the_teacher_and_every_observer_is_told() -> None:
    async def work() -> None:
        teacher = ScriptedTeacher(TICKETS, labels={"intent": "login"})
        one, two = Told(), Told()
        audits = auditor(teacher, one, two)
        answer = confident(audit_propensity=1.0)
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


@pytest.mark.parametrize(
    ("fall", "share", "drawn"),
    [
        (0.0, 0.0, 0),  # a share of nothing draws nothing
        (0.0, 0.02, 1),
        (0.019, 0.02, 1),
        (0.02, 0.02, 0),  # [0, 1) is cut at the share, which is not in
        (0.999, 1.0, 1),  # a share of all draws all
    ],
)
def test_the_coin_is_held_against_the_propensity_of_the_answer(
    fall: float, share: float, drawn: int
) -> None:
    async def work() -> None:
        told = Told()
        audits = auditor(ScriptedTeacher(TICKETS, labels={}), told, coin=Coin(fall))
        audits.answered(confident(audit_propensity=share))
        await audits.close()
        assert len(told.audits) == drawn

    asyncio.run(work())


def test_the_share_that_is_drawn_is_the_propensity() -> None:
    async def work() -> int:
        told = Told()
        audits = auditor(ScriptedTeacher(TICKETS, labels={}), told)
        for number in range(2_000):
            audits.answered(confident(number, audit_propensity=0.1))
            await asyncio.sleep(0)
        await audits.close()
        assert audits.skipped.total() == 0
        return len(told.audits)

    # 2000 * 0.1 = 200, with a standard deviation of sqrt(2000 * 0.1 * 0.9) = 13.4: four of them.
    assert 146 <= asyncio.run(work()) <= 254


def test_audits_above_the_bound_are_skipped_and_counted() -> None:
    async def work() -> None:
        told, teacher = Told(), Patient()
        audits = auditor(teacher, told)
        for number in range(40):
            audits.answered(confident(number, audit_propensity=1.0))
        assert audits.skipped == {Skip.BUSY: 8, Skip.FAILED: 0}  # 32 at once
        teacher.free.set()
        await audits.close()
        assert len(told.audits) == 32
        audits.answered(confident(audit_propensity=1.0))  # there is room again
        await audits.close()
        assert len(told.audits) == 33
        assert audits.skipped.total() == 8

    asyncio.run(work())


def test_an_audit_never_waits_for_a_place_of_the_teacher() -> None:
    async def work() -> None:
        told, teacher = Told(), Patient()
        audits = auditor(teacher, told, places=2)
        for number in range(5):
            audits.answered(confident(number, audit_propensity=1.0))
        await asyncio.sleep(0)  # the first two take the places, the others find none
        assert teacher.calls == 2
        assert audits.skipped == {Skip.BUSY: 3, Skip.FAILED: 0}
        teacher.free.set()
        await audits.close()
        assert len(told.audits) == 2

    asyncio.run(work())


def test_a_teacher_that_fails_is_counted_and_told_to_nobody() -> None:
    async def work() -> None:
        told = Told()
        audits = auditor(ScriptedTeacher(TICKETS, labels={}, fail_every=1), told)
        audits.answered(confident(audit_propensity=1.0))
        await audits.close()
        assert told.audits == []
        assert audits.skipped == {Skip.BUSY: 0, Skip.FAILED: 1}

    asyncio.run(work())


def test_closing_waits_for_the_audits_that_run() -> None:
    async def work() -> None:
        told, teacher = Told(), Patient()
        audits = auditor(teacher, told)
        audits.answered(confident(audit_propensity=1.0))
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
        audits.answered(confident(audit_propensity=1.0))
        await audits.close()
        assert told.audits[0].cost is None

    asyncio.run(work())

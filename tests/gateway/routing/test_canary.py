"""Which student answers which request while there is a canary: two real ones, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import settings
from gateway.assembly import open_gateway
from gateway.contract.bundle import open_bundle
from gateway.routing.canary import Canary, place
from gateway.routing.cascade import Cascade
from gateway.routing.net import NAME, SafetyNet
from gateway.routing.risk import ValueRule
from gateway.routing.rung import Rung
from gateway.students.student import Student
from gateway.succession.seat import take_seat
from gateway.types import Answer, Instance, Prediction, Reason, Route, Wish
from tests.factories import CONFIDENT, TASK, settings_file, tiny_bundle

TEXTS = [f"{CONFIDENT} {number}" for number in range(400)]


def test_a_share_of_all_keys_is_the_canarys_and_stays_with_it_as_it_grows() -> None:
    places = [place(Instance(text), key=None, salt="a") for text in TEXTS]
    small = {number for number, at in enumerate(places) if at < 0.05}
    large = {number for number, at in enumerate(places) if at < 0.25}
    assert small < large
    assert 4 <= len(small) <= 40  # 20 of 400 are expected; beyond these by chance once in 10,000
    assert 65 <= len(large) <= 135  # 100 are; likewise
    again = [place(Instance(text), key=None, salt="a") for text in TEXTS]
    assert again == places
    others = [place(Instance(text), key=None, salt="b") for text in TEXTS]
    assert {number for number, at in enumerate(others) if at < 0.25} != large


def test_a_key_keeps_to_one_student_whatever_its_texts_say() -> None:
    def at(text: str, **fields: str | int | None) -> float:
        return place(Instance(text, fields), key="user", salt="a")

    assert at("one", user="ann") == at("two", user="ann") != at("one", user="bob")
    assert at("one", user=None) == at("one") == place(Instance("one"), key=None, salt="a")
    assert at("ann") != at("two", user="ann")  # a text is never taken for a user of that name


def beside(folder: Path, work: Callable[[Cascade, Rung], object]) -> None:
    """A gateway whose student says refund, and a rung whose student says fraud."""
    path = settings_file(folder)

    async def run() -> None:
        chosen = settings.load(path)
        async with open_gateway(chosen) as gateway:
            cascade = gateway.tasks[TASK.name]
            student = Student(open_bundle(tiny_bundle(folder / "new", bias={"fraud": 20.0})))
            seat = await take_seat(
                TASK.name, chosen.tasks[TASK.name], student, gateway.metrics,
                teacher=cascade.teacher,
            )  # fmt: skip
            try:
                await asyncio.ensure_future(_done(work(cascade, seat.rung)))
            finally:
                await seat.close(teacher=False)

    asyncio.run(run())


async def _done(said: object) -> None:
    if asyncio.iscoroutine(said):
        await said


def test_each_text_of_one_request_is_answered_by_the_rung_that_takes_it(tmp_path: Path) -> None:
    async def work(cascade: Cascade, rung: Rung) -> None:
        cascade.canary = Canary(rung, 0.25)
        answers = await cascade.answer([Instance(text) for text in TEXTS[:40]])
        taken = [cascade.canary.takes(Instance(text)) for text in TEXTS[:40]]
        assert {True, False} == set(taken)
        for answer, canary in zip(answers, taken, strict=True):
            assert (_intent(answer), answer.route) == (
                "fraud" if canary else "refund", Route.STUDENT,
            )  # fmt: skip
        cascade.canary = Canary(rung, 1.0)
        assert {_intent(answer) for answer in await cascade.answer([Instance("hello")])} == {
            "fraud"
        }

    beside(tmp_path, work)


def test_a_text_that_the_canary_has_no_room_for_costs_the_others_no_work(tmp_path: Path) -> None:
    async def work(cascade: Cascade, rung: Rung) -> None:
        await rung.student.close()
        cascade.canary = Canary(rung, 0.25)
        with pytest.raises(Exception, match="shutting down"):
            await cascade.answer([Instance(text) for text in TEXTS[:40]])
        assert cascade.rung.student.depth == 0

    beside(tmp_path, work)


def _intent(answer: Answer) -> str:
    assert answer.prediction is not None
    return answer.prediction.heads[0].labels[0]


def test_the_safety_net_catches_a_share_of_what_is_risky_until_its_days_are_over() -> None:
    now = [1000.0]
    rules = (ValueRule("gold", "tier", frozenset({"gold"})),)
    net = SafetyNet(0.25, 2000.0, rules, lambda: now[0])
    gold = [Instance(text, {"tier": "gold"}) for text in TEXTS]
    caught = [each for each in gold if net.holds(each, None)]
    assert 65 <= len(caught) <= 135  # of 400
    assert not any(net.holds(Instance(each.text, {"tier": "free"}), None) for each in gold)
    assert SafetyNet(1.0, 2000.0, (), lambda: 0.0).holds(Instance("hello"), None)
    now[0] = 2000.0
    assert not any(net.holds(each, None) for each in gold)


def test_what_the_net_catches_is_of_high_risk_even_where_the_student_is_wished_for(
    tmp_path: Path,
) -> None:
    async def work(cascade: Cascade, _rung: Rung) -> None:
        net = SafetyNet(1.0, 2000.0, (), lambda: 0.0)
        (answer,) = await cascade.answer([Instance(CONFIDENT)])
        said: Prediction | None = answer.student
        policy = type(cascade.rung.policy)(threshold=0.9, rules=(net,))
        for wish in (Wish.AUTO, Wish.STUDENT):
            decision = policy.decide(Instance(CONFIDENT), said, wish)
            assert (decision.escalate, decision.reason, decision.detail) == (
                True, Reason.HIGH_RISK, NAME,
            )  # fmt: skip

    beside(tmp_path, work)

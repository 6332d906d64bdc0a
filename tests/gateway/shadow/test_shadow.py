"""Candidates beside answers: who is shown what, what is waited for, and what counts as evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from gateway.routing.policy import EscalationPolicy
from gateway.shadow.lot import lot
from gateway.shadow.pairing import Measure
from gateway.shadow.promotion import Gate, Terms, Trial
from gateway.shadow.runner import Runner, Shed
from gateway.shadow.shadow import Candidate, Sampling, Shadow
from gateway.shadow.slices import Slices
from gateway.teachers.cache import AnswerCache
from gateway.teachers.guard import Guard
from gateway.teachers.scripted import ScriptedTeacher
from gateway.types import Answer, Coin, Comparison, Prediction, Reason, Source
from tests.gateway.shadow.puppet import Puppet
from tests.gateway.shadow.test_runner import LONG
from tests.gateway.telemetry.answers import TICKETS, audit, confident, escalated, prediction
from tests.patience import eventually

SAID = prediction()  # score 0.72
TEACHER = prediction("login")


@dataclass
class Told:
    """An onlooker that remembers."""

    comparisons: list[Comparison] = field(default_factory=list)

    def compared(self, comparison: Comparison) -> None:
        """Remember it."""
        self.comparisons.append(comparison)


class Broken:
    """An onlooker that raises."""

    def compared(self, comparison: Comparison) -> None:
        """Raise."""
        raise RuntimeError(comparison.candidate)


def a_candidate(
    runner: Runner, name: str = "tickets-1", *, bundle: str = "c" * 64, threshold: float = 0.7
) -> Candidate:
    return Candidate(
        name,
        bundle=bundle,
        runner=runner,
        policy=EscalationPolicy(threshold),
        measure=Measure(slow_s=10.0),
        trial=Trial(Terms(), began=0.0),
        slices=Slices(("amount",)),
        beside=lambda _: EscalationPolicy(0.5),
    )


def with_shadow(
    work: Callable[[Shadow, list[Comparison]], Awaitable[None]],
    sampling: Sampling,
    *,
    said: Prediction = SAID,
    threshold: float = 0.7,
    uniform: float = 0.0,
    bundle: str = "c" * 64,
    broken: bool = False,
) -> None:
    async def play() -> None:
        told = Told()
        teacher = ScriptedTeacher(TICKETS, labels={"intent": "login"})
        guard = Guard(
            teacher,
            timeout_s=LONG,
            concurrency=4,
            cache=AnswerCache(answers=10, ttl_s=60.0),
            coalesce=True,
        )
        shadow = Shadow(
            "tickets",
            sampling=sampling,
            teacher=lambda: guard,
            onlookers=[Broken(), told] if broken else [told],
            uniform=uniform,
        )
        runner = Runner("tickets-1", lambda: Puppet(said), queue=5000)
        shadow.enter(a_candidate(runner, bundle=bundle, threshold=threshold))
        try:
            await work(shadow, told.comparisons)
        finally:
            shadow.close()
            await runner.close()

    asyncio.run(play())


def test_a_confident_answer_is_compared_with_who_serves() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        answer = confident(1)
        shadow.answered(answer)
        await eventually(lambda: bool(told))
        (one,) = told
        assert (one.answer, one.candidate, one.prediction) == (answer, "tickets-1", SAID)
        assert (one.propensity, one.seconds, one.escalates) == (1.0, 0.5, False)
        assert (one.teacher, one.source, one.by_chance) == (None, None, False)
        (candidate,) = shadow.candidates
        assert candidate.slices.whole.compared == 1
        assert candidate.trial.saved()["counts"]["escalation"] == [0, 1, 0]
        assert candidate.trial.saved()["counts"]["disagreement"] == [0, 0]

    with_shadow(work, Sampling(1.0), broken=True)  # one onlooker that raises costs nobody else


def test_below_its_own_threshold_the_candidate_would_escalate() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        shadow.answered(confident(1))
        await eventually(lambda: bool(told))
        assert told[0].escalates

    with_shadow(work, Sampling(1.0), threshold=0.73)


def test_the_share_is_drawn_by_a_hash_of_the_answers_id_and_its_propensity_kept() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        answers = [confident(number, text="the same text") for number in range(200)]
        for answer in answers:
            shadow.answered(answer)
        drawn = [answer.id for answer in answers if lot("shown", "tickets-1", answer.id) < 0.25]
        await eventually(lambda: len(told) == len(drawn))
        assert [each.answer.id for each in told] == drawn
        assert 0 < len(drawn) < 200
        assert {each.propensity for each in told} == {0.25}

    with_shadow(work, Sampling(0.25))


def test_a_candidate_is_not_compared_with_itself() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        shadow.answered(confident(1))  # by the bundle bbb...
        shadow.answered(escalated(2, teacher=TEACHER))  # the student failed
        await eventually(lambda: bool(told))
        assert [each.answer.id[-1] for each in told] == ["2"]

    with_shadow(work, Sampling(1.0), bundle="b" * 64)


def test_a_drawn_answer_waits_for_its_audit() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        answer = confident(1, coin=Coin.UNIFORM)
        shadow.answered(answer)
        await eventually(lambda: shadow.candidates[0].runner.depth == 0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert told == []
        shadow.audited(audit(answer, TEACHER))
        await eventually(lambda: bool(told))
        assert (told[0].teacher, told[0].source, told[0].by_chance) == (
            TEACHER, Source.AUDIT, True,
        )  # fmt: skip
        counts = shadow.candidates[0].trial.saved()["counts"]
        assert counts["disagreement"] == [0, 1]  # refund is kept, and the teacher says login

    with_shadow(work, Sampling(1.0))


def test_an_audit_that_never_comes_is_waited_for_so_long_and_no_longer() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        answer = confident(1, coin=Coin.UNIFORM)
        shadow.answered(answer)
        await eventually(lambda: bool(told))
        assert told[0].teacher is None
        shadow.audited(audit(answer, TEACHER))  # too late
        assert len(told) == 1

    with_shadow(work, Sampling(1.0, audit_wait_s=0.01))


def test_the_targeted_coins_audits_are_compared_and_prove_nothing() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        answer = confident(1, coin=Coin.TARGETED)
        shadow.answered(answer)
        shadow.audited(audit(answer, TEACHER))
        await eventually(lambda: bool(told))
        assert (told[0].teacher, told[0].by_chance) == (TEACHER, False)
        assert shadow.candidates[0].trial.saved()["counts"]["disagreement"] == [0, 0]

    with_shadow(work, Sampling(1.0))


def test_of_escalated_requests_as_large_a_share_counts_as_the_audit_takes_of_the_others() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        shadow.answered(confident(1, audit_propensity=0.3))  # says what the coin's share is now
        answers = [escalated(each, student=SAID, teacher=TEACHER) for each in range(100, 400)]
        asked = replace(answers[0].decision, reasons=(Reason.REQUESTED,))
        for answer in answers:
            shadow.answered(answer)
        closed = [escalated(each, student=SAID, teacher=TEACHER, auditable=False)
                  for each in range(400, 500)]  # fmt: skip
        wished = [replace(each, decision=asked) for each in map(_again, range(500, 600))]
        for answer in (*closed, *wished):
            shadow.answered(answer)
        await eventually(lambda: len(told) == 501)
        counted = {each.answer.id for each in told if each.by_chance}
        assert counted == {each.id for each in answers if lot("counted", each.id) < 0.3}
        assert 60 < len(counted) < 120  # of 300 at 0.3: 90, within four standard deviations

    with_shadow(work, Sampling(1.0), uniform=0.02)


def test_of_escalated_requests_as_many_are_void_as_of_the_audits() -> None:
    """A fifth of all is escalated, and half of the audits never come, in runs of ten.

    Of what counts a fifth is escalated then too. Were all of them to count, it would be a third.
    """

    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        drawn = 0
        for number in range(4000):
            if number % 5 == 0:
                shadow.answered(_again(number))
                continue
            by_coin = lot("a coin", str(number)) < 0.5
            answer = confident(number, coin=Coin.UNIFORM if by_coin else None, audit_propensity=0.5)
            shadow.answered(answer)
            if by_coin and drawn // 10 % 2:
                shadow.unaudited(answer)
            elif by_coin:
                shadow.audited(audit(answer, TEACHER))
            drawn += by_coin
        await eventually(lambda: len(told) == 4000)
        counted = [each.source for each in told if each.by_chance]
        assert len(counted) == pytest.approx(1000, abs=100)  # 0.5 * 0.5 of 4,000
        share = counted.count(Source.ESCALATED) / len(counted)
        assert share == pytest.approx(0.2, abs=0.05)  # four standard deviations

    with_shadow(work, Sampling(1.0), uniform=0.5)


def test_escalated_requests_wait_for_the_audit_before_them_and_count_as_it_does() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        for number, comes in ((10, True), (20, False)):
            drawn = confident(number, coin=Coin.UNIFORM, audit_propensity=1.0)
            shadow.answered(drawn)
            shadow.answered(_again(number + 1))
            await eventually(lambda: shadow.candidates[0].runner.depth == 0)
            for _ in range(20):
                await asyncio.sleep(0)
            assert [each for each in told if each.answer.id == _again(number + 1).id] == []
            if comes:
                shadow.audited(audit(drawn, TEACHER))
            else:
                shadow.unaudited(drawn)
            shadow.answered(_again(number + 2))
        late = _again(30)
        shadow.answered(replace(late, at=late.at + 4000.0))  # nothing was drawn for an hour
        await eventually(lambda: len(told) == 7)
        counts = {int(each.answer.id[-2:]): each.by_chance for each in told}
        assert counts == {10: True, 11: True, 12: True, 20: False, 21: False, 22: False, 30: True}

    with_shadow(work, Sampling(1.0, audit_wait_s=LONG), uniform=1.0)


def _again(number: int) -> Answer:
    return escalated(number, student=SAID, teacher=TEACHER)


def test_a_teacher_that_is_asked_again_is_really_asked() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        guard = shadow._teacher()
        answer = escalated(1, student=SAID, teacher=prediction("refund"))
        await guard.answer(answer.instance)  # the cache has an answer now
        shadow.answered(answer)
        await eventually(lambda: bool(told))
        second = told[0].second
        assert second is not None
        assert second.heads[0].labels == ("login",)
        saved = shadow.candidates[0].trial.saved()["counts"]
        assert saved["noise"] == [1, 0, 0]  # the candidate agrees, the teacher contradicts itself

    async def with_noise(shadow: Shadow, told: list[Comparison]) -> None:
        shadow.candidates[0].trial = Trial(Terms(limits={Gate.NOISE: 0.01}), began=0.0)
        await work(shadow, told)

    with_shadow(with_noise, Sampling(1.0, double_asked=1.0), uniform=1.0)


def test_who_has_left_is_told_of_nothing_more() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        answer = confident(1, coin=Coin.UNIFORM)
        shadow.answered(answer)
        await eventually(lambda: shadow.candidates[0].runner.depth == 0)
        assert shadow.leave("tickets-1") is not None
        assert shadow.leave("tickets-1") is None
        shadow.audited(audit(answer, TEACHER))
        shadow.answered(confident(2))
        assert told == []

    with_shadow(work, Sampling(1.0))


def test_at_a_share_of_nothing_nothing_is_shown() -> None:
    async def work(shadow: Shadow, told: list[Comparison]) -> None:
        shadow.answered(confident(1))
        assert shadow.candidates[0].runner.depth == 0
        assert told == []

    with_shadow(work, Sampling(0.0))


def test_what_waited_for_a_candidate_that_leaves_is_counted_and_stays_so() -> None:
    async def work(shadow: Shadow, _: list[Comparison]) -> None:
        (candidate,) = shadow.candidates
        candidate.runner.shed[Shed.FULL] = 5
        for number in range(3):
            shadow.answered(confident(number))
        assert candidate.runner.depth == 3
        assert shadow.leave("tickets-1") is candidate
        assert shadow.skipped == {"full": 5, "resting": 0}  # they are not forgotten meanwhile
        await shadow.retired()
        assert shadow.skipped == {"full": 5, "resting": 3}

    with_shadow(work, Sampling(1.0))

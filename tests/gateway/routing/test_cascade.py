"""The cascade on a real student: who answers, why, at what price, and who is told."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
import re2
import structlog

from gateway.contract.bundle import open_bundle
from gateway.errors import DeadlinePassed, Draining, Overloaded, Unanswered
from gateway.routing.cascade import Cascade
from gateway.routing.policy import EscalationPolicy
from gateway.routing.risk import TextRule
from gateway.routing.rung import Rung
from gateway.routing.unavailable import ByRisk, Instead, Unavailable
from gateway.shadow.coins import Coins
from gateway.students.batching import Batcher
from gateway.students.student import Student
from gateway.students.workers import ThreadWorker
from gateway.teachers.guard import Guard
from gateway.teachers.scripted import ScriptedTeacher
from gateway.telemetry.pricing import Prices
from gateway.types import Answer, Audit, Instance, Prediction, Reason, Route, Terms, Wish
from tests.factories import CONFIDENT, TASK, THRESHOLD, UNSURE, tiny_bundle
from tests.timelapse import TimeLapse, played

RISKY = "please refund my order, says my solicitor"  # sure, and named by the rule
LONG = "refund " * 17  # one token more than is read
HOUR_S = 3600.0  # far beyond what anything takes here
PRICES = Prices(teacher_usd_per_1000=Decimal("2.5"), instance_usd_per_hour=Decimal("0.36"))


@dataclass
class Told:
    """An observer that remembers what it is told."""

    answers: list[Answer] = field(default_factory=list)

    def answered(self, answer: Answer) -> None:
        """Remember it."""
        self.answers.append(answer)

    def audited(self, audit: Audit) -> None:
        """No audits here."""


class Broken(Student):
    """A student whose model raises."""

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Raise."""
        raise RuntimeError(f"no answer to {len(texts)} texts")


class Picky(Student):
    """A student whose model raises for a batch with the text "poison" in it."""

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Raise, or answer."""
        if "poison" in texts:
            raise RuntimeError("no answer to this")
        return super().predict(texts)


@dataclass
class Room:
    """A cascade's parts, as a test wants them."""

    student: Student
    told: tuple[Told, ...] = (Told(),)
    fail_every: int | None = None
    threshold: float | None = THRESHOLD
    unavailable: Unavailable = field(default_factory=Unavailable)
    prices: Prices = PRICES
    audit_share: float = 0.0
    calls: int = 0
    delay_s: float = 0.0
    deadline_s: float | None = None
    skips_s: float = 0.0  # of time, once the teacher has been asked
    concurrency: int = 8

    def answer(self, *texts: str, wish: Wish = Wish.AUTO) -> list[Answer]:
        """Open the cascade, ask it once, close it."""

        async def work(loop: TimeLapse) -> list[Answer]:
            batcher = Batcher(self.student, [ThreadWorker(self.student)], capacity=8)
            teacher = ScriptedTeacher(
                TASK,
                labels={"intent": "other"},
                fail_every=self.fail_every,
                delay_s=self.delay_s,
            )
            cascade = Cascade(
                task=TASK.name,
                rung=Rung(
                    batcher,
                    EscalationPolicy(
                        threshold=self.threshold,
                        rules=(TextRule("legal", re2.compile("solicitor")),),
                    ),
                ),
                teacher=Guard(teacher, timeout_s=HOUR_S, concurrency=self.concurrency),
                prices=self.prices,
                observers=self.told,
                unavailable=self.unavailable,
                coins=Coins(self.audit_share),
                clock=lambda: 1_700_000_000.0,
            )
            left = self.deadline_s
            deadline = None if left is None else time.perf_counter() + left
            terms = Terms(wish, deadline=deadline)
            try:
                asked = asyncio.ensure_future(
                    cascade.answer([Instance(text) for text in texts], terms)
                )
                if self.skips_s:
                    await loop.skip(self.skips_s, after=lambda: asked.done() or teacher.calls > 0)
                return await asked
            finally:
                self.calls = teacher.calls
                await batcher.close()

        return played(work)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """A student and a teacher that say "refund" and "other"."""
    return Room(Student(open_bundle(tiny_bundle(tmp_path))), told=(Told(), Told()))


def labels(prediction: Prediction | None) -> list[tuple[str, ...]]:
    assert prediction is not None
    return [head.labels for head in prediction.heads]


def test_a_sure_student_answers_and_the_teacher_is_not_asked(room: Room) -> None:
    (answer,) = room.answer(CONFIDENT)
    assert answer.route is Route.STUDENT
    assert answer.decision.reason is Reason.CONFIDENT
    assert answer.prediction is answer.student
    assert labels(answer.prediction) == [("refund",), ()]
    assert answer.teacher is None
    assert room.calls == 0
    assert (answer.task, answer.instance) == ("tickets", Instance(CONFIDENT))
    assert answer.at == 1_700_000_000.0
    assert answer.failure == ""


def test_an_unsure_student_leaves_the_answer_to_the_teacher(room: Room) -> None:
    (answer,) = room.answer(UNSURE)
    assert answer.route is Route.TEACHER
    assert answer.decision.reason is Reason.LOW_CONFIDENCE
    assert answer.prediction is answer.teacher
    assert labels(answer.prediction) == [("other",), ()]
    assert labels(answer.student) == [("refund",), ()]  # kept, for it is compared with


def test_the_instances_of_one_request_each_go_their_own_way_in_order(room: Room) -> None:
    answers = room.answer(CONFIDENT, UNSURE, LONG, RISKY, CONFIDENT)
    assert [answer.instance.text for answer in answers] == [
        CONFIDENT, UNSURE, LONG, RISKY, CONFIDENT,
    ]  # fmt: skip
    assert [answer.decision.reason for answer in answers] == [
        Reason.CONFIDENT,
        Reason.LOW_CONFIDENCE,
        Reason.TRUNCATED,
        Reason.HIGH_RISK,
        Reason.CONFIDENT,
    ]
    assert room.calls == 3


def test_an_empty_request_gets_an_empty_answer(room: Room) -> None:
    assert room.answer() == []
    assert room.told[0].answers == []


def test_every_observer_is_told_of_every_answer_once_and_in_order(room: Room) -> None:
    answers = room.answer(CONFIDENT, UNSURE)
    for told in room.told:
        assert told.answers == answers


@pytest.mark.parametrize("text", [CONFIDENT, UNSURE])
def test_a_caller_may_ask_for_the_student(room: Room, text: str) -> None:
    (answer,) = room.answer(text, wish=Wish.STUDENT)
    assert answer.route is Route.STUDENT
    assert answer.decision.reason is Reason.REQUESTED
    assert room.calls == 0


def test_a_caller_may_ask_for_the_teacher(room: Room) -> None:
    (answer,) = room.answer(CONFIDENT, wish=Wish.TEACHER)
    assert answer.route is Route.TEACHER
    assert answer.decision.reasons == (Reason.REQUESTED,)


def test_a_risky_request_is_not_the_students_even_on_request(room: Room) -> None:
    (answer,) = room.answer(RISKY, wish=Wish.STUDENT)
    assert answer.route is Route.TEACHER
    assert answer.decision.detail == "legal"


def test_an_unsure_answer_stands_when_the_teacher_is_down(room: Room) -> None:
    room.fail_every = 1
    (answer,) = room.answer(UNSURE)
    assert answer.route is Route.FALLBACK
    assert answer.prediction is answer.student
    assert answer.teacher is None
    assert answer.failure == "teacher_unavailable"


def test_a_policy_may_forbid_the_fallback(room: Room) -> None:
    room.fail_every = 1
    room.unavailable = Unavailable(failed=ByRisk(ordinary=Instead.ABSTAIN))
    (unsure,) = room.answer(UNSURE)
    assert unsure.route is Route.ABSTAIN
    assert unsure.prediction is None


def test_a_policy_may_let_a_request_fail_and_then_nobody_is_told_of_any_answer(room: Room) -> None:
    room.fail_every = 2
    room.unavailable = Unavailable(failed=ByRisk(ordinary=Instead.ERROR))
    with pytest.raises(Unanswered, match=r"low_confidence.*teacher_unavailable") as problem:
        room.answer(CONFIDENT, UNSURE, UNSURE)
    assert problem.value.mend == "send the request again later"
    assert room.calls == 2
    assert [told.answers for told in room.told] == [[], []]


@pytest.mark.parametrize("wish", [Wish.AUTO, Wish.STUDENT, Wish.TEACHER])
def test_a_risky_request_never_falls_back(room: Room, wish: Wish) -> None:
    room.fail_every = 1
    (answer,) = room.answer(RISKY, wish=wish)
    assert answer.route is Route.ABSTAIN
    assert answer.prediction is None
    assert answer.student is not None
    assert answer.failure == "teacher_unavailable"


def test_one_failed_call_does_not_touch_the_others_of_the_request(room: Room) -> None:
    room.fail_every = 2
    answers = room.answer(UNSURE, UNSURE, UNSURE)
    assert [answer.route for answer in answers] == [Route.TEACHER, Route.FALLBACK, Route.TEACHER]


def test_the_teacher_answers_for_a_student_that_failed(room: Room) -> None:
    room.student = Broken(room.student.bundle)
    (answer,) = room.answer(CONFIDENT)
    assert answer.route is Route.TEACHER
    assert answer.decision.reasons == (Reason.STUDENT_FAILED,)
    assert answer.student is None
    assert answer.cost.student == 0
    assert (answer.stages.queue, answer.stages.student) == (0.0, 0.0)


def test_a_text_that_the_student_fails_on_takes_no_other_from_it(room: Room) -> None:
    room.student = Picky(room.student.bundle)
    before, failed, after = room.answer(CONFIDENT, "poison", CONFIDENT)
    assert [before.route, after.route] == [Route.STUDENT, Route.STUDENT]
    assert failed.route is Route.TEACHER
    assert failed.decision.reasons == (Reason.STUDENT_FAILED,)
    assert failed.failure == "student_failed"
    assert room.calls == 1


def test_failures_of_student_and_teacher_are_logged_without_the_text(room: Room) -> None:
    room.student = Picky(room.student.bundle)
    room.fail_every = 1
    with structlog.testing.capture_logs() as lines:
        room.answer("poison")
    assert [(line["event"], line["task"], line["code"], line["type"]) for line in lines] == [
        ("student_failed", "tickets", "student_failed", "RuntimeError"),
        ("teacher_failed", "tickets", "teacher_unavailable", "TeacherUnavailable"),
    ]
    assert "poison" not in str(lines)


def test_nobody_answers_when_both_have_failed(room: Room) -> None:
    room.student = Broken(room.student.bundle)
    room.fail_every = 1
    (answer,) = room.answer(CONFIDENT)
    assert answer.route is Route.ABSTAIN
    assert answer.prediction is None
    assert room.told[0].answers == [answer]


def test_without_a_certificate_the_teacher_answers_everything(room: Room) -> None:
    room.threshold = None
    (answer,) = room.answer(CONFIDENT)
    assert answer.route is Route.TEACHER
    assert answer.decision.reason is Reason.NO_CERTIFICATE


def test_costs_are_those_of_who_was_asked(room: Room) -> None:
    room.fail_every = 2
    sure, unsure, failed = room.answer(CONFIDENT, UNSURE, UNSURE)
    assert (sure.cost.teacher, sure.cost.avoided) == (0, 2500)  # 2.5 USD a thousand
    assert (unsure.cost.teacher, unsure.cost.avoided) == (2500, 0)
    assert (failed.cost.teacher, failed.cost.avoided) == (2500, 0)  # asked, so it may be billed
    # 0.36 USD an hour is 100 micro-USD a second of the student.
    assert sure.cost.student == round(100 * sure.stages.busy)
    assert unsure.cost.total == 2500 + round(100 * unsure.stages.busy)


def test_a_call_that_was_never_begun_costs_nothing_and_saves_nothing(room: Room) -> None:
    room.delay_s, room.deadline_s, room.skips_s = 10 * HOUR_S, 60.0, 120.0
    room.concurrency = 1
    begun, waited = room.answer(UNSURE, UNSURE)
    assert (begun.failure, waited.failure) == ("teacher_timeout", "teacher_timeout")
    assert (begun.cost.teacher, begun.cost.avoided) == (2500, 0)
    assert (waited.cost.teacher, waited.cost.avoided) == (0, 0)  # nobody answered in its stead
    room.prices = Prices()
    begun, waited = room.answer(UNSURE, UNSURE)
    assert (begun.cost.teacher, waited.cost.teacher) == (None, 0)


def test_an_unknown_price_stays_unknown(room: Room) -> None:
    room.prices = Prices()
    sure, unsure = room.answer(CONFIDENT, UNSURE)
    assert (sure.cost.student, sure.cost.teacher, sure.cost.avoided) == (None, 0, None)
    assert (unsure.cost.teacher, unsure.cost.avoided, unsure.cost.total) == (None, 0, None)


def test_only_confident_answers_of_the_student_may_be_audited(room: Room) -> None:
    room.audit_share = 0.25
    answers = room.answer(CONFIDENT, UNSURE, RISKY)
    (asked,) = room.answer(CONFIDENT, wish=Wish.STUDENT)
    assert [answer.audit_propensity for answer in (*answers, asked)] == [0.25, 0.0, 0.0, 0.0]


def test_the_stages_are_parts_of_the_whole(room: Room) -> None:
    sure, unsure = room.answer(CONFIDENT, UNSURE)
    for answer in (sure, unsure):
        stages = answer.stages
        assert stages.queue + stages.student + stages.teacher <= stages.total
        assert 0.0 < stages.busy <= stages.student
    assert sure.stages.teacher == 0.0
    assert unsure.stages.teacher > 0.0


def test_an_answer_of_the_student_is_not_booked_with_the_teachers_time(room: Room) -> None:
    room.delay_s = 0.05
    sure, unsure = room.answer(CONFIDENT, UNSURE)
    assert unsure.stages.teacher >= 0.05
    # The teacher was asked after the student's answer stood, and the one total tells so.
    assert sure.stages.total <= unsure.stages.total - unsure.stages.teacher


def test_ids_are_uuids_of_version_7_in_the_order_of_time(room: Room) -> None:
    before, after = (
        [uuid.UUID(answer.id) for answer in room.answer(CONFIDENT, CONFIDENT)] for _ in range(2)
    )
    for identity in (*before, *after):
        assert identity.version == 7
        assert identity.variant == uuid.RFC_4122
    # The first 48 bits are milliseconds: opening a cascade again takes at least one.
    assert max(one.int >> 80 for one in before) <= min(one.int >> 80 for one in after)
    assert len({*before, *after}) == 4


def test_an_id_begins_with_the_time(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.routing.cascade.time.time_ns", lambda: 0x0123_4567_89AB * 10**6)
    (answer,) = room.answer(CONFIDENT)
    assert answer.id.startswith("01234567-89ab-7")


def test_a_full_queue_is_the_callers_to_know(room: Room) -> None:
    with pytest.raises(Overloaded):
        room.answer(*[CONFIDENT] * 9)
    assert room.told[0].answers == []


def test_a_gateway_on_its_way_out_says_so(room: Room) -> None:
    async def work() -> None:
        batcher = Batcher(room.student, [ThreadWorker(room.student)])
        cascade = Cascade(
            task="tickets",
            rung=Rung(batcher, EscalationPolicy(threshold=0.5)),
            teacher=Guard(ScriptedTeacher(TASK, labels={}), timeout_s=30.0, concurrency=8),
            prices=PRICES,
            observers=(),
            unavailable=Unavailable(),
        )
        await batcher.close()
        await cascade.answer([Instance(CONFIDENT)])

    with pytest.raises(Draining):
        asyncio.run(work())


def test_a_deadline_reaches_the_student_and_the_teacher(room: Room) -> None:
    room.delay_s, room.deadline_s, room.skips_s = 10 * HOUR_S, 60.0, 120.0
    (unsure,) = room.answer(UNSURE)  # the teacher would take longer
    assert (unsure.route, unsure.failure) == (Route.FALLBACK, "teacher_timeout")
    room.deadline_s = 1e-9
    with pytest.raises(DeadlinePassed):
        room.answer(CONFIDENT)

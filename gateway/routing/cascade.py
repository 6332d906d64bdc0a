"""The heart: student, policy, teacher if needed, answer, observers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway import identity
from gateway.contract.bundle import Bundle
from gateway.contract.manifest import Head
from gateway.errors import StudentFailed, TeacherError
from gateway.routing.policy import EscalationPolicy
from gateway.routing.unavailable import Unavailable
from gateway.shadow.coins import Coins
from gateway.students.batching import Batcher, Timed
from gateway.students.vacancy import NO_STUDENT, Vacancy
from gateway.teachers.guard import Guard
from gateway.telemetry.audience import Audience
from gateway.telemetry.failures import FailureLog
from gateway.telemetry.pricing import Prices
from gateway.types import (
    Answer,
    Cost,
    Decision,
    Draw,
    Instance,
    Observer,
    Prediction,
    Reason,
    Route,
    Stages,
    Terms,
)

_PLAIN = Terms()
_NO_AUDITS = Coins()
_NOT_DRAWN = Draw()


@dataclass(frozen=True, slots=True)
class Rung:
    """A student and the policy that its certificate belongs to: they are only changed together.

    Where a task has no student, a vacancy stands in its place.
    """

    student: Batcher | Vacancy
    policy: EscalationPolicy

    @property
    def bundle(self) -> Bundle | None:
        """The student's bundle; None: there is no student."""
        student = self.student.student
        return None if student is None else student.bundle

    @property
    def name(self) -> str:
        """The name of the student's bundle, or `no_student`."""
        return NO_STUDENT if (bundle := self.bundle) is None else bundle.name


class Cascade:
    """Answers the requests of one task.

    `rung` may be replaced at any time: each request is answered by the one that it met.
    """

    def __init__(
        self,
        *,
        task: str,
        rung: Rung,
        teacher: Guard,
        prices: Prices,
        observers: Sequence[Observer],
        unavailable: Unavailable,
        coins: Coins = _NO_AUDITS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.task = task
        self.rung = rung
        self.teacher = teacher
        self._prices = prices
        self._audience = Audience(observers)
        self._failures = FailureLog(task)
        self._unavailable = unavailable
        self._coins = coins
        self._clock = clock

    @property
    def heads(self) -> Sequence[Head]:
        """What the task decides; the teacher knows it too where there is no student."""
        return self.teacher.task.heads

    async def answer(self, instances: Sequence[Instance], terms: Terms = _PLAIN) -> list[Answer]:
        """Answer the instances of one request, in their order; observers are told of each.

        Raises Unanswered where one of them is to fail when the teacher cannot answer it: then the
        request fails as a whole, and observers are told of none.
        """
        started = time.perf_counter()
        rung = self.rung
        first = await self._ask_student(rung.student, instances, terms)
        now = self._clock()
        decisions = [
            rung.policy.decide(instance, timed.prediction if timed else None, terms.wish, now=now)
            for instance, timed in zip(instances, first, strict=True)
        ]
        decided = time.perf_counter()  # what needs no teacher ends here, whoever else has to wait
        second = await self._ask_teacher(instances, first, decisions, terms.deadline)
        answers = [
            self._settle(
                instance,
                timed,
                decision,
                taught,
                total=(taught.ended if taught else decided) - started,
            )
            for instance, timed, decision, taught in zip(
                instances, first, decisions, second, strict=True
            )
        ]
        for answer in answers:
            self._audience.answered(answer)
        return answers

    async def _ask_student(
        self, student: Batcher | Vacancy, instances: Sequence[Instance], terms: Terms
    ) -> list[Timed | None]:
        """The student's word on each instance; None where it failed, or where there is none."""
        said = await student.submit([instance.text for instance in instances], terms)
        for each in said:
            if isinstance(each, StudentFailed):
                self._failures.tell("student", each)
        return [each if isinstance(each, Timed) else None for each in said]

    async def _ask_teacher(
        self,
        instances: Sequence[Instance],
        first: Sequence[Timed | None],
        decisions: Sequence[Decision],
        deadline: float | None,
    ) -> list[_Taught | None]:
        """The teacher's word on the escalated instances, asked side by side; None elsewhere."""
        if not any(decision.escalate for decision in decisions):
            return [None] * len(instances)
        asked = [
            self._teach(instance, timed, deadline) if decision.escalate else _nothing()
            for instance, timed, decision in zip(instances, first, decisions, strict=True)
        ]
        return list(await asyncio.gather(*asked))

    async def _teach(
        self, instance: Instance, timed: Timed | None, deadline: float | None
    ) -> _Taught:
        started = time.perf_counter()
        hint = timed.prediction if timed else None
        try:
            said = await self.teacher.answer(instance, hint=hint, deadline=deadline)
        except TeacherError as error:
            self._failures.tell("teacher", error)
            cost, ended = error.bill(self._prices.teacher_call), time.perf_counter()
            return _Taught(None, started, ended, failure=error.code, asked=error.asked, cost=cost)
        cost = said.bill(self._prices.teacher_call)
        ended = time.perf_counter()
        return _Taught(said.prediction, started, ended, asked=said.asked, cost=cost)

    def _settle(
        self,
        instance: Instance,
        timed: Timed | None,
        decision: Decision,
        taught: _Taught | None,
        *,
        total: float,
    ) -> Answer:
        student = timed.prediction if timed else None
        teacher = taught.prediction if taught else None
        if not decision.escalate:
            route = Route.STUDENT
        elif teacher is not None:
            route = Route.TEACHER
        else:
            route = self._unavailable.route(decision, student, taught.failure if taught else "")
        prediction = {
            Route.STUDENT: student,
            Route.FALLBACK: student,
            Route.TEACHER: teacher,
            Route.ABSTAIN: None,
        }[route]
        confident = route is Route.STUDENT and decision.reason is Reason.CONFIDENT
        draw = _NOT_DRAWN
        if route is Route.TEACHER or (confident and student):
            draw = self._coins.toss(student.score if confident and student else None)
        return Answer(
            id=identity.answer_id(),
            task=self.task,
            instance=instance,
            prediction=prediction,
            route=route,
            decision=decision,
            student=student,
            teacher=teacher,
            cost=self._cost(timed, taught),
            stages=Stages(
                queue=timed.queue if timed else 0.0,
                student=timed.batch if timed else 0.0,
                busy=timed.share if timed else 0.0,
                teacher=taught.ended - taught.started if taught else 0.0,
                total=total,
            ),
            at=self._clock(),
            audit_propensity=draw.propensity,
            audit_uniform=draw.uniform,
            coin=draw.coin,
            auditable=draw.open,
            failure=(taught.failure if taught else "") or _failure(decision),
        )

    def _cost(self, timed: Timed | None, taught: _Taught | None) -> Cost:
        call = self._prices.teacher_call
        asked = taught is not None and taught.asked  # whatever came of it: it may be billed
        failed = taught is not None and taught.prediction is None  # nothing was saved
        return Cost(
            student=self._prices.student_time(timed.share) if timed else 0,
            teacher=_known(taught.cost, call) if taught and asked else 0,
            avoided=0 if asked or failed else call,
        )


@dataclass(frozen=True, slots=True)
class _Taught:
    """What came of an escalation: the teacher's prediction, or the code of the error.

    Not `asked`: no call was begun for it, for want of time or of a place, or as there was no need.
    """

    prediction: Prediction | None
    started: float  # as time.perf_counter gives it
    ended: float
    failure: str = ""
    asked: bool = True
    cost: int | None = None  # micro-USD, where the teacher knows it


def _failure(decision: Decision) -> str:
    """The code of the error that kept the student from speaking; empty: there was none."""
    return StudentFailed.code if Reason.STUDENT_FAILED in decision.reasons else ""


def _known(cost: int | None, usual: int | None) -> int | None:
    return usual if cost is None else cost


async def _nothing() -> None:
    return None

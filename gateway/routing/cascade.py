"""The heart: student, policy, teacher if needed, answer, observers."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.errors import StudentFailed, TeacherError
from gateway.routing.policy import EscalationPolicy
from gateway.students.batching import Batcher, Timed
from gateway.teachers.base import Teacher
from gateway.telemetry.audience import Audience
from gateway.telemetry.failures import FailureLog
from gateway.telemetry.pricing import Prices
from gateway.types import (
    Answer,
    Cost,
    Decision,
    Instance,
    Observer,
    Prediction,
    Reason,
    Route,
    Stages,
    Wish,
)


@dataclass(frozen=True, slots=True)
class OnUnavailable:
    """What happens when the teacher cannot answer: does the student's answer stand?"""

    ordinary: bool = True
    high_risk: bool = False  # a risky request never falls back unless a person said so


class Cascade:
    """Answers the requests of one task."""

    def __init__(
        self,
        *,
        task: str,
        student: Batcher,
        teacher: Teacher,
        policy: EscalationPolicy,
        prices: Prices,
        observers: Sequence[Observer],
        fallback: OnUnavailable,
        audit_share: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.task = task
        self.student = student
        self.teacher = teacher
        self.policy = policy
        self._prices = prices
        self._audience = Audience(observers)
        self._failures = FailureLog(task)
        self._fallback = fallback
        self._audit_share = audit_share
        self._clock = clock

    async def answer(self, instances: Sequence[Instance], wish: Wish = Wish.AUTO) -> list[Answer]:
        """Answer the instances of one request, in their order; observers are told of each."""
        started = time.perf_counter()
        first = await self._ask_student(instances)
        decisions = [
            self.policy.decide(instance, timed.prediction if timed else None, wish)
            for instance, timed in zip(instances, first, strict=True)
        ]
        decided = time.perf_counter()  # what needs no teacher ends here, whoever else has to wait
        second = await self._ask_teacher(instances, decisions)
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

    async def _ask_student(self, instances: Sequence[Instance]) -> list[Timed | None]:
        """The student's word on each instance; None where it failed."""
        said = await self.student.submit([instance.text for instance in instances])
        for each in said:
            if isinstance(each, StudentFailed):
                self._failures.tell("student", each)
        return [each if isinstance(each, Timed) else None for each in said]

    async def _ask_teacher(
        self, instances: Sequence[Instance], decisions: Sequence[Decision]
    ) -> list[_Taught | None]:
        """The teacher's word on the escalated instances, asked side by side; None elsewhere."""
        if not any(decision.escalate for decision in decisions):
            return [None] * len(instances)
        asked = [
            self._teach(instance) if decision.escalate else _nothing()
            for instance, decision in zip(instances, decisions, strict=True)
        ]
        return list(await asyncio.gather(*asked))

    async def _teach(self, instance: Instance) -> _Taught:
        started = time.perf_counter()
        try:
            prediction = await self.teacher.answer(instance)
        except TeacherError as error:
            self._failures.tell("teacher", error)
            return _Taught(None, started, time.perf_counter(), error.code)
        return _Taught(prediction, started, time.perf_counter())

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
        route = self._route(decision, student, teacher)
        prediction = {
            Route.STUDENT: student,
            Route.FALLBACK: student,
            Route.TEACHER: teacher,
            Route.ABSTAIN: None,
        }[route]
        confident = route is Route.STUDENT and decision.reason is Reason.CONFIDENT
        return Answer(
            id=_time_ordered_id(),
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
            audit_propensity=self._audit_share if confident else 0.0,
            failure=(taught.failure if taught else "") or ("" if timed else StudentFailed.code),
        )

    def _route(
        self, decision: Decision, student: Prediction | None, teacher: Prediction | None
    ) -> Route:
        if not decision.escalate:
            return Route.STUDENT
        if teacher is not None:
            return Route.TEACHER
        risky = Reason.HIGH_RISK in decision.reasons
        stands = self._fallback.high_risk if risky else self._fallback.ordinary
        return Route.FALLBACK if stands and student is not None else Route.ABSTAIN

    def _cost(self, timed: Timed | None, taught: _Taught | None) -> Cost:
        call = self._prices.teacher_call()
        return Cost(
            student=self._prices.student_time(timed.share) if timed else 0,
            teacher=call if taught else 0,
            avoided=0 if taught else call,
        )


@dataclass(frozen=True, slots=True)
class _Taught:
    """What came of asking the teacher: a prediction, or the code of the error."""

    prediction: Prediction | None
    started: float  # as time.perf_counter gives it
    ended: float
    failure: str = ""


async def _nothing() -> None:
    return None


def _time_ordered_id() -> str:
    """A UUID of version 7 (RFC 9562): sorts by time, so that inserts stay at the index's end."""
    milliseconds = time.time_ns() // 1_000_000
    rest = uuid.uuid4().int
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | (rest >> 64 & 0xFFF) << 64
    return str(uuid.UUID(int=value | 0b10 << 62 | rest & (1 << 62) - 1))

"""The heart: student, policy, teacher if needed, answer, observers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway import identity
from gateway.contract.manifest import Head
from gateway.errors import StudentFailed, TeacherError
from gateway.routing.canary import Canary
from gateway.routing.policy import EscalationPolicy
from gateway.routing.rung import Rung
from gateway.routing.unavailable import Unavailable
from gateway.shadow.coins import Coins
from gateway.students.batching import Timed
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


def _never() -> bool:
    return False


class Cascade:
    """Answers the requests of one task.

    `rung` may be replaced at any time, and so may the `canary` beside it, which answers the
    instances that it takes: each is answered by the rung that it met, and by no other. `stale` says
    whether certificates are void for what traffic has become, `strict` whether policies are to be
    strict for it.
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
        canary: Canary | None = None,
        stale: Callable[[], bool] = _never,
        strict: Callable[[], bool] = _never,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.task = task
        self.rung = rung
        self.canary = canary
        self.teacher = teacher
        self._prices = prices
        self._audience = Audience(observers)
        self._failures = FailureLog(task)
        self._unavailable = unavailable
        self.coins = coins
        self.stale = stale
        self._strict = strict
        self._clock = clock

    @property
    def heads(self) -> Sequence[Head]:
        """What the task decides; the teacher knows it too where there is no student."""
        return self.teacher.task.heads

    def policy(self, rung: Rung | None = None) -> EscalationPolicy:
        """By what a rung's answers are judged now; without one, those of `rung`."""
        found = (rung or self.rung).policy
        return found.strict if self._strict() else found

    async def answer(self, instances: Sequence[Instance], terms: Terms = _PLAIN) -> list[Answer]:
        """Answer the instances of one request, in their order; observers are told of each.

        Raises Unanswered where one of them is to fail when the teacher cannot answer it: then the
        request fails as a whole, and observers are told of none.
        """
        started = time.perf_counter()
        rungs = self._rungs(instances)
        first = await self._ask_students(rungs, instances, terms)
        now, stale = self._clock(), self.stale()
        decisions = [
            self.policy(rung).decide(
                instance, timed.prediction if timed else None, terms.wish, now=now, stale=stale
            )
            for rung, instance, timed in zip(rungs, instances, first, strict=True)
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

    def _rungs(self, instances: Sequence[Instance]) -> list[Rung]:
        """Which rung answers each instance."""
        rung, canary = self.rung, self.canary
        if canary is None:
            return [rung] * len(instances)
        return [canary.rung if canary.takes(instance) else rung for instance in instances]

    async def _ask_students(
        self, rungs: Sequence[Rung], instances: Sequence[Instance], terms: Terms
    ) -> list[Timed | None]:
        """Each rung's student on its instances; None where it failed, or where there is none."""
        texts: dict[int, dict[int, str]] = {}  # of each rung: its texts by their place
        for number, (rung, instance) in enumerate(zip(rungs, instances, strict=True)):
            texts.setdefault(id(rung), {})[number] = instance.text
        heard: list[Timed | None] = [None] * len(instances)
        asked: list[asyncio.Future[Sequence[Timed | StudentFailed | None]]] = []
        try:
            for mine in texts.values():
                student = rungs[next(iter(mine))].student
                asked.append(asyncio.ensure_future(student.submit(list(mine.values()), terms)))
            for mine, said in zip(texts.values(), asked, strict=True):
                for number, each in zip(mine, await said, strict=True):
                    if isinstance(each, StudentFailed):
                        self._failures.tell("student", each)
                    heard[number] = each if isinstance(each, Timed) else None
        except BaseException:
            for said in asked:
                said.cancel()
            raise
        return heard

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
            draw = self.coins.toss(student.score if confident and student else None)
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

"""The audit: a random share of confident answers also goes to the teacher, after the reply.

Without it the error of what the student serves is never measured, for only unsure requests reach
the teacher. Which answers are drawn is on them already (gateway/shadow/coins.py), with the
probability, so that estimates can be weighted.

A live escalation comes first. While the teacher has no free place, is left alone because its calls
fail, or there is no money, `ready` says so and no coin is tossed: what is known beforehand chooses
nothing. Where it turns out only after the draw, the audit waits for a place that nobody else wants,
and in the end is skipped. A skipped audit voids its answer, which was drawn and yet has no
teacher's view: the coin is on its record, and no audit is. Whoever measures is told, for such an
answer must not count as right.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum

from gateway.errors import BudgetExhausted, TeacherError
from gateway.teachers.breaker import State
from gateway.teachers.guard import Guard
from gateway.telemetry.audience import Audience
from gateway.telemetry.pricing import Prices
from gateway.types import Answer, Audit, Observer, Priority

_IN_FLIGHT = 32  # audits at once; while there are so many no more are drawn
_LOOK_S = 0.02  # seconds between two looks for a free place: an audit is in no hurry
_PATIENCE_S = 10.0  # seconds that an audit waits for one
_POOR_S = 10.0  # seconds without a draw after one that there was no money for


class Skip(StrEnum):
    """Why an audit that was drawn did not take place."""

    BUSY = "busy"  # the teacher had no free place for so long
    DOWN = "down"  # the teacher is left alone, for its last calls failed
    FAILED = "failed"  # the teacher gave no usable answer


class Auditor:
    """Shows drawn answers to the teacher, and tells the observers. It is itself an observer.

    `skipped` is told of each answer that was drawn and has no teacher's view after all.
    """

    def __init__(
        self,
        *,
        teacher: Guard,
        prices: Prices,
        observers: Sequence[Observer],
        skipped: Callable[[Answer], None],
    ) -> None:
        self._teacher = teacher
        self._prices = prices
        self._audience = Audience(observers)
        self._told_of_skips = [skipped]
        self._running: set[asyncio.Task[None]] = set()
        self._poor_until = 0.0  # as time.perf_counter gives it
        self.skipped = Counter(dict.fromkeys(Skip, 0))

    @property
    def ready(self) -> bool:
        """Whether an audit could be made now, as far as can be known without trying."""
        return (
            len(self._running) < _IN_FLIGHT
            and not self._teacher.busy
            and self._teacher.state is State.CLOSED
            and time.perf_counter() >= self._poor_until
        )

    def answered(self, answer: Answer) -> None:
        """Begin the audit of an answer that was drawn; it runs in the background."""
        if answer.coin is None:
            return
        task = asyncio.get_running_loop().create_task(self._audit(answer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def audited(self, audit: Audit) -> None:
        """The auditor's own word; nothing to do."""

    def follow(self, teacher: Guard, prices: Prices) -> None:
        """Ask this teacher from now on, at these prices."""
        self._teacher = teacher
        self._prices = prices

    def tell_skips(self, told: Callable[[Answer], None]) -> None:
        """From now on that one is told of skipped audits too."""
        self._told_of_skips.append(told)

    async def close(self) -> None:
        """Wait for the audits that run."""
        if self._running:
            await asyncio.wait(self._running)

    async def _audit(self, answer: Answer) -> None:
        patience = time.perf_counter() + _PATIENCE_S
        while self._teacher.busy:  # looked at here, where the audits before this hold their places
            if time.perf_counter() >= patience:
                self._skip(answer, Skip.BUSY)
                return
            await asyncio.sleep(_LOOK_S)
        if self._teacher.state is not State.CLOSED:  # the one call that may try is a live one
            self._skip(answer, Skip.DOWN)
            return
        started = time.perf_counter()
        try:
            said = await self._teacher.answer(
                answer.instance, hint=answer.student, priority=Priority.AUDIT
            )
        except TeacherError as error:
            if isinstance(error, BudgetExhausted):
                self._poor_until = time.perf_counter() + _POOR_S
            self._skip(answer, Skip.FAILED)
            return
        audit = Audit(
            answer=answer,
            teacher=said.prediction,
            cost=said.bill(self._prices.teacher_call),
            seconds=time.perf_counter() - started,
        )
        self._audience.audited(audit)

    def _skip(self, answer: Answer, cause: Skip) -> None:
        self.skipped[cause] += 1
        for told in self._told_of_skips:
            told(answer)

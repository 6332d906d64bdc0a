"""The audit: a random share of confident answers also goes to the teacher, after the reply.

Without it the error of what the student serves is never measured, for only unsure requests reach
the teacher. The share is on every answer as its propensity, so that estimates can be weighted.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from gateway.errors import TeacherError
from gateway.teachers.base import Teacher
from gateway.telemetry.audience import Audience
from gateway.telemetry.pricing import Prices
from gateway.types import Answer, Audit, Observer

_IN_FLIGHT = 32  # audits at once; more are skipped and counted, live escalations come first


class Auditor:
    """Draws answers, asks the teacher, tells the observers. It is itself an observer."""

    def __init__(
        self,
        *,
        teacher: Teacher,
        prices: Prices,
        observers: Sequence[Observer],
        random_source: random.Random,
    ) -> None:
        self._teacher = teacher
        self._prices = prices
        self._audience = Audience(observers)
        self._random = random_source
        self._running: set[asyncio.Task[None]] = set()
        self.skipped = 0

    def answered(self, answer: Answer) -> None:
        """Flip the coin; on heads the audit runs in the background."""
        if self._random.random() >= answer.audit_propensity:
            return
        if len(self._running) >= _IN_FLIGHT:
            self.skipped += 1
            return
        task = asyncio.get_running_loop().create_task(self._audit(answer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def audited(self, audit: Audit) -> None:
        """The auditor's own word; nothing to do."""

    async def close(self) -> None:
        """Wait for the audits that run."""
        if self._running:
            await asyncio.wait(self._running)

    async def _audit(self, answer: Answer) -> None:
        started = time.perf_counter()
        try:
            prediction = await self._teacher.answer(answer.instance)
        except TeacherError:
            self.skipped += 1
            return
        audit = Audit(
            answer=answer,
            teacher=prediction,
            cost=self._prices.teacher_call(),
            seconds=time.perf_counter() - started,
        )
        self._audience.audited(audit)

"""The audit: a random share of confident answers also goes to the teacher, after the reply.

Without it the error of what the student serves is never measured, for only unsure requests reach
the teacher. The share is on every answer as its propensity, so that estimates can be weighted.

A live escalation comes first: an audit never waits for the teacher, it is skipped. A skipped audit
voids the propensity of its answer, which was drawn and yet has no teacher's view; the counts of
skipped audits tell how many answers that is true of.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from gateway.errors import TeacherError
from gateway.teachers.guard import Guard
from gateway.telemetry.audience import Audience
from gateway.telemetry.pricing import Prices
from gateway.types import Answer, Audit, Observer

_IN_FLIGHT = 32  # audits at once; more are skipped and counted, live escalations come first


class Skip(StrEnum):
    """Why an audit that was drawn did not take place."""

    BUSY = "busy"  # too many audits at once, or the teacher had no free place
    FAILED = "failed"  # the teacher gave no usable answer


class Auditor:
    """Draws answers, asks the teacher, tells the observers. It is itself an observer."""

    def __init__(
        self,
        *,
        teacher: Guard,
        prices: Prices,
        observers: Sequence[Observer],
        random_source: random.Random,
    ) -> None:
        self._teacher = teacher
        self._prices = prices
        self._audience = Audience(observers)
        self._random = random_source
        self._running: set[asyncio.Task[None]] = set()
        self.skipped = Counter(dict.fromkeys(Skip, 0))

    def answered(self, answer: Answer) -> None:
        """Flip the coin; on heads the audit runs in the background."""
        if self._random.random() >= answer.audit_propensity:
            return
        if len(self._running) >= _IN_FLIGHT:
            self.skipped[Skip.BUSY] += 1
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

    async def close(self) -> None:
        """Wait for the audits that run."""
        if self._running:
            await asyncio.wait(self._running)

    async def _audit(self, answer: Answer) -> None:
        if self._teacher.busy:  # looked at here, where the audits before this one hold their places
            self.skipped[Skip.BUSY] += 1
            return
        started = time.perf_counter()
        try:
            said = await self._teacher.answer(answer.instance)
        except TeacherError:
            self.skipped[Skip.FAILED] += 1
            return
        audit = Audit(
            answer=answer,
            teacher=said.prediction,
            cost=self._prices.teacher_call if said.cost is None else said.cost,
            seconds=time.perf_counter() - started,
        )
        self._audience.audited(audit)

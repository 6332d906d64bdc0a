"""Whatever becomes of the teacher: what the student answers alone is answered, and it is spared."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.teachers.faults import (
    CLOSE,
    HANG,
    MODEL,
    OK,
    RESET,
    Choose,
    FaultServer,
    Phase,
    http,
    limited,
    turns,
)
from gateway.teachers.garbage import GARBAGE
from tests.acceptance.conftest import Starter
from tests.acceptance.process import TIMEOUT_S, Process
from tests.factories import CONFIDENT, UNSURE
from tests.patience import until

pytestmark = pytest.mark.acceptance

OPEN_S = 1.0  # between two calls that try whether the teacher is back
CLOSED = 0  # what the metric of the breaker says while calls are let through
ROUNDS = 40  # escalations, and as many confident requests, while the teacher is down
ASIDE = 4  # requests at once


def answering(choose: Choose) -> Callable[[FaultServer], Awaitable[None]]:
    """A server that answers every call so."""

    async def fail(upstream: FaultServer) -> None:
        await upstream.follow(Phase(choose))

    return fail


async def refuse(upstream: FaultServer) -> None:
    """A port that is closed."""
    await upstream.follow(Phase(None))


FAULTS = {
    "refused": refuse,
    "reset": answering(turns(RESET)),
    "closed": answering(turns(CLOSE)),
    "hanging": answering(turns(HANG)),
    "500": answering(turns(http(500))),
    "503": answering(turns(http(503))),
    "429": answering(turns(limited(1.0))),
    "garbage": answering(turns(*GARBAGE)),
}
# Seconds for a call, where nothing else ends it, or some of them.
HURRIED = {"hanging": 0.5, "garbage": 5.0}
# Much as "503" is, or as other tests have it: not in each run of the tests.
ALIKE = {"closed", "500", "refused", "reset", "garbage"}


class Drill:
    """A gateway before a teacher that fails as it is told, and what came of requests to it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._numbers = itertools.count()

    async def attempts(self) -> Counter[str]:
        """The calls that were begun, by outcome."""
        found = await self._metric("understudy_teacher_attempts_total")
        return Counter({labels["outcome"]: int(value) for labels, value in found if value})

    async def state(self) -> float:
        """The breaker's."""
        ((_, value),) = await self._metric("understudy_breaker_state")
        return value

    async def escalate(self) -> str:
        """The route of a request of which the student is not sure; no two are the same."""
        return await asyncio.to_thread(self.escalate_now)

    async def confident(self) -> str:
        """The route of a request that needs no teacher."""
        return await asyncio.to_thread(self._route, CONFIDENT)

    def escalate_now(self) -> str:
        """The same, for a thread of its own."""
        return self._route(f"{UNSURE} {next(self._numbers)}")

    def _route(self, text: str) -> str:
        route: str = self._process.ask(text)["route"]
        return route

    async def _metric(self, name: str) -> list[tuple[dict[str, str], float]]:
        async with httpx2.AsyncClient(timeout=TIMEOUT_S) as client:
            text = (await client.get(f"{self._process.url}/metrics")).text
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        ]


async def many(ask: Callable[[], Awaitable[str]], times: int) -> Counter[str]:
    """What came of so many requests, a few of them at once."""
    routes: Counter[str] = Counter()
    numbers = iter(range(times))

    async def one() -> None:
        for _ in numbers:
            routes[await ask()] += 1

    await asyncio.gather(*(one() for _ in range(ASIDE)))
    return routes


async def is_well(drill: Drill, *, hurried: bool) -> None:
    """The teacher answers. A busy machine may cut a call in a hurry short: then the next counts."""
    if not hurried:
        assert await many(drill.escalate, 8) == {"teacher": 8}
        return
    for _ in range(8):
        await asyncio.to_thread(until, lambda: drill.escalate_now() == "teacher")


def settings(url: str, *, timeout_s: float) -> dict[str, Any]:
    return {
        "openai": {"url": url, "model": MODEL},
        "timeout_s": timeout_s,
        "breaker": {"open_s": OPEN_S, "slow_s": TIMEOUT_S},  # however slow: what counts is failures
    }


@pytest.mark.parametrize(
    "fault",
    [pytest.param(each, marks=pytest.mark.soak if each in ALIKE else ()) for each in FAULTS],
)
def test_a_teacher_that_fails_costs_no_confident_request_and_is_spared(
    start: Starter, fault: str
) -> None:
    async def work() -> None:
        async with FaultServer() as upstream:
            hurried = fault in HURRIED
            teacher = settings(upstream.url, timeout_s=HURRIED.get(fault, TIMEOUT_S))
            drill = Drill(await asyncio.to_thread(start, teacher=teacher))
            await is_well(drill, hurried=hurried)
            well = await drill.attempts()
            await FAULTS[fault](upstream)
            before = 0
            while await drill.state() == CLOSED:
                assert await drill.escalate() == "fallback"
                before += 1
            assert (await drill.attempts() - well).total() <= 5  # so many failures open it
            escalated = asyncio.create_task(many(drill.escalate, ROUNDS))
            assert await many(drill.confident, ROUNDS) == {"student": ROUNDS}
            assert await escalated == {"fallback": ROUNDS}  # nothing of it became an answer
            begun = await drill.attempts() - well
            assert begun["ok"] == 0
            assert begun.total() <= 1.1 * (before + ROUNDS)
            await upstream.follow(Phase(turns(OK)))
            await asyncio.to_thread(until, lambda: drill.escalate_now() == "teacher")
            assert await drill.state() == CLOSED
            await is_well(drill, hurried=hurried)

    asyncio.run(work())


def test_no_reply_that_is_no_answer_becomes_one(start: Starter) -> None:
    """With a breaker that never opens each case reaches the gateway."""

    async def work() -> None:
        async with FaultServer(turns(*GARBAGE)) as upstream:
            teacher = settings(upstream.url, timeout_s=1.0) | {
                "retries": 0,
                "breaker": {"failures": 1000, "calls": 1000},
            }
            process = await asyncio.to_thread(start, teacher=teacher)
            drill = Drill(process)
            asked = len(GARBAGE)
            assert await many(drill.escalate, asked) == {"fallback": asked}
            while {fault.name for fault in GARBAGE} - set(upstream.calls):
                # A busy machine takes a second to connect: then a call is given up unheard.
                assert await drill.escalate() == "fallback"
                asked += 1
            attempts = await drill.attempts()
            assert attempts["ok"] == 0
            assert attempts.total() == asked
            assert await asyncio.to_thread(process.leave) == 0
            assert {record.teacher_labels for record in process.records()} == {None}

    assert len(GARBAGE) >= 30
    asyncio.run(work())

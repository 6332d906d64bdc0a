"""Two gateways on one server: what they may ask their teacher together is exact."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tests.acceptance.conftest import Starter
from tests.acceptance.process import Process
from tests.factories import UNSURE, settings_file
from tests.patience import until
from tests.postgres import Cluster, cluster

__all__ = ["cluster"]

pytestmark = pytest.mark.acceptance

CALLS = 100  # that the budget allows
EACH = 500  # requests to each gateway


async def routes(process: Process) -> Counter[str]:
    """By whom so many requests at once were answered; no two of them are the same."""
    limits = httpx2.Limits(max_connections=EACH)
    # The last of so many is answered late: the test's time limit ends the wait.
    async with httpx2.AsyncClient(limits=limits, timeout=None) as client:

        async def ask(number: int) -> str:
            body = {"input": f"{UNSURE} {number}"}
            reply = await client.post(f"{process.url}/v1/predict", json=body)
            assert reply.status_code == 200, reply.text + process.log
            route: str = reply.json()["route"]
            return route

        return Counter(await asyncio.gather(*(ask(number) for number in range(EACH))))


def test_of_a_thousand_requests_to_two_gateways_exactly_a_hundred_reach_the_teacher(
    start: Starter, cluster: Cluster, tmp_path: Path
) -> None:
    records = {"url": cluster.new_database()}
    task = {
        "prices": {"teacher_usd_per_1000": 1},  # 1,000 micro-USD a call
        "budget": {"usd_per_day": CALLS * 0.001},
        "student": {"max_wait_ms": 60_000},
        "teacher": {"timeout_s": 60},  # a machine that stands still makes no call a late one
    }
    server = {"receipt_s": 60}  # a client with so many connections is slow to speak on the first
    gateways = [
        start(
            config=settings_file(
                tmp_path / name, run_in="threads", records=records, server=server, tickets=task
            )
        )
        for name in ("one", "two")
    ]

    async def ask_both() -> Counter[str]:
        one, two = await asyncio.gather(*(routes(each) for each in gateways))
        return one + two

    assert asyncio.run(ask_both()) == {"teacher": CALLS, "fallback": 2 * EACH - CALLS}
    whole = CALLS * 1000
    for each in gateways:  # the last calls are settled after their replies
        until(partial(settled, each))
        assert day(each) == {"limit": whole, "spent": whole, "reserved": 0, "remaining": 0}


def settled(process: Process) -> bool:
    """Whether no call of either gateway is still to be settled."""
    return day(process).get("reserved") == 0


def day(process: Process) -> dict[str, int]:
    """What has become of the day's budget; nothing before the ledger has said it in time."""
    found: dict[str, int] = process.stats()["tasks"]["tickets"]["budget"]["windows"].get("day", {})
    return found

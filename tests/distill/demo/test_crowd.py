"""The customers: they keep their rate, count every fate of a ticket, and know the gold labels."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import repeat

import httpx2
import pytest

from distill.demo import crowd, show
from distill.demo.crowd import Seen, gold
from distill.demo.tickets import Ticket
from distill.demo.traffic import traffic
from tests.acceptance import shop as shops

RATE = 50.0  # requests a second
SECONDS = 2.0
TICKET = Ticket("where is it", "order_status", "normal", ("refund",), 20.0, "c-1", "plain")
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real gateway, in a process of its own, on a trained student and teacher."""
    folder = shops.trained(tmp_path_factory).copy(tmp_path_factory.mktemp("crowd"))
    with show._gateway(folder) as address:
        yield address


def sent(url: str, tickets: Iterator[Ticket], *, rate: float, until: Seen) -> Seen:
    """Send tickets until as many are sent, or have been answered, as `until` says."""
    seen = Seen()

    async def send() -> None:
        stop = asyncio.Event()
        sending = asyncio.create_task(crowd.send(url, tickets, rate=rate, seen=seen, stop=stop))
        while seen.sent < until.sent or seen.turned_away < until.turned_away:
            await asyncio.sleep(1 / rate)
        stop.set()
        await sending

    asyncio.run(send())
    return seen


@pytest.mark.slow
def test_a_gateway_answers_the_crowd(url: str) -> None:
    asked: list[Ticket] = []

    def noted() -> Iterator[Ticket]:
        for ticket in traffic(seed=0):
            asked.append(ticket)
            yield ticket

    seen = sent(url, noted(), rate=RATE, until=Seen(sent=int(RATE * SECONDS)))
    assert seen.sent >= RATE * SECONDS
    assert (seen.failed, seen.turned_away) == (0, 0)
    assert seen.answered == seen.sent == len(asked)
    assert seen.routes.total() == seen.answered
    assert seen.first_answer_at is not None
    assert len(seen.latest) == 5
    # The same texts again, compared by hand: both models are deterministic.
    inputs = [
        {"text": each.text, "fields": {} if each.amount is None else {"amount": each.amount}}
        for each in asked
    ]
    body = {"inputs": inputs}
    found = httpx2.post(f"{url}/v1/predict", json=body, timeout=60).json()["results"]
    right = sum(
        reply["labels"]["intent"] == each.intent
        and reply["labels"]["urgency"] == each.urgency
        and tuple(reply["labels"]["risk"]) == each.risk
        for each, reply in zip(asked, found, strict=True)
    )
    assert seen.right == right


def test_gold_labels_have_the_form_of_a_reply() -> None:
    assert gold(TICKET) == {"intent": "order_status", "urgency": "normal", "risk": ["refund"]}


def test_a_gateway_that_is_gone_is_counted_as_failure() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        seen = sent(address, repeat(TICKET), rate=200.0, until=Seen(sent=5))
    assert seen.failed == seen.sent
    assert seen.first_answer_at is None


def test_a_refusal_is_counted_as_failure() -> None:
    async def scene() -> Seen:
        seen, stop = Seen(), asyncio.Event()
        async with _server(asyncio.Event()) as (address, release):
            release.set()
            asyncio.get_running_loop().call_later(0.05, stop.set)
            await crowd.send(address, repeat(TICKET), rate=100.0, seen=seen, stop=stop)
        return seen

    seen = asyncio.run(scene())
    assert seen.sent > 0
    assert seen.failed == seen.sent
    assert not seen.routes


def test_who_finds_too_many_before_him_is_turned_away() -> None:
    async def scene() -> Seen:
        seen, stop = Seen(), asyncio.Event()
        async with _server(asyncio.Event()) as (address, release):
            sending = asyncio.create_task(
                crowd.send(address, repeat(TICKET), rate=2000.0, seen=seen, stop=stop)
            )
            while not seen.turned_away:
                await asyncio.sleep(0.01)
            stop.set()
            release.set()
            await sending
        return seen

    seen = asyncio.run(scene())
    assert seen.failed == crowd._IN_FLIGHT
    assert seen.sent == seen.failed + seen.turned_away


@asynccontextmanager
async def _server(release: asyncio.Event) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """What stands in for a gateway in trouble: silent until released, then it refuses."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() not in {b"\r\n", b""}:
            continue
        await release.wait()
        writer.write(BUSY)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0, backlog=512) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", release

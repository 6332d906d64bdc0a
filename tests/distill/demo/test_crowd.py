"""The customers: they keep their rate, count every fate of a ticket, and know the gold labels."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice, repeat

import httpx2
import pytest

from distill.demo import crowd, house
from distill.demo.crowd import Seen, gold
from distill.demo.tickets import Ticket
from distill.demo.traffic import traffic
from tests.acceptance import shop as shops
from tests.patience import eventually

RATE = 50.0  # requests a second
COUNT = 100  # two seconds of them
TICKET = Ticket("where is it", "order_status", "normal", ("refund",), 20.0, "c-1", "plain")
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real gateway, in a process of its own, on a trained student and teacher."""
    folder = shops.trained(tmp_path_factory).copy(tmp_path_factory.mktemp("crowd"))
    with house.gateway(folder) as address:
        yield address


def sent(url: str, tickets: Iterator[Ticket], *, rate: float, count: int) -> Seen:
    """Send this many tickets, of customers who wait where the machine is slow."""
    seen = Seen()

    async def send() -> None:
        stop = asyncio.Event()
        told = _until(stop, tickets, count)
        await crowd.send(url, told, rate=rate, seen=seen, stop=stop, patient=True)

    asyncio.run(send())
    return seen


def answered_right(url: str, ticket: Ticket) -> bool:
    """Whether the gateway says of a ticket what its gold labels say."""
    body = {"input": ticket.text} | ({"fields": {"amount": ticket.amount}} if ticket.amount else {})
    said = httpx2.post(f"{url}/v1/predict", json=body, timeout=60).json()["labels"]
    heads = (said["intent"], said["urgency"], tuple(said["risk"]))
    return heads == (ticket.intent, ticket.urgency, ticket.risk)


@pytest.mark.slow
def test_a_gateway_answers_the_crowd(url: str) -> None:
    asked = list(islice(traffic(seed=0), COUNT))
    seen = sent(url, iter(asked), rate=RATE, count=COUNT)
    assert (seen.failed, seen.turned_away) == (0, 0)
    assert seen.answered == seen.sent == COUNT
    assert seen.routes.total() == seen.answered
    assert seen.first_answer_at is not None
    assert len(seen.latest) == 5
    # The same tickets again, compared by hand: both models are deterministic.
    assert seen.right == sum(answered_right(url, ticket) for ticket in asked)


def test_gold_labels_have_the_form_of_a_reply() -> None:
    assert gold(TICKET) == {"intent": "order_status", "urgency": "normal", "risk": ["refund"]}


def test_a_gateway_that_is_gone_is_counted_as_failure() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        seen = sent(address, repeat(TICKET), rate=200.0, count=5)
    assert (seen.sent, seen.failed) == (5, 5)
    assert seen.first_answer_at is None


def test_a_refusal_is_counted_as_failure() -> None:
    async def scene() -> Seen:
        seen, stop = Seen(), asyncio.Event()
        async with _server() as (address, release):
            release.set()
            await crowd.send(
                address, _until(stop, repeat(TICKET), 5), rate=200.0, seen=seen, stop=stop
            )
        return seen

    seen = asyncio.run(scene())
    assert (seen.sent, seen.failed) == (5, 5)
    assert not seen.routes


def test_who_finds_too_many_before_him_is_turned_away() -> None:
    async def scene() -> Seen:
        seen, full, stop = Seen(), asyncio.Event(), asyncio.Event()
        tickets = _until(full, repeat(TICKET), crowd._IN_FLIGHT)
        async with _server() as (address, release):
            sending = asyncio.create_task(
                crowd.send(address, tickets, rate=2000.0, seen=seen, stop=stop)
            )
            await eventually(full.is_set)
            await eventually(lambda: seen.turned_away > 0)
            stop.set()
            release.set()
            await sending
        return seen

    seen = asyncio.run(scene())
    assert seen.turned_away > 0
    assert seen.failed == crowd._IN_FLIGHT
    assert seen.sent == seen.failed + seen.turned_away


def test_who_is_patient_waits_for_a_place_and_is_not_turned_away() -> None:
    async def scene() -> tuple[Seen, int]:
        seen, full, stop = Seen(), asyncio.Event(), asyncio.Event()
        told = _until(full, _until(stop, repeat(TICKET), 2 * crowd._PATIENT), crowd._PATIENT)
        async with _server() as (address, release):
            sending = asyncio.create_task(
                crowd.send(address, told, rate=2000.0, seen=seen, stop=stop, patient=True)
            )
            await eventually(full.is_set)
            await eventually(lambda: seen.sent > crowd._PATIENT)
            await asyncio.sleep(0.05)  # at this rate a hundred more would have come
            waiting = seen.sent
            release.set()
            await sending
        return seen, waiting

    seen, waiting = asyncio.run(scene())
    assert waiting == crowd._PATIENT + 1  # the one more has come, and waits
    assert seen.turned_away == 0
    assert seen.failed == seen.sent == 2 * crowd._PATIENT


def _until(event: asyncio.Event, tickets: Iterator[Ticket], count: int) -> Iterator[Ticket]:
    """The same tickets; with the last of `count` the event is set."""
    for number, ticket in enumerate(tickets, 1):
        if number == count:
            event.set()
        yield ticket


@asynccontextmanager
async def _server() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """What stands in for a gateway in trouble: silent until the event is set, then it refuses."""
    release = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() not in {b"\r\n", b""}:
            continue
        await release.wait()
        writer.write(BUSY)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0, backlog=512) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", release

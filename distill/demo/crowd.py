"""The customers of the demo: send tickets at a steady rate, keep what came back.

Sends are scheduled by the clock, not by replies, and latency is counted from the intended time of
sending, so that a stall of the gateway is seen and not waited out.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from distill.demo.tickets import Ticket

Heard = Callable[[Ticket, Mapping[str, Any]], None]  # a customer got a reply

_IN_FLIGHT = 256  # a customer who finds so many before him is counted as turned away
_PATIENT = 32  # the same where he waits: ten times what a machine with time to spare has
_TIMEOUT_S = 30.0


@dataclass(slots=True)
class Seen:
    """What the customers saw, since the start."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    turned_away: int = 0
    right: int = 0  # answers whose labels are the gold ones, all heads
    routes: Counter[str] = field(default_factory=Counter)
    first_answer_at: float | None = None  # monotonic seconds
    latest: list[tuple[Ticket, dict[str, object]]] = field(default_factory=list)


def _unheard(_ticket: Ticket, _reply: Mapping[str, Any]) -> None:
    pass


async def send(
    url: str,
    tickets: Iterator[Ticket],
    *,
    rate: float,
    seen: Seen,
    stop: asyncio.Event,
    heard: Heard = _unheard,
    patient: bool = False,
) -> None:
    """Send tickets to the gateway, `rate` a second, until `stop` is set; fills `seen`.

    `heard` is told of each reply as it comes. Customers who are `patient` wait for a place where
    many are before them, and the rate falls; others are turned away.
    """
    places = _PATIENT if patient else _IN_FLIGHT
    limits = httpx2.Limits(max_connections=_IN_FLIGHT, max_keepalive_connections=_IN_FLIGHT)
    running: set[asyncio.Task[None]] = set()
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=_TIMEOUT_S) as client:
        started = time.monotonic()
        while not stop.is_set():
            due = started + seen.sent / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            seen.sent += 1
            if len(running) >= places and not patient:
                seen.turned_away += 1
                continue
            if len(running) >= places:
                late = time.monotonic()
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                started += time.monotonic() - late  # nobody makes up for it in a burst
            task = asyncio.create_task(_ask(client, next(tickets), seen, heard))
            running.add(task)
            task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running)


async def _ask(client: httpx2.AsyncClient, ticket: Ticket, seen: Seen, heard: Heard) -> None:
    fields = {} if ticket.amount is None else {"amount": ticket.amount}
    try:
        reply = await client.post("/v1/predict", json={"input": ticket.text, "fields": fields})
    except httpx2.HTTPError:
        seen.failed += 1
        return
    if reply.status_code != httpx2.codes.OK:
        seen.failed += 1
        return
    content = reply.json()
    if seen.first_answer_at is None:
        seen.first_answer_at = time.monotonic()
    seen.answered += 1
    seen.routes[content["route"]] += 1
    seen.right += is_right(ticket, content["labels"])
    seen.latest = [*seen.latest[-4:], (ticket, content)]
    heard(ticket, content)


def is_right(ticket: Ticket, labels: Mapping[str, object] | None) -> bool:
    """Whether a reply's labels are the gold ones, for each head that it answers."""
    if not labels:
        return False
    true = gold(ticket)
    return all(true[head] == said for head, said in labels.items())


def gold(ticket: Ticket) -> dict[str, object]:
    """A ticket's labels in the form of a reply."""
    return {"intent": ticket.intent, "urgency": ticket.urgency, "risk": list(ticket.risk)}

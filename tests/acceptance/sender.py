"""A client that sends at a rate, whatever comes back, and writes down what it was told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx2

from gateway.types import RecordState
from tests.acceptance.process import TIMEOUT_S

# Of one client: below what a process may have open, and an address (server's limits), however long
# the gateway stands still. Who finds none free waits for one.
_CONNECTIONS = 256


@dataclass
class Notes:
    """What the client knows: the ids it was given by the state of their records, and the statuses.

    A request that got no reply at all is in neither.
    """

    ids: dict[str, RecordState] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)

    def told(self, state: RecordState) -> set[str]:
        """The ids that came with that state."""
        return {identity for identity, said in self.ids.items() if said is state}


async def send(
    url: str, notes: Notes, *, text: str, rate: float, until: Callable[[], bool]
) -> None:
    """Send `rate` requests a second until `until` says so, each at its own time."""
    loop = asyncio.get_running_loop()
    limits = httpx2.Limits(max_connections=_CONNECTIONS)
    async with (
        httpx2.AsyncClient(base_url=url, limits=limits, timeout=TIMEOUT_S) as client,
        asyncio.TaskGroup() as group,
    ):
        due = loop.time()
        while not until():
            group.create_task(_ask(client, notes, text))
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - loop.time()))


async def _ask(client: httpx2.AsyncClient, notes: Notes, text: str) -> None:
    try:
        reply = await client.post("/v1/predict", json={"input": text})
    except httpx2.TransportError:
        return  # the gateway is gone
    notes.statuses[reply.status_code] += 1
    if reply.status_code == 200:
        notes.ids[reply.json()["id"]] = RecordState(reply.headers["understudy-record"])

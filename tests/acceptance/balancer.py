"""A balancer with its clients: it asks who is ready, and sends requests only there."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx2

from tests.acceptance.process import TIMEOUT_S
from tests.factories import CONFIDENT

PROBE_S = 0.05  # between two looks at who is ready
FRESH_S = 1.0  # after which a look says nothing any more: this process may have stood still since
Places = Callable[[], Sequence[str]]


class Balancer:
    """Keep-alive clients over several gateways, without a single retry."""

    def __init__(self) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._ready: list[str] = []
        self._turns = itertools.count()
        self._looked = asyncio.Event()
        self._looked_at = -math.inf  # when the last look began, as the event loop's clock goes
        self._news = asyncio.Event()

    @asynccontextmanager
    async def busy(self, places: Places, *, clients: int) -> AsyncIterator[None]:
        """Ask without pause while the block runs; `places` says where gateways may be."""
        leaving, left = asyncio.Event(), asyncio.Event()
        async with httpx2.AsyncClient(timeout=TIMEOUT_S) as client, asyncio.TaskGroup() as probes:
            probes.create_task(self._probe(client, places, left))
            async with asyncio.TaskGroup() as tasks:
                for _ in range(clients):
                    tasks.create_task(self._ask(client, leaving))
                try:
                    yield
                finally:
                    leaving.set()
            left.set()

    async def has_answered(self, count: int) -> None:
        """Wait for so many answers in all, or for the first failure."""
        while self.answered < count and not self.failures:
            await self._news.wait()
            self._news.clear()

    async def finds(self, count: int) -> None:
        """Wait until the probes have seen so many gateways ready from now on, or for a failure."""
        now = asyncio.get_running_loop().time()
        while (len(self._ready) < count or self._looked_at < now) and not self.failures:
            await self._look()

    async def _look(self) -> None:
        """Wait for the next look."""
        self._looked.clear()
        await self._looked.wait()

    async def _place(self, leaving: asyncio.Event) -> str | None:
        """A gateway that is ready, as a look of a moment ago found it; None: ask no more."""
        loop = asyncio.get_running_loop()
        while not leaving.is_set() and not self.failures:
            if self._ready and loop.time() <= self._looked_at + FRESH_S:
                return self._ready[next(self._turns) % len(self._ready)]
            await self._look()
        return None

    async def _probe(self, client: httpx2.AsyncClient, places: Places, left: asyncio.Event) -> None:
        while not left.is_set():
            began = asyncio.get_running_loop().time()
            urls = tuple(places())
            found = await asyncio.gather(*(self._is_ready(client, url) for url in urls))
            self._ready = [url for url, ready in zip(urls, found, strict=True) if ready]
            self._looked_at = began
            self._looked.set()
            await asyncio.sleep(PROBE_S)

    async def _is_ready(self, client: httpx2.AsyncClient, url: str) -> bool:
        try:
            reply = await client.get(f"{url}/readyz")
        except httpx2.TransportError:
            return False
        return reply.status_code == 200

    async def _ask(self, client: httpx2.AsyncClient, leaving: asyncio.Event) -> None:
        while url := await self._place(leaving):
            try:
                reply = await client.post(f"{url}/v1/predict", json={"input": CONFIDENT})
            except httpx2.TransportError as error:
                self.failures.append(repr(error))
            else:
                if reply.status_code == 200:
                    self.answered += 1
                else:
                    self.failures.append(reply.text)
            self._news.set()

"""The play: what every act of the story works with. Traffic, the weather, and waiting for an end.

Nothing here sleeps for a while in the hope that something has happened: an act waits for what the
gateway says, and gives up after so many answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from distill.demo import crowd
from distill.demo.tickets import Ticket
from distill.story import weather
from distill.story.chronicle import Chronicle
from distill.story.clerk import Clerk
from distill.story.desk import Desk, Ran
from distill.story.telling import Telling
from distill.story.weather import FAIR, Weather
from gateway.errors import StageFailed

Found = TypeVar("Found")

_LOOK_S = 0.4  # between two looks at the gateway
_MOST_S = 240.0  # that an act may wait for one thing: on a slow machine answers come slowly


@dataclass(slots=True)
class Play:
    """One telling of the story. `bundles` are the students of the cast by their roles."""

    desk: Desk
    clerk: Clerk
    chronicle: Chronicle
    telling: Telling
    bundles: Mapping[str, Path]
    seed: int
    rate: float  # requests a second
    weather: Weather = FAIR
    seen: crowd.Seen = field(default_factory=crowd.Seen)
    _tickets: Iterator[Ticket] | None = None

    def name(self, role: str) -> str:
        """The name of the bundle that plays this role."""
        return self.bundles[role].name

    def role(self, name: str) -> str:
        """Which role the bundle of that name plays."""
        return next(role for role, bundle in self.bundles.items() if bundle.name == name)

    @asynccontextmanager
    async def traffic(self, *, share: float = 1.0) -> AsyncIterator[None]:
        """Customers write while the act goes on, at this share of the rate."""
        if self._tickets is None:
            drawn = weather.traffic(seed=self.seed, weather=lambda: self.weather)
            self._tickets = self.clerk.meet(drawn)
        stop, begun = asyncio.Event(), crowd.Seen()
        sending = asyncio.create_task(
            crowd.send(
                self.desk.url,
                self._tickets,
                rate=self.rate * share,
                seen=begun,
                stop=stop,
                heard=self.chronicle.heard,
                patient=True,
            )
        )
        looking = asyncio.create_task(self._look_on())
        try:
            yield
        finally:
            stop.set()
            looking.cancel()
            await asyncio.wait({sending, looking})
            await sending
            self.seen.sent += begun.sent
            self.seen.failed += begun.failed
            self.seen.turned_away += begun.turned_away

    async def _look_on(self) -> None:
        """Note where the gates of the candidates stand, again and again."""
        while True:
            for each in await self.desk.shadow():
                self.chronicle.judged(each["name"], each["verdict"]["gates"])
            await asyncio.sleep(_LOOK_S)

    async def until(
        self, what: str, happened: Callable[[], Awaitable[Found | None]], *, within: int
    ) -> Found:
        """Wait until something has happened, for so many answers at most. Raises StageFailed."""
        loop = asyncio.get_running_loop()
        first, began = self.chronicle.answers, loop.time()
        while (found := await happened()) is None:
            waited = self.chronicle.answers - first
            if waited >= within or loop.time() - began > _MOST_S:
                raise StageFailed(
                    f"the story does not go on: after {waited:,} answers {what} has not come",
                    mend=f"read {self.desk.folder / 'gateway.log'}, or try another --seed",
                )
            self.telling.meanwhile(what, self.chronicle)
            await asyncio.sleep(_LOOK_S)
        return found

    async def answers(self, count: int) -> None:
        """Let so many answers come."""
        end = self.chronicle.answers + count

        async def enough() -> bool | None:
            return True if self.chronicle.answers >= end else None

        await self.until(f"answer {end:,}", enough, within=2 * count)

    async def types(self, *words: str) -> Ran:
        """Type a command that only reads the settings and the database."""
        self.telling.typed(*words)
        return await self.desk.types(*words)

    async def asks(self, *words: str) -> Ran:
        """Type a command that asks the gateway."""
        self.telling.typed(*words)
        return await self.desk.asks(*words)


def check(holds: object, what: str) -> None:
    """An act must end so. Raises StageFailed."""
    if not holds:
        raise StageFailed(
            f"an act does not end as it must: {what}",
            mend="read gateway.log and commands.log in its folder, or try another --seed",
        )

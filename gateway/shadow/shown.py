"""The served error for those who look at it: found in a thread, and kept for a second.

The bounds of many parts take a tenth of a second of a core. Nobody who is being answered waits for
that, and several who look at once see the same figures.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from gateway.shadow.account import Part, Served
from gateway.shadow.served import ServedQuality

_FRESH_S = 1.0  # scrapers come every few seconds; who asks faster than that learns nothing new

_Found = TypeVar("_Found")


class Shown:
    """What `quality` knows, at most a second old. Of one event loop; `clock` gives seconds."""

    def __init__(
        self, quality: ServedQuality, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._quality = quality
        self._clock = clock
        self._parts: _Kept[Sequence[Part]] = _Kept(quality.parts, clock)
        self._tasks: dict[str, _Kept[Served | None]] = {}

    @property
    def parts(self) -> Sequence[Part]:
        """What the last `look` has found; nothing before the first one."""
        return self._parts.found or ()

    async def look(self) -> None:
        """See to it that `parts` are not old."""
        await self._parts.fresh()

    async def served(self, task: str) -> Served | None:
        """What is known of a task; None: it is not one of ours."""
        if task not in self._tasks:
            self._tasks[task] = _Kept(lambda: self._quality.served(task), self._clock)
        return await self._tasks[task].fresh()


class _Kept(Generic[_Found]):
    """What was found last."""

    def __init__(self, find: Callable[[], _Found], clock: Callable[[], float]) -> None:
        self.found: _Found | None = None
        self._find = find
        self._clock = clock
        self._until = -math.inf
        self._finding = asyncio.Lock()  # who comes meanwhile waits for the same

    async def fresh(self) -> _Found | None:
        """It, found anew where it is old."""
        async with self._finding:
            if self._clock() >= self._until:
                self.found = await asyncio.to_thread(self._find)
                self._until = self._clock() + _FRESH_S
            return self.found

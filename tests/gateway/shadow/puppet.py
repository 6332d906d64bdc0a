"""A worker that does what a test tells it, in place of a candidate's process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.errors import BundleCorrupt
from gateway.students.workers import Ran
from gateway.types import Prediction

_BEFORE_S = 1000.0  # without a processor, before anybody looked


class Puppet:
    """Answers at once with what it is given; `mute`: it is sent texts and never answers.

    `starved_s`: seconds without a processor, between any two looks. `took`: of each text, by
    itself. As any process it has waited for a processor before anybody looked.
    """

    def __init__(
        self,
        said: Prediction | Exception,
        *,
        mute: bool = False,
        broken: bool = False,
        starved_s: float = 0.0,
        took: float | None = None,
    ) -> None:
        self.said = said
        self.mute = mute
        self.broken = broken
        self.starved_s = starved_s
        self.took = took
        self.looked = 0
        self.sent: list[list[str]] = []
        self.got = asyncio.Event()
        self.killed = False

    def follow(self, ran: Callable[[Ran], None], ended: Callable[[], None]) -> None:
        """Remember who is told."""
        self._ran, self.crash = ran, ended

    async def ready(self) -> None:
        """It is, unless it is broken."""
        if self.broken:
            raise BundleCorrupt("a file has changed", mend="build it again")

    def send(self, texts: Sequence[str]) -> None:
        """Answer, or not."""
        self.sent.append(list(texts))
        self.got.set()
        if not self.mute:
            asyncio.get_running_loop().call_soon(self.answer)

    def answer(self) -> None:
        """Say that the last batch has run, half a second a text."""
        count = len(self.sent[-1])
        apart = None if self.took is None else [self.took] * count
        self._ran(Ran([self.said] * count, 10.0, 10.0 + 0.5 * count, apart))

    def kept_s(self) -> float:
        """As often as it was looked at, so many seconds more without a processor."""
        self.looked += 1
        return _BEFORE_S + self.starved_s * self.looked

    def kill(self) -> None:
        """Note it."""
        self.killed = True

    async def close(self) -> None:
        """Nothing to wait for."""

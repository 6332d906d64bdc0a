"""Receipts: what a reply says of its records, and the wait for their commit where one is asked for.

A request waits with one future for all its records, and the writer wakes the event loop once a
commit for all that wait. Knows neither SQL nor HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from gateway.errors import RecordsUnavailable
from gateway.store.writer import RecordWriter
from gateway.types import RecordState

Ack = Literal["async", "group", "strict"]


class Receipts:
    """Tells the state of the records that were offered last. It belongs to one event loop.

    `ack` says what a reply waits for: nothing (`async`), the commit for at most `wait_s` (`group`),
    or the commit, without which there is no reply (`strict`).
    """

    def __init__(
        self, writer: RecordWriter, *, ack: Ack, wait_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._writer = writer
        self._ack = ack
        self._wait_s = wait_s
        self._loop = loop
        self._waiting: deque[_Request] = deque()  # in the order of their records
        writer.follow(self._settled)

    def admit(self) -> None:
        """Raise RecordsUnavailable where an answer could not be given for want of its record."""
        if self._ack == "strict" and self._writer.degraded:
            raise _unavailable("the database does not take records now")

    async def of_last(self, count: int, deadline: float | None = None) -> RecordState:
        """The state of the `count` records that were offered last.

        To be asked before anything else is offered, that is without an await in between. The wait
        ends at `deadline`, as time.perf_counter gives it. Raises RecordsUnavailable if `strict`.
        """
        if not self._writer.queued(count):
            state = RecordState.DROPPED
        elif self._ack == "async" or (self._ack == "group" and self._writer.degraded):
            return RecordState.QUEUED
        else:
            state = await self._committed(count, deadline)
        if self._ack == "strict" and state is not RecordState.DURABLE:
            raise _unavailable(
                "its record was refused or found no room"
                if state is RecordState.DROPPED
                else "its record was not committed in time, and may still be"
            )
        return state

    async def _committed(self, count: int, deadline: float | None) -> RecordState:
        last = self._writer.accepted
        request = _Request(last - count, last, self._loop.create_future())
        self._waiting.append(request)
        if self._writer.settled >= last:  # it was faster than this line, and has told nobody
            self._waiting.pop()
            lost = self._writer.last_lost > request.before
            return RecordState.DROPPED if lost else RecordState.DURABLE
        wait_s = self._wait_s
        if deadline is not None:
            wait_s = max(0.0, min(wait_s, deadline - time.perf_counter()))
        timer = self._loop.call_later(wait_s, request.tell, RecordState.QUEUED)
        try:
            return await request.future
        finally:
            timer.cancel()

    def _settled(self, position: int, lost: Collection[int]) -> None:
        """All up to `position` is committed, but for what is lost. Called by the writer's thread.

        The thread moves its position first and looks for waiters then, `_committed` the other way
        round: one of the two always sees the other.
        """
        if self._waiting:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
                self._loop.call_soon_threadsafe(self._tell, position, lost)

    def _tell(self, position: int, lost: Collection[int]) -> None:
        if lost:
            for request in self._waiting:
                request.lost |= any(request.before < each <= request.last for each in lost)
        while self._waiting and self._waiting[0].last <= position:
            request = self._waiting.popleft()
            request.tell(RecordState.DROPPED if request.lost else RecordState.DURABLE)


@dataclass(slots=True)
class _Request:
    """Who waits for the records at the positions above `before`, up to `last`."""

    before: int
    last: int
    future: asyncio.Future[RecordState]
    lost: bool = False

    def tell(self, state: RecordState) -> None:
        if not self.future.done():  # its time was up, or the client has gone
            self.future.set_result(state)


def _unavailable(why: str) -> RecordsUnavailable:
    return RecordsUnavailable(
        f"records.ack is strict, and {why}",
        mend="send the request again; see that the database has room and can be written",
    )

"""Receipts: what a reply is told of its records, and what it waits for."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, event

from gateway.errors import RecordsUnavailable
from gateway.store.receipts import Ack, Receipts
from gateway.store.records import Selection, latest
from gateway.store.writer import RecordWriter
from gateway.types import Answer, RecordState
from tests import patience
from tests.gateway.store.conftest import SOON, Locked, failure_of, gate_of
from tests.gateway.telemetry.answers import audit, confident, prediction

FOR_EVER = 3600.0  # seconds


class Desk:
    """A writer and its receipts on the running loop."""

    def __init__(self, engine: Engine, ack: Ack, *, wait_s: float = FOR_EVER, **more: Any) -> None:
        self.engine = engine
        self.writer = RecordWriter(engine, **more)
        loop = asyncio.get_running_loop()
        self.receipts = Receipts(self.writer, ack=ack, wait_s=wait_s, loop=loop)

    async def offer(self, answers: Sequence[Answer], deadline: float | None = None) -> RecordState:
        """One request: its answers are offered, then its state is asked for."""
        for answer in answers:
            self.writer.answered(answer)
        return await self.receipts.of_last(len(answers), deadline)

    async def close(self) -> None:
        """Store what waits."""
        await asyncio.to_thread(self.writer.close, SOON)


async def until(flag: threading.Event) -> None:
    """Wait on the loop for what another thread sets."""
    assert await asyncio.to_thread(flag.wait, SOON)


async def until_known(failed: threading.Event) -> None:
    """Wait until the writer knows that it is degraded: it does before it fails again."""
    await until(failed)
    failed.clear()
    await until(failed)


def test_without_a_wait_a_reply_says_that_its_records_are_queued(engine: Engine) -> None:
    async def scene() -> None:
        desk = Desk(engine, "async")
        assert await desk.offer([confident(1), confident(2)]) is RecordState.QUEUED
        await desk.close()

    asyncio.run(scene())


@pytest.mark.parametrize("ack", ["group", "strict"])
def test_a_durable_reply_comes_after_its_commit(engine: Engine, ack: Ack) -> None:
    async def scene() -> None:
        desk = Desk(engine, ack)
        state = await desk.offer([confident(1), confident(2)])
        assert state is RecordState.DURABLE
        assert len(latest(engine, Selection(), 9)) == 2  # before anything else happens
        await desk.close()

    asyncio.run(scene())


def test_many_that_wait_are_told_by_one_call_for_each_commit(
    engine: Engine, locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        failed = failure_of(engine)
        desk = Desk(engine, "strict")
        calls: list[object] = []
        loop = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe
        with locked() as release:
            first = asyncio.ensure_future(desk.offer([confident(0)]))
            await until(failed)
            rest = [asyncio.ensure_future(desk.offer([confident(n)])) for n in range(1, 41)]
            await asyncio.sleep(0)  # all wait now

            def counted(*given: Any) -> object:
                calls.append(given)
                return call(*given)

            monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
            release()
            assert set(await asyncio.gather(first, *rest)) == {RecordState.DURABLE}
        monkeypatch.undo()
        assert len(calls) == 2  # the batch of one that was tried again, then all others
        await desk.close()

    asyncio.run(scene())


def test_a_group_that_is_not_committed_in_time_is_queued_and_stored_later(
    engine: Engine, locked: Locked
) -> None:
    async def scene() -> None:
        desk = Desk(engine, "group", wait_s=0.01)
        with locked():
            assert await desk.offer([confident(1)]) is RecordState.QUEUED
        await desk.close()
        assert len(latest(engine, Selection(), 9)) == 1

    asyncio.run(scene())


def test_a_group_does_not_wait_for_a_database_that_is_known_to_be_away(
    engine: Engine, locked: Locked
) -> None:
    async def scene() -> None:
        failed, gate = failure_of(engine), gate_of(engine)
        desk = Desk(engine, "group")
        with locked():
            first = asyncio.ensure_future(desk.offer([confident(1)]))
            await asyncio.sleep(0)  # it waits before anything is known
            gate.set()
            await until_known(failed)
            assert await desk.offer([confident(2)]) is RecordState.QUEUED
            assert not first.done()
        assert await first is RecordState.DURABLE
        await desk.close()

    asyncio.run(scene())


def test_a_strict_request_is_refused_where_its_commit_does_not_come(
    engine: Engine, locked: Locked
) -> None:
    async def scene() -> None:
        failed = failure_of(engine)
        desk = Desk(engine, "strict", wait_s=0.01)
        with locked():
            with pytest.raises(RecordsUnavailable, match="not committed in time"):
                await desk.offer([confident(1)])
            await until_known(failed)
            with pytest.raises(RecordsUnavailable, match="does not take records now"):
                desk.receipts.admit()
        await desk.close()
        assert not desk.writer.degraded
        desk.receipts.admit()

    asyncio.run(scene())


@pytest.mark.parametrize("ack", ["async", "group"])
def test_a_request_of_which_one_record_finds_no_room_is_told_so(
    engine: Engine, locked: Locked, ack: Ack
) -> None:
    async def scene() -> None:
        desk = Desk(engine, ack, capacity=2, wait_s=0.01)
        with locked():
            assert await desk.offer([confident(1)]) is RecordState.QUEUED
            assert await desk.offer([confident(2), confident(3)]) is RecordState.DROPPED
            assert await desk.offer([confident(4)]) is RecordState.DROPPED
        await desk.close()

    asyncio.run(scene())


def test_a_strict_request_without_room_for_its_record_is_refused(
    engine: Engine, locked: Locked
) -> None:
    async def scene() -> None:
        desk = Desk(engine, "strict", capacity=1, wait_s=0.01)
        with locked():
            with pytest.raises(RecordsUnavailable, match="not committed in time"):
                await desk.offer([confident(1)])
            with pytest.raises(RecordsUnavailable, match="found no room"):
                await desk.offer([confident(2)])
        await desk.close()

    asyncio.run(scene())


def test_only_the_request_with_the_refused_record_is_told_that_it_was_dropped(
    engine: Engine, locked: Locked
) -> None:
    async def scene() -> None:
        failed = failure_of(engine)
        desk = Desk(engine, "strict")
        with locked() as release:
            first = asyncio.ensure_future(desk.offer([confident(0)]))
            await until(failed)
            await asyncio.sleep(0)
            # No text that can be hashed: the row cannot be made. All four are in one batch.
            broken = [confident(1), confident(2, text="\ud800"), confident(3)]
            requests = [confident(4)], broken, [confident(5)]
            told = [asyncio.ensure_future(desk.offer(request)) for request in requests]
            await asyncio.sleep(0)
            release()
            before, *states = await asyncio.gather(first, *told, return_exceptions=True)
        assert before is states[0] is states[2] is RecordState.DURABLE
        assert isinstance(states[1], RecordsUnavailable)
        await desk.close()

    asyncio.run(scene())


def test_a_deadline_ends_the_wait(engine: Engine) -> None:
    async def scene() -> None:
        gate = gate_of(engine)
        desk = Desk(engine, "group")
        passed = time.perf_counter() - 1
        assert await desk.offer([confident(1)], deadline=passed) is RecordState.QUEUED
        gate.set()
        assert await desk.offer([confident(2)], deadline=math.inf) is RecordState.DURABLE
        await desk.close()

    asyncio.run(scene())


def test_who_still_waits_at_the_end_is_told_that_the_record_is_lost(
    engine: Engine, locked: Locked
) -> None:
    async def scene() -> None:
        gate = gate_of(engine)
        desk = Desk(engine, "group")
        with locked():
            waiting = asyncio.ensure_future(desk.offer([confident(1)]))
            await asyncio.sleep(0)
            gate.set()
            await asyncio.to_thread(desk.writer.close, 0.05)
            assert await waiting is RecordState.DROPPED

    asyncio.run(scene())


def test_a_client_that_leaves_holds_up_nobody(engine: Engine) -> None:
    async def scene() -> None:
        gate = gate_of(engine)
        desk = Desk(engine, "group")
        gone = asyncio.ensure_future(desk.offer([confident(1)]))
        other = asyncio.ensure_future(desk.offer([confident(2)]))
        await asyncio.sleep(0)
        gone.cancel()
        gate.set()
        assert await other is RecordState.DURABLE
        assert gone.cancelled()
        await desk.close()

    asyncio.run(scene())


def test_an_audit_between_two_requests_moves_nobodys_place(engine: Engine) -> None:
    async def scene() -> None:
        desk = Desk(engine, "group")
        assert await desk.offer([confident(1)]) is RecordState.DURABLE
        desk.writer.audited(audit(confident(1), prediction()))
        assert await desk.offer([confident(2), confident(3)]) is RecordState.DURABLE
        await desk.close()

    asyncio.run(scene())


def test_a_commit_that_is_faster_than_the_question_is_known(engine: Engine) -> None:
    async def scene() -> None:
        desk = Desk(engine, "strict")
        committed = threading.Event()
        event.listen(engine, "commit", lambda _: committed.set())
        desk.writer.answered(confident(1))
        assert committed.wait(SOON)  # the loop stands still meanwhile
        patience.until(lambda: desk.writer.settled == 1)
        assert await desk.receipts.of_last(1) is RecordState.DURABLE
        await desk.close()

    asyncio.run(scene())

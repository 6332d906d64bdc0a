"""The served error as it is shown: found beside the event loop, and not twice in a second."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from gateway.shadow import rate
from gateway.shadow.account import Audited
from gateway.shadow.sequential import Bounds
from gateway.shadow.served import ServedQuality
from gateway.shadow.shown import Shown
from gateway.shadow.weighted import Looked, bounds
from tests.conftest import Client
from tests.gateway.telemetry.answers import TICKETS, confident


def test_figures_are_kept_for_a_second_and_found_once_for_all_who_look() -> None:
    quality, now = ServedQuality([TICKETS]), [100.0]
    quality.follow("tickets", Audited(any=True))
    shown = Shown(quality, clock=lambda: now[0])

    async def rows() -> tuple[int, int]:
        _, served, _ = await asyncio.gather(
            shown.look(), shown.served("tickets"), shown.served("tickets")
        )
        assert served is not None
        return shown.parts[0].rate.rows, served.whole.rows

    async def work() -> None:
        assert shown.parts == ()
        assert await shown.served("strange") is None
        quality.answered(confident(1))
        assert await rows() == (1, 1)
        quality.answered(confident(2))
        now[0] = 100.999
        assert await rows() == (1, 1)
        now[0] = 101.0
        assert await rows() == (2, 2)

    asyncio.run(work())


def test_no_bound_is_found_on_the_event_loop(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def found(looked: Sequence[Looked], delta: float) -> list[Bounds]:
        threads.append(threading.get_ident())
        return bounds(looked, delta)

    monkeypatch.setattr(rate, "bounds", found)
    client.post("/v1/predict", json={"input": "please refund my order"})
    assert "understudy_served_rows{" in client.get("/metrics").text
    assert client.get("/v1/stats").json()["tasks"]["tickets"]["served_error"] is not None
    assert len(threads) == 4  # errors and disagreements, for either of them
    assert client.portal is not None
    assert client.portal.call(threading.get_ident) not in threads

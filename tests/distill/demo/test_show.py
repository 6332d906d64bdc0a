"""The demo, whole: on a project that is trained already it goes straight to serving."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from distill.demo import house, show
from distill.demo.crowd import Seen
from distill.demo.show import Plan
from gateway import settings
from gateway.store import records
from gateway.store.database import open_database
from tests.acceptance import shop as shops
from tests.acceptance.shop import Shop

pytestmark = pytest.mark.slow

STAGES = ("collect", "label", "train", "export", "certify", "evaluate", "seal")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return shops.trained(tmp_path_factory)


@pytest.fixture(scope="module")
def plan(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The shop's own recipe, so that its stages are kept; one second of traffic."""
    return Plan(
        folder=shop.copy(tmp_path_factory.mktemp("demo")),
        tickets=shops.TICKETS,
        seed=shops.SEED,
        rate=30.0,
        seconds=1.0,
        recipe=shop.recipe.read_text(),
    )


@pytest.fixture(scope="module")
def url(plan: Plan) -> Iterator[str]:
    with house.gateway(plan.folder) as address:
        yield address


def watched(plan: Plan, url: str, console: Console) -> tuple[Seen, int]:
    """What the customers saw, and how many requests the gateway had in all."""
    seen = Seen()
    stats = asyncio.run(show._watch(plan, url, seen, console))
    return seen, stats["tasks"]["tickets"]["requests"]


def test_a_second_start_trains_nothing_and_sums_up_as_json(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    show.run(plan, fresh=False, as_json=True)
    printed = capsys.readouterr()
    for stage in STAGES:
        assert f"{stage}: kept from an earlier start" in printed.err
    found = orjson.loads(printed.out)
    live = found["live"]
    assert live["requests"] > 0
    assert (live["failed"], live["turned_away"]) == (0, 0)
    assert found["seconds"]["gateway_start"] > 0.0
    assert found["seconds"]["to_first_answer"] > found["seconds"]["gateway_start"]
    engine = open_database(settings.load(plan.folder / settings.FILE).records.path)
    stored = records.count(engine, records.Selection(task="tickets")).records
    engine.dispose()
    assert stored == live["requests"]  # the gateway drained before the demo ended


def test_for_a_person_it_ends_with_a_table_and_the_next_step(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    show.run(plan, fresh=False, as_json=False)
    printed = capsys.readouterr().out
    assert "Live traffic" in printed
    assert "requests answered" in printed
    said = printed.replace("\n", "")
    assert f"understudy serve --config {plan.folder / settings.FILE}".replace(" ", "") in (
        said.replace(" ", "")
    )


def test_on_a_terminal_it_shows_a_screen(plan: Plan, url: str) -> None:
    screen = io.StringIO()
    seen, requests = watched(plan, url, Console(file=screen, force_terminal=True, width=120))
    assert seen.answered > 0
    assert requests >= seen.answered
    shown = screen.getvalue()
    assert "tickets, live at 30 requests a second" in shown
    assert "ends by itself after 1 s" in shown


def test_without_a_terminal_it_tells_a_line_now_and_then(
    plan: Plan, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "_LINE_S", 0.2)
    said = io.StringIO()
    watched(plan, url, Console(file=said, width=160))
    assert "answered" in said.getvalue()
    assert "student p50" in said.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_where_nothing_else_does(
    plan: Plan, url: str, number: signal.Signals
) -> None:
    endless = Plan(plan.folder, plan.tickets, plan.seed, plan.rate, seconds=None)
    seen = Seen()

    async def interrupted() -> None:
        asyncio.get_running_loop().call_later(1.0, os.kill, os.getpid(), number)
        await show._watch(endless, url, seen, Console(quiet=True))

    asyncio.run(interrupted())
    assert seen.answered == seen.sent > 0


def test_a_fresh_start_forgets_what_was_trained_and_recorded(tmp_path: Path) -> None:
    for name in ("runs", "bundles"):
        (tmp_path / name / "x").mkdir(parents=True)
    for name in ("understudy.db", "understudy.db-wal", "tickets.csv"):
        (tmp_path / name).touch()
    show._forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tickets.csv"]


def test_waiting_for_an_event_ends_when_it_is_set_or_the_time_is_up() -> None:
    async def waited(*, already: bool) -> bool:
        event = asyncio.Event()
        if already:
            event.set()
        return await show._set_within(event, 0.01 if not already else 60.0)

    began = time.monotonic()
    assert asyncio.run(waited(already=True))
    assert not asyncio.run(waited(already=False))
    assert time.monotonic() - began < 60.0

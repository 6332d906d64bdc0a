"""The play at a real gateway: traffic that is chronicled, the desk's commands, and giving up."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx2
import pytest
from rich.console import Console

from distill.demo import house
from distill.story.chronicle import Chronicle
from distill.story.clerk import Clerk
from distill.story.desk import Desk
from distill.story.play import Play, check
from distill.story.telling import Telling
from gateway.errors import StageFailed
from tests.acceptance import shop as shops

pytestmark = pytest.mark.slow

Result = TypeVar("Result")


class Theatre:
    """A gateway on a trained student, and what was told on a console."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.said = io.StringIO()
        self.chronicle = Chronicle()

    def plays(self, act: Callable[[Play], Awaitable[Result]]) -> Result:
        """Play an act, with a play of its own."""

        async def played() -> Result:
            async with httpx2.AsyncClient() as client:
                play = Play(
                    desk=Desk(self.folder, self.url, client),
                    clerk=Clerk(),
                    chronicle=self.chronicle,
                    telling=Telling(Console(file=self.said, width=200)),
                    bundles={"first": (self.folder / "bundles" / "student").resolve()},
                    seed=0,
                    rate=60.0,
                )
                return await act(play)

        return asyncio.run(played())


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    folder = shops.trained(tmp_path_factory).copy(tmp_path_factory.mktemp("play"))
    with house.gateway(folder) as url:
        yield Theatre(folder, url)


def test_while_an_act_has_traffic_its_answers_are_chronicled(theatre: Theatre) -> None:
    async def act(play: Play) -> tuple[int, int, int]:
        async with play.traffic():
            await play.answers(30)
        return play.chronicle.answers, play.seen.failed, play.seen.turned_away

    answers, failed, turned_away = theatre.plays(act)
    assert answers >= 30
    assert (failed, turned_away) == (0, 0)
    assert theatre.chronicle.stretch(0).answers == answers


def test_the_desk_types_real_commands_and_reads_figures(theatre: Theatre) -> None:
    async def act(play: Play) -> tuple[str, str, list[str], int, str]:
        listed = await play.asks("students", "list", "--json")
        roles, stats = await play.desk.roles(), await play.desk.stats()
        log = [str(row["what"]) for row in await play.desk.log()]
        serving = listed.json()[0]["tasks"][0]["serving"]
        return serving, roles["serving"], log, stats["requests"], play.role(roles["serving"])

    listed, serving, log, requests, role = theatre.plays(act)
    assert listed == serving
    assert log == ["start"]
    assert requests >= theatre.chronicle.answers
    assert role == "first"
    assert "$ understudy students list --json" in theatre.said.getvalue()


def test_there_is_no_candidate_at_first(theatre: Theatre) -> None:
    async def act(play: Play) -> int:
        return len(await play.desk.shadow())

    assert theatre.plays(act) == 0


def test_a_command_that_fails_is_told_with_what_it_said(theatre: Theatre) -> None:
    async def act(play: Play) -> None:
        await play.asks("students", "promote", "nobody")

    with pytest.raises(StageFailed, match="understudy students promote nobody") as caught:
        theatre.plays(act)
    assert "has not shown that it may serve" in caught.value.message
    assert "commands.log" in caught.value.mend


def test_what_does_not_come_is_waited_for_so_many_answers_and_no_longer(theatre: Theatre) -> None:
    async def never() -> None:
        return None

    async def act(play: Play) -> None:
        async with play.traffic():
            await play.until("a miracle", never, within=10)

    with pytest.raises(StageFailed, match="a miracle has not come"):
        theatre.plays(act)
    assert "waiting for a miracle" in theatre.said.getvalue()


def test_an_act_that_ends_otherwise_ends_the_story() -> None:
    check(1, "nothing is wrong")
    with pytest.raises(StageFailed, match="does not end as it must: all is lost"):
        check(0, "all is lost")

"""Candidates beside a gateway that serves: whatever they do, requests are answered, and counted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from loadtests.compare.tree import Tree
from tests.acceptance.command import Ran, understudy
from tests.acceptance.conftest import Starter
from tests.acceptance.process import FAIR, TIMEOUT_S, Process
from tests.factories import CONFIDENT, TASK, settings_file, tiny_bundle
from tests.patience import until

pytestmark = pytest.mark.acceptance

ROUTE = "/admin/v1/shadow"
REQUESTS = 60  # in each round; the queue of a candidate holds as many
LIMIT_MS = 6000  # of a batch: what a candidate waits for others is no part of it
_NICEST = 19  # the most that there is
SHADOW = {
    "share": 1.0,
    "candidates": 3,
    "queue": REQUESTS,
    "limit_ms": LIMIT_MS,
    "busy": 1.0,  # nobody's latency is looked at here
    "gates": {
        "disagreement": 0.2, "serving": 0.2, "escalation": 0.2, "latency": None,
        "minimum_s": 0.0, "cycle_s": 0.0,
    },
}  # fmt: skip


@dataclass(slots=True)
class Scene:
    """A gateway under test, and the names of its three candidates."""

    process: Process
    agrees: str
    stumbles: str
    drags: str
    asked: int = field(default=0, init=False)  # texts, since all three run

    def command(self, *arguments: str) -> Ran:
        """A command for this gateway."""
        settings = ("--config", str(self.process.config), "--admin", self.process.url)
        return understudy(*arguments, *settings)

    def shown(self, name: str) -> dict[str, Any]:
        """What the gateway says of a candidate."""
        (task,) = httpx2.get(f"{self.process.url}{ROUTE}", timeout=TIMEOUT_S).json()["tasks"]
        found: dict[str, Any] = next(each for each in task["candidates"] if each["name"] == name)
        return found

    def ask(self, count: int = REQUESTS) -> None:
        """So many texts at once, every one of which is answered by the student that serves."""
        reply = self.process.post({"inputs": [f"{CONFIDENT} {each}" for each in range(count)]})
        assert reply.status_code == 200
        assert [each["route"] for each in reply.json()["results"]] == ["student"] * count
        self.asked += count

    def keeps_up(self, name: str) -> bool:
        """Whether nothing that was asked waits for a candidate any more."""
        shown = self.shown(name)
        seen: int = shown["whole"]["compared"] + sum(shown["skipped"].values())
        assert seen <= self.asked, shown
        return seen == self.asked

    def child(self, name: str) -> int:
        """The process that runs a candidate, which may just be begun again."""
        found: list[int] = []

        def runs() -> bool:
            found[:] = Tree(self.process.pid).running(name)
            return bool(found) and self.shown(name)["state"] == "running"

        until(runs)
        return found[0]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A gateway whose teacher always agrees with its student, and three candidates that run."""
    folder = tmp_path_factory.mktemp("shadow")
    config = settings_file(
        folder,
        run_in="processes",
        teacher={"scripted": {"labels": {"intent": "refund", "flags": []}}},
        tickets={"shadow": SHADOW, "audit": {"share": 1.0}},
        records={"path": "records.db", "text": "full"},
    )
    bundles = [tiny_bundle(folder / "new", seed=seed) for seed in (1, 2)]
    bundles.append(tiny_bundle(folder / "new", seed=3, drag=1000))
    with closing(Process(config, command=FAIR)) as process:
        found = Scene(process, *(each.name for each in bundles))
        for each in bundles:
            added = found.command("students", "add", str(each))
            assert (added.status, "is a candidate" in added.out) == (0, True), added
        for each in bundles:
            until(lambda name=each.name: found.shown(name)["state"] == "running")  # type: ignore[misc]
        yield found


def test_a_candidate_that_agrees_is_to_be_promoted(scene: Scene) -> None:
    scene.ask()
    until(lambda: scene.shown(scene.agrees)["whole"]["with_teacher"] >= REQUESTS)
    shown = scene.shown(scene.agrees)
    assert shown["whole"]["other_than_teacher"] == shown["whole"]["other_than_serving"] == 0
    assert shown["skipped"] == {"full": 0, "resting": 0}
    while (decision := scene.shown(scene.agrees)["verdict"]["decision"]) != "promote":
        assert decision == "hold"
        scene.ask(20)  # until three rivals' share of alpha is spent on proving it
        until(lambda: scene.keeps_up(scene.agrees))
    said = scene.command("shadow", "status", "--json", "--candidate", scene.agrees)
    assert said.status == 0
    assert json.loads(said.out)["decision"] == "promote"
    table = scene.command("shadow", "status", "--slices", "--candidate", scene.agrees)
    assert table.status == 0
    assert "disagreement" in table.out
    assert "label.intent" in table.out
    listed = scene.command("students", "list", "--json")
    (reply,) = json.loads(listed.out)
    roles = {each["name"]: each["role"] for each in reply["tasks"][0]["bundles"]}
    assert roles[scene.agrees] == "candidate"


def test_a_candidate_stands_back_for_all_others(start: Starter, tmp_path: Path) -> None:
    process = start(tickets={"shadow": SHADOW})
    bundle = tiny_bundle(tmp_path / "new", seed=1)
    where = ("--config", str(process.config), "--admin", process.url)
    assert understudy("students", "add", str(bundle), *where).status == 0

    def stands_back() -> bool:
        """Whatever else becomes of it, which on a busy machine takes long."""
        return any(
            os.getpriority(os.PRIO_PROCESS, child) == _NICEST
            and os.sched_getscheduler(child) == os.SCHED_IDLE
            for child in Tree(process.pid).running(bundle.name)
        )

    until(stands_back)


def test_a_candidate_that_hangs_is_ended_and_begun_again(scene: Scene) -> None:
    child = scene.child(scene.stumbles)
    os.kill(child, signal.SIGSTOP)
    scene.ask()
    until(lambda: scene.shown(scene.stumbles)["lapses"]["hung"] > 0)
    until(lambda: scene.child(scene.stumbles) != child)
    before = scene.shown(scene.stumbles)["whole"]["compared"]
    scene.ask(10)
    until(lambda: scene.shown(scene.stumbles)["whole"]["compared"] >= before + 10)


def test_a_candidate_that_crashes_is_begun_again(scene: Scene) -> None:
    first = scene.child(scene.stumbles)

    def skips() -> int:
        count: int = scene.shown(scene.stumbles)["skipped"]["resting"]
        return count

    skips_before = skips()  # of those that other tests made it rest for

    def skipped() -> bool:
        return skips() > skips_before

    def answered() -> int:
        shown = scene.shown(scene.stumbles)
        count: int = shown["whole"]["compared"] - sum(shown["lapses"].values())
        return count

    def skipped_while_it_rests() -> bool:
        """It may be there again before anybody asks: then it is struck once more.

        But not before it has answered: after some failures in a row it is left alone.
        """
        before = answered()
        with suppress(ProcessLookupError):
            os.kill(scene.child(scene.stumbles), signal.SIGKILL)

        def skipped_or_back() -> bool:
            scene.ask(1)
            return skipped() or answered() > before

        until(skipped_or_back)
        return skipped()

    until(skipped_while_it_rests)
    until(lambda: scene.child(scene.stumbles) != first)


def test_what_a_slow_candidate_cannot_take_is_counted_and_not_waited_for(scene: Scene) -> None:
    until(lambda: scene.keeps_up(scene.agrees))
    swift, slow = scene.shown(scene.agrees), scene.shown(scene.drags)

    def overtaken() -> bool:
        """Who has the processor more often may not be the swift one at once."""
        scene.ask()
        until(lambda: scene.keeps_up(scene.agrees))
        return bool(scene.shown(scene.drags)["skipped"]["full"] > slow["skipped"]["full"])

    until(overtaken)
    assert scene.shown(scene.agrees)["skipped"] == swift["skipped"]
    full = scene.shown(scene.drags)["skipped"]["full"]
    metric = 'understudy_shadow_skipped_total{cause="full"}'
    assert scene.process.metric(metric) >= full
    stats = scene.process.stats()["tasks"][TASK.name]
    assert stats["candidates"][scene.drags]["skipped"]["full"] == full


def test_nothing_is_lost_when_the_gateway_starts_again(scene: Scene, tmp_path: Path) -> None:
    removed = scene.command("students", "remove", scene.drags)
    assert removed.status == 0
    scene.ask(10)
    until(lambda: scene.keeps_up(scene.agrees))
    before = scene.shown(scene.agrees)
    stored = before["whole"]["compared"]
    page = tmp_path / "shadow.html"
    assert scene.process.leave() == 0
    again = Process(scene.process.config, command=FAIR)
    with closing(again):
        known = Scene(again, scene.agrees, scene.stumbles, scene.drags)
        until(lambda: again.stats()["tasks"][TASK.name]["candidates"].keys() == {
            known.agrees, known.stumbles,
        })  # fmt: skip
        shown = known.shown(known.agrees)
        assert shown["whole"]["compared"] == stored
        assert shown["began"] == before["began"]
        said = known.command("shadow", "status", "--candidate", known.agrees)
        assert said.status == 0
    written = understudy("shadow", "report", "--config", str(again.config), "--out", str(page))
    assert written.status == 0
    html = page.read_text()
    assert html.count("<svg") >= 3
    assert f"may spend {shown['verdict']['alpha']:.4g} of alpha" in html  # as the status says

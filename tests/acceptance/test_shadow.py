"""Candidates beside a gateway that serves: whatever they do, requests are answered, and counted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.command import Ran, understudy
from tests.acceptance.process import TIMEOUT_S, Process
from tests.factories import CONFIDENT, TASK, settings_file, tiny_bundle
from tests.patience import until

pytestmark = pytest.mark.acceptance

ROUTE = "/admin/v1/shadow"
REQUESTS = 60  # in each round; the queue of a candidate holds as many
LIMIT_MS = 6000  # a machine that is busy with others lets a candidate wait for seconds
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


@dataclass(frozen=True, slots=True)
class Scene:
    """A gateway under test, and the names of its three candidates."""

    process: Process
    agrees: str
    stumbles: str
    drags: str

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

    def child(self, name: str) -> int:
        """The process that runs a candidate, which may just be begun again."""
        until(lambda: self.shown(name)["state"] == "running")
        until(lambda: bool(self._children(name)))
        return self._children(name)[0]

    def _children(self, name: str) -> list[int]:
        return [
            int(pid)
            for children in Path(f"/proc/{self.process.pid}/task").glob("*/children")
            for pid in children.read_text().split()
            if name in Path(f"/proc/{pid}/cmdline").read_text()
        ]


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
    with closing(Process(config)) as process:
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
    while scene.shown(scene.agrees)["verdict"]["decision"] != "promote":
        scene.ask(20)  # until three rivals' share of alpha is spent on proving it
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


def test_a_candidate_that_hangs_is_ended_and_begun_again(scene: Scene) -> None:
    child = scene.child(scene.stumbles)
    assert os.getpriority(os.PRIO_PROCESS, child) == 19  # it stands back for all others
    assert os.sched_getscheduler(child) == os.SCHED_IDLE
    os.kill(child, signal.SIGSTOP)
    scene.ask()
    until(lambda: scene.shown(scene.stumbles)["lapses"]["hung"] > 0)
    until(lambda: scene.child(scene.stumbles) != child)
    before = scene.shown(scene.stumbles)["whole"]["compared"]
    scene.ask(10)
    until(lambda: scene.shown(scene.stumbles)["whole"]["compared"] >= before + 10)


def test_a_candidate_that_crashes_is_begun_again(scene: Scene) -> None:
    first = scene.child(scene.stumbles)

    def skipped_while_it_rests() -> bool:
        """It may be there again before anybody asks: then it is struck once more."""
        with suppress(ProcessLookupError):
            os.kill(scene.child(scene.stumbles), signal.SIGKILL)
        scene.ask(10)
        skipped: int = scene.shown(scene.stumbles)["skipped"]["resting"]
        return skipped >= 1

    until(skipped_while_it_rests)
    until(lambda: scene.child(scene.stumbles) != first)


def test_what_a_slow_candidate_cannot_take_is_counted_and_not_waited_for(scene: Scene) -> None:
    swift = scene.shown(scene.agrees)
    for number in range(1, 4):
        scene.ask()
        done = swift["whole"]["compared"] + number * REQUESTS
        until(lambda done=done: scene.shown(scene.agrees)["whole"]["compared"] >= done)  # type: ignore[misc]
    assert scene.shown(scene.agrees)["skipped"] == swift["skipped"]
    assert scene.shown(scene.drags)["skipped"]["full"] > 0
    metric = 'understudy_shadow_skipped_total{cause="full"}'
    assert scene.process.metric(metric) >= scene.shown(scene.drags)["skipped"]["full"]
    stats = scene.process.stats()["tasks"][TASK.name]
    assert stats["candidates"][scene.drags]["skipped"]["full"] > 0


def test_nothing_is_lost_when_the_gateway_starts_again(scene: Scene, tmp_path: Path) -> None:
    removed = scene.command("students", "remove", scene.drags)
    assert removed.status == 0
    before = scene.shown(scene.agrees)
    stored = before["whole"]["compared"]
    page = tmp_path / "shadow.html"
    assert scene.process.leave() == 0
    again = Process(scene.process.config)
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

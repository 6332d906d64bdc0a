"""The story, whole, as a user tells it; and a real Prometheus that hears what happens in it.

Students are distilled, one is promoted by its steps, traffic drifts, alarms send two students away,
`improve` makes the next one. It takes some minutes; tests/distill/story has its parts.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distill.story.performance import CHRONICLE, PICTURE
from gateway import settings
from gateway.store.changes import latest, verify
from gateway.store.database import open_database
from tests.acceptance.process import GATEWAY
from tests.house.pages import ROOT
from tests.patience import two_free_ports, until
from tests.prometheus import watched

pytestmark = [pytest.mark.acceptance, pytest.mark.soak, pytest.mark.timeout(1800)]

# What is to be heard of: another student serves again, the teacher answers more than half, and
# traffic is not what the certificate was issued on.
ALERTS = {"UnderstudyRolledBack", "UnderstudyEscalatesMuch", "UnderstudyCertificateStale"}


def test_the_story_ends_as_it_must_and_is_heard(tmp_path: Path) -> None:
    folder, port = tmp_path / "story", two_free_ports()
    command = [*GATEWAY, "story", "--json", "--folder", folder, "--port", port]
    out, err = tmp_path / "out.json", tmp_path / "err.txt"
    with (
        out.open("w") as told,
        err.open("w") as said,
        subprocess.Popen([*map(str, command)], stdout=told, stderr=said, cwd=ROOT) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            with watched(tmp_path / "prometheus", url, looks_back="20s") as prometheus:
                until(lambda: process.poll() is not None)
                heard = prometheus.heard()
        finally:
            process.terminate()
    assert process.returncode == 0, err.read_text()[-4000:]
    found = json.loads(out.read_text())
    _check_acts(found["acts"])
    assert (found["traffic"]["failed"], found["traffic"]["turned_away"]) == (0, 0)
    assert found["traffic"]["answers"] > 10_000
    assert heard >= ALERTS
    _check_log(folder)
    assert (folder / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / CHRONICLE).read_text()).keys() >= {"right", "own", "events"}


def _check_acts(acts: Mapping[str, Any]) -> None:
    assert acts["refuse"]["decision"] == "reject"
    assert "escalation" in acts["refuse"]["refuted"]  # it leaves more to the teacher
    assert (acts["hold"]["decision"], acts["hold"]["promoted"]) == ("promote", False)
    assert acts["promote"]["decision"] == "promote"
    assert acts["promote"]["steps"] == [0.01, 0.05, 0.25, 1.0]
    assert acts["promote"]["after"]["by_student"] > acts["promote"]["before"]["by_student"]
    assert acts["storm"]["signals"]
    for rung in acts["fall"]["rollbacks"]:
        assert rung["rows"] <= rung["late"]
    assert [rung["student"] for rung in acts["fall"]["rollbacks"]] == ["better", "first"]
    assert acts["fall"]["seen"]["right"] < acts["promote"]["after"]["right"] - 0.05
    assert acts["win_back"]["steps"] == [0.01, 0.05, 0.25, 1.0]
    assert acts["win_back"]["won_back"] >= 0.5
    assert acts["win_back"]["after"]["right"] > acts["fall"]["seen"]["right"] + 0.05


def _check_log(folder: Path) -> None:
    engine = open_database(settings.load(folder / settings.FILE).records.database)
    try:
        rows = latest(engine, 100)[::-1]
        assert [row.who for row in rows if row.what == "rollback"] == ["alarm", "alarm"]
        assert [row.what for row in rows if row.what in {"takeover", "unfreeze"}] == [
            "takeover", "unfreeze", "takeover",
        ]  # fmt: skip
        assert verify(engine).flaw is None
    finally:
        engine.dispose()

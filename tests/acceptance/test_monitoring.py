"""A real Prometheus scrapes a real gateway, evaluates the rules of deploy/, raises alarms."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx2
import pytest

from gateway.api.auth import new_key
from gateway.store.changes import latest, verify
from gateway.store.database import open_database
from tests.acceptance.conftest import Starter
from tests.acceptance.process import GATEWAY, TIMEOUT_S, Process
from tests.factories import CONFIDENT, TASK, tiny_bundle
from tests.house.pages import ROOT
from tests.patience import until
from tests.prometheus import watched

pytestmark = [pytest.mark.acceptance, pytest.mark.soak]

KEY, DIGEST = new_key("ops")
KEYS = [{"name": "ops", "sha256": DIGEST, "role": "admin"}]


def students(gateway: Process, *words: object) -> None:
    """Run `understudy students` as an operator does, with the key in the environment."""
    command = [*GATEWAY, "students", *map(str, words), "--admin", gateway.url]
    environment = {"UNDERSTUDY_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_prometheus_sees_the_gateway_and_a_rollback_is_heard_and_in_the_log(
    start: Starter, tmp_path: Path
) -> None:
    gateway = start(run_in="threads", keys=KEYS)
    headers = {"authorization": f"Bearer {KEY}"}
    reply = httpx2.post(
        f"{gateway.url}/v1/predict", json={"input": CONFIDENT}, headers=headers, timeout=TIMEOUT_S
    )
    assert reply.status_code == 200
    new = tiny_bundle(tmp_path / "new", seed=1, threshold=None)
    students(gateway, "add", new)
    with watched(tmp_path / "prometheus", gateway.url, key=KEY) as prometheus:
        series = f'understudy_swaps_total{{task="{TASK.name}",result="rolled_back"}}'
        until(lambda: prometheus.value(series) == 0.0)
        until(lambda: not prometheus.unhealthy())
        # A scrape that came too late on a busy machine is heard as well, and passes.
        until(lambda: prometheus.value('up{job="understudy"}') == 1.0)
        until(lambda: prometheus.value("understudy_certificate_valid") == 1.0)
        until(lambda: prometheus.firing() == {})
        students(gateway, "swap", new.name, "--why", "it is newer")
        stale = f"{TASK.name}: no certificate holds, so that everything goes to the teacher"
        until(lambda: prometheus.firing() == {"UnderstudyCertificateVoid": stale})
        students(gateway, "rollback", "--why", "it answers nothing")
        again = f"{TASK.name}: a student was sent back"
        frozen = f"{TASK.name}: an incident is open, and nobody is promoted"
        heard = {"UnderstudyRolledBack": again, "UnderstudyIncident": frozen}
        until(lambda: prometheus.firing() == heard)
    engine = open_database(tmp_path / "records.db")
    told = [(row.what, row.who, row.why) for row in latest(engine, 3)]
    assert told == [
        ("freeze", "ops", "it answers nothing"),
        ("rollback", "ops", "it answers nothing"),
        ("swap", "ops", "it is newer"),
    ]
    assert verify(engine).flaw is None
    engine.dispose()

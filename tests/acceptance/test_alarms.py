"""A real process whose student gets worse: the alarm, what an operator sees, and a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.students.vacancy import NO_STUDENT
from tests.acceptance.command import understudy
from tests.acceptance.process import Process
from tests.factories import CONFIDENT, settings_file
from tests.patience import until

pytestmark = pytest.mark.acceptance


def test_an_alarm_is_heard_wherever_an_operator_looks_and_outlives_a_restart(
    tmp_path: Path,
) -> None:
    # The scripted teacher says "other", so that each audit finds the student wrong.
    config = settings_file(
        tmp_path,
        tickets={"audit": {"share": 1.0}, "alarms": {"action": "rollback", "apart": 100}},
    )
    process = Process(config)
    try:
        name = process.stats()["tasks"]["tickets"]["serving"]["student"]
        assert process.metric('understudy_incident_open{task="tickets"}') == 0.0
        until(lambda: process.ask(CONFIDENT)["reason"] == NO_STUDENT)

        assert process.metric('understudy_incident_open{task="tickets"}') == 1.0
        assert process.metric('understudy_swaps_total{result="rolled_back",task="tickets"}') == 1.0
        watch = process.stats()["tasks"]["tickets"]["watch"]
        assert watch["incident"]["student"] == name
        assert f"{name}: error is above its limit of 0.1 (100.0%" in watch["incident"]["why"]
        shown = understudy("stats", "--admin", process.url).out
        assert "INCIDENT since" in shown
        assert watch["incident"]["why"] in " ".join(shown.split())
        for words in ("Alarms", "Traffic", "unfamiliar", "steady"):
            assert words in shown
        assert process.leave() == 0

        process = Process(config)
        assert process.ask(CONFIDENT)["reason"] == NO_STUDENT
        assert process.metric('understudy_incident_open{task="tickets"}') == 1.0
        assert process.leave() == 0
    finally:
        process.close()

    log = understudy("changes", "list", "--config", str(config)).out
    for words in ("rollback", "freeze", "alarm"):
        assert words in log

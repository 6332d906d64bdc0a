"""The served error of a real process: in /v1/stats, in /metrics and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.types import Coin
from tests.acceptance.command import understudy
from tests.acceptance.process import Process
from tests.factories import CONFIDENT, UNSURE, settings_file
from tests.patience import until

pytestmark = pytest.mark.acceptance

WRONG = "fraud is what it says"  # the teacher of these tests says refund to all


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    config = settings_file(
        tmp_path,
        teacher={"scripted": {"labels": {"intent": "refund"}}},
        tickets={
            "audit": {"share": 1.0, "slices": ["tier"]},
            "prices": {"teacher_usd_per_1000": 2, "instance_usd_per_hour": 1},
        },
    )
    served = Process(config)
    yield served
    served.close()


def served_error(process: Process) -> dict[str, Any]:
    found: dict[str, Any] = process.stats()["tasks"]["tickets"]["served_error"]
    return found


def test_served_errors_are_shown_wherever_an_operator_looks(process: Process) -> None:
    assert process.metric('understudy_served_error_rate{task="tickets"}') == 0.0  # absent
    assert "not known yet" in understudy("stats", "--admin", process.url).out
    for text, tier in ((CONFIDENT, "gold"), (WRONG, "free"), (UNSURE, "free"), (WRONG, "free")):
        process.ask(text, fields={"tier": tier})
    until(lambda: served_error(process)["whole"]["audits"] == 3)

    served = served_error(process)
    assert (served["whole"]["rows"], served["whole"]["estimate"]) == (4, pytest.approx(0.5))
    assert served["whole"]["lower"] <= 0.5 <= served["whole"]["upper"] <= 1.0
    assert served["heads"]["intent"]["estimate"] == pytest.approx(0.5)
    assert served["heads"]["flags"]["estimate"] == pytest.approx(0.0)
    assert served["labels"]["intent"]["fraud"]["estimate"] == pytest.approx(1.0)
    assert served["slices"]["tier"]["free"]["estimate"] == pytest.approx(2 / 3)
    assert (served["void"], served["unmeasured"]) == (0, 0)

    estimate = process.metric('understudy_served_error_rate{task="tickets"}')
    upper = process.metric('understudy_served_error_rate_upper{task="tickets"}')
    assert estimate == pytest.approx(0.5)
    assert upper == pytest.approx(served["whole"]["upper"])

    shown = understudy("stats", "--admin", process.url)
    assert shown.status == 0
    for words in ("latency of the last 1h", "low_confidence", "tier: free", "saved", "95%"):
        assert words in shown.out
    (content,) = json.loads(understudy("stats", "--admin", process.url, "--json").out)
    assert content["url"] == process.url
    assert content["tasks"]["tickets"]["served_error"] == served

    assert process.leave() == 0
    coins = [record.coin for record in process.records()]
    assert coins == [Coin.UNIFORM, Coin.UNIFORM, None, Coin.UNIFORM]


def test_a_window_that_is_not_kept_is_refused() -> None:
    ran = understudy("stats", "--window", "2h")
    assert ran.status == 2
    assert "1m, 10m, 1h" in ran.err

"""A budget in a gateway that runs: who is paid for, and what clients and figures are told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import settings
from gateway.errors import SettingsError
from gateway.settings import Settings
from tests.conftest import Client, Opener
from tests.factories import CONFIDENT, TASK, UNSURE, settings_file

# 2 USD a thousand calls is 2,000 micro-USD a call, so that three fit in 0.007 USD.
PRICES = {"teacher_usd_per_1000": 2}
THREE = {"usd_per_day": 0.007}
RULES = {"rules": [{"name": "legal", "text": "solicitor"}]}
RISKY = "says my solicitor"


@pytest.fixture(autouse=True)
def _patient_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks waits for the ledger, however slow its disk is."""
    monkeypatch.setattr("gateway.routing.budget._LOOK_S", 60.0)


def asked(client: Client, *texts: str) -> list[tuple[str, str | None]]:
    """Route and failure of each text, asked one after the other."""
    replies = [client.post("/v1/predict", json={"input": text}) for text in texts]
    return [(reply.json()["route"], reply.json().get("failure")) for reply in replies]


def budget_of(client: Client) -> dict[str, Any] | None:
    found: dict[str, Any] | None = client.get("/v1/stats").json()["tasks"]["tickets"]["budget"]
    return found


def limited(serve: Opener, *, policy: dict[str, Any] | None = None, **budget: Any) -> Client:
    """A gateway with a budget: three calls a day, unless it says otherwise."""
    task = {"prices": PRICES, "budget": budget or THREE}
    return serve(policy=RULES | (policy or {}), tickets=task)


def test_the_teacher_is_asked_as_long_as_there_is_money_and_then_the_student_stands_in(
    serve: Opener,
) -> None:
    client = limited(serve)
    assert asked(client, UNSURE, CONFIDENT, RISKY, UNSURE) == [
        ("teacher", None),
        ("student", None),
        ("teacher", None),
        ("teacher", None),
    ]
    assert asked(client, UNSURE, RISKY, CONFIDENT) == [
        ("fallback", "budget_exhausted"),
        ("abstain", "budget_exhausted"),
        ("student", None),
    ]


def test_what_an_exhausted_budget_means_is_apart_from_a_teacher_that_is_down(
    serve: Opener,
) -> None:
    client = limited(
        serve,
        policy={"on_exhausted": "abstain", "on_exhausted_high_risk": "error"},
        usd_per_hour=0,
    )
    assert asked(client, UNSURE) == [("abstain", "budget_exhausted")]
    reply = client.post("/v1/predict", json={"inputs": [CONFIDENT, RISKY]})
    assert reply.status_code == 503
    problem = reply.json()
    assert problem["code"] == "unanswered"
    assert "(high_risk), which could not answer (budget_exhausted)" in problem["detail"]


def test_a_teacher_that_is_down_may_fail_the_request_too(serve: Opener) -> None:
    client = serve(teacher={"scripted": {"fail_every": 1}}, policy={"on_unavailable": "error"})
    assert client.post("/v1/predict", json={"input": UNSURE}).status_code == 503
    assert asked(client, CONFIDENT) == [("student", None)]


def test_the_figures_show_what_is_left_in_each_window(serve: Opener) -> None:
    client = limited(serve, usd_per_day=0.01, usd_per_hour=0.005, requests_per_second=1000)
    asked(client, UNSURE)
    assert budget_of(client) == {
        "windows": {
            "day": {"limit": 10_000, "spent": 2000, "reserved": 0, "remaining": 8000},
            "hour": {"limit": 5000, "spent": 2000, "reserved": 0, "remaining": 3000},
        },
        "requests_per_second": 1000.0,
    }
    shown = client.get("/metrics").text
    name = "understudy_budget_remaining_usd"
    assert f'{name}{{task="tickets",window="day"}} 0.008' in shown
    assert f'{name}{{task="tickets",window="hour"}} 0.003' in shown


def test_without_a_budget_none_is_shown(client: Client) -> None:
    assert budget_of(client) is None
    assert "understudy_budget_remaining_usd{" not in client.get("/metrics").text


def test_a_rate_alone_limits_the_teacher_and_needs_no_price(serve: Opener) -> None:
    client = serve(tickets={"budget": {"requests_per_second": 0.001}})
    assert asked(client, UNSURE, UNSURE) == [("teacher", None), ("fallback", "budget_exhausted")]
    assert budget_of(client) == {"windows": {}, "requests_per_second": 0.001}


def test_a_call_that_failed_is_paid_for_as_it_may_be_billed(serve: Opener) -> None:
    teacher = {"scripted": {"fail_every": 1}, "retries": 0}
    client = serve(teacher=teacher, tickets={"prices": PRICES, "budget": THREE})
    assert asked(client, UNSURE) == [("fallback", "teacher_unavailable")]
    budget = budget_of(client)
    assert budget is not None
    assert budget["windows"]["day"]["spent"] == 2000


def test_after_a_storm_of_failures_the_metrics_say_what_the_ledger_says(serve: Opener) -> None:
    client = serve(
        teacher={"scripted": {"fail_every": 2}, "retries": 1},
        policy=RULES | {"on_unavailable": "error", "on_unavailable_high_risk": "error"},
        tickets={
            "prices": PRICES,
            "budget": {"usd_per_day": 1, "usd_per_call": 0.003},
            "audit": {"share": 1.0},
        },
    )
    assert client.portal is not None
    statuses = set()
    for number in range(12):  # a request of which one part fails, fails as a whole
        texts = [f"{UNSURE} {number}", f"{RISKY} {number}", f"{CONFIDENT} {number}"]
        statuses.add(client.post("/v1/predict", json={"inputs": texts}).status_code)
    for number in range(12):
        asked(client, f"{CONFIDENT} {number} times")
    client.portal.call(client.gateway.successions[TASK.name].auditor.close)
    assert 503 in statuses

    budget = budget_of(client)
    assert budget is not None
    day = budget["windows"]["day"]
    paid = dict(
        re.findall(
            r'cost_usd_total{bucket="(\w+)",task="tickets"} (\S+)', client.get("/metrics").text
        )
    )
    assert day["reserved"] == 0
    assert round(sum(map(float, paid.values())) * 1e6) == day["spent"]
    assert min(float(paid[bucket]) for bucket in ("live", "retry", "audit")) > 0.0
    cost = client.get("/v1/stats").json()["tasks"]["tickets"]["cost"]
    assert cost["teacher"]["known"] + cost["audits"]["known"] == day["spent"]


def test_audits_are_refused_first(serve: Opener) -> None:
    budget = {"usd_per_day": 0.006, "audit_reserve": 0.5}  # three calls, of which audits get one
    client = serve(tickets={"prices": PRICES, "budget": budget, "audit": {"share": 1.0}})
    assert client.portal is not None
    asked(client, "refund one", "refund two", "refund three")  # identical ones share a call
    client.portal.call(client.gateway.successions[TASK.name].auditor.close)
    skipped = client.get("/v1/stats").json()["tasks"]["tickets"]["audits_skipped"]
    assert 1 <= sum(skipped.values()) <= 2  # after the first of them none is drawn for a while
    assert asked(client, UNSURE, UNSURE, UNSURE) == [
        ("teacher", None),
        ("teacher", None),
        ("fallback", "budget_exhausted"),
    ]


def test_a_restart_forgets_no_spending(serve: Opener) -> None:
    asked(limited(serve), UNSURE, UNSURE, UNSURE)
    again = limited(serve)
    assert asked(again, UNSURE) == [("fallback", "budget_exhausted")]


def test_a_reload_raises_a_budget_at_once(serve: Opener, tmp_path: Path) -> None:
    client = limited(serve)
    asked(client, *[UNSURE] * 3)
    path = tmp_path / "understudy.yaml"
    document = yaml.safe_load(path.read_text())
    document["tasks"]["tickets"]["budget"] = {"usd_per_day": 0.009}
    path.write_text(yaml.safe_dump(document))
    applied = client.post("/admin/v1/reload").json()["applied"]
    assert applied == ["tasks.tickets.budget.usd_per_day"]
    assert asked(client, UNSURE, UNSURE) == [("teacher", None), ("fallback", "budget_exhausted")]


def loaded(folder: Path, **sections: Any) -> Settings:
    return settings.load(settings_file(folder, **sections))


def test_what_a_call_may_cost_is_its_own_key_or_the_price_rounded_up(tmp_path: Path) -> None:
    budget = {"usd_per_day": 1}
    task = loaded(tmp_path, tickets={"prices": {"teacher_usd_per_1000": 0.0001}, "budget": budget})
    assert task.tasks["tickets"].limits.call == 1
    budget["usd_per_call"] = 2
    task = loaded(tmp_path, tickets={"prices": PRICES, "budget": budget})
    assert task.tasks["tickets"].limits.call == 2_000_000


@pytest.mark.parametrize("budget", [THREE, {"requests_per_second": 5}])
def test_a_budget_without_a_database_is_refused(tmp_path: Path, budget: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"tasks\.tickets\.budget is kept in the records'"):
        loaded(
            tmp_path,
            records={"enabled": False},
            tickets={"prices": PRICES, "budget": budget},
        )

"""The figures of /v1/stats, worked out by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from gateway.telemetry.figures import Figures
from gateway.telemetry.pricing import Prices
from gateway.types import Bucket, Comparison, Cost, Reason, Route, Stages
from tests.gateway.telemetry.answers import TICKETS, audit, confident, escalated, prediction
from tests.gateway.telemetry.clock import Clock

PRICES = Prices(teacher_usd_per_1000=Decimal("2.50"), instance_usd_per_hour=Decimal("3.60"))


def figures_at(clock: Clock, prices: Prices = PRICES) -> Figures:
    return Figures([TICKETS], prices={"tickets": prices}, clock=clock)


def shown(figures: Figures) -> dict[str, Any]:
    """The figures of the ticket task, as JSON carries them."""
    content: dict[str, Any] = orjson.loads(orjson.dumps(figures.snapshot()))["tasks"]
    tickets: dict[str, Any] = content["tickets"]
    return tickets


def test_nothing_seen_gives_nulls_and_no_other_task() -> None:
    figures = figures_at(Clock())
    assert list(figures.snapshot()["tasks"]) == ["tickets"]
    tickets = shown(figures)
    assert tickets["requests"] == 0
    assert tickets["escalation"] == {"requests": 0, "share": None, "by_reason": {}}
    assert tickets["latency"]["all"]["1m"] == {
        "requests": 0,
        "per_second": 0.0,
        "p50_ms": None,
        "p95_ms": None,
        "p99_ms": None,
    }


def test_speed_is_shown_by_route_and_window() -> None:
    clock = Clock()
    figures = figures_at(clock)
    for _ in range(3):
        figures.answered(confident(stages=Stages(total=0.004)))
    figures.answered(escalated(student=prediction(), teacher=prediction()))  # 50 ms
    clock.now = 2.0
    latency = shown(figures)["latency"]
    assert latency["student"]["1m"]["p50_ms"] == pytest.approx(4.0, rel=0.01)
    assert latency["teacher"]["1m"]["p50_ms"] == pytest.approx(50.0, rel=0.01)
    assert latency["all"]["1m"]["requests"] == 4
    assert latency["all"]["1m"]["per_second"] == 2.0
    assert latency["all"]["1h"]["p50_ms"] == pytest.approx(4.0, rel=0.01)
    assert latency["abstain"]["1m"]["requests"] == 0
    clock.now = 300.0
    latency = shown(figures)["latency"]
    assert latency["all"]["1m"]["requests"] == 0
    assert latency["all"]["10m"]["requests"] == 4


def test_reading_does_not_change_what_is_read() -> None:
    figures = figures_at(Clock())
    figures.answered(confident())
    assert figures.snapshot() == figures.snapshot()


def test_routes_and_escalations_are_counted_with_their_shares() -> None:
    figures = figures_at(Clock())
    figures.answered(confident())
    figures.answered(escalated(student=prediction(), teacher=prediction()))
    figures.answered(escalated(reason=Reason.HIGH_RISK, route=Route.ABSTAIN))
    figures.answered(escalated(student=prediction(), route=Route.FALLBACK))
    tickets = shown(figures)
    assert tickets["routes"] == {"student": 1, "teacher": 1, "fallback": 1, "abstain": 1}
    assert tickets["escalation"] == {
        "requests": 3,
        "share": 0.75,
        "by_reason": {
            "high_risk": {"requests": 1, "share": 0.25},
            "low_confidence": {"requests": 2, "share": 0.5},
        },
    }


def test_disagreement_is_by_head_and_audits_are_kept_apart() -> None:
    figures = figures_at(Clock())
    figures.answered(escalated(student=prediction("login"), teacher=prediction("refund")))
    figures.audited(audit(confident(), prediction("refund")))
    figures.audited(audit(confident(), prediction("refund", risk=("legal",))))
    assert shown(figures)["disagreement"] == {
        "intent": {
            "escalated": {"comparisons": 1, "disagreements": 1, "share": 1.0},
            "audited": {"comparisons": 2, "disagreements": 0, "share": 0.0},
        },
        "risk": {
            "escalated": {"comparisons": 1, "disagreements": 0, "share": 0.0},
            "audited": {"comparisons": 2, "disagreements": 1, "share": 0.5},
        },
    }


def test_cost_is_summed_and_the_student_is_priced_once() -> None:
    figures = figures_at(Clock())
    # 3.60 USD an hour are 1000 micro-USD a second: 0.6 micro-USD each would round to 1 each.
    for _ in range(5):
        figures.answered(confident(stages=Stages(busy=0.0006, total=0.001), cost=Cost(1, 0, 2500)))
    for bucket, cost in ((Bucket.LIVE, 900), (Bucket.RETRY, 20), (Bucket.HEDGE, None)):
        figures.spent("tickets", bucket, cost)
    figures.spent("tickets", Bucket.AUDIT, None)  # the task's price is 2,500
    figures.spent("tickets", Bucket.SHADOW, 100)
    for seconds in (0.0006, 0.0006, None):  # of a candidate, which failed once
        figures.compared(
            Comparison(confident(), "tickets-1", None, escalates=True, propensity=1.0,
                       seconds=seconds)
        )  # fmt: skip
    assert shown(figures)["cost"] == {
        "student": 3,
        "teacher": {"known": 3420, "unknown": 0},
        "audits": {"known": 2500, "unknown": 0},
        "avoided": {"known": 12_500, "unknown": 0},
        "shadow": 101,
        "total": 6024,
    }


def test_an_unknown_cost_is_counted_and_makes_the_total_unknown() -> None:
    figures = figures_at(Clock(), Prices())
    figures.answered(confident(cost=Cost(None, 0, None)))
    figures.spent("tickets", Bucket.AUDIT, None)
    assert shown(figures)["cost"] == {
        "student": None,
        "teacher": {"known": 0, "unknown": 0},
        "audits": {"known": 0, "unknown": 1},
        "avoided": {"known": 0, "unknown": 1},
        "shadow": 0,
        "total": None,
    }


def test_tasks_that_are_not_configured_share_one_place() -> None:
    figures = figures_at(Clock())
    figures.answered(confident(task="x"))
    figures.answered(confident(task="y"))
    tasks = figures.snapshot()["tasks"]
    assert list(tasks) == ["tickets", "other"]
    assert tasks["other"]["requests"] == 2


def test_uptime_is_counted_from_the_start() -> None:
    clock = Clock()
    figures = figures_at(clock)
    clock.now = 7.5
    assert figures.snapshot()["uptime_s"] == 7.5

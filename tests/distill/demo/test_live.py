"""The live view: what /v1/stats says, on one screen or in one line."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import orjson
import pytest
from rich.console import Console

from distill.demo import live
from distill.demo.crowd import Seen
from distill.demo.tickets import Ticket
from gateway.telemetry.figures import Figures
from gateway.telemetry.pricing import Prices
from gateway.types import Bucket, Reason, Route, Stages
from tests.gateway.telemetry.answers import TICKETS, audit, confident, escalated, prediction
from tests.gateway.telemetry.clock import Clock

PRICES = Prices(teacher_usd_per_1000=Decimal("2.50"), instance_usd_per_hour=Decimal("3.60"))
TICKET = Ticket("where is my [red] parcel", "refund", "normal", (), None, "c-1", "plain")
REPLY: dict[str, object] = {
    "route": "student",
    "reason": "confident",
    "labels": {"intent": "refund", "urgency": "normal", "risk": ["legal", "fraud"]},
}


def quiet() -> dict[str, Any]:
    """The stats of a gateway that nobody has asked yet."""
    return as_json(Figures([TICKETS], prices={"tickets": PRICES}, clock=Clock()))


def busy() -> dict[str, Any]:
    """Six confident answers, 4 ms and 1,000,000 micro-USD apiece saved; four escalated ones.

    Two went to the teacher as unsure (it differs on the intent), one fell back, one was risky and
    is unanswered. One of the six was audited, and the teacher agrees.
    """
    clock = Clock()
    figures = Figures([TICKETS], prices={"tickets": PRICES}, clock=clock)
    answers = [confident(number, stages=Stages(busy=0.5, total=0.004)) for number in range(6)]
    for answer in answers:
        figures.answered(answer)
    figures.audited(audit(answers[0], prediction()))
    figures.spent("tickets", Bucket.AUDIT, None)
    for _ in range(4):
        figures.spent("tickets", Bucket.LIVE, None)
    for _ in range(2):
        figures.answered(escalated(student=prediction(), teacher=prediction("login")))
    figures.answered(escalated(student=prediction(), route=Route.FALLBACK))
    risky = Reason.HIGH_RISK
    figures.answered(escalated(student=prediction(), route=Route.ABSTAIN, reason=risky))
    clock.now = 5.0
    return as_json(figures)


def as_json(figures: Figures) -> dict[str, Any]:
    """As it comes over the wire."""
    found: dict[str, Any] = orjson.loads(orjson.dumps(figures.snapshot()))
    return found


def drawn(stats: dict[str, Any], seen: Seen) -> list[str]:
    """The screen, line by line."""
    console = Console(file=io.StringIO(), record=True, width=140)
    console.print(live.screen(stats, seen, title="tickets, live", hint="Ctrl-C ends"))
    return console.export_text().splitlines()


def line_with(lines: list[str], *words: str) -> str:
    """The one line that has all these words."""
    (found,) = [line for line in lines if all(word in line for word in words)]
    return found


def test_the_header_counts_what_the_customers_saw() -> None:
    lines = drawn(busy(), Seen(answered=10, right=7))
    assert "tickets, live" in lines[0]
    figures = line_with(lines, "70.0%").split()
    # answered, a second over the 5 s since the start, escalated, right, 6 * 2,500 micro-USD
    assert figures[1:-1] == ["10", "2/s", "40.0%", "70.0%", "$0.0150"]
    assert "Ctrl-C ends" in lines[-1]


def test_each_route_shows_its_count_and_its_speed() -> None:
    lines = drawn(busy(), Seen())
    found = {
        route: line_with(lines, f"│ {route} ").split("│")[1].split()
        for route in ("student", "teacher", "fallback", "abstain", "all")
    }
    assert {route: cells[1] for route, cells in found.items()} == {
        "student": "6", "teacher": "2", "fallback": "1", "abstain": "1", "all": "10",
    }  # fmt: skip
    p50 = {route: float(cells[2]) for route, cells in found.items()}
    assert p50["student"] == pytest.approx(4.0, rel=0.011)
    assert p50["teacher"] == pytest.approx(50.0, rel=0.011)


def test_reasons_come_in_the_order_of_their_frequency() -> None:
    lines = drawn(busy(), Seen())
    often, seldom = line_with(lines, "low_confidence"), line_with(lines, "high_risk")
    assert lines.index(often) < lines.index(seldom)
    assert often.count("█") == 24
    assert seldom.count("█") == 8  # one to three
    assert "30.0%" in often
    assert "10.0%" in seldom


def test_disagreement_is_shown_by_source() -> None:
    line = line_with(drawn(busy(), Seen()), "intent")
    assert "100.0% of 2" in line
    assert "0.0% of 1" in line


def test_money_is_shown_by_what_it_is_for() -> None:
    lines = drawn(busy(), Seen())
    assert "$0.0030" in line_with(lines, "student, busy time")  # 3 s at 3.60 USD an hour
    assert "$0.0100" in line_with(lines, "teacher, escalations")  # 4 at 2,500 micro-USD
    assert "$0.0025" in line_with(lines, "teacher, audits")
    assert "$0.0150" in line_with(lines, "not spent")


def test_the_latest_answers_are_shown_as_they_were_said() -> None:
    nobody: dict[str, object] = {"route": "abstain", "reason": "high_risk", "labels": None}
    seen = Seen(latest=[(TICKET, REPLY), (TICKET, nobody)])
    lines = drawn(busy(), seen)
    said = line_with(lines, "refund · normal · legal, fraud", "(confident)")
    assert "where is my [red] parcel" in said  # brackets are no markup
    assert "abstain" in line_with(lines, "nobody answered")


def test_a_gateway_that_nobody_has_asked_is_shown_too() -> None:
    lines = drawn(quiet(), Seen())
    assert "nothing yet" in "\n".join(lines)
    assert "none yet" in line_with(lines, "intent")
    assert not [line for line in lines if "student " in line and "ms" in line]


def test_without_a_terminal_it_is_one_line() -> None:
    assert live.line(quiet(), Seen()) == (
        "  0 answered, 0/s, student p50 - p95 -, escalated -, saved $0.0000"
    )
    found = live.line(busy(), Seen(answered=1234))
    assert found.startswith("  1,234 answered, 2/s, student p50 ")
    assert found.endswith("escalated 40.0%, saved $0.0150")


def test_an_unknown_amount_is_not_shown_as_nothing() -> None:
    assert live.usd(None) == "unknown"
    assert live.usd(1_234_567_890) == "$1,234.5679"

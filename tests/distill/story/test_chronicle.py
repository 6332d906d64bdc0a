"""The chronicle: shares of a stretch and of a rolling window, and the picture that is drawn."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from distill.demo.tickets import Ticket
from distill.story import picture
from distill.story.chronicle import Chronicle, Stretch

TICKET = Ticket("where is it", "order_status", "normal", (), None, "c-1", "plain")
GATE = {
    "gate": "escalation", "limit": 0.08, "value": -0.1, "lower": -0.2, "upper": 0.02, "pairs": 50,
}  # fmt: skip


def told(*answers: tuple[str, str]) -> Chronicle:
    """A chronicle of such labels and routes."""
    chronicle = Chronicle()
    for label, route in answers:
        chronicle.heard(TICKET, {"labels": {"intent": label}, "route": route})
    return chronicle


RIGHT, WRONG = ("order_status", "student"), ("late_delivery", "student")
TEACHER = ("order_status", "teacher")


def test_a_stretch_counts_what_was_right_and_whose_it_was() -> None:
    chronicle = told(RIGHT, WRONG, TEACHER, ("late_delivery", "teacher"), RIGHT)
    seen = chronicle.stretch(0)
    assert seen == Stretch(answers=5, right=3, own=3, wrong=1)
    assert (seen.accuracy, seen.escalated, seen.undetected) == pytest.approx((0.6, 0.4, 0.2))
    assert chronicle.stretch(1, 3) == Stretch(answers=2, right=1, own=1, wrong=1)


def test_an_empty_stretch_has_shares_too() -> None:
    seen = Chronicle().stretch(0)
    assert (seen.accuracy, seen.escalated, seen.undetected) == (0.0, 0.0, 0.0)


def test_an_answer_of_nobody_is_not_right() -> None:
    chronicle = Chronicle()
    chronicle.heard(TICKET, {"labels": None, "route": "abstain"})
    assert chronicle.stretch(0) == Stretch(answers=1, right=0, own=0, wrong=0)


def test_a_rolling_window_looks_back_and_no_further() -> None:
    chronicle = told(WRONG, RIGHT, RIGHT, TEACHER)
    found = list(chronicle.rolling(2, 1))
    assert [at for at, _ in found] == [2, 3, 4]
    assert [seen.right for _, seen in found] == [1, 2, 2]
    assert [seen.wrong for _, seen in found] == [1, 0, 0]
    assert [seen.own for _, seen in found] == [2, 2, 1]


def test_it_is_written_and_drawn(tmp_path: Path) -> None:
    chronicle = told(*[RIGHT, WRONG, TEACHER] * 300)
    chronicle.happened("act", "A worse student")
    chronicle.judged("tickets-1", [GATE, GATE | {"gate": "disagreement", "value": None}])
    chronicle.happened("rollback", "the teacher alone answers")
    chronicle.write(tmp_path / "chronicle.json")
    found = orjson.loads((tmp_path / "chronicle.json").read_bytes())
    assert bytes.fromhex(found["right"])[:3] == bytes([1, 0, 1])
    assert [each["kind"] for each in found["events"]] == ["act", "rollback"]
    assert found["bounds"][0]["rows"] == 50
    picture.draw(chronicle, tmp_path / "story.png")
    assert (tmp_path / "story.png").read_bytes().startswith(b"\x89PNG")


def test_a_chronicle_of_a_moment_is_drawn_too(tmp_path: Path) -> None:
    picture.draw(told(RIGHT), tmp_path / "story.png")
    assert (tmp_path / "story.png").stat().st_size > 0

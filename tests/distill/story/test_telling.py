"""The telling: gates with their bounds, and the last screen, as a person reads them."""

from __future__ import annotations

import io

from rich.console import Console

from distill.story.telling import Telling

SEEN = {"answers": 1200, "right": 0.966, "by_student": 0.737, "undetected": 0.029}
RUNG = {"student": "better", "expected": 31, "late": 90, "rows": 40}
GATE = {
    "gate": "escalation", "standing": "failed", "limit": 0.12, "value": 0.539, "lower": 0.458,
    "upper": 0.612, "pairs": 458,
}  # fmt: skip


def test_a_gate_is_told_with_its_bounds() -> None:
    screen = io.StringIO()
    telling = Telling(Console(file=screen, width=120))
    telling.act(1, "A worse student", "It knows little.")
    telling.gates("after 460 comparisons: reject", {"gates": [GATE, GATE | {"value": None}]})
    told = screen.getvalue()
    assert "1. A worse student" in told
    assert "after 460 comparisons: reject" in told
    assert "+45.8% … +61.2%" in told
    assert "failed" in told


def test_the_last_screen_sums_up() -> None:
    screen = io.StringIO()
    acts = {
        "promote": {"before": SEEN, "after": SEEN},
        "storm": {"seen": SEEN},
        "fall": {"seen": SEEN, "rollbacks": [RUNG]},
        "learn": {"seen": SEEN},
        "win_back": {"after": SEEN},
    }
    traffic = {"answers": 20_000, "failed": 1, "turned_away": 2}
    found = {"acts": acts, "traffic": traffic, "seconds": {"all": 400.0}}
    Telling(Console(file=screen, width=120)).finale(found)
    told = screen.getvalue()
    assert "the Glow crate" in told
    assert "96.6%" in told
    assert "20,000 answers, 3 requests without one; 400 s in all" in told

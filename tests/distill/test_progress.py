"""What a person sees: plain lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from distill.progress import Narrator
from tests.gateway.telemetry.clock import Clock


def narrator(*, terminal: bool = False, clock: Clock | None = None) -> tuple[Narrator, StringIO]:
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, highlight=False)
    return Narrator(console, clock=clock or Clock()), out


def test_a_note_is_a_line() -> None:
    told, out = narrator()
    told.note("three rows left out")
    assert out.getvalue() == "three rows left out\n"


@pytest.mark.parametrize(
    ("event", "said"),
    [("started", "train\n"), ("kept", "train: kept from an earlier start\n"), ("finished", "")],
)
def test_a_stage_is_named_when_it_begins_or_is_kept(event: str, said: str) -> None:
    told, out = narrator()
    told.stage("train", event)
    assert out.getvalue() == said


def test_without_a_terminal_there_is_a_line_every_ten_seconds() -> None:
    clock = Clock(100.0)
    told, out = narrator(clock=clock)
    with told.bar("the teacher labels") as advance:
        for now, done in [(100.0, 0), (109.9, 500), (110.0, 1_000), (119.9, 1_500), (120.0, 2_000)]:
            clock.now = now
            advance(done, 10_000)
    # 1000 texts in 10 s are 100 a second, and 9000 more take 90 s; then 2000 in 20 s.
    assert out.getvalue().splitlines() == [
        "  the teacher labels: 1,000 of 10,000 texts, 100 texts/s, 90 s left",
        "  the teacher labels: 2,000 of 10,000 texts, 100 texts/s, 80 s left",
    ]


def test_a_stage_that_stands_still_is_said_without_a_guess() -> None:
    clock = Clock()
    told, out = narrator(clock=clock)
    with told.bar("training", unit="rows") as advance:
        clock.now = 10.0
        advance(0, 10)
    assert out.getvalue() == "  training: 0 of 10 rows, 0 rows/s, 0 s left\n"


def test_on_a_terminal_there_is_a_bar_with_its_rate() -> None:
    clock = Clock()
    told, out = narrator(terminal=True, clock=clock)
    with told.bar("training", unit="rows") as advance:
        clock.now = 2.0
        advance(50, 200)
    assert "training" in out.getvalue()
    assert "50/200" in out.getvalue()
    assert "25 rows/s" in out.getvalue()


def test_it_speaks_on_standard_error_and_can_be_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    Narrator().note("hello")
    Narrator(quiet=True).note("nothing")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")

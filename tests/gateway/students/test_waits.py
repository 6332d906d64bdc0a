"""How long a process has waited for a processor, with the files of /proc as a test writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.students.process import Waits


class Watched:
    """A process whose files say what a test tells them."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self._folder = folder
        self._waits = Waits(folder, clock=lambda: self.now)

    def waited(self, state: str, *, ran: float, kept: float, after: float) -> float:
        """Seconds that it has waited, `after` seconds later, when the system says this of it."""
        self.now += after
        (self._folder / "stat").write_text(f"7 (a) R (b) {state} 1 7 7")
        (self._folder / "schedstat").write_text(f"{ran * 1e9:.0f} {kept * 1e9:.0f} 12\n")
        return self._waits.seconds


@pytest.fixture
def process(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_wait_that_goes_on_counts_from_when_the_process_was_last_asleep(
    process: Watched,
) -> None:
    assert process.waited("S", ran=1.0, kept=2.0, after=10.0) == 2.0
    assert process.waited("R", ran=1.0, kept=2.0, after=7.0) == 9.0  # it has not run since
    assert process.waited("R", ran=1.5, kept=9.25, after=2.0) == 10.5  # nor now, but for half of 2
    assert process.waited("S", ran=1.75, kept=10.5, after=1.0) == 10.5  # as the system says


def test_who_runs_all_the_time_or_sleeps_waits_for_nobody(process: Watched) -> None:
    assert process.waited("S", ran=1.0, kept=2.0, after=10.0) == 2.0
    assert process.waited("R", ran=8.0, kept=2.0, after=7.0) == 2.0
    assert process.waited("T", ran=8.0, kept=2.0, after=7.0) == 2.0  # stopped is not waiting
    assert process.waited("R", ran=8.0, kept=2.0, after=1.0) == 3.0


def test_one_that_never_slept_has_waited_since_it_was_begun(process: Watched) -> None:
    assert process.waited("R", ran=0.5, kept=0.25, after=4.0) == 3.5


def test_where_the_system_does_not_say_nobody_has_waited(tmp_path: Path) -> None:
    assert Waits(tmp_path).seconds == 0.0
    (tmp_path / "stat").write_text("7 (a) R")
    assert Waits(tmp_path).seconds == 0.0

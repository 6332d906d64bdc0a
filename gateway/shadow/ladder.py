"""The ladder of a canary: one step after the other, each for a while and for some rows. Pure.

A share of 1 % for an hour shows what breaks at once, and hurts few; what only many texts show, or a
whole day, the later steps see. The clock is an argument, so that a day takes a test no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """A share of all keys, in (0, 1], and what must have passed before the next step."""

    share: float
    minimum_s: float
    rows: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a step has come. `done`: the next one may follow, or the end."""

    step: Step
    last: bool
    remaining_s: float
    remaining_rows: int

    @property
    def done(self) -> bool:
        """Whether nothing remains."""
        return self.remaining_s <= 0.0 and self.remaining_rows <= 0


class Ladder:
    """The steps in their order. Steps may go while a canary is on them: it stays on the last."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = tuple(steps)

    def __len__(self) -> int:
        return len(self._steps)

    def step(self, number: int) -> Step:
        """The step of that number, counted from 0."""
        return self._steps[min(number, len(self._steps) - 1)]

    def standing(self, number: int, *, since: float, rows: int, now: float) -> Standing:
        """How the step of that number stands, which began at `since` and has seen so many rows.

        Both times are in seconds of the same clock.
        """
        step = self.step(number)
        return Standing(
            step=step,
            last=number >= len(self._steps) - 1,
            remaining_s=max(0.0, since + step.minimum_s - now),
            remaining_rows=max(0, step.rows - rows),
        )

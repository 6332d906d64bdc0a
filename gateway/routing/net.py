"""The safety net below a new student: for its first days the teacher sees a share of what is risky.

It is a risk rule like those of the settings: what it catches is not the student's to answer. Which
requests it catches is no coin but a hash of the text, so that a decision can be explained, and made
again. It only ever takes answers from the student, so that a certificate holds as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.routing.canary import place
from gateway.routing.risk import Rule, first
from gateway.types import Instance, Prediction

NAME = "safety_net"  # the detail of its decisions


@dataclass(frozen=True, slots=True)
class SafetyNet:
    """A rule that holds for `share` of what the `rules` catch; without rules, of everything.

    It ends at `until`, as `clock` gives it, in seconds since the epoch.
    """

    share: float
    until: float
    rules: tuple[Rule, ...]
    clock: Callable[[], float]

    @property
    def name(self) -> str:
        """What is reported when it holds."""
        return NAME

    def holds(self, instance: Instance, prediction: Prediction | None) -> bool:
        """Whether the teacher is to see this one."""
        if self.clock() >= self.until or place(instance, key=None, salt=NAME) >= self.share:
            return False
        return not self.rules or first(self.rules, instance, prediction) is not None

"""A clock for tests."""

from __future__ import annotations


class Clock:
    """Seconds that move when they are told."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """What the time is."""
        return self.now

"""Answers of a chosen time, with the ids that such a time gives."""

from __future__ import annotations

from dataclasses import replace

from gateway.types import Answer, Instance
from tests.gateway.telemetry.answers import confident

DAY = 86_400.0  # seconds
NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z, in seconds since the epoch


def at(seconds: float, *, text: str = "hello") -> Answer:
    """An answer that was given then. Its id begins with its milliseconds, as those of a cascade."""
    digits = f"{round(seconds * 1000):012x}"
    identity = f"{digits[:8]}-{digits[8:]}-7000-8000-0123456789ab"
    return replace(confident(1), id=identity, at=seconds, instance=Instance(text))

"""What calls of these tests may take: as long as the machine needs, where no limit is the point."""

from __future__ import annotations

import pytest

from gateway.teachers import upstream

_LONG_S = 120.0  # seconds; far beyond what any wait here takes


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connection take its time, an idle one stay, and an error's words come late.

    Each has a limit of a few seconds, which a busy machine may need for itself.
    """
    for limit in ("_CONNECT_S", "_IDLE_S", "_WORDS_S"):
        monkeypatch.setattr(upstream, limit, _LONG_S)

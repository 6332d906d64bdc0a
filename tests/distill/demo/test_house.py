"""The gateway of a demo: a process of its own, whose address and whose failure are told."""

from __future__ import annotations

import os
from pathlib import Path

import httpx2
import pytest

from distill.demo import house
from gateway import settings
from gateway.errors import StageFailed
from tests.factories import settings_file


def test_a_gateway_that_does_not_start_is_told_with_where_to_read_why(tmp_path: Path) -> None:
    (tmp_path / settings.FILE).write_text("version: 1\ntasks: {}\n")
    with (
        pytest.raises(StageFailed, match="the gateway did not start") as caught,
        house.gateway(tmp_path),
    ):
        raise AssertionError("it started")
    assert str(tmp_path / "gateway.log") in caught.value.mend
    assert "tasks" in (tmp_path / "gateway.log").read_text()


def test_the_address_is_read_from_the_ready_line() -> None:
    lines = ["warming up\n", "understudy: ready on http://127.0.0.1:8099\n"]
    assert house.address(lines, within=60.0) == "http://127.0.0.1:8099"
    assert house.address(lines[:1], within=60.0) is None


def test_a_gateway_that_says_nothing_is_given_up() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as silent, os.fdopen(writing, "w") as end:
        assert house.address(silent, within=0.01) is None
        end.close()  # the reader sees the end, and lets go


def test_a_key_of_this_shell_does_not_reach_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway with keys would refuse the demo's own requests, which have none."""
    monkeypatch.setenv("UNDERSTUDY_API_KEYS", f"ci:{'0' * 64}")
    with house.gateway(settings_file(tmp_path).parent) as address:
        assert httpx2.get(f"{address}/v1/stats", timeout=60).status_code == 200

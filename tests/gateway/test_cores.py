"""How many cores a process may use, from its affinity and its cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway import cores


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),  # no quota
        ("400000 100000", 4),
        ("150000 100000", 2),  # a part of a core is a core
        ("10000 100000", 1),
        ("1600000 100000", 8),  # more than the affinity gives
        ("0 100000", 1),  # never none
        ("", 8),
        ("nonsense", 8),
    ],
)
def test_the_smaller_of_quota_and_affinity_counts(
    tmp_path: Path, quota: str, expected: int
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota + "\n")
    assert cores.available(file) == expected


def test_without_a_cgroup_the_affinity_counts(tmp_path: Path) -> None:
    assert cores.available(tmp_path / "cpu.max") == 8


def test_this_process_has_a_core() -> None:
    assert 1 <= cores.available() <= 8

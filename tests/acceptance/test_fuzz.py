"""Every route of a real process against what /openapi.json says of it, whatever is sent.

Half of the cases have the documented shape and half of them break it. Each reply has a documented
status, type and shape, and none is a mistake of ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.api.auth import new_key
from tests.acceptance.conftest import Starter
from tests.acceptance.process import Process

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]
KEY, DIGEST = new_key("chief")
CASES = 8  # of either kind for each route that reads something: more than 200 in all
SOAK_CASES = 80  # the same: more than 2,000


def test_every_route_does_what_its_documentation_says(start: Starter) -> None:
    check(start, cases=CASES, at_least=200)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_every_route_does_what_its_documentation_says_in_2000_cases(start: Starter) -> None:
    check(start, cases=SOAK_CASES, at_least=2000)


def check(start: Starter, *, cases: int, at_least: int) -> None:
    """Send so many cases of either kind to each route; the key may do everything."""
    gateway = start(keys=[{"name": "chief", "sha256": DIGEST, "role": "admin"}])
    found = fuzz(gateway, cases)
    assert found["failures"] == []
    assert found["cases"] >= at_least
    assert "500" not in found["statuses"]
    assert found["statuses"]["200"] > at_least / 10  # not all of it was refused at the door
    assert "a request failed" not in gateway.log
    assert gateway.leave() == 0


def fuzz(gateway: Process, cases: int) -> dict[str, Any]:
    """What came of it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.fuzz", gateway.url, KEY, str(cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said

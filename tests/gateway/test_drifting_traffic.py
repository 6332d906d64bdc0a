"""Traffic whose share of strange texts rises from 0 to 18 %, through a real gateway.

Of ordinary texts one in ten is unsure ("maybe"), and is escalated. Of strange ones nine in ten are
beyond all that the student knows, p = 1/200, and are escalated as out of domain; one in ten looks
ordinary, and the student answers it: wrongly, for there is no right answer.
"""

from __future__ import annotations

import pytest

from benchmarks.drift import Asked, Phase, replay, table
from tests.factories import CONFIDENT, UNSURE, settings_file, tiny_bundle
from tests.familiar import STRANGE, familiar_bundle

REFUND = {"intent": ("refund",), "flags": ()}
KNOWN = [Asked(CONFIDENT, REFUND)] * 9 + [Asked(UNSURE, REFUND)]
STRANGERS = [Asked(STRANGE, None)] * 9 + [Asked("good morning", None)]
TARGET = 0.95  # of requests: the certificate of the tiny bundle allows 5 % undetected errors
ROWS = 500


@pytest.fixture(scope="module")
def phases(tmp_path_factory: pytest.TempPathFactory) -> list[Phase]:
    folder = tmp_path_factory.mktemp("drift")
    path = settings_file(
        folder,
        student=familiar_bundle(tiny_bundle(folder / "bundles")),
        teacher={"scripted": {"labels": {"intent": "refund"}}},
        tickets={"audit": {"share": 0.05}, "alarms": {"action": "rollback"}},
        records={"enabled": False},
    )
    return replay(path, KNOWN, STRANGERS, rows=ROWS)


def test_traffic_as_it_was_is_left_alone(phases: list[Phase]) -> None:
    first = phases[0]
    assert (first.moved, first.stale, first.audits) == ((), False, 0.05)
    assert first.escalated == pytest.approx(0.1, abs=0.03)
    assert first.handled == 1.0


def test_drift_is_seen_the_certificate_is_stale_and_audits_double(phases: list[Phase]) -> None:
    last = phases[-1]
    assert {"unfamiliar", "escalated", "score"} >= set(last.moved) >= {"unfamiliar"}
    assert (last.stale, last.audits) == (True, 0.1)
    began = next(number for number, each in enumerate(phases) if each.stale)
    assert 0.0 < phases[began].share <= 0.12
    assert all(each.stale for each in phases[began:])


def test_escalation_rises_with_the_strangers_and_what_is_handled_stays_at_its_target(
    phases: list[Phase],
) -> None:
    for each in phases:
        # One of ten ordinary texts, and nine of ten strange ones.
        expected = (1 - each.share) * 0.1 + each.share * 0.9
        assert each.escalated == pytest.approx(expected, abs=0.04)
        assert each.handled == pytest.approx(1 - 0.1 * each.share, abs=0.015)
        assert each.handled >= TARGET


def test_the_phases_are_shown_as_a_table(phases: list[Phase]) -> None:
    lines = table(phases).splitlines()
    assert len(lines) == 2 + 7
    assert lines[2].endswith("| 100.00% | - | no | 5% |")
    assert lines[-1].startswith("| 18% |")
    assert "| yes | 10% |" in lines[-1]

"""The promises, held against figures that were worked out by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import settings
from gateway.drills.findings import Figures, Findings, Kind, closing_time_s, promises
from gateway.settings import TaskSettings
from tests.factories import settings_file

CALM = Figures(
    confident_ok=100,
    confident_failed=0,
    p95_ms=20.0,
    outcomes=Counter(teacher=100),
    upstream_calls=100,
    calls=Counter(ok=100),
    seconds=5.0,
)
FINE = Findings(
    kind=Kind.DOWN,
    task="tickets",
    healthy=CALM,
    fault=replace(CALM, outcomes=Counter(fallback=100), upstream_calls=5, calls=Counter()),
    recovery=CALM,
    opened_s=0.5,
    closed_s=6.0,
    garbage_accepted=0,
)


@pytest.fixture
def task(tmp_path: Path) -> TaskSettings:
    return settings.load(settings_file(tmp_path)).tasks["tickets"]


def broken(found: Findings, task: TaskSettings) -> list[str]:
    """The first words of each promise that was not kept."""
    return [" ".join(each.words.split()[:3]) for each in promises(found, task) if not each.kept]


def during(**changed: Any) -> Findings:
    """The same drill with other figures in its fault phase."""
    return replace(FINE, fault=replace(FINE.fault, **changed))


def test_a_drill_in_which_all_is_well_breaks_no_promise(task: TaskSettings) -> None:
    assert broken(FINE, task) == []
    assert len(promises(FINE, task)) == 8


def test_one_confident_request_that_fails_is_too_many(task: TaskSettings) -> None:
    assert broken(during(confident_failed=1), task) == ["every request that"]


def test_confident_answers_may_take_a_fifth_longer_or_five_milliseconds(task: TaskSettings) -> None:
    assert broken(during(p95_ms=25.0), task) == []  # 5 ms above 20
    assert broken(during(p95_ms=25.1), task) == ["p95 of what"]
    slow = replace(during(p95_ms=120.0), healthy=replace(CALM, p95_ms=100.0))
    assert broken(slow, task) == []  # 1.2 times 100
    assert broken(replace(slow, fault=replace(slow.fault, p95_ms=120.1)), task) == ["p95 of what"]


def test_calls_may_be_a_tenth_more_than_escalations_and_one_in_ten_seconds(
    task: TaskSettings,
) -> None:
    # 300 escalations in 15 s: 330 calls and 2 beyond, of which the other phases take 200.
    assert broken(during(upstream_calls=132), task) == []
    assert broken(during(upstream_calls=133), task) == ["at most 1.1"]


def test_no_escalation_is_lost(task: TaskSettings) -> None:
    assert broken(during(outcomes=Counter(fallback=99, lost=1)), task) == ["every escalation ends"]


def test_an_error_is_as_the_policy_says_only_where_it_says_so(tmp_path: Path) -> None:
    ended = during(outcomes=Counter(fallback=99, error=1))
    usual = settings.load(settings_file(tmp_path)).tasks["tickets"]
    failing = settings.load(settings_file(tmp_path, policy={"on_unavailable": "error"}))
    assert broken(ended, usual) == ["every escalation ends"]
    assert broken(ended, failing.tasks["tickets"]) == []


def test_garbage_that_was_taken_for_an_answer_breaks_a_promise(task: TaskSettings) -> None:
    assert broken(replace(FINE, garbage_accepted=1), task) == ["nothing but a"]


def test_the_breaker_has_to_open_where_the_teacher_was_down_and_asked(task: TaskSettings) -> None:
    assert broken(replace(FINE, opened_s=None), task) == ["the breaker opens"]
    assert broken(replace(FINE, opened_s=None, kind=Kind.FLAKY), task) == []
    few = during(outcomes=Counter(fallback=5))  # it takes five failures to know
    assert broken(replace(few, opened_s=None), task) == []


def test_the_breaker_has_to_close_in_time_and_the_teacher_to_answer_again(
    task: TaskSettings,
) -> None:
    assert closing_time_s(task) == 15.0
    assert broken(replace(FINE, closed_s=15.1), task) == ["15 s after"]
    assert broken(replace(FINE, closed_s=None), task) == ["15 s after"]
    without = replace(FINE, recovery=replace(CALM, outcomes=Counter(fallback=100)))
    assert broken(without, task) == ["after recovery the"]


def test_a_breaker_that_waits_longer_has_longer_to_close(tmp_path: Path) -> None:
    teacher = {"scripted": {}, "breaker": {"open_s": 60.0}}
    path = settings_file(tmp_path, teacher=teacher)
    assert closing_time_s(settings.load(path).tasks["tickets"]) == 65.0


def test_figures_of_a_phase_without_escalations_have_no_ratio() -> None:
    assert CALM.calls_per_escalation == 1.0
    assert replace(CALM, outcomes=Counter()).calls_per_escalation is None

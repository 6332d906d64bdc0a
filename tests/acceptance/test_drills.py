"""`understudy drill`, as an operator types it, on a project of a tiny bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.teachers.garbage import GARBAGE
from tests.factories import CONFIDENT, UNSURE, settings_file, tiny_bundle

pytestmark = pytest.mark.acceptance

# No call is late and none that waits behind a batch is refused, however slow the machine is.
PATIENT = {"scripted": {}, "timeout_s": 60.0, "breaker": {"open_s": 0.5}}
WAITS = {"student": {"max_wait_ms": 3_600_000}}
# Where calls that hang are among what is rehearsed, they are to end.
QUICK = PATIENT | {"timeout_s": 5.0}
# Every case is to be shown, also where a busy machine has the answers come in another order.
UNBROKEN = QUICK | {"breaker": {"failures": 1000, "calls": 1024}}
# Nor is any promise kept too late, of those that name seconds: these tests ask whether it is kept.
_UNHURRIED = """
from gateway.cli import main
from gateway.drills import findings
findings._CLOSES_S = 300.0
main()
"""
UNHURRIED = (sys.executable, "-c", _UNHURRIED)
OF_TIME = "p95"  # this promise is about the machine too, which others use beside these tests

Drill = Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, Any]]]


def run(config: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a drill to its end."""
    command = [*UNHURRIED, "drill", *map(str, arguments), "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def drill(tmp_path: Path) -> Drill:
    """A small drill with --json, of these settings of the teacher."""

    def start(
        kind: str, *arguments: object, teacher: Mapping[str, Any] = PATIENT
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        config = settings_file(tmp_path, teacher=teacher, tickets=WAITS)
        small = ("--requests", 40, "--rate", 40, "--json")
        done = run(config, kind, *small, *arguments)
        assert done.stdout, done.stderr
        assert not (tmp_path / "records.db").exists()
        assert not (tmp_path / "students").exists()
        return done, json.loads(done.stdout)

    return start


def broken(found: Mapping[str, Any]) -> list[str]:
    """The promises that were not kept, but for that of time."""
    return [
        f"{each['words']}: {each['seen']}"
        for each in found["promises"]
        if not each["kept"] and not each["words"].startswith(OF_TIME)
    ]


@pytest.mark.parametrize(
    ("kind", "teacher"),
    [
        pytest.param("slow", QUICK, marks=pytest.mark.soak),
        ("rate-limited", PATIENT),
        pytest.param("flaky", PATIENT, marks=pytest.mark.soak),
    ],
)
def test_the_promises_hold_and_the_status_says_so(
    drill: Drill, kind: str, teacher: Mapping[str, Any]
) -> None:
    done, found = drill(kind, "--slow-ms", 200, teacher=teacher)
    assert broken(found) == []
    assert done.returncode == (0 if found["kept"] else 1)
    assert found["kind"] == kind
    for phase in ("healthy", "fault", "recovery"):
        assert found[phase]["confident_failed"] == 0
    assert found["healthy"]["confident_ok"] == 20
    assert found["healthy"]["outcomes"] == {"teacher": 20}
    assert found["recovery"]["outcomes"]["teacher"] > 0


def test_a_teacher_that_is_down_opens_the_breaker_and_the_student_stands_in(drill: Drill) -> None:
    # Open for less than from look to look: it is mostly seen half open.
    brief = PATIENT | {"breaker": {"open_s": 0.01}}
    done, found = drill("teacher-down", teacher=brief)
    assert broken(found) == []
    assert done.returncode == (0 if found["kept"] else 1)
    assert found["fault"]["outcomes"] == {"fallback": 20}
    assert found["opened_s"] is not None
    assert found["closed_s"] is not None


def test_every_case_of_garbage_is_sent_and_none_is_taken_for_an_answer(drill: Drill) -> None:
    _, found = drill("garbage", "--rate", 100, teacher=UNBROKEN)
    assert found["garbage_accepted"] == 0
    assert {fault.name for fault in GARBAGE} <= set(found["fault"]["calls"])
    assert broken(found) == []


@pytest.mark.soak
def test_a_promise_that_the_settings_break_is_said_in_words(tmp_path: Path) -> None:
    eager = {"failures": 1000, "calls": 1024, "open_s": 0.5}
    teacher = PATIENT | {"retries": 3, "retry_share": 1.0, "breaker": eager}
    config = settings_file(tmp_path, teacher=teacher, tickets=WAITS)
    done = run(config, "teacher-down", "--requests", 40, "--rate", 40)
    assert done.returncode == 1
    assert "broken: at most 1.1 upstream calls for each escalation" in done.stdout
    assert "every promise was kept" not in done.stdout


@pytest.mark.soak
def test_where_the_student_is_sure_of_all_texts_the_caller_asks_for_the_teacher(
    drill: Drill, tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text(f"{CONFIDENT}\nfraud\n")
    _, found = drill("flaky", "--texts", tmp_path / "texts.txt")
    assert found["healthy"]["outcomes"] == {"teacher": 20}


def test_texts_that_all_go_to_the_teacher_rehearse_nothing(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text(f"{UNSURE}\n")
    config = settings_file(tmp_path, teacher=PATIENT)
    done = run(config, "flaky", "--texts", tmp_path / "texts.txt")
    assert done.returncode == 2
    assert "none of the 1 texts is answered by the student alone" in done.stderr


def test_one_of_several_tasks_has_to_be_named(tmp_path: Path) -> None:
    task = {
        "student": {"bundle": str(tiny_bundle(tmp_path)), "run_in": "threads"},
        "teacher": PATIENT,
    }
    config = settings_file(tmp_path, tasks={"one": task, "two": task})
    assert "give --task, one of: one, two" in run(config, "flaky").stderr
    assert "there is no task 'three'" in run(config, "flaky", "--task", "three").stderr

"""Failures in the log: seen, and never a flood."""

from __future__ import annotations

import structlog

from gateway.errors import StudentFailed, TeacherTimeout
from gateway.telemetry.failures import FailureLog
from tests.gateway.telemetry.clock import Clock


def test_one_line_a_second_for_each_kind_and_the_next_says_what_was_left_out() -> None:
    clock = Clock(100.0)
    log = FailureLog("tickets", clock=clock)
    with structlog.testing.capture_logs() as lines:
        for now in (100.0, 100.5, 100.9, 101.0, 102.5):
            clock.now = now
            log.tell("student", StudentFailed("not finite"))
    assert [line["suppressed"] for line in lines] == [0, 2, 0]


def test_one_kind_does_not_silence_the_other() -> None:
    log = FailureLog("tickets", clock=Clock())
    with structlog.testing.capture_logs() as lines:
        log.tell("student", StudentFailed("not finite"))
        log.tell("teacher", TeacherTimeout("too late"))
    assert [line["event"] for line in lines] == ["student_failed", "teacher_failed"]


def test_a_line_names_the_task_the_code_the_type_and_the_message() -> None:
    failed = StudentFailed("the student failed: " + "x" * 400)
    failed.__cause__ = ValueError("x" * 400)
    with structlog.testing.capture_logs() as lines:
        FailureLog("tickets", clock=Clock()).tell("student", failed)
    assert lines == [
        {
            "event": "student_failed",
            "log_level": "warning",
            "task": "tickets",
            "code": "student_failed",
            "type": "ValueError",
            "error": "the student failed: " + "x" * 280,  # 300 characters
            "suppressed": 0,
        }
    ]

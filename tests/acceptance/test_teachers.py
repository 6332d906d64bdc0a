"""Another Understudy as the teacher, over the Open Inference Protocol, in two real processes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.process import TIMEOUT_S, Process
from tests.factories import CONFIDENT, UNSURE, settings_file, tiny_bundle

pytestmark = pytest.mark.acceptance


def _student(folder: Path, upstream: str) -> Path:
    """Settings of a gateway that asks the other one."""
    teacher = {"oip": {"url": upstream, "model": "tickets"}, "timeout_s": TIMEOUT_S}
    return settings_file(folder, teacher=teacher, tickets={"audit": {"share": 1.0}})


def test_a_gateway_is_the_teacher_of_another(tmp_path: Path) -> None:
    sure = {"policy": {"threshold": 0.0}}  # the other one's student answers everything
    upstream = settings_file(
        tmp_path / "upstream",
        student=tiny_bundle(tmp_path / "bundles", bias={"fraud": 20.0, "legal": 20.0}),
        tickets=sure,
    )
    with (
        closing(Process(upstream)) as teacher,
        closing(Process(_student(tmp_path / "student", teacher.url))) as gateway,
    ):
        assert gateway.ask(CONFIDENT)["route"] == "student"
        said = gateway.ask(UNSURE)
        assert (said["route"], said["reason"]) == ("teacher", "low_confidence")
        assert said["labels"] == {"intent": "fraud", "flags": ["legal"]}
        told = teacher.ask(UNSURE)
        assert said["score"] == pytest.approx(told["score"], abs=1e-6)
        teacher.leave()
        assert gateway.ask(UNSURE)["route"] == "fallback"


def test_what_the_other_one_does_not_answer_is_no_answer_of_a_teacher(tmp_path: Path) -> None:
    upstream = settings_file(
        tmp_path / "upstream",
        teacher={"scripted": {"fail_every": 1}},
        policy={"on_unavailable": "abstain"},
    )
    with (
        closing(Process(upstream)) as teacher,
        closing(Process(_student(tmp_path / "student", teacher.url))) as gateway,
    ):
        assert gateway.ask(UNSURE)["route"] == "fallback"
        assert gateway.leave() == 0  # with all that it had yet to write
        assert [record.route for record in gateway.records()] == ["fallback"]

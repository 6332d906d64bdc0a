"""Who answers, seen from outside: the student, the teacher, the student in its place, or nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.conftest import Starter
from tests.acceptance.process import Process
from tests.factories import CONFIDENT, UNSURE, settings_file
from tests.patience import until

pytestmark = pytest.mark.acceptance

RULE = {"name": "large_amount", "field": "amount", "above": 1000}
CANARY = "zanzibarium"  # a word that stands nowhere else


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Its teacher says "other" to everything; a large amount is never the student's."""
    path = settings_file(
        tmp_path_factory.mktemp("gateway"),
        run_in="processes",
        policy={"rules": [RULE]},
        tickets={"prices": {"teacher_usd_per_1000": 2.0}},
    )
    with closing(Process(path)) as process:
        yield process


@pytest.fixture(scope="module")
def orphan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Its teacher is down."""
    path = settings_file(
        tmp_path_factory.mktemp("orphan"),
        run_in="processes",
        teacher={"scripted": {"fail_every": 1}},
        policy={"rules": [RULE]},
    )
    with closing(Process(path)) as process:
        yield process


def test_the_student_answers_what_it_is_sure_of(gateway: Process) -> None:
    said = gateway.ask(CONFIDENT)
    assert (said["route"], said["reason"]) == ("student", "confident")
    assert said["labels"] == {"intent": "refund", "flags": []}
    assert said["score"] > 0.99
    assert said["cost_usd"]["avoided"] == 0.002


def test_the_teacher_answers_what_the_student_is_not_sure_of(gateway: Process) -> None:
    said = gateway.ask(UNSURE)
    assert (said["route"], said["reason"]) == ("teacher", "low_confidence")
    assert said["labels"]["intent"] == "other"
    assert said["cost_usd"]["teacher"] == 0.002


def test_a_large_amount_goes_to_the_teacher_however_sure_the_student_is(gateway: Process) -> None:
    said = gateway.ask(CONFIDENT, fields={"amount": 1000.01})
    assert (said["route"], said["reason"]) == ("teacher", "high_risk")
    assert said["detail"] == "large_amount"
    assert gateway.ask(CONFIDENT, fields={"amount": 1000})["route"] == "student"


def test_one_request_may_hold_texts_for_both(gateway: Process) -> None:
    found = gateway.post({"inputs": [CONFIDENT, UNSURE, {"text": CONFIDENT, "id": "c"}]}).json()
    assert [each["route"] for each in found["results"]] == ["student", "teacher", "student"]
    assert found["results"][2]["input_id"] == "c"


def test_stats_and_metrics_count_the_same_answers(gateway: Process) -> None:
    before = gateway.stats()["tasks"]["tickets"]["routes"]
    gateway.ask(CONFIDENT)
    gateway.ask(UNSURE)
    after = gateway.stats()["tasks"]["tickets"]["routes"]
    assert after == before | {"student": before["student"] + 1, "teacher": before["teacher"] + 1}
    for route, count in after.items():
        labels = f'{{code="200",route="{route}",task="tickets"}}'
        assert gateway.metric(f"understudy_requests_total{labels}") == count


def test_without_its_teacher_the_students_answer_stands_and_says_so(orphan: Process) -> None:
    said = orphan.ask(UNSURE)
    assert (said["route"], said["failure"]) == ("fallback", "teacher_unavailable")
    assert said["labels"]["intent"] == "refund"


def test_without_its_teacher_nobody_answers_what_is_risky(orphan: Process) -> None:
    said = orphan.ask(CONFIDENT, fields={"amount": 5000})
    assert (said["route"], said["failure"]) == ("abstain", "teacher_unavailable")
    assert said["labels"] is None


def test_every_confident_answer_is_audited_where_the_share_is_one(start: Starter) -> None:
    process = start(tickets={"audit": {"share": 1.0}})
    for _ in range(5):
        process.ask(CONFIDENT)
    process.ask(UNSURE)
    until(lambda: _audited(process)["comparisons"] >= 5)  # audits come after the reply
    intent = _audited(process)
    assert intent == {"comparisons": 5, "disagreements": 5, "share": 1.0}  # it says "other"
    assert process.leave() == 0
    assert [record.audit_propensity for record in process.records()] == [1.0] * 5 + [0.0]


def test_text_stays_out_of_logs_and_records(start: Starter, tmp_path: Path) -> None:
    process = start(
        teacher={"scripted": {"fail_every": 2}},
        logging={"level": "debug"},
        policy={"rules": [RULE]},
    )
    secret = {"note": CANARY, "amount": 2000}
    for text in (f"refund {CANARY}", f"maybe {CANARY}", f"maybe fraud {CANARY}"):
        assert process.ask(text)["labels"]
        process.ask(text, fields=secret)
    for body in ({"input": CANARY, CANARY: 1}, {"inputs": [{"text": CANARY, "x": CANARY}]}):
        assert process.post(body).status_code == 422
    assert process.leave() == 0
    assert len(process.records()) == 6
    kept = [path for path in tmp_path.iterdir() if path.name.startswith(("records.db", "gateway"))]
    assert {path.name for path in kept} >= {"records.db", "gateway.log"}
    assert not [path.name for path in kept if CANARY.encode() in path.read_bytes()]


def _audited(process: Process) -> dict[str, float]:
    found: dict[str, float] = process.stats()["tasks"]["tickets"]["disagreement"]["intent"][
        "audited"
    ]
    return found

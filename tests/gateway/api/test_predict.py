"""POST /v1/predict over a real gateway: what is answered, by whom, and in what shape."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api.schemas import Result, Results
from tests.conftest import Client, Opener
from tests.factories import CONFIDENT, UNSURE, tiny_bundle

TEACHER_SAYS = {"scripted": {"labels": {"intent": "fraud", "flags": ["legal"]}}}
TEACHER_IS_DOWN = {"scripted": {"labels": {}, "fail_every": 1}}
RISKY = {
    "rules": [
        {"name": "lawyers", "text": "lawyer"},
        {"name": "dear", "field": "amount", "above": 500},
    ]
}


def ask(client: Client, **body: Any) -> dict[str, Any]:
    reply = client.post("/v1/predict", json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_a_confident_text_is_answered_by_the_student(serve: Opener) -> None:
    client = serve(teacher=TEACHER_SAYS)
    reply = client.post("/v1/predict", json={"input": CONFIDENT})
    found = reply.json()
    assert found["labels"] == {"intent": "refund", "flags": []}
    assert (found["route"], found["reason"], found["reasons"]) == (
        "student",
        "confident",
        ["confident"],
    )
    assert found["score"] == pytest.approx(0.9968, abs=5e-4)
    assert found["confidence"]["intent"] == pytest.approx(0.9975, abs=5e-4)
    assert len(found["bundle"]) == 64
    assert found["truncated"] is False
    assert reply.headers["x-understudy-route"] == "student"
    assert reply.headers["x-understudy-reason"] == "confident"
    assert reply.headers["content-type"] == "application/json"


def test_an_unsure_text_goes_to_the_teacher(serve: Opener) -> None:
    client = serve(teacher=TEACHER_SAYS)
    found = ask(client, input=UNSURE)
    assert found["labels"] == {"intent": "fraud", "flags": ["legal"]}
    assert (found["route"], found["reason"]) == ("teacher", "low_confidence")
    assert found["bundle"] == "scripted"


def test_a_local_teacher_bundle_answers_what_the_student_does_not(
    serve: Opener, tmp_path: Any
) -> None:
    teacher = tiny_bundle(tmp_path / "teachers", role="teacher", bias={"fraud": 30.0})
    client = serve(teacher={"bundle": str(teacher)})
    found = ask(client, input=UNSURE)
    assert found["labels"]["intent"] == "fraud"
    assert found["bundle"].startswith(teacher.name.removeprefix("tickets-"))


def test_the_students_answer_stands_where_the_teacher_is_down(serve: Opener) -> None:
    client = serve(teacher=TEACHER_IS_DOWN)
    found = ask(client, input=UNSURE)
    assert found["labels"] == {"intent": "refund", "flags": []}
    assert (found["route"], found["reason"]) == ("fallback", "low_confidence")
    assert found["failure"] == "teacher_unavailable"


def test_a_risky_text_is_answered_by_nobody_where_the_teacher_is_down(serve: Opener) -> None:
    client = serve(teacher=TEACHER_IS_DOWN, policy=RISKY)
    found = ask(client, input="my lawyer wants a refund")
    assert (found["route"], found["reason"], found["detail"]) == (
        "abstain",
        "high_risk",
        "lawyers",
    )
    assert [found[key] for key in ("labels", "confidence", "score", "bundle")] == [None] * 4
    assert found["truncated"] is False


def test_a_field_of_the_input_makes_it_risky(serve: Opener) -> None:
    client = serve(policy=RISKY)
    assert ask(client, input=CONFIDENT, fields={"amount": 501})["detail"] == "dear"
    assert "detail" not in ask(client, input=CONFIDENT, fields={"amount": 500})


def test_the_caller_may_ask_for_the_teacher_and_for_the_student(client: Client) -> None:
    taught = ask(client, input=CONFIDENT, route="teacher")
    assert (taught["route"], taught["reason"]) == ("teacher", "requested")
    mine = ask(client, input=UNSURE, route="student")
    assert (mine["route"], mine["reasons"]) == ("student", ["requested", "low_confidence"])


def test_a_risky_text_goes_to_the_teacher_though_the_caller_asks_for_the_student(
    serve: Opener,
) -> None:
    client = serve(policy=RISKY)
    found = ask(client, input="refund, or my lawyer calls", route="student")
    assert (found["route"], found["reason"]) == ("teacher", "high_risk")


def test_a_text_that_is_longer_than_the_student_reads_is_escalated(client: Client) -> None:
    found = ask(client, input="please " * 17)
    assert (found["route"], found["reason"]) == ("teacher", "truncated")


def test_without_a_certificate_everything_is_escalated(serve: Opener, tmp_path: Any) -> None:
    client = serve(student=tiny_bundle(tmp_path, threshold=None))
    found = ask(client, input=CONFIDENT)
    assert (found["route"], found["reason"]) == ("teacher", "no_certificate")


def test_several_inputs_are_answered_in_their_order(client: Client) -> None:
    found = ask(
        client,
        task="tickets",
        inputs=[
            CONFIDENT,
            {"text": "this is fraud", "id": "second"},
            {"text": UNSURE, "fields": {"a": None}},
        ],
    )["results"]
    assert [each["labels"]["intent"] for each in found] == ["refund", "fraud", "other"]
    assert [each["route"] for each in found] == ["student", "student", "teacher"]
    assert [each.get("input_id") for each in found] == [None, "second", None]
    assert len({each["id"] for each in found}) == 3


def test_headers_name_no_route_where_there_are_several_answers(client: Client) -> None:
    reply = client.post("/v1/predict", json={"inputs": [CONFIDENT]})
    assert "x-understudy-route" not in reply.headers


def test_probabilities_come_where_they_are_asked_for(client: Client) -> None:
    found = ask(client, input=CONFIDENT, probabilities=True)["probabilities"]
    assert list(found["intent"]) == ["refund", "fraud", "other"]
    assert sum(found["intent"].values()) == pytest.approx(1.0, abs=1e-6)
    assert found["flags"]["urgent"] == pytest.approx(0.000335, abs=2e-6)  # 1 / (1 + e^8)
    assert "probabilities" not in ask(client, input=CONFIDENT)


def test_a_teacher_call_is_priced_and_an_unknown_price_is_null(serve: Opener) -> None:
    client = serve(tickets={"prices": {"teacher_usd_per_1000": "2.50"}})
    confident, unsure = ask(client, input=CONFIDENT), ask(client, input=UNSURE)
    assert confident["cost_usd"] == {
        "student": None,
        "teacher": 0,
        "avoided": 0.0025,
        "total": None,
    }
    assert unsure["cost_usd"] == {"student": None, "teacher": 0.0025, "avoided": 0, "total": None}


def test_the_total_cost_is_known_where_both_prices_are(serve: Opener) -> None:
    prices = {"teacher_usd_per_1000": "2.50", "instance_usd_per_hour": "0.36"}
    client = serve(tickets={"prices": prices})
    cost = ask(client, input=UNSURE)["cost_usd"]
    assert cost["total"] == pytest.approx(cost["student"] + 0.0025)


def test_the_students_time_is_paid_for_even_where_one_answer_is_below_a_micro_usd(
    serve: Opener,
) -> None:
    client = serve(tickets={"prices": {"instance_usd_per_hour": "0.36"}})
    ask(client, inputs=[CONFIDENT] * 4)
    shown = client.get("/metrics").text
    name = 'understudy_cost_usd_total{bucket="live",task="tickets"} '
    (live,) = (line.removeprefix(name) for line in shown.splitlines() if line.startswith(name))
    assert float(live) > 0.0
    stats = client.get("/v1/stats").json()["tasks"]["tickets"]
    assert stats["cost"]["student"] == round(float(live) * 1_000_000)  # the two tell the same


def test_server_timing_names_each_stage(client: Client) -> None:
    reply = client.post("/v1/predict", json={"input": UNSURE})
    stages = [each.strip().split(";dur=") for each in reply.headers["server-timing"].split(",")]
    assert [name for name, _ in stages] == ["queue", "student", "teacher", "total"]
    timing = reply.json()["timing_ms"]
    assert set(timing) == {"queue", "student", "teacher", "total"}
    assert float(stages[3][1]) >= timing["total"] >= timing["student"] > 0


def test_replies_have_the_documented_shapes(serve: Opener) -> None:
    client = serve(teacher=TEACHER_IS_DOWN, policy=RISKY)
    for text in (CONFIDENT, UNSURE, "lawyer"):
        Result.model_validate(ask(client, input=text, probabilities=True))
    Results.model_validate(ask(client, inputs=[{"text": CONFIDENT, "id": "7"}]))


def test_a_failing_student_is_replaced_by_the_teacher(client: Client) -> None:
    student = client.gateway.tasks["tickets"].rung.student.student
    student.encoding._tokenizer = None  # type: ignore[assignment]
    found = ask(client, input=CONFIDENT)
    assert (found["route"], found["reason"]) == ("teacher", "student_failed")


def test_a_deadline_that_is_over_is_a_504_with_its_own_code(client: Client) -> None:
    reply = client.post("/v1/predict", json={"input": CONFIDENT, "deadline_ms": 1e-6})
    assert (reply.status_code, reply.json()["code"]) == (504, "deadline_passed")


def test_priority_and_deadline_are_terms_of_an_ordinary_answer(client: Client) -> None:
    body = {"input": CONFIDENT, "priority": "high", "deadline_ms": 60_000}
    assert ask(client, **body)["labels"]["intent"] == "refund"


def test_the_wait_that_is_predicted_is_in_retry_after(client: Client) -> None:
    batcher = client.gateway.tasks["tickets"].rung.student
    batcher._tokens, batcher._pace = 100_000, 0.01  # as if 1,000 s of work waited
    reply = client.post("/v1/predict", json={"input": CONFIDENT})
    workers = len(batcher._places)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, str(-(-1000 // workers)))
    batcher._tokens = 0

"""POST /predict as Text Embeddings Inference has it: labels with scores, its errors, its probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.api import shapes
from gateway.api.auth import new_key
from gateway.contract.manifest import Head, HeadKind, Task
from tests.conftest import Client, Opener
from tests.factories import CONFIDENT, UNSURE, tiny_bundle

KEY, DIGEST = new_key("shop")


def error(reply: Any, status: int, kind: str = "validation") -> str:
    """What an error says."""
    assert reply.status_code == status, reply.text
    found = shapes.TeiError.model_validate(reply.json())
    assert found.error_type == kind
    return found.error


def test_one_text_gives_a_list_of_labels_the_best_first(client: Client) -> None:
    reply = client.post("/predict", json={"inputs": CONFIDENT, "truncate": True})
    found = [shapes.TeiScore.model_validate(each) for each in reply.json()]
    assert [each.label for each in found] == ["refund", "other", "fraud"]
    # Logits 12, 6 and 0: exp(-6) = 0.00248 and exp(-12) = 6.1e-6, over their sum.
    assert [each.score for each in found] == pytest.approx([0.9975, 0.00247, 6.1e-6], abs=1e-4)
    assert reply.headers["x-understudy-route"] == "student"
    assert reply.headers["x-understudy-reason"] == "confident"


@pytest.mark.parametrize("inputs", [["fraud", "refund"], [["fraud"], ["refund"]]])
def test_a_batch_gives_a_list_for_each_text(client: Client, inputs: list[Any]) -> None:
    reply = client.post("/predict", json={"inputs": inputs, "raw_scores": False})
    assert [each[0]["label"] for each in reply.json()] == ["fraud", "refund"]
    assert reply.headers["x-understudy-route"] == "student, student"
    assert len(client.post("/predict", json={"inputs": ["fraud"]}).json()) == 1


def test_the_teacher_answers_what_the_student_is_not_sure_of(client: Client) -> None:
    reply = client.post("/predict", json={"inputs": UNSURE})
    assert reply.json()[0] == {"label": "other", "score": 1.0}
    assert reply.headers["x-understudy-route"] == "teacher"


def test_a_head_may_be_named_in_the_body_or_in_the_address(client: Client) -> None:
    by_body = client.post("/predict", json={"inputs": "urgent", "head": "flags"}).json()
    assert by_body == client.post("/predict?head=flags", json={"inputs": "urgent"}).json()
    assert [each["label"] for each in by_body] == ["urgent", "legal"]
    assert by_body[0]["score"] == pytest.approx(0.9997, abs=1e-4)
    wrong = client.post("/predict?head=mood", json={"inputs": "a"})
    assert "name one of: intent, flags" in error(wrong, 422)


def test_with_parameters_that_ask_for_nothing_the_reply_is_a_batch(client: Client) -> None:
    plain = client.post("/predict", json={"inputs": CONFIDENT, "parameters": None}).json()
    for parameters in ({}, {"top_k": None}):
        body = {"inputs": CONFIDENT, "parameters": parameters}
        assert client.post("/predict", json=body).json() == [plain]


def test_of_many_answers_the_headers_say_how_often_each_route_was_taken(client: Client) -> None:
    texts = [UNSURE] * 6 + [CONFIDENT] * 250
    reply = client.post("/predict", json={"inputs": texts})
    assert reply.headers["x-understudy-route"] == "student;n=250, teacher;n=6"
    assert reply.headers["x-understudy-reason"] == "confident;n=250, low_confidence;n=6"
    few = client.post("/predict", json={"inputs": texts[:7] + [CONFIDENT] * 9})
    assert few.headers["x-understudy-route"] == ", ".join(["teacher"] * 6 + ["student"] * 10)


def test_a_task_may_be_named_where_there_are_several(serve: Opener, tmp_path: Path) -> None:
    heads = (Head(name="words", kind=HeadKind.FLAGS, labels=("r", "f", "o", "u", "l")),)
    mail = tiny_bundle(tmp_path / "bundles", task=Task(name="mail", heads=heads))
    tickets = tiny_bundle(tmp_path / "bundles")
    client = serve(
        tasks={
            name: {
                "student": {"bundle": str(path), "workers": 1, "run_in": "threads"},
                "teacher": {"scripted": {}},
            }
            for name, path in (("tickets", tickets), ("mail", mail))
        }
    )
    for reply in (
        client.post("/predict", json={"inputs": "refund", "model": "mail"}),
        client.post("/predict", json={"inputs": "refund", "task": "mail"}),
        client.post("/predict?task=mail", json={"inputs": "refund"}),
    ):
        assert reply.json()[0]["label"] == "r"  # the only head, though no choice
    assert client.get("/info?task=mail").json()["model_id"] == "mail"
    assert "names no task" in error(client.post("/predict", json={"inputs": "a"}), 404)
    assert "no task 'x'" in error(client.get("/info?task=x"), 404)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "not JSON"),
        ([], 422, "no object"),
        ({}, 422, "inputs: not a text"),
        ({"inputs": ""}, 422, "inputs: empty"),
        ({"inputs": []}, 422, "inputs: no texts"),
        ({"inputs": ["a", 5]}, 422, "inputs[1]: not a text"),
        ({"inputs": [["a", "b"]]}, 422, "inputs[0]: 2 texts"),
        ({"inputs": [[]]}, 422, "inputs[0]: 0 texts"),
        ({"inputs": ["a"] * 257}, 413, "257 texts, 256 are allowed"),
        ({"inputs": "x" * 100_001}, 422, "100001 characters"),
        ({"inputs": "a", "raw_scores": True}, 422, "calibrated probabilities"),
        ({"inputs": "a", "truncate": 1}, 422, "truncate: not true or false"),
        ({"inputs": "a", "head": 1}, 422, "head: not a name"),
        ({"inputs": "a", "imputs": "b"}, 422, "imputs: unknown key"),
        ({"inputs": "a", "model": "m" * 129}, 422, "model: not a name"),
        ({"inputs": "a", "model": "m" * 128}, 404, "no task"),
        ({"inputs": "a", "parameters": []}, 422, "parameters: no object"),
        ({"inputs": "a", "parameters": {"top_k": 1}}, 422, "parameters.top_k: not offered"),
    ],
)
def test_what_cannot_be_read_is_a_validation_error(
    client: Client, body: Any, status: int, said: str
) -> None:
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    assert said in error(client.post("/predict", **sent), status)


def test_what_nobody_answered_is_a_failed_dependency(serve: Opener) -> None:
    client = serve(teacher={"scripted": {"fail_every": 1}}, policy={"on_unavailable": "abstain"})
    reply = client.post("/predict", json={"inputs": UNSURE})
    assert "teacher_unavailable" in error(reply, 424, "backend")
    assert reply.headers["retry-after"] == "1"
    assert client.post("/predict", json={"inputs": CONFIDENT}).status_code == 200
    shown = client.get("/metrics").text
    assert 'understudy_requests_total{code="424",route="none",task="tickets"} 1.0' in shown


def test_without_a_key_only_health_is_shown(serve: Opener) -> None:
    client = serve(keys=[{"name": "shop", "sha256": DIGEST}])
    assert client.get("/health").status_code == 200
    assert "no key" in error(client.post("/predict", json={"inputs": "a"}), 401)
    assert "no key" in error(client.get("/info"), 401)
    known = {"authorization": f"Bearer {KEY}"}
    assert client.post("/predict", json={"inputs": "a"}, headers=known).status_code == 200


def test_health_is_empty_and_says_when_the_gateway_leaves_or_is_broken(client: Client) -> None:
    assert client.get("/health").content == b""
    client.end_student()
    assert "a worker has ended" in error(client.get("/health"), 503, "unhealthy")
    client.gateway.draining = True
    assert "shutting down" in error(client.get("/health"), 503, "unhealthy")


def test_info_shows_the_labels_and_the_limits(client: Client) -> None:
    found = shapes.TeiInfo.model_validate(client.get("/info").json())
    student = client.gateway.tasks["tickets"].rung.student.student
    assert (found.model_id, found.model_sha) == ("tickets", student.bundle.id)
    assert found.model_type.classifier.id2label == {"0": "refund", "1": "fraud", "2": "other"}
    assert found.model_type.classifier.label2id == {"refund": 0, "fraud": 1, "other": 2}
    assert (found.max_input_length, found.max_client_batch_size) == (16, 256)
    flags = client.get("/info?head=flags").json()["model_type"]["classifier"]["id2label"]
    assert flags == {"0": "urgent", "1": "legal"}


def test_a_method_that_is_not_there_is_an_error_of_the_protocol(client: Client) -> None:
    assert "no such method" in error(client.get("/predict"), 405)

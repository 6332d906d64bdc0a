"""Stats, tasks, probes, metrics and the OpenAPI document of a real gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.api.schemas import StatsReply
from tests.conftest import Client, Opener
from tests.factories import CONFIDENT, UNSURE, tiny_bundle


def test_stats_count_requests_by_route_and_say_what_serves(serve: Opener) -> None:
    client = serve(tickets={"prices": {"teacher_usd_per_1000": "2.50"}, "audit": {"share": 0.0}})
    client.post("/v1/predict", json={"inputs": [CONFIDENT, CONFIDENT, "fraud!", UNSURE]})
    stats = client.get("/v1/stats").json()
    StatsReply.model_validate(stats)
    task = stats["tasks"]["tickets"]
    assert task["requests"] == 4
    assert task["routes"] == {"student": 3, "teacher": 1, "fallback": 0, "abstain": 0}
    assert task["escalation"]["share"] == 0.25
    assert task["escalation"]["by_reason"]["low_confidence"] == {"requests": 1, "share": 0.25}
    # The teacher said "other" where the student said "refund".
    assert task["disagreement"]["intent"]["escalated"]["disagreements"] == 1
    assert task["cost"]["teacher"] == {"known": 2500, "unknown": 0}
    assert task["cost"]["avoided"] == {"known": 7500, "unknown": 0}
    assert task["latency"]["all"]["1m"]["requests"] == 4
    assert task["serving"]["student"].startswith("tickets-")
    assert (task["serving"]["teacher"], task["serving"]["threshold"]) == ("scripted", 0.9)
    assert task["serving"]["audit_share"] == 0.0
    assert task["audits_skipped"] == {"busy": 0, "down": 0, "failed": 0}
    assert stats["draining"] is False
    records = stats["records"]
    assert records["stored"] + records["waiting"] == 4
    assert records["dropped"] == 0


def test_stats_say_the_certificate_in_words(client: Client) -> None:
    certificate = client.get("/v1/stats").json()["tasks"]["tickets"]["serving"]["certificate"]
    assert (certificate["alpha"], certificate["rows"]) == (0.05, 500)
    assert certificate["words"] == (
        "with 95% confidence, at most 5% of requests are answered by the student and wrong, "
        "counted against the gold labels (5 in 500 rows)"
    )


@pytest.mark.parametrize(("threshold", "kept"), [(0.95, True), (0.9, True), (0.85, False)])
def test_only_a_threshold_at_or_above_the_certified_one_keeps_the_certificate(
    serve: Opener, threshold: float, *, kept: bool
) -> None:
    serving = serve(policy={"threshold": threshold}).get("/v1/stats").json()["tasks"]["tickets"]
    assert serving["serving"]["threshold"] == threshold
    assert (serving["serving"]["certificate"] is not None) is kept


def test_an_uncertified_bundle_shows_no_threshold_and_no_certificate(
    serve: Opener, tmp_path: Path
) -> None:
    client = serve(student=tiny_bundle(tmp_path, threshold=None))
    serving = client.get("/v1/stats").json()["tasks"]["tickets"]["serving"]
    assert (serving["threshold"], serving["certificate"]) == (None, None)


def test_tasks_name_heads_labels_bundle_and_limits(client: Client) -> None:
    (task,) = client.get("/v1/tasks").json()["tasks"]
    assert task["name"] == "tickets"
    assert task["heads"] == [
        {"name": "intent", "kind": "choice", "labels": ["refund", "fraud", "other"]},
        {"name": "flags", "kind": "flags", "labels": ["urgent", "legal"]},
    ]
    assert task["bundle"] == client.gateway.tasks["tickets"].rung.student.student.bundle.name
    assert (task["limits"]["max_inputs"], task["limits"]["read_tokens"]) == (256, 16)


def test_a_gateway_that_drains_is_not_ready_but_lives_and_answers(client: Client) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    client.gateway.draining = True
    reply = client.get("/readyz")
    assert (reply.status_code, reply.json()["code"]) == (503, "draining")
    assert reply.headers["retry-after"] == "1"
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.post("/v1/predict", json={"input": "a"}).status_code == 200


def test_a_gateway_whose_workers_have_ended_does_not_live(client: Client) -> None:
    client.end_student()
    reply = client.get("/livez")
    assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")


def test_metrics_count_what_was_answered(client: Client) -> None:
    client.post("/v1/predict", json={"inputs": [CONFIDENT, UNSURE, UNSURE]})
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    shown = reply.text
    assert 'understudy_requests_total{code="200",route="student",task="tickets"} 1.0' in shown
    assert 'understudy_requests_total{code="200",route="teacher",task="tickets"} 2.0' in shown
    assert 'understudy_escalations_total{reason="low_confidence",task="tickets"} 2.0' in shown


def test_the_openapi_document_has_every_route_its_shapes_and_its_problems(client: Client) -> None:
    document = client.get("/openapi.json").json()
    ours = {"/v1/predict", "/v1/stats", "/v1/tasks", "/livez", "/readyz", "/metrics"}
    assert ours <= set(document["paths"])
    predict = document["paths"]["/v1/predict"]["post"]
    assert {"200", "400", "401", "404", "413", "415", "422", "429", "431", "503"} <= set(
        predict["responses"]
    )
    body = predict["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"] == "#/components/schemas/PredictRequest"
    refused = predict["responses"]["422"]["content"]["application/problem+json"]["schema"]
    assert {"code", "mend", "instance"} <= set(refused["properties"])
    assert {"PredictRequest", "Result", "Results"} <= set(document["components"]["schemas"])

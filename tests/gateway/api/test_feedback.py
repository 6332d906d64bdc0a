"""POST /v1/feedback: who may say what is right, of which answers, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from gateway.api.auth import new_key
from gateway.store import tables
from gateway.store.database import open_database
from tests.conftest import Client, Opener
from tests.factories import CONFIDENT

KEY, DIGEST = new_key("desk")
STRICT = {"path": "records.db", "ack": "strict", "strict_wait_ms": 60_000}
RIGHT: dict[str, Any] = {"intent": "fraud", "flags": ["legal", "urgent"]}


def answered(client: Client) -> str:
    name: str = client.post("/v1/predict", json={"input": CONFIDENT}).json()["id"]
    return name


def test_a_verdict_is_stored_before_the_reply_with_who_sent_it(serve: Opener) -> None:
    client = serve(records=STRICT, keys=[{"name": "desk", "sha256": DIGEST}])
    client.headers["x-api-key"] = KEY
    record = answered(client)
    body = {"record": record, "labels": RIGHT, "by": "ann", "note": "a stolen card"}
    reply = client.post("/v1/feedback", json=body)
    assert reply.status_code == 201
    said = reply.json()
    assert said == {"id": said["id"], "record": record, "task": "tickets"}
    engine = open_database(client.gateway.settings.records.database, guest=True)
    with engine.connect() as connection:
        (row,) = connection.execute(select(tables.verdicts)).mappings().all()
    engine.dispose()
    assert (row["id"], row["who"], row["by"], row["note"]) == (
        said["id"], "desk", "ann", "a stolen card",
    )  # fmt: skip
    assert row["labels"] == {
        "intent": ["fraud"],
        "flags": ["urgent", "legal"],
    }  # as heads have them


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"record": "none"}, 404, "no answer with the id 'none' is stored"),
        ({"labels": {"intent": "fraud"}}, 422, "labels: of intent"),
        ({"labels": RIGHT | {"intent": ["fraud"]}}, 422, "labels.intent: not one label"),
        ({"labels": RIGHT | {"flags": "legal"}}, 422, "labels.flags: not a list of labels"),
        ({"labels": RIGHT | {"intent": "frau"}}, 422, "labels.intent: no label 'frau'"),
        ({"by": "a\nb"}, 422, "by: String should match"),
        ({"more": 1}, 422, "more: Extra inputs"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    serve: Opener, change: dict[str, Any], status: int, told: str
) -> None:
    client = serve(records=STRICT)
    record = answered(client)
    reply = client.post("/v1/feedback", json={"record": record, "labels": RIGHT} | change)
    assert reply.status_code == status
    assert reply.json()["detail"].startswith(told)


def test_a_page_of_another_site_says_nothing(client: Client) -> None:
    body = {"record": "x", "labels": RIGHT}
    reply = client.post("/v1/feedback", json=body, headers={"origin": "https://evil.example"})
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")


def test_without_records_there_is_nothing_to_judge(serve: Opener) -> None:
    client = serve(records={"enabled": False})
    reply = client.post("/v1/feedback", json={"record": "x", "labels": RIGHT})
    assert (reply.status_code, reply.json()["code"]) == (404, "unknown_record")
    assert "records.enabled" in reply.json()["mend"]

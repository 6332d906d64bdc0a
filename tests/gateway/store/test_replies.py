"""What a reply over HTTP says of its records, and what the gateway shows of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conftest import Client, Opener
from tests.factories import CONFIDENT
from tests.gateway.store.conftest import PATIENT_S
from tests.patience import until

HEADER = "understudy-record"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another process holds the gateway's database."""
    holding = sqlite3.connect(folder / "records.db", isolation_level=None, timeout=PATIENT_S)
    with closing(holding) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield


def records(**keys: object) -> dict[str, object]:
    """The section of the settings."""
    return {"path": "records.db", **keys}


def stored(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "records.db")) as connection:
        (number,) = connection.execute("SELECT count(*) FROM records").fetchone()
    return int(number)


@pytest.mark.parametrize(
    ("ack", "said"), [("async", "queued"), ("group", "durable"), ("strict", "durable")]
)
def test_a_reply_says_how_far_its_records_are(
    serve: Opener, tmp_path: Path, ack: str, said: str
) -> None:
    client = serve(records=records(ack=ack, group_wait_ms=10_000, strict_wait_ms=60_000))
    reply = client.post("/v1/predict", json={"inputs": [CONFIDENT] * 3})
    assert reply.headers[HEADER] == said
    if said == "durable":
        assert stored(tmp_path) == 3


def test_without_records_nothing_is_kept_and_the_reply_says_so(
    serve: Opener, tmp_path: Path
) -> None:
    client = serve(records=records(enabled=False))
    reply = client.post("/v1/predict", json={"input": CONFIDENT})
    assert (reply.status_code, reply.headers[HEADER]) == (200, "off")
    assert not (tmp_path / "records.db").exists()
    assert client.get("/livez").status_code == 200
    counts = {"stored": 0, "dropped": 0, "waiting": 0, "degraded": False}
    assert client.get("/v1/stats").json()["records"] == counts


def test_a_group_reply_does_not_wait_longer_than_it_may(serve: Opener, tmp_path: Path) -> None:
    client = serve(records=records(ack="group", group_wait_ms=5))
    with locked(tmp_path):
        reply = client.post("/v1/predict", json={"input": CONFIDENT})
    assert (reply.status_code, reply.headers[HEADER]) == (200, "queued")


def test_a_full_queue_is_told_in_the_reply(serve: Opener, tmp_path: Path) -> None:
    client = serve(records=records(queue=1))
    with locked(tmp_path):
        reply = client.post("/v1/predict", json={"inputs": [CONFIDENT, CONFIDENT]})
    assert (reply.status_code, reply.headers[HEADER]) == (200, "dropped")


def test_a_strict_gateway_refuses_what_it_cannot_commit_and_recovers(
    serve: Opener, tmp_path: Path
) -> None:
    client = serve(records=records(ack="strict", strict_wait_ms=5))
    receipts = client.gateway.receipts
    assert receipts is not None
    with locked(tmp_path):
        reply = client.post("/v1/predict", json={"input": CONFIDENT})
        assert reply.status_code == 503
        assert reply.json()["code"] == "records_unavailable"
        assert HEADER not in reply.headers
        assert reply.headers["retry-after"] == "1"
        assert client.get("/readyz").status_code == 200
    settle(client)
    receipts._wait_s = PATIENT_S  # the disk that is there again may be slow
    reply = client.post("/v1/predict", json={"input": CONFIDENT})
    assert (reply.status_code, reply.headers[HEADER]) == (200, "durable")


def test_a_database_that_is_away_is_shown_while_the_gateway_stays_ready(
    serve: Opener, tmp_path: Path
) -> None:
    client = serve(records=records())
    series = "understudy_records_degraded"
    with locked(tmp_path):
        client.post("/v1/predict", json={"input": CONFIDENT})
        until(lambda: bool(counts(client)["degraded"]))  # SQLite first waits for the lock
        assert counts(client) == {"stored": 0, "dropped": 0, "waiting": 1, "degraded": True}
        assert f"{series} 1.0" in client.get("/metrics").text
        assert client.get("/readyz").status_code == 200
    settle(client)
    assert counts(client) == {"stored": 1, "dropped": 0, "waiting": 0, "degraded": False}
    assert f"{series} 0.0" in client.get("/metrics").text


def counts(client: Client) -> dict[str, object]:
    found: dict[str, object] = client.get("/v1/stats").json()["records"]
    return found


def settle(client: Client) -> None:
    """Wait until nothing waits, and the thread has noticed."""
    until(lambda: not counts(client)["waiting"] and not counts(client)["degraded"])

"""A thread that answering needs has ended: /livez says so at once, and nobody waits for it."""

from __future__ import annotations

import pytest

from tests.conftest import Client
from tests.factories import CONFIDENT
from tests.patience import until

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def ends(*_arguments: object) -> None:
    """End the thread that calls this, as nothing that is caught would."""
    raise SystemExit


def test_a_worker_that_ends_in_the_midst_of_a_batch_is_seen_and_leaves_nobody_waiting(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/livez").status_code == 200
    batcher = client.gateway.tasks["tickets"].rung.student
    monkeypatch.setattr(batcher.student, "predict", ends)
    reply = client.post("/v1/predict", json={"input": CONFIDENT}).json()
    assert (reply["route"], reply["reason"]) == ("teacher", "student_failed")
    until(lambda: not batcher.alive)
    problem = client.get("/livez")
    assert (problem.status_code, problem.json()["code"]) == (503, "unavailable")


def test_a_writer_that_has_ended_is_seen(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = client.gateway.writer
    assert writer is not None
    monkeypatch.setattr(writer, "_store", ends)
    assert client.post("/v1/predict", json={"input": CONFIDENT}).status_code == 200
    until(lambda: not writer.alive)
    assert client.get("/livez").status_code == 503
    assert client.get("/readyz").status_code == 200

"""A thread that answering needs has ended: probes say so at once, and nobody waits for it."""

from __future__ import annotations

import signal
import threading

import pytest

from gateway.students.process import ProcessWorker
from tests.conftest import Client, Opener
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
    for path in ("/livez", "/readyz"):
        problem = client.get(path)
        assert (problem.status_code, problem.json()["code"]) == (503, "unavailable")


def test_a_process_that_is_killed_in_the_midst_of_a_batch_is_seen_and_leaves_nobody_waiting(
    serve: Opener,
) -> None:
    client = serve(run_in="processes")
    assert client.get("/livez").status_code == 200
    (place,) = client.gateway.tasks["tickets"].rung.student._places
    assert isinstance(place.worker, ProcessWorker)
    child = place.worker._process
    child.send_signal(signal.SIGSTOP)  # so that it holds what it is given

    def kill() -> None:
        until(lambda: len(place.batches) == 1)
        child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    reply = client.post("/v1/predict", json={"input": CONFIDENT}).json()
    killer.join()
    assert (reply["route"], reply["reason"]) == ("teacher", "student_failed")
    problem = client.get("/livez")
    assert (problem.status_code, problem.json()["code"]) == (503, "unavailable")


def test_a_writer_that_has_ended_is_seen(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = client.gateway.writer
    assert writer is not None
    monkeypatch.setattr(writer, "_store", ends)
    assert client.post("/v1/predict", json={"input": CONFIDENT}).status_code == 200
    until(lambda: not writer.alive)
    assert client.get("/livez").status_code == 503
    assert client.get("/readyz").status_code == 503

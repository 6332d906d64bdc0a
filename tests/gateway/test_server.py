"""The process: it binds, says when it is ready, drains on a signal, and leaves with status 0."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
import uvloop

from gateway import server, settings
from gateway.address import bind, listen
from gateway.api import receipt
from gateway.api.receipt import Connection
from gateway.app import build_app
from gateway.assembly import open_gateway
from gateway.errors import SettingsError
from gateway.server import _Server, serve
from gateway.settings import AdminSettings
from gateway.store import records
from gateway.store.database import open_database
from gateway.students.student import Student
from gateway.types import Route
from tests.factories import CONFIDENT, settings_file
from tests.patience import two_free_ports


def post(url: str, text: str) -> dict[str, Any]:
    reply = httpx2.post(f"{url}/v1/predict", json={"input": text}, timeout=30)
    reply.raise_for_status()
    found: dict[str, Any] = reply.json()
    return found


def test_it_serves_until_a_signal_and_stores_every_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings.load(settings_file(tmp_path, server={"port": 0}))
    seen: dict[str, Any] = {}

    def visit(url: str) -> None:
        try:
            seen.update(url=url, **post(url, CONFIDENT))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_ready(url: str) -> None:
        threading.Thread(target=visit, args=(url,)).start()

    assert serve(config, on_ready=on_ready) == 0
    assert seen["labels"]["intent"] == "refund"
    ready = capsys.readouterr().out
    assert ready == f"understudy: ready on {seen['url']} (tasks: tickets)\n"
    assert not seen["url"].endswith(":0")
    engine = open_database(config.records.path)
    (record,) = records.latest(engine, records.Selection(task="tickets"), 10)
    engine.dispose()
    assert (record.id, record.route) == (seen["id"], Route.STUDENT)


def test_metrics_and_administration_may_have_an_address_of_their_own(tmp_path: Path) -> None:
    port = two_free_ports()
    config = settings.load(settings_file(tmp_path, server={"port": 0}, admin={"port": port}))
    admin = f"http://127.0.0.1:{port}"
    found: dict[str, int] = {}

    def visit(url: str) -> None:
        try:
            body = {"input": CONFIDENT}
            for place, base in {"main": url, "admin": admin}.items():
                for path in ("/metrics", "/readyz", "/livez", "/v1/stats"):
                    found[f"{place} {path}"] = httpx2.get(base + path, timeout=30).status_code
                reply = httpx2.post(f"{base}/v1/predict", json=body, timeout=30)
                found[f"{place} predict"] = reply.status_code
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_ready(url: str) -> None:
        threading.Thread(target=visit, args=(url,)).start()

    assert serve(config, on_ready=on_ready) == 0
    assert {name for name, status in found.items() if status != 200} == {
        "main /metrics",
        "admin predict",
    }
    assert (found["main /metrics"], found["admin predict"]) == (404, 404)


def test_a_hang_up_before_there_is_anything_to_reload_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings.load(settings_file(tmp_path, server={"port": 0}))
    heard: list[int] = []

    def hang_up() -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, lambda number, _frame: heard.append(number))
    monkeypatch.setattr(server, "raise_file_limit", hang_up)  # what a process does first
    try:
        assert serve(config, on_ready=lambda _url: os.kill(os.getpid(), signal.SIGTERM)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == []


class Aborted:
    """A listener of whose connections the first has gone when it is accepted."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._gone = False

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection. Raises ConnectionAbortedError for the first."""
        if not self._gone:
            self._gone = True
            raise ConnectionAbortedError
        return self._listener.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_replica_that_can_no_longer_answer_leaves_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings.load(settings_file(tmp_path, server={"port": 0}))
    seen: list[str] = []

    def ends(*_arguments: object) -> None:
        raise SystemExit  # ends the worker's thread, as nothing that is caught would

    asking: list[threading.Thread] = []

    def on_ready(url: str) -> None:
        monkeypatch.setattr(Student, "predict", ends)
        ask = threading.Thread(target=lambda: seen.append(post(url, CONFIDENT)["reason"]))
        asking.append(ask)
        ask.start()

    assert serve(config, replica=0, on_ready=on_ready) == 1
    asking[0].join()
    assert seen == ["student_failed"]  # who had asked was still answered


def refused(url: str, request: bytes) -> tuple[int, bytes, Any]:
    """Status, head and JSON of the reply to bytes that the connection does not hand on."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        said = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, json.loads(body)


def test_what_a_connection_refuses_is_said_as_the_protocol_of_its_path_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings.load(settings_file(tmp_path, server={"port": 0}))
    look = Connection.look

    def hour_later(connection: Connection, now: float) -> None:
        """Time passes for those alone of whom a head has come, and not the body."""
        half = connection._phase == receipt._BODY
        look(connection, now + 3600.0 if half else now)

    monkeypatch.setattr(Connection, "look", hour_later)
    named = b" HTTP/1.1\r\nhost: a\r\nx-request-id: q-7\r\n"
    upgrade = named + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 5\r\n\r\n"
    found: dict[str, tuple[int, bytes, Any]] = {}

    def visit(url: str) -> None:
        try:
            found["tei"] = refused(url, b"POST /predict?head=a" + upgrade)
            large = b"x-pad: " + b"p" * 40_000 + b"\r\n\r\n"
            found["openai"] = refused(url, b"GET /v1/chat/completions" + named + large)
            half = b"content-length: 5\r\n\r\n{"
            found["oip"] = refused(url, b"POST /v2/models/tickets/infer" + named + half)
            found["ours"] = refused(url, b"POST /v1/predict" + named + half)
            found["nobody's"] = refused(url, b"no HTTP at all\r\n\r\n")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_ready(url: str) -> None:
        threading.Thread(target=visit, args=(url,)).start()

    assert serve(config, on_ready=on_ready) == 0
    assert {name: status for name, (status, _, _) in found.items()} == {
        "tei": 400,
        "openai": 431,
        "oip": 408,
        "ours": 408,
        "nobody's": 400,
    }
    for name in ("tei", "openai", "oip", "ours"):
        assert b"\r\nx-request-id: q-7\r\n" in found[name][1]
        assert found[name][1].endswith(b"\r\nconnection: close")
    assert found["tei"][2].keys() == {"error", "error_type"}
    assert found["openai"][2]["error"]["type"] == "invalid_request_error"
    assert found["oip"][2].keys() == {"error"}
    assert (found["ours"][2]["code"], found["ours"][2]["instance"]) == ("too_slow", "q-7")
    _, head, problem = found["nobody's"]
    assert f"x-request-id: {problem['instance']}".encode() in head


def test_who_has_connected_before_the_end_is_still_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt, "_FIRST_WORD_S", 60.0)  # of a client that may have no processor
    config = settings.load(settings_file(tmp_path, server={"port": 0}))

    async def play() -> list[bytes]:
        with bind(config.server) as listener:
            async with open_gateway(config) as gateway:
                serving = _Server(gateway, build_app(gateway))
                serving.config.load()
                serving.lifespan = serving.config.lifespan_class(serving.config)
                await serving.startup([listener])
                # The event loop does not run in between: the kernel has them, and nobody else.
                waiting = [socket.create_connection(listener.getsockname()) for _ in range(5)]
                waiting[0].sendall(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n")
                serving.stop()
                gone_first = cast("socket.socket", Aborted(listener))
                leaving = asyncio.create_task(serving.shutdown([gone_first]))
                await asyncio.sleep(0)
                for each in waiting[1:]:
                    each.sendall(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n")
                await leaving
                replies = [each.recv(4096) for each in waiting]
                for each in waiting:
                    each.close()
                return replies

    replies = uvloop.run(play())
    assert [reply.split()[1] for reply in replies] == [b"200"] * 5
    assert all(b"connection: close" in reply for reply in replies)


def test_an_administration_whose_port_is_taken_is_named(tmp_path: Path) -> None:
    with listen(AdminSettings(port=0), name="admin") as other:
        port = other.getsockname()[1]
        config = settings.load(settings_file(tmp_path, server={"port": 0}, admin={"port": port}))
        with pytest.raises(SettingsError, match=rf"'127.0.0.1', admin.port {port}"):
            serve(config)


@pytest.mark.acceptance
def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    path = settings_file(tmp_path, server={"port": 0, "drain_delay_s": 300})
    command = [sys.executable, "-c", "from gateway.cli import main; main()"]
    with subprocess.Popen(
        [*command, "serve", "--config", str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[3]
            process.send_signal(signal.SIGTERM)
            _wait_until_not_ready(url)
            assert post(url, CONFIDENT)["route"] == "student"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 128 + signal.SIGINT
        finally:
            process.kill()


def _wait_until_not_ready(url: str) -> None:
    """A signal is handled a moment after it is sent; each request gives it that moment."""
    while (status := httpx2.get(f"{url}/readyz", timeout=30).status_code) == 200:
        continue
    assert status == 503

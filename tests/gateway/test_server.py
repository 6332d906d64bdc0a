"""The process: it binds, says when it is ready, drains on a signal, and leaves with status 0."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvloop

from gateway import settings
from gateway.address import bind, listen
from gateway.app import build_app
from gateway.assembly import open_gateway
from gateway.errors import SettingsError
from gateway.server import _Server, serve
from gateway.settings import AdminSettings
from gateway.store import records
from gateway.store.database import open_database
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


def test_who_has_connected_before_the_end_is_still_answered(tmp_path: Path) -> None:
    config = settings.load(settings_file(tmp_path, server={"port": 0}))

    async def play() -> list[bytes]:
        with bind(config.server) as listener:
            async with open_gateway(config) as gateway:
                server = _Server(gateway, build_app(gateway))
                server.config.load()
                server.lifespan = server.config.lifespan_class(server.config)
                await server.startup([listener])
                # The event loop does not run in between: the kernel has them, and nobody else.
                waiting = [socket.create_connection(listener.getsockname()) for _ in range(5)]
                waiting[0].sendall(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n")
                server.stop()
                leaving = asyncio.create_task(server.shutdown([listener]))
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

"""The process: it binds, says when it is ready, drains on a signal, and leaves with status 0."""

from __future__ import annotations

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

from gateway import settings
from gateway.errors import SettingsError
from gateway.server import bind, serve
from gateway.settings import ServerSettings
from gateway.store import records
from gateway.store.database import open_database
from gateway.types import Route
from tests.factories import CONFIDENT, settings_file


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
    (record,) = records.latest(engine, "tickets", 10)
    engine.dispose()
    assert (record.id, record.route) == (seen["id"], Route.STUDENT)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"'127.0.0.1', server.port {port}") as caught:
            bind(ServerSettings(port=port))
    assert "--port" in caught.value.mend


def test_a_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(SettingsError, match=r"256\.1\.1\.1"):
        bind(ServerSettings(host="256.1.1.1", port=0))


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

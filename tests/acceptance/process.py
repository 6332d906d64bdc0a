"""`understudy serve` in a process of its own, as an operator starts and ends it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2

from gateway import settings
from gateway.store import records
from gateway.store.database import open_database
from gateway.store.records import Record

TIMEOUT_S = 120.0  # far above what anything takes here: only a hang reaches it
GATEWAY = (sys.executable, "-m", "gateway")
# The same, but for candidates in the shadow: they do not stand back for all others, who on a busy
# machine leave them nothing for minutes.
_FAIR = """
from gateway.cli import main
from gateway.students import process
process._stand_aside = lambda _process: None
main()
"""
FAIR = (sys.executable, "-c", _FAIR)

_READY = re.compile(r"understudy: ready on (http://\S+) \(tasks: (.+)\)\n")


class Process:
    """A gateway that is ready. `log` is its standard error, `start_s` process start to ready."""

    def __init__(self, config: Path, *, command: Sequence[str] = GATEWAY) -> None:
        self.config = config
        self._log = config.with_name("gateway.log")
        started = time.monotonic()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "serve", "--config", str(config), "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        self.start_s = time.monotonic() - started
        found = _READY.fullmatch(said)
        assert found, said + self.log
        self.url, self.tasks = found[1], found[2]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    def ask(self, text: str, **more: Any) -> dict[str, Any]:
        """The reply to one text."""
        reply = self.post({"input": text, **more})
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def post(self, body: Any) -> httpx2.Response:
        """The response to a body, whatever its status."""
        return httpx2.post(f"{self.url}/v1/predict", json=body, timeout=TIMEOUT_S)

    def stats(self) -> dict[str, Any]:
        """The reply of /v1/stats."""
        found: dict[str, Any] = httpx2.get(f"{self.url}/v1/stats", timeout=TIMEOUT_S).json()
        return found

    def metric(self, series: str) -> float:
        """A line of /metrics, by its name and labels as they stand there; 0 where there is none."""
        text = httpx2.get(f"{self.url}/metrics", timeout=TIMEOUT_S).text
        lines = (line.rpartition(" ") for line in text.splitlines())
        return next((float(value) for name, _, value in lines if name == series), 0.0)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, and do not wait."""
        self._process.send_signal(number)

    def leave(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self.send(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end; returns the exit status."""
        status = self._process.wait(TIMEOUT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status

    def records(self, most: int = 10_000) -> list[Record]:
        """What is stored, the oldest first; no more than that of the newest."""
        engine = open_database(settings.load(self.config).records.database)
        try:
            return records.latest(engine, records.Selection(), most)[::-1]
        finally:
            engine.dispose()

    def close(self) -> None:
        """End it, if a test has not."""
        if self._process.returncode is None:
            self.leave(signal.SIGKILL)

"""One gateway with at most one candidate, and what befalls that candidate while it is measured.

A signal to the candidate's process needs no special bundle: SIGSTOP makes it hang, and SIGKILL is a
crash. Whatever comes up in its place is struck again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from gateway.contract.bundle import open_bundle
from gateway.errors import StageFailed
from loadtests.compare.contestants import NATIVE, Contestant, Launch
from loadtests.compare.environment import ROOT
from loadtests.compare.serving import Serving, serving
from loadtests.shadow.figures import Memory, Shown

# Texts that may wait for a candidate: fewer than by default, so that what a slow one has left to do
# after its turn takes no time from the next.
_QUEUE = 24
_LIMIT_MS = 1000.0  # of a batch where it hangs: less than a turn, so that it is ended and begun
_STRIKE_AFTER_S = 1.0  # a process that comes up in a turn has so long
_LOOK_S = 0.1  # between two looks
_QUIET_S = 0.4  # over which a gateway is watched
_QUIET_SHARE = 0.05  # of one core: below it nothing goes on but timers
_SETTLED_S = 20.0  # at most: a candidate is begun again within about half of it
_REPLY_S = 60.0  # only a hang takes so long
_GATEWAY = (sys.executable, "-m", "gateway")
_ROUTE = "/admin/v1/shadow"
_WARM = 8  # requests before a turn


@dataclass(frozen=True, slots=True)
class Variant:
    """What stands beside the student: nothing, or a bundle, whose processes a signal may strike."""

    name: str
    candidate: Path | None = None
    strike: signal.Signals | None = None


class Stage:
    """A gateway that serves, and its candidate."""

    def __init__(self, variant: Variant, server: Serving, bodies: Sequence[bytes]) -> None:
        self.variant = variant
        self.url = server.url
        self._tree = server.tree
        self._bodies = bodies
        self._name = variant.candidate.name if variant.candidate else ""
        self._before = Memory(0.0, None)

    def settle(self) -> None:
        """Wait until nothing is left of the turn before: the candidate is up, and all is quiet."""
        until = time.monotonic() + _SETTLED_S
        for child in self._children():
            _signal(child, signal.SIGCONT)
        while time.monotonic() < until and not self._up():
            time.sleep(_LOOK_S)
        for body in self._bodies[:_WARM]:  # a batch that runs ends the count of failures in a row
            self._ask(self.url, body)
        while time.monotonic() < until and not self._quiet():
            pass

    def begin(self) -> None:
        """Note the memory before all turns."""
        self.settle()
        self._before = self._memory()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While it lasts, the candidate's processes are struck, where the variant says so."""
        if self.variant.strike is None:
            yield
            return
        over = threading.Event()
        striking = (over, self.variant.strike)
        thread = threading.Thread(target=self._strike, args=striking, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def shown(self) -> Shown | None:
        """What became of the candidate; None where there is none."""
        if not self._name:
            return None
        address = self.url.removesuffix(NATIVE.path) + _ROUTE
        (task,) = orjson.loads(self._ask(address))["tasks"]
        found: dict[str, Any] = next(c for c in task["candidates"] if c["name"] == self._name)
        return Shown(
            state=found["state"],
            compared=found["whole"]["compared"],
            skipped=found["skipped"],
            lapses=found["lapses"],
        )

    def memory(self) -> tuple[Memory, Memory]:
        """Before all turns, and now."""
        return self._before, self._memory()

    def cpu_s(self) -> float:
        """Processor time of all its processes so far."""
        return self._tree.cpu_s()

    def _memory(self) -> Memory:
        resident = self._tree.rss_mb(self._name) if self._name else None
        return Memory(round(self._tree.rss_mb(), 1), resident and round(resident, 1))

    def _strike(self, over: threading.Event, how: signal.Signals) -> None:
        """Strike who is there at once, and who comes up after a while."""
        since = dict.fromkeys(self._children(), 0.0)
        struck: set[int] = set()
        while True:
            now = time.monotonic()
            for child in self._children():
                known = since.setdefault(child, now)
                if child not in struck and now - known >= _STRIKE_AFTER_S:
                    struck.add(child)
                    _signal(child, how)
            if over.wait(_LOOK_S):
                return

    def _children(self) -> list[int]:
        return self._tree.running(self._name) if self._name else []

    def _up(self) -> bool:
        found = self.shown()
        return found is None or found.state == "running"

    def _quiet(self) -> bool:
        before = self._tree.cpu_s()
        time.sleep(_QUIET_S)
        return self._tree.cpu_s() - before < _QUIET_SHARE * _QUIET_S

    def _ask(self, url: str, body: bytes | None = None) -> bytes:
        given = {"content-type": "application/json"}
        request = urllib.request.Request(url, body, given)  # noqa: S310  http, our own
        with urllib.request.urlopen(request, timeout=_REPLY_S) as reply:  # noqa: S310  likewise
            found: bytes = reply.read()
        return found


@contextmanager
def stage(variant: Variant, bundle: Path, bodies: Sequence[bytes]) -> Iterator[Stage]:
    """Start a gateway with that candidate; end it, with all its processes, afterwards.

    Raises StageFailed where the gateway does not start, or does not take the candidate in.
    """
    config: list[Path] = []

    def launch(bundle: Path, port: int, workers: int, folder: Path) -> Launch:
        del workers  # it finds the cores itself
        config.append(folder / "understudy.yaml")
        config[0].write_text(yaml.safe_dump(_settings(variant, bundle, port)), encoding="utf-8")
        command = [*_GATEWAY, "serve", "--config", str(config[0])]
        return Launch(command, ROOT, {})

    contestant = Contestant(variant.name, "", NATIVE, launch, ours=True)
    with serving(contestant, bundle, 0, apart=False) as server:
        found = Stage(variant, server, bodies)
        if variant.candidate is not None:
            _add(variant.candidate, config[0], server.url.removesuffix(NATIVE.path))
        found.begin()
        yield found


def _settings(variant: Variant, bundle: Path, port: int) -> dict[str, Any]:
    shadow: dict[str, Any] = {"share": 0.0 if variant.candidate is None else 1.0, "queue": _QUEUE}
    if variant.strike is not None:
        shadow |= {"limit_ms": _LIMIT_MS}
    task = {
        # And the defaults of `understudy serve`; but a wait is to be measured, and not refused.
        "student": {"bundle": str(bundle), "max_wait_ms": 60_000},
        "teacher": {"scripted": {}},
        "policy": {"threshold": 0.0},  # the student answers everything
        "audit": {"share": 0.0},
        "shadow": shadow,
    }
    return {
        "version": 1,
        "server": {"port": port},
        "tasks": {open_bundle(bundle).manifest.task.name: task},
        "records": {"path": "records.db"},
        "logging": {"level": "error"},
    }


def _add(candidate: Path, config: Path, url: str) -> None:
    command = ["students", "add", str(candidate), "--config", str(config), "--admin", url]
    done = subprocess.run(  # noqa: S603  our own arguments
        [*_GATEWAY, *command],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode or "is a candidate" not in done.stdout:
        raise StageFailed(
            f"{candidate.name} is not taken in as a candidate", mend=done.stderr or done.stdout
        )


def _signal(number: int, which: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(number, which)

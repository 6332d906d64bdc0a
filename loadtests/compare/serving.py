"""A contestant that runs: started, ready, asked, ended with everything that it has started."""

from __future__ import annotations

import random
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import StageFailed
from gateway.settings import environment_without_keys
from loadtests.compare.contestants import Contestant, Dialect
from loadtests.compare.tree import Tree

_READY_S = 240.0  # far above what any takes on a busy machine; one that ends is not waited for
_REPLY_S = 10.0  # for one try
_LOOK_S = 0.1  # between two tries
_SHOWN = 600  # characters of a log's end
_HOST = "127.0.0.1"
# Below those that Linux gives to whoever connects (ip_local_port_range): one of these may be gone
# before the server has it.
_PORTS = range(10_000, 30_000)


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that answers."""

    url: str
    headers: Mapping[str, str]
    dialect: Dialect
    tree: Tree
    ready_s: float  # from the start to the first answer


@contextmanager
def serving(
    contestant: Contestant, bundle: Path, workers: int, *, apart: bool = True
) -> Iterator[Serving]:
    """Start it, wait for its first answer, and end it afterwards.

    Not `apart` it is of our own session: Linux may share processors out among sessions first
    (autogroup, sched(7)), and then nothing of one stands back for anything of another.

    Raises StageFailed, with the end of its log, when it does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as name:
        folder = Path(name)
        port = _free_port()
        launch = contestant.launch(bundle, port, workers, folder)
        log = folder / "log"
        started = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  our own arguments
                launch.command,
                cwd=launch.folder,
                env={**environment_without_keys(), **launch.variables},
                stdout=output,
                stderr=output,
                start_new_session=apart,
            )
        tree = Tree(process.pid)
        url = f"http://{_HOST}:{port}{contestant.dialect.path}"
        try:
            body = contestant.dialect.body(["warm up"])
            _wait(contestant.name, process, log, _request(url, body, launch.headers))
            ready_s = time.monotonic() - started
            yield Serving(url, launch.headers, contestant.dialect, tree, ready_s)
        finally:
            tree.end()
            process.wait()


def _wait(
    name: str, process: subprocess.Popen[bytes], log: Path, request: urllib.request.Request
) -> None:
    until = time.monotonic() + _READY_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=_REPLY_S):  # noqa: S310  http, our own
                return
        except OSError as error:  # also any status but 200: some answer before they have loaded
            if process.poll() is not None or time.monotonic() > until:
                end = log.read_text(encoding="utf-8", errors="replace")[-_SHOWN:]
                raise StageFailed(
                    f"{name} does not serve: {error}", mend=f"its log ends so:\n{end}"
                ) from error
        time.sleep(_LOOK_S)


def _request(url: str, body: bytes, headers: Mapping[str, str]) -> urllib.request.Request:
    given = {"content-type": "application/json", **headers}
    return urllib.request.Request(url, body, given)  # noqa: S310  http, our own


def _free_port() -> int:
    """A port that is free now, with two free ones after it for those who need three."""
    chance = random.SystemRandom()  # comparisons that start at once are to choose differently
    while True:
        port = chance.choice(_PORTS)
        if all(_is_free(port + step) for step in range(3)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind((_HOST, port))
        except OSError:
            return False
    return True

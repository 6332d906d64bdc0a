"""The parent of several replicas: it is ready when all are, starts what has died, leaves last."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from gateway import replicas, settings
from gateway.settings import Settings
from tests.factories import CONFIDENT, settings_file
from tests.patience import two_free_ports, until

pytestmark = pytest.mark.acceptance


def command(config: Path) -> list[str]:
    """What starts a gateway with these settings."""
    return [sys.executable, "-m", "gateway", "serve", "--config", str(config)]


def several(folder: Path) -> tuple[Settings, list[str]]:
    """Settings of two replicas without records, and the command that starts one of them."""
    path = settings_file(
        folder,
        server={"port": 0, "replicas": 2},
        admin={"port": two_free_ports()},
        records={"enabled": False},
    )
    return settings.load(path), command(path)


def admins(of: Settings) -> list[str]:
    """The addresses of the administration, by replica."""
    places = [of.admin_of(number) for number in range(2)]
    return [f"http://127.0.0.1:{place.port}" for place in places if place is not None]


def children() -> list[int]:
    """The processes that this one has started and that have not ended."""
    me = os.getpid()
    return [int(each) for each in Path(f"/proc/{me}/task/{me}/children").read_text().split()]


def is_up(url: str) -> bool:
    """Whether something answers there."""
    try:
        return httpx2.get(f"{url}/livez", timeout=30).status_code == 200
    except httpx2.TransportError:
        return False


def served(serve: Callable[[], int], visit: Callable[[], None]) -> int:
    """The exit status of `serve`, which gets a SIGTERM after the visit of another thread."""

    def visitor() -> None:
        try:
            visit()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=visitor)
    thread.start()
    try:
        return serve()
    finally:
        thread.join()


def test_it_says_that_it_is_ready_once_and_leaves_when_all_have_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, start = several(tmp_path)
    said: list[str] = []

    def visit() -> None:
        while not (ready := capsys.readouterr().out):
            until(lambda: all(is_up(admin) for admin in admins(config)))
        said.append(ready)
        url = ready.split()[3]
        assert all(is_up(admin) for admin in admins(config))
        reply = httpx2.post(f"{url}/v1/predict", json={"input": CONFIDENT}, timeout=30)
        said.append(reply.json()["route"])

    assert served(lambda: replicas.serve(config, start), visit) == 0
    lines = "".join(said).splitlines()
    assert [line.partition(" on ")[0] for line in lines] == ["understudy: ready", "student"]
    assert not any(is_up(admin) for admin in admins(config))


def test_one_that_has_died_is_started_again_and_the_other_is_left_alone(tmp_path: Path) -> None:
    config, start = several(tmp_path)
    died: list[int] = []
    after: list[int] = []

    def visit() -> None:
        until(lambda: all(is_up(admin) for admin in admins(config)))
        before = children()
        died.extend(before[:1])
        os.kill(died[0], signal.SIGKILL)
        until(lambda: len(children()) == 1)
        until(lambda: all(is_up(admin) for admin in admins(config)))
        after.extend(children())
        assert set(before) & set(after) == set(before[1:])

    assert served(lambda: replicas.serve(config, start), visit) == 0
    assert len(set(after) - set(died)) == 2


def test_leaving_does_not_wait_for_one_that_has_died(tmp_path: Path) -> None:
    config, start = several(tmp_path)

    def visit() -> None:
        until(lambda: all(is_up(admin) for admin in admins(config)))
        os.kill(children()[0], signal.SIGKILL)
        until(lambda: len(children()) == 1)

    assert served(lambda: replicas.serve(config, start), visit) == 128 + signal.SIGKILL


def test_what_no_replica_can_serve_ends_the_parent_with_their_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config, _ = several(tmp_path)
    status = replicas.serve(config, command(tmp_path / "no.yaml"))
    assert status == 2
    assert capfd.readouterr().err.count("no.yaml") == 1

"""The parent of several replicas: it is ready when all are, starts what has died, leaves last."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import httpx2
import pytest

from gateway import replicas, settings
from gateway.settings import Settings
from tests import patience
from tests.factories import CONFIDENT, settings_file
from tests.patience import two_free_ports

pytestmark = pytest.mark.acceptance

TIMEOUT_S = 120.0  # far above what anything takes here: only a hang reaches it


def command(config: Path) -> list[str]:
    """What starts a gateway with these settings."""
    return [sys.executable, "-m", "gateway", "serve", "--config", str(config)]


def several(
    folder: Path, *, run_in: Literal["processes", "threads"] = "threads"
) -> tuple[Settings, list[str]]:
    """Settings of two replicas without records, and the command that starts one of them."""
    path = settings_file(
        folder,
        run_in=run_in,
        server={"port": 0, "replicas": 2},
        admin={"port": two_free_ports()},
        records={"enabled": False},
    )
    return settings.load(path), command(path)


def admins(of: Settings) -> list[str]:
    """The addresses of the administration, by replica."""
    places = [of.admin_of(number) for number in range(2)]
    return [f"http://127.0.0.1:{place.port}" for place in places if place is not None]


def children(of: int | None = None) -> list[int]:
    """What a process has started and what has not ended; of this one, the replicas alone."""
    parent = of or os.getpid()
    threads = Path(f"/proc/{parent}/task").glob("*/children")
    found = [int(each) for thread in threads for each in _read(thread).split()]
    if of:
        return found
    return [each for each in found if b"--replica" in _read(Path(f"/proc/{each}/cmdline"))]


def _read(of_process: Path) -> bytes:
    try:
        return of_process.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""  # the process or its thread has ended since


def said(descriptor: int) -> str:
    """What this process has written there so far, where pytest's `capfd` takes it.

    To ask `capfd` itself would drop what is written between its look and its cut.
    """
    return os.pread(descriptor, 1 << 20, 0).decode()


def is_up(url: str) -> bool:
    """Whether something answers there."""
    try:
        return httpx2.get(f"{url}/livez", timeout=TIMEOUT_S).status_code == 200
    except httpx2.TransportError:
        return False


_LEFT = threading.Event()  # the parent that was served is gone, and nothing more will happen


def until(happened: Callable[[], bool]) -> None:
    """Wait for what happens while the parent serves; one that has left ends the wait."""
    patience.until(lambda: _LEFT.is_set() or happened())
    assert not _LEFT.is_set(), "it has left before it was told to"


def served(serve: Callable[[], int], visit: Callable[[], None]) -> int:
    """The exit status of `serve`, which gets a SIGTERM after the visit of another thread.

    It is sent only while `serve` listens: before and after, it would end the process of the tests.
    """

    def listens() -> bool:
        return callable(signal.getsignal(signal.SIGTERM))

    def visitor() -> None:
        try:
            visit()
        finally:
            patience.until(lambda: _LEFT.is_set() or listens())
            if listens():
                os.kill(os.getpid(), signal.SIGTERM)

    _LEFT.clear()
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    thread = threading.Thread(target=visitor)
    thread.start()
    try:
        return serve()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _LEFT.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)


def test_it_says_that_it_is_ready_once_and_leaves_when_all_have_left(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config, start = several(tmp_path)
    routes: list[str] = []

    def visit() -> None:
        until(lambda: said(1).endswith("\n"))
        url = said(1).split()[3]
        assert all(is_up(admin) for admin in admins(config))
        reply = httpx2.post(f"{url}/v1/predict", json={"input": CONFIDENT}, timeout=TIMEOUT_S)
        routes.append(reply.json()["route"])

    assert served(lambda: replicas.serve(config, start), visit) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.partition(" on ")[0] for line in lines] == ["understudy: ready"]
    assert routes == ["student"]
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
        until(lambda: died[0] not in children())
        until(lambda: len(children()) == len(before))
        until(lambda: all(is_up(admin) for admin in admins(config)))
        after.extend(children())
        assert set(before) & set(after) == set(before[1:])

    assert served(lambda: replicas.serve(config, start), visit) == 0
    assert len(set(after) - set(died)) == 2


def test_one_whose_workers_have_ended_leaves_and_is_started_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config, start = several(tmp_path, run_in="processes")

    def visit() -> None:
        until(lambda: all(is_up(admin) for admin in admins(config)))
        broken, sound = before = children()
        for worker in children(broken):
            os.kill(worker, signal.SIGKILL)
        until(lambda: broken not in children())
        until(lambda: len(children()) == len(before))
        until(lambda: all(is_up(admin) for admin in admins(config)))
        assert sound in children()

    assert served(lambda: replicas.serve(config, start), visit) == 0
    told = capfd.readouterr().err
    assert "a worker has ended, and this replica leaves" in told
    assert told.count("a replica has ended") == 1


@pytest.mark.usefixtures("capfd")
def test_leaving_does_not_wait_for_one_that_has_died_and_does_not_fail_for_it(
    tmp_path: Path,
) -> None:
    config, start = several(tmp_path)

    def visit() -> None:
        until(lambda: all(is_up(admin) for admin in admins(config)))
        os.kill(children()[0], signal.SIGKILL)
        until(lambda: "a replica has ended" in said(2))

    assert served(lambda: replicas.serve(config, start), visit) == 0


@pytest.mark.usefixtures("capfd")
def test_one_that_cannot_be_started_again_is_tried_again_later(
    tmp_path: Path,
) -> None:
    config, (python, *options) = several(tmp_path)
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    program.chmod(0o755)

    def visit() -> None:
        until(lambda: all(is_up(admin) for admin in admins(config)))
        program.rename(tmp_path / "away")
        os.kill(children()[0], signal.SIGKILL)
        until(lambda: "a replica cannot be started" in said(2))
        (tmp_path / "away").rename(program)
        until(lambda: all(is_up(admin) for admin in admins(config)))

    assert served(lambda: replicas.serve(config, [str(program), *options]), visit) == 0


REPLICA = """
import pathlib, signal, sys, time
folder, number = pathlib.Path(sys.argv[1]), sys.argv[-1]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
(folder / f"begun-{number}").touch()
while not (folder / f"go-{number}").exists():
    time.sleep(0.02)
signal.signal(signal.SIGHUP, lambda *_: (folder / f"heard-{number}").touch())
print("understudy: ready on http://a (tasks: tickets)", flush=True)
while True:
    signal.pause()
"""  # a hang-up ends it until it is ready


def test_a_reload_waits_for_those_that_are_being_started(tmp_path: Path) -> None:
    config, _ = several(tmp_path)

    def exists(name: str) -> bool:
        return (tmp_path / name).exists()

    def visit() -> None:
        until(lambda: exists("begun-0"))
        os.kill(os.getpid(), signal.SIGHUP)
        (tmp_path / "go-0").touch()
        until(lambda: exists("heard-0") and exists("begun-1"))
        (tmp_path / "heard-0").unlink()
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: exists("heard-0"))
        (tmp_path / "go-1").touch()
        until(lambda: exists("heard-1"))

    start = [sys.executable, "-c", REPLICA, str(tmp_path)]
    assert served(lambda: replicas.serve(config, start), visit) == 0


STARTING = """
import pathlib, signal, sys
{}
(pathlib.Path(sys.argv[1]) / f"begun-{{sys.argv[-1]}}").touch()
signal.pause()
"""  # it never gets to where it would leave in order
INTERRUPTED = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))"  # as the command line says


@pytest.mark.parametrize("heard", ["", INTERRUPTED])
def test_one_that_is_told_to_leave_while_it_starts_is_no_failure(
    tmp_path: Path, heard: str
) -> None:
    config, _ = several(tmp_path)
    start = [sys.executable, "-c", STARTING.format(heard), str(tmp_path)]
    begun = (tmp_path / "begun-0").exists
    assert served(lambda: replicas.serve(config, start), lambda: until(begun)) == 0


def test_what_no_replica_can_serve_ends_the_parent_with_their_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config, _ = several(tmp_path)
    status = replicas.serve(config, command(tmp_path / "no.yaml"))
    assert status == 2
    assert capfd.readouterr().err.count("no.yaml") == 1

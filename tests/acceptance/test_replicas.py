"""Several replicas at one address: they share the work and the records, and leave together."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import httpx2
import psycopg
import pytest

from tests.acceptance.conftest import Starter
from tests.acceptance.process import GATEWAY, TIMEOUT_S, Process
from tests.factories import CONFIDENT, settings_file, tiny_bundle
from tests.patience import two_free_ports, until
from tests.postgres import Cluster, cluster

__all__ = ["cluster"]

pytestmark = pytest.mark.acceptance

ASKED = 40  # on a connection each: that all of them meet one of two replicas has chance 2 ** -39


@pytest.fixture
def records(cluster: Cluster) -> str:
    """The URL of an empty database."""
    return cluster.new_database()


@pytest.fixture
def pair(start: Starter) -> Process:
    """A gateway of two replicas that keep no records."""
    return two(start)


def two(start: Starter, **server: object) -> Process:
    return start(
        server={"replicas": 2, **server},
        admin={"port": two_free_ports()},
        records={"enabled": False},
    )


def test_both_replicas_answer_at_one_address_and_store_in_one_database(
    start: Starter, records: str
) -> None:
    pair = start(server={"replicas": 2}, admin={"port": two_free_ports()}, records={"url": records})
    for _ in range(ASKED):
        assert pair.ask(CONFIDENT)["labels"]["intent"] == "refund"
    answered = [_answered(url) for url in _admins(pair)]
    assert sum(answered) == ASKED
    assert min(answered) > 0
    assert pair.leave() == 0
    assert _stored(records) == ASKED


def test_a_second_signal_ends_all_of_them_at_once(start: Starter) -> None:
    pair = two(start, drain_delay_s=300)  # longer than the test may last
    pair.send(signal.SIGTERM)
    for admin in _admins(pair):
        until(lambda admin=admin: _get(f"{admin}/readyz").status_code == 503)  # type: ignore[misc]
    pair.send(signal.SIGINT)
    assert pair.ended() == 128 + signal.SIGINT
    until(lambda: _refuses(pair.url))


def test_replicas_leave_when_their_parent_is_killed(pair: Process) -> None:
    assert pair.leave(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: _refuses(pair.url))


def test_an_address_that_another_gateway_shares_is_not_taken(pair: Process, tmp_path: Path) -> None:
    port = pair.url.rpartition(":")[2]
    path = settings_file(
        tmp_path / "other", server={"replicas": 2}, records={"enabled": False}, admin={"port": 0}
    )
    done = _refused(path, "--port", port)
    assert done.returncode == 2
    assert f"server.port {port}: Address already in use" in done.stderr


def test_replicas_are_refused_on_a_sqlite_file(tmp_path: Path) -> None:
    done = _refused(settings_file(tmp_path), "--replicas", "2")
    assert done.returncode == 2
    assert "server.replicas 2" in done.stderr
    assert "UNDERSTUDY_RECORDS_URL" in done.stderr


def test_a_number_without_a_replica_is_refused(tmp_path: Path) -> None:
    path = settings_file(tmp_path, records={"enabled": False})
    done = _refused(path, "--replicas", "2", "--replica", "2")
    assert done.returncode == 2
    assert "--replica 2: there are 2, counted from 0" in done.stderr


def test_what_no_replica_can_serve_is_told_once(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundles")
    (bundle / "model.onnx").write_bytes(b"")
    path = settings_file(
        tmp_path, student=bundle, server={"replicas": 2}, records={"enabled": False}
    )
    done = _refused(path, "--port", "0")
    assert done.returncode == 2
    assert done.stderr.count(str(bundle / "model.onnx")) == 1
    assert done.stdout == ""


def _admins(process: Process) -> list[str]:
    """The addresses of the administration, by replica."""
    first = _port(process.config)
    return [f"http://127.0.0.1:{first + number}" for number in range(2)]


def _port(config: Path) -> int:
    return int(config.read_text().partition("admin:\n  port: ")[2].split()[0])


def _answered(admin: str) -> int:
    series = 'understudy_requests_total{code="200",route="student",task="tickets"} '
    text = _get(f"{admin}/metrics").text
    return int(float(text.partition(series)[2].split()[0]))


def _stored(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM records").fetchone()
    assert row is not None
    return int(row[0])


def _refuses(url: str) -> bool:
    """Whether nobody listens there; who is slow, or cuts a request short, still does."""
    try:
        _get(f"{url}/livez")
    except httpx2.ConnectError:
        return True
    except httpx2.TransportError:
        return False
    return False


def _get(url: str) -> httpx2.Response:
    return httpx2.get(url, timeout=TIMEOUT_S)


def _refused(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `understudy serve` where it cannot."""
    return subprocess.run(
        [*GATEWAY, "serve", "--config", str(config), *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

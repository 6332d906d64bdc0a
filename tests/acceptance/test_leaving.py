"""How a gateway ends and starts again: signals under load, and what stops it at the door."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from gateway import settings
from gateway.address import bind
from gateway.errors import SettingsError
from gateway.server import _serve
from gateway.settings import ServerSettings
from gateway.teachers.faults import MODEL, OK, Call, Fault, FaultServer, turns
from tests.acceptance.balancer import Balancer
from tests.acceptance.conftest import Starter
from tests.acceptance.process import GATEWAY, TIMEOUT_S, Process
from tests.factories import CONFIDENT, settings_file, tiny_bundle
from tests.patience import until

pytestmark = pytest.mark.acceptance

IN_FLIGHT = 200
CLIENTS = 8
ENOUGH = 150  # replies before the gateway is ended in the midst of more
# A client that was kept from the processors so long would not know who leaves.
DRAIN_S = 20.0


def test_a_signal_lets_every_request_in_flight_finish(start: Starter) -> None:
    drained = asyncio.Event()

    async def hold(call: Call) -> None:
        await drained.wait()
        await OK.reply(call)

    async def work() -> tuple[Process, list[int]]:
        held = Fault("held", hold, good=True)
        async with FaultServer(turns(held)) as upstream:
            teacher = {
                "openai": {"url": upstream.url, "model": MODEL},
                "concurrency": IN_FLIGHT,
                "timeout_s": TIMEOUT_S,
                # A gateway that was kept from the processors tries in vain to connect in time.
                "retries": 5,
                "retry_share": 1.0,
                "breaker": {"failures": 1000, "calls": 1024},
            }
            process = await asyncio.to_thread(
                start, server={"drain_timeout_s": TIMEOUT_S}, teacher=teacher
            )
            statuses = await _all_at_once(process, drained)
            assert await asyncio.to_thread(process.ended) == 0
            return process, statuses

    process, statuses = asyncio.run(work())
    assert statuses == [200] * IN_FLIGHT
    assert [record.route for record in process.records()] == ["teacher"] * IN_FLIGHT


def test_a_signal_under_load_loses_no_record(start: Starter) -> None:
    process = start()
    answered = asyncio.run(_flood(process, signal.SIGTERM))
    assert process.ended() == 0
    assert len(answered) >= ENOUGH
    assert sorted(record.id for record in process.records()) == sorted(answered)


def test_answers_are_stored_or_counted_as_dropped(start: Starter) -> None:
    process = start(records={"path": "records.db", "queue": 1})
    assert process.post({"inputs": [CONFIDENT] * 256}).status_code == 200
    until(lambda: not process.stats()["records"]["waiting"])
    account = process.stats()["records"]
    assert account["stored"] + account["dropped"] == 256
    assert account["dropped"] > 0
    for result in ("stored", "dropped"):
        series = f'understudy_records_total{{result="{result}"}}'
        assert process.metric(series) == account[result]
    assert process.leave() == 0
    assert len(process.records()) == account["stored"]


def test_after_a_kill_it_serves_again_on_the_same_records(start: Starter) -> None:
    first = start()
    before = asyncio.run(_flood(first, signal.SIGKILL))
    assert first.ended() == -signal.SIGKILL
    second = start(config=first.config)
    after = [second.ask(CONFIDENT)["id"] for _ in range(5)]
    assert second.leave() == 0
    stored = [record.id for record in second.records()]
    assert len(set(stored)) == len(stored)
    assert stored[-5:] == after
    # A reply does not wait for its record, nor a record for its reply: only those in flight differ.
    assert len(set(stored[:-5]) - set(before)) <= CLIENTS
    assert len(stored) > 5
    with closing(sqlite3.connect(first.config.with_name("records.db"))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_port_in_use_is_told_and_ends_with_2(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = _refused(settings_file(tmp_path), "--port", str(port))
    assert done.returncode == 2
    assert f"server.port {port}: Address already in use" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_of_two_that_start_at_once_the_later_is_told(tmp_path: Path) -> None:
    config = settings.load(settings_file(tmp_path))
    with bind(ServerSettings(port=0)) as first:
        port = first.getsockname()[1]
        with bind(ServerSettings(port=port)) as second:  # neither listens yet, so both may bind
            first.listen()
            with pytest.raises(SettingsError, match="Address already in use"):
                asyncio.run(_serve(config, second, lambda _url: None))


def test_a_changed_byte_in_a_bundle_is_found_before_serving(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundles")
    model = bytearray((bundle / "model.onnx").read_bytes())
    model[-1] ^= 1
    (bundle / "model.onnx").write_bytes(model)
    done = _refused(settings_file(tmp_path, student=bundle), "--port", "0")
    assert done.returncode == 2
    assert str(bundle / "model.onnx") in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "restarts",
    [
        pytest.param(1, id="few"),
        pytest.param(20, id="many", marks=[pytest.mark.soak, pytest.mark.timeout(1200)]),
    ],
)
def test_restarts_fail_no_request_of_a_client_that_honours_readiness(
    start: Starter, tmp_path: Path, restarts: int
) -> None:
    configs = [
        settings_file(tmp_path / name, server={"drain_delay_s": DRAIN_S}) for name in ("one", "two")
    ]
    balancer = Balancer()
    processes = [start(config=config) for config in configs]

    async def restart() -> list[int]:
        statuses = []
        for number in range(restarts):
            place = number % 2
            await balancer.has_answered(ENOUGH * (number + 1))
            await balancer.finds(len(processes))  # else the one that leaves is the only one
            statuses.append(await asyncio.to_thread(processes[place].leave))
            processes[place] = await asyncio.to_thread(start, config=configs[place])
        return statuses

    async def play() -> list[int]:
        served = lambda: [process.url for process in processes]  # noqa: E731
        async with balancer.busy(served, clients=CLIENTS):
            return await restart()

    assert asyncio.run(play()) == [0] * restarts
    assert balancer.failures == []
    for process in processes:  # that it could leave was shown, and takes its time
        until(lambda of=process: not of.stats()["records"]["waiting"])  # type: ignore[misc]
    assert sum(_stored(config) for config in configs) == balancer.answered


def test_a_pooled_connection_is_told_that_its_reply_is_the_last(start: Starter) -> None:
    process = start(server={"drain_delay_s": 300})
    with httpx2.Client(base_url=process.url, timeout=TIMEOUT_S) as client:
        assert "connection" not in client.get("/readyz").headers
        process.send(signal.SIGTERM)
        while (reply := client.get("/readyz")).status_code == 200:
            continue
        assert (reply.status_code, reply.headers["connection"]) == (503, "close")
    process.send(signal.SIGINT)
    assert process.ended() == 128 + signal.SIGINT


async def _all_at_once(process: Process, drained: asyncio.Event) -> list[int]:
    """Send IN_FLIGHT requests for the teacher, and SIGTERM when all are being worked on.

    `drained` is set once nothing new is taken in.
    """
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=process.url, limits=limits, timeout=TIMEOUT_S) as client:
        body = {"input": CONFIDENT, "route": "teacher"}
        sent = [
            asyncio.create_task(client.post("/v1/predict", json=body)) for _ in range(IN_FLIGHT)
        ]
        wanted = f"understudy_inflight_requests {float(IN_FLIGHT)}"
        while wanted not in (await client.get("/metrics")).text.splitlines():
            assert not any(each.done() for each in sent)
        process.send(signal.SIGTERM)
        while await _takes_more(client):
            assert not any(each.done() for each in sent)
        drained.set()
        return [reply.status_code for reply in await asyncio.gather(*sent)]


async def _takes_more(client: httpx2.AsyncClient) -> bool:
    """Whether the gateway is ready."""
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx2.TransportError:
        return False


async def _flood(process: Process, number: signal.Signals) -> list[str]:
    """Ask without pause until the gateway is gone: it is sent that signal after ENOUGH replies.

    By then something is stored. Returns the ids of what was answered.
    """
    answered: list[str] = []

    async def end(client: httpx2.AsyncClient) -> None:
        while not (await client.get("/v1/stats")).json()["records"]["stored"]:
            continue
        process.send(number)

    async def ask(client: httpx2.AsyncClient) -> None:
        while True:
            try:
                reply = await client.post("/v1/predict", json={"input": CONFIDENT})
            except httpx2.TransportError:
                return
            assert reply.status_code == 200
            answered.append(reply.json()["id"])
            if len(answered) == ENOUGH:
                await end(client)

    async with httpx2.AsyncClient(base_url=process.url, timeout=TIMEOUT_S) as client:
        await asyncio.gather(*(ask(client) for _ in range(CLIENTS)))
    return answered


def _stored(config: Path) -> int:
    """How many answers are stored beside a settings file."""
    with closing(sqlite3.connect(config.with_name("records.db"))) as connection:
        count: int = connection.execute("SELECT count(*) FROM records").fetchone()[0]
    return count


def _refused(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `understudy serve` where it cannot."""
    return subprocess.run(
        [*GATEWAY, "serve", "--config", str(config), *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

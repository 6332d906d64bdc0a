"""Students take turns in a process that serves: no request fails, no reply mixes two bundles."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from gateway.api.auth import new_key
from gateway.contract.manifest import Head, HeadKind, Task
from gateway.students.registry import ROLES
from tests.acceptance.command import understudy
from tests.acceptance.conftest import Starter
from tests.acceptance.process import TIMEOUT_S, Process
from tests.factories import CONFIDENT, TASK, tiny_bundle
from tests.hostile import Parts, parts_of
from tests.patience import two_free_ports, until

pytestmark = pytest.mark.acceptance

STUDENTS = "/admin/v1/students"
SWAP = f"{STUDENTS}/{TASK.name}/swap"
TAR = {"content-type": "application/x-tar"}
RENAMED = Task(
    name=TASK.name,
    heads=(
        Head(name="intent", kind=HeadKind.CHOICE, labels=("money_back", "theft", "rest")),
        TASK.heads[1],
    ),
)
SCRIPT = {"scripted": {"delay_ms": 0}}  # it says the first label of whichever student serves
RATE = 150.0  # requests a second of the long run
_MOST_GROWTH = 1.1  # of the resident memory, between the tenth swap and the last
_AT_ONCE = 64  # requests; while none of them is answered no more are sent
# Below the 5 s after which the gateway closes an idle connection, so that both never meet.
_IDLE_S = 2.0


@dataclass
class Replies:
    """What came back so far."""

    all: list[dict[str, Any]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, reply: dict[str, Any]) -> None:
        """Another one."""
        self.all.append(reply)
        self.news.set()

    async def by(self, student: str) -> None:
        """Wait for the next one that this student gave."""
        seen = len(self.all)
        while all(named(reply) != student for reply in self.all[seen:]):
            self.news.clear()
            await self.news.wait()


Work = Callable[[httpx2.AsyncClient, Replies], Awaitable[None]]


def add(process: Process, parts: Parts) -> httpx2.Response:
    url = process.url + STUDENTS
    return httpx2.post(url, content=parts.tar(), headers=TAR, timeout=TIMEOUT_S)


def named(reply: dict[str, Any]) -> str:
    """The name of the student that gave a reply."""
    return f"{TASK.name}-{reply['bundle'][:12]}"


def serving(process: Process) -> str:
    (task,) = httpx2.get(f"{process.url}{STUDENTS}", timeout=TIMEOUT_S).json()["tasks"]
    return str(task["serving"])


async def beside_requests(process: Process, work: Work, *, rate: float) -> list[dict[str, Any]]:
    """Do something while requests come at a steady rate; returns their replies, all of them 200."""
    replies, done, places = Replies(), asyncio.Event(), asyncio.Semaphore(_AT_ONCE)
    limits = httpx2.Limits(max_connections=None, keepalive_expiry=_IDLE_S)
    async with httpx2.AsyncClient(base_url=process.url, timeout=TIMEOUT_S, limits=limits) as http:

        async def ask() -> None:
            try:
                reply = await http.post("/v1/predict", json={"input": CONFIDENT})
            finally:
                places.release()
            assert reply.status_code == 200, reply.text
            replies.take(reply.json())

        async def flow() -> None:
            loop = asyncio.get_running_loop()
            async with asyncio.TaskGroup() as asked:
                due = loop.time()
                while not done.is_set():
                    await places.acquire()
                    asked.create_task(ask())
                    due += 1 / rate
                    await asyncio.sleep(max(0.0, due - loop.time()))

        async def act() -> None:
            try:
                await work(http, replies)
            finally:
                done.set()

        async with asyncio.TaskGroup() as both:  # a request that fails ends the work as well
            both.create_task(flow())
            both.create_task(act())
    return replies.all


def resident(process: Process) -> int:
    """Bytes of memory that the process has now."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def swaps_under_load(process: Process, folder: Path, *, swaps: int, rate: float) -> None:
    labels = {serving(process): "refund"}
    for seed, task in ((1, RENAMED), (2, TASK), (3, RENAMED)):
        parts = parts_of(tiny_bundle(folder, seed=seed, task=task))
        assert add(process, parts).status_code == 201
        labels[parts.folder] = task.heads[0].labels[0]
    turns = list(labels)[1:] + list(labels)[:1]  # the next of four: never the one still loaded
    memory: list[int] = []

    async def work(http: httpx2.AsyncClient, replies: Replies) -> None:
        for number in range(swaps):
            student = turns[number % len(turns)]
            reply = await http.post(SWAP, json={"bundle": student})
            assert reply.status_code == 200, reply.text
            memory.append(resident(process))
            await replies.by(student)

    replies = asyncio.run(beside_requests(process, work, rate=rate))
    assert {named(reply) for reply in replies} == labels.keys()  # every one of them answered
    for reply in replies:
        assert reply["labels"]["intent"] == labels[named(reply)]
        assert reply["route"] == "student"
    swapped = process.metric(f'understudy_swaps_total{{result="swapped",task="{TASK.name}"}}')
    assert swapped == swaps
    assert memory[-1] <= memory[min(9, swaps - 1)] * _MOST_GROWTH


def test_no_request_fails_while_students_take_turns(start: Starter, tmp_path: Path) -> None:
    swaps_under_load(start(teacher=SCRIPT), tmp_path / "new", swaps=10, rate=100.0)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_two_hundred_swaps_at_a_steady_rate_fail_no_request(start: Starter, tmp_path: Path) -> None:
    swaps_under_load(start(teacher=SCRIPT), tmp_path / "new", swaps=200, rate=RATE)


def flips_under_load(process: Process, parts: Parts, *, flips: int, rate: float) -> None:
    chance = random.Random(7)

    async def work(http: httpx2.AsyncClient, _replies: Replies) -> None:
        for number in range(flips):
            name = sorted(parts.files)[number % len(parts.files)]
            content = bytearray(parts.files[name])
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            flipped = Parts(parts.folder, parts.files | {name: bytes(content)})
            reply = await http.post(STUDENTS, content=flipped.tar(), headers=TAR)
            assert reply.status_code == 422, reply.text
            assert reply.json()["code"].startswith("bundle_")

    replies = asyncio.run(beside_requests(process, work, rate=rate))
    assert {reply["labels"]["intent"] for reply in replies} == {"refund"}
    registry = process.config.with_name("students") / TASK.name
    left = [each.name for each in registry.iterdir() if "watch" not in each.name]
    assert left == []  # only what the alarms have seen


def test_a_changed_byte_is_refused_and_no_request_notices(start: Starter, tmp_path: Path) -> None:
    parts = parts_of(tiny_bundle(tmp_path / "new", seed=1))
    flips_under_load(start(), parts, flips=50, rate=50.0)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_thousand_changed_bytes_are_refused_while_the_gateway_serves(
    start: Starter, tmp_path: Path
) -> None:
    parts = parts_of(tiny_bundle(tmp_path / "new", seed=1))
    flips_under_load(start(), parts, flips=1000, rate=RATE)


def test_a_process_that_is_killed_half_way_leaves_no_half_bundle(
    start: Starter, tmp_path: Path
) -> None:
    parts = parts_of(tiny_bundle(tmp_path / "new", seed=1))
    process = start()
    old = serving(process)
    content = parts.tar()
    host, port = process.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST {STUDENTS} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/x-tar\r\n"
            f"content-length: {len(content)}\r\nexpect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        connection.recv(100)  # it reads the body, so its file is open
        connection.sendall(content[: len(content) // 2])
        process.leave(signal.SIGKILL)
    process = start(config=process.config)
    (task,) = httpx2.get(f"{process.url}{STUDENTS}", timeout=TIMEOUT_S).json()["tasks"]
    assert [each["name"] for each in task["bundles"]] == [old]
    assert add(process, parts).status_code == 201


def test_a_restart_serves_what_was_serving(start: Starter, tmp_path: Path) -> None:
    process = start()
    parts = parts_of(tiny_bundle(tmp_path / "new", bias={"fraud": 20.0}))
    add(process, parts)
    httpx2.post(process.url + SWAP, json={"bundle": parts.folder}, timeout=TIMEOUT_S)
    process.leave(signal.SIGKILL)
    process = start(config=process.config)
    assert serving(process) == parts.folder
    assert process.ask(CONFIDENT)["labels"]["intent"] == "fraud"


def test_the_command_line_sends_swaps_and_goes_back(start: Starter, tmp_path: Path) -> None:
    process = start()
    old = serving(process)
    bundle = tiny_bundle(tmp_path / "new", bias={"fraud": 20.0})
    where = ("--config", process.config, "--admin", process.url)
    ran = understudy("students", "add", bundle, *where)
    assert (ran.status, ran.err) == (0, "")
    assert f"{bundle.name} is added to {TASK.name}" in ran.out
    assert f"tasks.{TASK.name}.shadow.share is 0: nothing is compared" in ran.out
    assert f"next: understudy students swap {bundle.name}" in ran.out
    ran = understudy("students", "swap", bundle.name, *where)
    assert f"{bundle.name} serves {TASK.name} (previous: {old})" in ran.out
    assert process.ask(CONFIDENT)["labels"]["intent"] == "fraud"
    ran = understudy("students", "swap", bundle.name, *where)
    assert "as before" in ran.out
    ran = understudy("students", "list", *where)
    rows = [line.split() for line in ran.out.splitlines() if TASK.name in line]
    assert sorted((row[3], row[5]) for row in rows) == sorted(
        [(bundle.name, "serving"), (old, "previous")]
    )
    ran = understudy("students", "rollback", "--task", TASK.name, "--json", *where)
    (said,) = json.loads(ran.out)
    assert said["url"] == process.url
    assert (said["serving"], said["previous"]) == (old, bundle.name)
    (shown,) = json.loads(understudy("students", "list", "--json", *where).out)
    assert shown["tasks"][0]["serving"] == old


def test_the_command_line_sends_an_archive_as_it_is(start: Starter, tmp_path: Path) -> None:
    process = start()
    parts = parts_of(tiny_bundle(tmp_path / "new", seed=1))
    packed = tmp_path / "bundle.zip"
    packed.write_bytes(parts.zip())
    ran = understudy("students", "add", packed, "--admin", process.url, "--json")
    assert json.loads(ran.out)[0]["bundle"] == parts.folder
    packed.write_bytes(b"nothing")
    ran = understudy("students", "add", packed, "--admin", process.url)
    assert ran.status == 2
    assert "(bundle_archive)" in ran.err
    assert "-> send a tar or zip archive" in ran.err
    ran = understudy("students", "add", tmp_path / "nowhere", "--admin", process.url)
    assert (ran.status, "not a file or folder" in ran.err) == (2, True)


def test_the_command_line_shows_an_admins_key(
    start: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, digest = new_key("ops")
    other, other_digest = new_key("shop")
    process = start(
        keys=[
            {"name": "ops", "sha256": digest, "role": "admin"},
            {"name": "shop", "sha256": other_digest},
        ]
    )
    where = ("--admin", process.url)
    assert "(unauthorized)" in understudy("students", "list", *where).err
    monkeypatch.setenv("UNDERSTUDY_API_KEY", other)
    assert "(forbidden)" in understudy("students", "list", *where).err
    path = tmp_path / "key"
    path.write_text(key + "\n")
    assert understudy("students", "list", *where, "--key-file", path).status == 0
    monkeypatch.setenv("UNDERSTUDY_API_KEY", key)
    assert understudy("reload", *where).status == 0
    ran = understudy("reload", *where, "--key-file", tmp_path / "nowhere")
    assert (ran.status, "--key-file" in ran.err) == (2, True)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port at which nobody listens, and nobody can while the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_several_gateways_are_told_in_turn(
    start: Starter, tmp_path: Path, silent_port: int
) -> None:
    process = start()
    bundle = tiny_bundle(tmp_path / "new", seed=1)
    gone = f"http://127.0.0.1:{silent_port}"
    ran = understudy("students", "add", bundle, "--admin", process.url, "--admin", gone)
    assert ran.status == 1
    assert ran.err.startswith(f"understudy: {gone}: ")
    assert f"done already at {process.url}" in ran.err
    ran = understudy("students", "add", bundle, "--admin", process.url, "--admin", process.url)
    assert ran.out.count("is added to") == 2
    assert understudy("students", "list", "--admin", "ftp://host").status == 2
    old = serving(process)
    understudy("students", "swap", bundle.name, "--admin", process.url)
    ran = understudy("students", "rollback", "--admin", gone, "--admin", process.url)
    assert (ran.status, serving(process)) == (1, old)  # the way back goes past who is gone
    assert f"{process.url}: {old} serves {TASK.name}" in ran.out
    assert f"{gone}: " in ran.err
    assert f"done at {process.url}" in ran.err


def test_every_replica_is_told_and_a_new_one_serves_what_they_serve(
    start: Starter, tmp_path: Path
) -> None:
    process = start(
        server={"replicas": 2}, admin={"port": two_free_ports()}, records={"enabled": False}
    )
    bundle = tiny_bundle(tmp_path / "new", bias={"fraud": 20.0})
    config = ("--config", process.config)
    assert understudy("students", "add", bundle, *config).out.count("is added to") == 2
    said = json.loads(understudy("students", "swap", bundle.name, *config, "--json").out)
    assert [each["serving"] for each in said] == [bundle.name] * 2
    assert {process.ask(CONFIDENT)["labels"]["intent"] for _ in range(8)} == {"fraud"}
    process.send(signal.SIGHUP)  # the parent hands it on

    def all_follow() -> bool:
        urls = [f"{each['url']}/metrics" for each in said]
        texts = [httpx2.get(url, timeout=TIMEOUT_S).text for url in urls]
        return all("config_generation 2.0" in text for text in texts)

    until(all_follow)
    assert process.leave() == 0
    process = start(config=process.config)
    listed = json.loads(understudy("students", "list", *config, "--json").out)
    assert [each["tasks"][0]["serving"] for each in listed] == [bundle.name] * 2


def test_the_settings_say_where_the_gateways_are(start: Starter) -> None:
    process = start(admin={"port": 0})
    document = yaml.safe_load(process.config.read_text())
    ran = understudy("students", "list", "--config", process.config)
    assert (ran.status, "name the URL of the ready line" in ran.err) == (2, True)
    lines = [json.loads(line) for line in process.log.splitlines()]
    port = next(line["url"] for line in lines if "url" in line).rpartition(":")[2]
    document["admin"] = {"port": int(port)}
    process.config.write_text(yaml.safe_dump(document))
    assert understudy("students", "list", "--config", process.config).status == 0


def test_a_hangup_and_the_command_reload(start: Starter) -> None:
    process = start()
    threshold = f"tasks.{TASK.name}.policy.threshold"
    document = yaml.safe_load(process.config.read_text())
    document["tasks"][TASK.name]["policy"] = {"threshold": 0.5}
    document["server"] = {"port": 9000}
    process.config.write_text(yaml.safe_dump(document))
    ran = understudy("reload", "--admin", process.url)
    assert "generation 2" in ran.out
    assert f"  applied: {threshold}\n" in ran.out
    assert process.metric("understudy_config_generation") == 2
    (said,) = json.loads(understudy("reload", "--admin", process.url, "--json").out)
    assert (said["applied"], said["generation"]) == ([], 3)
    process.send(signal.SIGHUP)
    until(lambda: process.metric("understudy_config_generation") >= 4)
    process.config.write_text("version: 1\n")
    ran = understudy("reload", "--admin", process.url)
    assert (ran.status, "(settings)" in ran.err) == (2, True)
    assert process.ask(CONFIDENT)["route"] == "student"
    assert not (process.config.with_name("students") / TASK.name / ROLES).exists()
    assert process.leave() == 0

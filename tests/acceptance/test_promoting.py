"""A student is promoted and rolled back while requests come: none of them fails."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import count as numbers
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from gateway.routing.canary import place
from gateway.types import Instance
from tests.acceptance.command import understudy
from tests.acceptance.conftest import Starter
from tests.acceptance.process import TIMEOUT_S
from tests.acceptance.test_swapping import STUDENTS, SWAP, Replies, beside_requests
from tests.factories import CONFIDENT, TASK, tiny_bundle
from tests.patience import two_free_ports, until
from tests.postgres import Cluster, cluster

__all__ = ["cluster"]

pytestmark = pytest.mark.acceptance

ROLLBACK = f"{STUDENTS}/{TASK.name}/rollback"
SHARES = (0.2, 0.5, 1.0)
STEPS = [{"share": share, "minimum_s": 0.0, "rows": 5} for share in SHARES]
EVERYWHERE_S = 2.0  # a rollback is, on each replica
_LOOK_S = 0.02


async def shown(http: httpx2.AsyncClient, url: str = "") -> dict[str, Any]:
    """What a gateway says of the roles."""
    found: dict[str, Any] = (await http.get(f"{url}{STUDENTS}")).json()["tasks"][0]
    return found


async def serves(http: httpx2.AsyncClient, url: str, name: str) -> None:
    """Wait until that bundle serves there."""
    while (await shown(http, url))["serving"] != name:  # noqa: ASYNC110  it is another process
        await asyncio.sleep(_LOOK_S)


def unmet(folder: Path) -> Path:
    """A student whose canary answers requests that name no user in its last step alone.

    So that its steps wait for those that do, however many others come meanwhile.
    """
    made = (tiny_bundle(folder, seed=seed, bias={"fraud": 20.0}) for seed in numbers())
    instance = Instance(CONFIDENT)
    return next(each for each in made if place(instance, key="user", salt=each.name) >= SHARES[-2])


def test_a_canary_takes_all_its_steps_under_load_and_no_request_fails(
    start: Starter, tmp_path: Path
) -> None:
    process = start(tickets={"promotion": {"steps": STEPS, "key": "user"}})
    bundle = unmet(tmp_path / "new")
    where = ("--admin", process.url)
    assert understudy("students", "add", bundle, *where).status == 0
    ran = understudy("students", "promote", bundle.name, *where)
    assert (ran.status, "(not_proved)" in ran.err) == (2, True)
    said: dict[str, set[str]] = {}

    async def work(http: httpx2.AsyncClient, _replies: Replies) -> None:
        override = {"bundle": bundle.name, "override": True, "why": "a test"}
        reply = await http.post(f"{STUDENTS}/{TASK.name}/promote", json=override)
        assert reply.json()["canary"]["share"] == 0.2
        number = 0
        while (await shown(http))["serving"] != bundle.name:
            number += 1
            body = {"input": CONFIDENT, "fields": {"user": f"u{number % 40}"}}
            reply = await http.post("/v1/predict", json=body)
            assert reply.status_code == 200, reply.text
            labels = said.setdefault(body["fields"]["user"], set())  # type: ignore[index]
            labels.add(reply.json()["labels"]["intent"])

    asyncio.run(beside_requests(process, work, rate=50.0))
    assert {"refund", "fraud"} == set().union(*said.values())
    assert process.ask(CONFIDENT)["labels"]["intent"] == "fraud"
    listed = understudy("changes", "list", "--json", "--config", process.config)
    told = [(row["what"], row["evidence"].get("share")) for row in json.loads(listed.out)[::-1]]
    assert told == [
        ("start", None), ("override", 0.2), ("step", 0.5), ("step", 1.0), ("takeover", None),
    ]  # fmt: skip


def test_the_command_line_freezes_lists_and_unfreezes(start: Starter, tmp_path: Path) -> None:
    process = start(tickets={"promotion": {"second_person": True}})
    bundle = tiny_bundle(tmp_path / "new", seed=1)
    where = ("--admin", process.url)
    understudy("students", "add", bundle, *where)
    ran = understudy(
        "students", "promote", bundle.name, "--override", "--why", "for a look", *where
    )
    assert f"next: understudy students approve {bundle.name}" in ran.out
    ran = understudy("students", "approve", bundle.name, *where)
    assert (ran.status, "(forbidden)" in ran.err) == (2, True)
    ran = understudy("students", "freeze", "--why", "a holiday", *where)
    assert "promotion is frozen: a holiday" in ran.out
    ran = understudy("students", "list", *where)
    assert "tickets: promotion is frozen: a holiday" in ran.out
    ran = understudy("students", "unfreeze", "--why", "it is over", *where)
    assert "frozen" not in ran.out
    ran = understudy("students", "rollback", *where)
    assert (ran.status, "(bundle_missing)" in ran.err) == (2, True)
    ran = understudy("students", "rollback", "--to-teacher", *where)
    assert (ran.status, "no_student serves" in ran.out) == (0, True), ran
    assert process.ask(CONFIDENT)["reason"] == "no_student"


def rollbacks_under_load(start: Starter, folder: Path, records: str, *, count: int) -> list[float]:
    """Roll back so often, by one of two replicas; how many seconds until the other one followed."""
    port = two_free_ports()
    process = start(
        server={"replicas": 2},
        admin={"port": port},
        records={"url": records},
    )
    here, there = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    bundle = tiny_bundle(folder / "new", bias={"fraud": 20.0})
    config = ("--config", process.config)
    assert understudy("students", "add", bundle, *config).status == 0
    took: list[float] = []

    async def work(http: httpx2.AsyncClient, _replies: Replies) -> None:
        old = (await shown(http, here))["serving"]
        for number in range(count):
            reply = await http.post(f"{here}{SWAP}", json={"bundle": bundle.name})
            assert reply.status_code == 200, reply.text
            await serves(http, there, bundle.name)
            began = time.monotonic()
            reply = await http.post(f"{here}{ROLLBACK}", json={"why": f"round {number}"})
            assert reply.json()["serving"] == old
            await serves(http, there, old)
            took.append(time.monotonic() - began)

    asyncio.run(beside_requests(process, work, rate=50.0))
    ran = understudy("students", "swap", bundle.name, *config)
    assert ran.status == 0, ran.err
    ran = understudy("students", "rollback", "--why", "by all", *config, "--json")
    first, second = json.loads(ran.out)
    assert {first["changed"], second["changed"]} == {True, False}  # told twice, gone back once
    assert first["serving"] == second["serving"] != bundle.name

    def told() -> list[dict[str, Any]]:
        listed = understudy("changes", "list", "--limit", 100, "--json", *config)
        return list(reversed(json.loads(listed.out)))

    until(lambda: told()[-1]["why"] == "by all")  # the row follows what it says
    rows = told()
    whys = [f"round {number}" for number in range(count)]
    assert [row["why"] for row in rows if row["what"] == "rollback"] == [*whys, "by all"]
    assert [row["why"] for row in rows if row["what"] == "freeze"] == whys[:1]
    assert understudy("changes", "verify", *config).status == 0
    with psycopg.connect(records) as connection:
        connection.execute("UPDATE changes SET why = 'nobody saw it' WHERE why = 'round 1'")
    ran = understudy("changes", "verify", *config)
    edited = next(row["number"] for row in rows if row["why"] == "round 1")
    assert (ran.status, f"row {edited} does not say" in ran.err) == (1, True)
    with psycopg.connect(records) as connection:
        connection.execute("DELETE FROM changes WHERE number = %s", (edited,))
    ran = understudy("changes", "verify", *config)
    assert (ran.status, f"row {edited} is missing" in ran.err) == (1, True)
    return took


def test_no_request_fails_while_one_of_two_replicas_rolls_back_and_the_other_follows(
    start: Starter, tmp_path: Path, cluster: Cluster
) -> None:
    assert len(rollbacks_under_load(start, tmp_path, cluster.new_database(), count=3)) == 3


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_twenty_rollbacks_are_on_both_replicas_within_two_seconds(
    start: Starter, tmp_path: Path, cluster: Cluster
) -> None:
    took = rollbacks_under_load(start, tmp_path, cluster.new_database(), count=20)
    middle, longest = sorted(took)[len(took) // 2], max(took)
    print(f"on the other replica within {middle:.2f} s, at most {longest:.2f} s")  # noqa: T201
    assert longest < EVERYWHERE_S < TIMEOUT_S, sorted(took)

"""The admin API over HTTP: who may, what is taken in, what changes, what is shown."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from httpx2 import Response

from gateway.api.admin import without_secrets
from gateway.api.auth import new_key
from gateway.api.shadow import CandidateReply
from gateway.app import build_admin, build_app
from gateway.settings import Settings
from gateway.students.registry import Registry
from gateway.succession.candidacy import Progress
from tests.conftest import Client, Opener
from tests.factories import CONFIDENT, TASK, tiny_bundle
from tests.hostile import Parts, parts_of

TAR = {"content-type": "application/x-tar"}
STUDENTS = "/admin/v1/students"
SWAP = f"{STUDENTS}/{TASK.name}/swap"
SHADOW = "/admin/v1/shadow"
ROLLBACK = f"{STUDENTS}/{TASK.name}/rollback"
CLIENT, CLIENT_DIGEST = new_key("shop")
ADMIN, ADMIN_DIGEST = new_key("ops")
KEYS = [
    {"name": "shop", "sha256": CLIENT_DIGEST},
    {"name": "ops", "sha256": ADMIN_DIGEST, "role": "admin"},
]
ROUTES = [
    ("GET", STUDENTS),
    ("POST", STUDENTS),
    ("POST", SWAP),
    ("POST", ROLLBACK),
    ("POST", "/admin/v1/reload"),
    ("GET", "/admin/v1/config"),
    ("GET", SHADOW),
    ("DELETE", f"{SHADOW}/{TASK.name}/a-bundle"),
]


@pytest.fixture
def other(tmp_path: Path) -> Parts:
    """A bundle that says fraud to everything."""
    return parts_of(tiny_bundle(tmp_path / "new", bias={"fraud": 20.0}))


def send(client: Client, parts: Parts) -> Response:
    reply: Response = client.post(STUDENTS, content=parts.tar(), headers=TAR)
    return reply


def intent(client: Client) -> Any:
    return client.post("/v1/predict", json={"input": CONFIDENT}).json()["labels"]["intent"]


def test_a_bundle_is_sent_swapped_in_and_rolled_back(client: Client, other: Parts) -> None:
    old = client.gateway.successions[TASK.name].roles.serving
    reply = send(client, other)
    assert reply.status_code == 201
    size = sum(map(len, other.files.values()))
    assert reply.json() == {
        "task": TASK.name, "bundle": other.folder, "size": size, "compared": False,
        "note": "tasks.tickets.shadow.share is 0: nothing is compared",
    }  # fmt: skip
    assert intent(client) == "refund"
    swapped = client.post(SWAP, json={"bundle": other.folder})
    assert swapped.json() == {
        "task": TASK.name, "serving": other.folder, "previous": old, "changed": True,
        "canary": None, "proposal": None, "frozen": None,
    }  # fmt: skip
    assert intent(client) == "fraud"
    (task,) = client.get(STUDENTS).json()["tasks"]
    assert (task["configured"], task["serving"], task["previous"]) == (old, other.folder, old)
    assert {each["name"]: each["role"] for each in task["bundles"]} == {
        other.folder: "serving",
        old: "previous",
    }
    assert client.post(ROLLBACK).json()["serving"] == old
    assert intent(client) == "refund"


def test_a_bundle_that_is_sent_is_a_candidate_where_a_share_is_compared(
    serve: Opener, other: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(tickets={"shadow": {"share": 0.5}})
    reply = send(client, other).json()
    assert (reply["compared"], reply["note"]) == (True, "")
    (task,) = client.get(STUDENTS).json()["tasks"]
    roles = {each["name"]: each["role"] for each in task["bundles"]}
    assert roles == {task["serving"]: "serving", other.folder: "candidate"}
    threads: list[str] = []
    shape = CandidateReply.of

    def of(progress: Progress) -> CandidateReply:
        threads.append(threading.current_thread().name)
        return shape(progress)

    monkeypatch.setattr(CandidateReply, "of", of)
    (shadow,) = client.get(SHADOW).json()["tasks"]
    assert [name.partition("_")[0] for name in threads] == ["asyncio"]  # beside the event loop
    (shown,) = shadow["candidates"]
    assert (shadow["serving"], shown["name"]) == (task["serving"], other.folder)
    assert (shown["share"], shown["whole"]["compared"], shown["worst"]) == (0.5, 0, [])
    assert {each["gate"] for each in shown["verdict"]["gates"]} == {
        "disagreement", "serving", "escalation", "latency",
    }  # fmt: skip
    gone = client.delete(f"{SHADOW}/{TASK.name}/{other.folder}")
    assert gone.json() == {"task": TASK.name, "bundle": other.folder}
    assert client.delete(f"{SHADOW}/{TASK.name}/{other.folder}").status_code == 404
    (task,) = client.get(STUDENTS).json()["tasks"]
    assert task["bundles"][-1] == {"name": other.folder, "role": "idle"}


@pytest.mark.parametrize(
    ("kind", "form"),
    [("application/gzip", "gzip"), ("application/zip", "zip"), ("application/x-tar; a=b", "tar")],
)
def test_every_kind_of_archive_may_be_sent(
    client: Client, other: Parts, kind: str, form: str
) -> None:
    content = {"gzip": gzip.compress(other.tar()), "zip": other.zip(), "tar": other.tar()}[form]
    reply = client.post(STUDENTS, content=content, headers={"content-type": kind})
    assert reply.status_code == 201


def test_an_archive_is_laid_down_and_swept_away_beside_the_event_loop(
    client: Client, other: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: list[str] = []

    def look(where: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            beside.append(where)

    rmtree = shutil.rmtree

    def removed(*said: Any, **more: Any) -> None:
        look("removed")
        rmtree(*said, **more)

    monkeypatch.setattr(Registry, "_sweep", lambda _: look("laid"))
    monkeypatch.setattr(shutil, "rmtree", removed)
    assert client.post(STUDENTS, content=other.tar(), headers=TAR).status_code == 201
    # what came, and inside of that what was unpacked of it
    assert (beside[:2], beside[-1]) == (["laid", "laid"], "removed")
    assert beside.count("removed") >= 2


def test_a_hostile_archive_gets_its_code_and_its_mending(client: Client, other: Parts) -> None:
    reply = send(client, other.but(CARD__md=b"changed"))
    assert (reply.status_code, reply.json()["code"]) == (422, "bundle_corrupt")
    assert reply.json()["mend"]
    assert client.get(STUDENTS).json()["tasks"][0]["bundles"][1:] == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"content-type": "application/x-tar", "content-encoding": "gzip"},
    ],
)
def test_other_types_of_body_are_refused(client: Client, headers: dict[str, str]) -> None:
    reply = client.post(STUDENTS, content=b"x", headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media")


def test_an_archive_above_the_limit_is_refused_declared_or_not(serve: Opener) -> None:
    client = serve(registry={"max_bytes": 1024})
    for content in (bytes(1025), iter([bytes(1000), bytes(25)])):
        reply = client.post(STUDENTS, content=content, headers=TAR)
        assert (reply.status_code, reply.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (SWAP, b'{"bundle": "tickets-000000000000"}', 404, "bundle_missing"),
        (SWAP, b'{"bundle": "../../../etc"}', 404, "bundle_missing"),
        (SWAP, b'{"bundel": "x"}', 422, "invalid"),
        (SWAP, b"not json", 422, "invalid"),
        (SWAP, b'{"bundle": "%s"}' % (b"x" * 5000), 413, "too_large"),
        (ROLLBACK, b"", 404, "bundle_missing"),
        (ROLLBACK, b'{"to_teacher": true, "leaving": "x"}', 422, "invalid"),
        (f"{STUDENTS}/letters/swap", b'{"bundle": "x"}', 404, "unknown_task"),
        (f"{STUDENTS}/letters/rollback", b"", 404, "unknown_task"),
        (f"{STUDENTS}?task=letters", b"", 404, "unknown_task"),
    ],
)
def test_what_cannot_be_done_says_why(
    client: Client, path: str, body: bytes, status: int, code: str
) -> None:
    kind = "application/json" if path.endswith(("swap", "rollback")) else "application/x-tar"
    reply = client.post(path, content=body, headers={"content-type": kind})
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert reply.json()["mend"]


def test_a_change_beside_another_one_is_a_conflict_but_for_a_rollback(client: Client) -> None:
    assert client.portal is not None
    claim = client.gateway.successions[TASK.name].claim()
    with client.portal.wrap_async_context_manager(claim):
        for reply in (
            client.post(SWAP, json={"bundle": "x"}),
            client.post("/admin/v1/reload"),
        ):
            assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
        reply = client.post(ROLLBACK)  # it waits for nobody, and here has nobody to go back to
        assert (reply.status_code, reply.json()["code"]) == (404, "bundle_missing")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_an_admins_key_may_change_what_serves(serve: Opener, method: str, path: str) -> None:
    client = serve(keys=KEYS)
    for key, status in ((None, 401), ("us_ops_wrong", 401), (CLIENT, 403)):
        headers = {} if key is None else {"x-api-key": key}
        assert client.request(method, path, headers=headers).status_code == status
    reply = client.request(method, path, headers={"x-api-key": ADMIN})
    assert reply.status_code not in {401, 403}


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1:9000", 403),
        ("http://127.0.0.1:8080", 404),
        (None, 404),
    ],
)
def test_a_page_of_another_site_may_change_nothing(
    serve: Opener, origin: str | None, status: int
) -> None:
    headers = {} if origin is None else {"origin": origin}
    assert serve().post(ROLLBACK, headers=headers).status_code == status
    headers["x-api-key"] = ADMIN
    assert serve(keys=KEYS).post(ROLLBACK, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 404),
        ("127.8.0.1", 404),
        ("localhost:1", 404),
        ("LOCALHOST", 404),
        ("[::1]:8080", 404),
        ("evil.example:8080", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.168.0.7", 403),
        ("[::1].evil", 403),
        ("", 403),
    ],
)
def test_without_keys_only_who_means_this_machine_may_change_what_serves(
    serve: Opener, host: str, status: int
) -> None:
    client = serve()
    named = {"host": host}
    assert client.post(ROLLBACK, headers=named).status_code == status
    both = {"host": host, "origin": f"http://{host}"}  # the page's name was made to mean us
    assert client.post(ROLLBACK, headers=both).status_code == status
    assert client.post("/v1/predict", json={"input": "a"}, headers=named).status_code == 200


def test_with_keys_the_gateway_may_have_any_name(serve: Opener) -> None:
    headers = {"host": "gateway.internal", "x-api-key": ADMIN}
    client = serve(keys=KEYS)
    assert client.post(ROLLBACK, headers=headers).status_code == 404
    own = headers | {"origin": "https://gateway.internal"}
    assert client.post(ROLLBACK, headers=own).status_code == 404


def test_an_admin_may_also_ask(serve: Opener) -> None:
    headers = {"authorization": f"Bearer {ADMIN}"}
    reply = serve(keys=KEYS).post("/v1/predict", json={"input": "a"}, headers=headers)
    assert reply.status_code == 200


def test_a_change_is_logged_with_who_made_it(
    serve: Opener, other: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    client = serve(keys=KEYS)
    client.headers["x-api-key"] = ADMIN
    send(client, other)
    client.post(SWAP, json={"bundle": other.folder})
    client.post(SWAP, json={"bundle": "nowhere"})
    client.post("/admin/v1/reload")
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if "by=ops" in line]
    told = ("student added", "student swapped", "student refused", "reloaded")
    assert [next(each for each in told if each in line) for line in lines] == list(told)
    assert f"serving={other.folder}" in lines[1]
    assert "previous=tickets-" in lines[1]


def test_a_reload_says_what_became_of_each_key(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "understudy.yaml"
    document = yaml.safe_load(path.read_text())
    document["tasks"][TASK.name]["policy"] = {"threshold": 0.5}
    document["server"] = {"port": 9000}
    path.write_text(yaml.safe_dump(document))
    said = client.post("/admin/v1/reload").json()
    assert said["generation"] == 2
    assert said["applied"] == [f"tasks.{TASK.name}.policy.threshold"]
    assert said["restart"] == ["server.port"]
    assert "logging.level" in said["unchanged"]
    shown = client.get("/admin/v1/config").json()
    assert shown["generation"] == 2
    assert shown["settings"]["tasks"][TASK.name]["policy"]["threshold"] == 0.5
    assert shown["settings"]["server"]["port"] == 8080


def test_a_reload_that_is_refused_says_where_the_mistake_is(client: Client, tmp_path: Path) -> None:
    (tmp_path / "understudy.yaml").write_text("version: 1\nserver: {prot: 1}\n")
    reply = client.post("/admin/v1/reload")
    assert (reply.status_code, reply.json()["code"]) == (422, "settings")
    assert "server.prot: unknown key; did you mean 'port'?" in reply.json()["detail"]
    assert client.get("/admin/v1/config").json()["generation"] == 1


def test_new_keys_hold_for_the_next_request(serve: Opener, tmp_path: Path) -> None:
    client = serve(keys=KEYS)
    fresh, digest = new_key("new")
    path = tmp_path / "understudy.yaml"
    document = yaml.safe_load(path.read_text())
    document["keys"] = [{"name": "new", "sha256": digest, "role": "admin"}]
    path.write_text(yaml.safe_dump(document))
    assert client.get(STUDENTS, headers={"x-api-key": fresh}).status_code == 401
    assert client.post("/admin/v1/reload", headers={"x-api-key": ADMIN}).status_code == 200
    assert client.get(STUDENTS, headers={"x-api-key": fresh}).status_code == 200
    assert client.get(STUDENTS, headers={"x-api-key": ADMIN}).status_code == 401


def test_limits_of_a_reload_are_those_that_clients_are_told(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "understudy.yaml"
    document = yaml.safe_load(path.read_text())
    document["server"] = {"max_inputs": 3}
    path.write_text(yaml.safe_dump(document))
    client.post("/admin/v1/reload")
    assert client.get("/v1/tasks").json()["tasks"][0]["limits"]["max_inputs"] == 3


def test_no_secret_is_shown(serve: Opener) -> None:
    client = serve(keys=KEYS)
    text = client.get("/admin/v1/config", headers={"x-api-key": ADMIN}).text
    assert '"name":"ops"' in text
    assert ADMIN_DIGEST not in text
    assert CLIENT_DIGEST not in text


def test_a_password_in_a_url_is_masked(client: Client) -> None:
    place = "https://ann:secret@host/model"
    task = client.gateway.settings.tasks[TASK.name]
    student = task.student.model_copy(update={"operating_point": place})
    tasks = {TASK.name: task.model_copy(update={"student": student})}
    chosen: Settings = client.gateway.settings.model_copy(update={"tasks": tasks})
    shown = without_secrets(chosen)["tasks"][TASK.name]["student"]["operating_point"]
    assert shown == "https://***@host/model"


def test_with_an_address_of_its_own_the_administration_is_only_there(serve: Opener) -> None:
    gateway = serve(admin={"port": 0}).gateway
    for app, status in ((build_app(gateway), 404), (build_admin(gateway), 200)):
        client = Client(app)
        assert client.get(STUDENTS).status_code == status

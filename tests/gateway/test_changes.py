"""Every change of what serves is a row of the log before anybody is told of it: a real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Engine, delete
from structlog.testing import capture_logs

from gateway.api.auth import new_key
from gateway.assembly import _note_start, open_gateway
from gateway.reload import fingerprint
from gateway.settings import load
from gateway.store.changes import Entry, Row, What, latest, verify
from gateway.store.database import open_database
from gateway.store.tables import changes_end
from gateway.students.registry import Owed
from tests.conftest import Client, Opener
from tests.factories import TASK, THRESHOLD, settings_file, tiny_bundle
from tests.hostile import Parts, parts_of

STUDENTS = "/admin/v1/students"
SWAP, ROLLBACK = f"{STUDENTS}/{TASK.name}/swap", f"{STUDENTS}/{TASK.name}/rollback"
RELOAD = "/admin/v1/reload"
TAR = {"content-type": "application/x-tar"}


@pytest.fixture
def other(tmp_path: Path) -> Parts:
    """Another bundle of the task."""
    return parts_of(tiny_bundle(tmp_path / "new", seed=1))


@pytest.fixture
def engine(client: Client, tmp_path: Path) -> Iterator[Engine]:
    """The database of the gateway, as another process sees it."""
    assert client.gateway.changes is not None
    opened = open_database(tmp_path / "records.db")
    yield opened
    opened.dispose()


def rows(engine: Engine) -> list[Row]:
    """The log, the oldest first; it holds."""
    assert verify(engine).flaw is None
    return latest(engine, 100)[::-1]


def change(
    folder: Path,
    *,
    student: Path | None = None,
    deadline_ms: int | None = None,
    keys: Sequence[Mapping[str, str]] | None = None,
) -> None:
    """Write other settings into the file."""
    path = folder / "understudy.yaml"
    document = yaml.safe_load(path.read_text())
    task = document["tasks"][TASK.name]
    if student is not None:
        task["student"]["bundle"] = str(student)
    if deadline_ms is not None:
        task["deadline_ms"] = deadline_ms
    if keys is not None:
        document["keys"] = list(keys)
    path.write_text(yaml.safe_dump(document))


def serving(client: Client) -> str:
    return client.gateway.successions[TASK.name].roles.serving


def test_a_swap_a_rollback_and_a_reload_are_rows_with_who_and_why(
    client: Client, engine: Engine, other: Parts
) -> None:
    old = serving(client)
    client.post(STUDENTS, content=other.tar(), headers=TAR)
    assert client.post(SWAP, json={"bundle": other.folder, "why": "it is newer"}).status_code == 200
    assert client.post(SWAP, json={"bundle": other.folder}).json()["changed"] is False
    assert client.post(ROLLBACK, json={"why": "it was worse"}).status_code == 200
    assert client.post(ROLLBACK).status_code == 404  # it would let the worse one serve again
    assert client.post(RELOAD, json={"why": "a look"}).status_code == 200
    same = fingerprint(client.gateway.settings)
    assert rows(engine)[1].evidence == {"threshold": THRESHOLD, "teacher": "scripted"}
    told = [(row.what, row.task, row.who, row.old, row.new, row.why) for row in rows(engine)]
    assert told == [
        ("start", TASK.name, "start", None, old, ""),
        ("swap", TASK.name, "(no key)", old, other.folder, "it is newer"),
        ("rollback", TASK.name, "(no key)", other.folder, old, "it was worse"),
        ("freeze", TASK.name, "(no key)", None, None, "it was worse"),
        ("reload", None, "(no key)", same, same, "a look"),
    ]


def test_a_reload_says_which_keys_and_whose_student_it_changed(
    client: Client, engine: Engine, tmp_path: Path
) -> None:
    old, before = serving(client), fingerprint(client.gateway.settings)
    path = tmp_path / "understudy.yaml"
    document = yaml.safe_load(path.read_text())
    new = tiny_bundle(tmp_path / "new", seed=1)
    document["tasks"][TASK.name]["student"]["bundle"] = str(new)
    document["logging"] = {"format": "json"}
    path.write_text(yaml.safe_dump(document))
    assert client.post(RELOAD).status_code == 200
    whole, of_task = rows(engine)[-2:]
    assert whole.evidence == {
        "applied": [f"tasks.{TASK.name}.student.bundle"],
        "restart": ["logging.format"],
    }
    assert (whole.old, whole.new) == (before, fingerprint(client.gateway.settings))
    assert whole.old != whole.new
    assert (of_task.what, of_task.task, of_task.old, of_task.new) == (
        "reload", TASK.name, old, new.name,
    )  # fmt: skip


def test_a_change_is_not_made_where_the_log_cannot_be_written_but_for_a_rollback(
    client: Client, engine: Engine, other: Parts, tmp_path: Path
) -> None:
    client.post(STUDENTS, content=other.tar(), headers=TAR)
    client.post(SWAP, json={"bundle": other.folder})
    with engine.begin() as connection:
        connection.execute(delete(changes_end))
    swap = client.post(SWAP, json={"bundle": client.gateway.successions[TASK.name].roles.previous})
    assert (swap.status_code, swap.json()["code"]) == (503, "log_unavailable")
    change(tmp_path, student=tiny_bundle(tmp_path / "newer", seed=2))
    reload = client.post(RELOAD)
    assert (reload.status_code, reload.json()["code"]) == (503, "log_unavailable")
    assert serving(client) == other.folder
    succession = client.gateway.successions[TASK.name]
    assert succession.registry.roles() == succession.roles  # nor is it found after a restart
    assert client.gateway.generation == 1
    assert client.post(ROLLBACK).status_code == 200
    assert serving(client) != other.folder
    assert [row.what for row in latest(engine, 100)] == ["swap", "start"]


def test_a_key_is_revoked_although_the_log_cannot_be_written(
    client: Client, engine: Engine, tmp_path: Path
) -> None:
    secret, digest = new_key("ops")
    key = {"authorization": f"Bearer {secret}"}
    keys = [
        {"name": name, "sha256": each, "role": "admin"}
        for name, each in (("ops", digest), ("gone", "0" * 64))
    ]
    change(tmp_path, keys=keys)
    assert client.post(RELOAD).json()["applied"] == ["keys"]
    with engine.begin() as connection:
        connection.execute(delete(changes_end))
    change(tmp_path, keys=keys[:1])
    with capture_logs() as logs:
        assert client.post(RELOAD, headers=key).json()["applied"] == ["keys"]
    assert [each.name for each in client.gateway.settings.keys] == ["ops"]
    assert "a change is not in the log" in [line["event"] for line in logs]
    change(tmp_path, keys=[], deadline_ms=500)  # more than keys: all of it waits for the log
    assert client.post(RELOAD, headers=key).status_code == 503
    assert [each.name for each in client.gateway.settings.keys] == ["ops"]


def test_a_student_that_changed_between_two_runs_is_noted_at_the_start(
    serve: Opener, tmp_path: Path
) -> None:
    first = serving(serve())
    new = tiny_bundle(tmp_path / "new", seed=1)
    for _ in range(2):  # the second time nothing is new
        serve(student=new)
    engine = open_database(tmp_path / "records.db")
    told = [(row.what, row.old, row.new) for row in rows(engine)]
    engine.dispose()
    assert told == [("start", None, first), ("start", first, new.name)]


def test_a_start_notes_who_serves_by_the_disk_and_leaves_it_to_the_row_that_is_owed(
    tmp_path: Path,
) -> None:
    path = settings_file(tmp_path)

    async def run() -> list[str | None]:
        async with open_gateway(load(path), aside=True) as gateway:
            held, changes = gateway.successions[TASK.name], gateway.changes
            assert changes is not None
            other = held.roles.model_copy(update={"serving": "tickets-0123456789ab"})
            row = Owed(id="1", at=0.0, what="swap", who="ann", old=None, new=None, why="")
            for roles in (other.model_copy(update={"owed": (row,)}), other):
                held.registry.remember(roles)  # as another replica does meanwhile
                await _note_start(changes, gateway.successions)
                told.append(len(latest(changes._engine, 9)))
            return [each.new for each in latest(changes._engine, 9)]

    told = list[int]()
    assert asyncio.run(run())[0] == "tickets-0123456789ab"
    assert told == [0, 1]


def test_a_change_that_was_noted_and_then_not_made_is_put_right_at_the_next_start(
    serve: Opener, tmp_path: Path
) -> None:
    client = serve()
    first = serving(client)
    assert client.gateway.changes is not None
    client.gateway.changes.append(  # and the power goes before it takes effect
        Entry(what=What.SWAP, who="ops", task=TASK.name, old=first, new="tickets-0123456789ab")
    )
    serve(student=tmp_path / "bundles" / first)
    engine = open_database(tmp_path / "records.db")
    last = rows(engine)[-1]
    engine.dispose()
    assert (last.what, last.old, last.new) == ("start", "tickets-0123456789ab", first)


def test_a_gateway_without_records_changes_what_serves_and_keeps_no_log(
    serve: Opener, other: Parts
) -> None:
    client = serve(records={"enabled": False})
    assert client.gateway.changes is None
    client.post(STUDENTS, content=other.tar(), headers=TAR)
    assert client.post(SWAP, json={"bundle": other.folder}).status_code == 200
    assert client.post(RELOAD).status_code == 200


@pytest.mark.parametrize("why", ["x" * 501, "two\nlines", 5])
def test_a_reason_that_is_no_line_of_text_is_refused(client: Client, why: object) -> None:
    for path, body in ((ROLLBACK, {"why": why}), (SWAP, {"bundle": "b", "why": why})):
        reply = client.post(path, json=body)
        assert (reply.status_code, reply.json()["code"]) == (422, "invalid")
        assert "why" in reply.json()["mend"]


def test_the_fingerprint_of_settings_knows_their_values_and_no_secret(tmp_path: Path) -> None:
    path = settings_file(tmp_path)
    plain = fingerprint(load(path))
    _, digest = new_key("ops")
    keys = [{"name": "ops", "sha256": digest, "role": "admin"}]
    document = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**document, "keys": keys}))
    assert fingerprint(load(path)) == plain
    path.write_text(yaml.safe_dump({**document, "logging": {"level": "debug"}}))
    assert fingerprint(load(path)) != plain

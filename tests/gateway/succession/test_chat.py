"""What the settings say of a teacher becomes one: here a chat model with its card and its key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway import settings
from gateway.errors import SettingsError, TeacherRefused
from gateway.routing import severity
from gateway.settings import TeacherSettings
from gateway.succession.policies import policy_without_student
from gateway.succession.teachers import open_teacher
from gateway.teachers.base import Said
from gateway.types import Instance
from tests.factories import TASK, settings_file
from tests.gateway.teachers.chat_server import ChatServer, completion

KEYS = "UNDERSTUDY_TEACHER_KEYS"
FRAUD = {"intent": "fraud", "flags": []}
CARD = {
    "instructions": "You read tickets.",
    "descriptions": {"intent": {"refund": "wants money back"}},
    "examples": [{"text": "it broke", "labels": {"intent": "refund", "flags": ["urgent"]}}],
    "extra": {"seed": 7, "chat_template_kwargs": {"enable_thinking": False}},
}


def teacher(url: str = "http://127.0.0.1:1/v1", **more: Any) -> TeacherSettings:
    return TeacherSettings.model_validate({"openai": {"url": url, "model": "m"} | more})


def ask(chosen: TeacherSettings) -> Said:
    async def once() -> Said:
        guard = await open_teacher(chosen, TASK)
        try:
            return await guard.answer(Instance("hello"))
        finally:
            await guard.close()

    return asyncio.run(once())


def test_a_file_of_costs_is_read_again_only_where_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, reads = tmp_path / "costs.csv", list[Path]()
    table.write_text(",refund\nfraud,8\n")
    policy = {"severity": {"costs": {"intent": str(table)}, "usd_per_unit": 1.0}}
    priced = {"prices": {"teacher_usd_per_1000": 2}}
    task = settings.load(settings_file(tmp_path, policy=policy, tickets=priced)).tasks[TASK.name]
    read = severity.read

    def counted(path: Path, *, where: str) -> severity.Table:
        reads.append(path)
        return read(path, where=where)

    def largest() -> float:
        costs = policy_without_student(TASK.name, task, TASK).severity
        assert costs is not None
        return costs.heads[0].largest

    monkeypatch.setattr(severity, "read", counted)
    assert (largest(), largest(), len(reads)) == (8.0, 8.0, 1)
    table.write_text(",refund\nfraud,16\n")
    assert (largest(), len(reads)) == (16.0, 2)


def test_a_chat_model_is_asked_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS, "other:abc, shop:k:with,last:x")
    with ChatServer(lambda _: completion(FRAUD)).running() as server:
        prices = {"input_usd_per_million": "0.15", "output_usd_per_million": "0.60"}
        said = ask(teacher(server.url, key="shop", max_tokens=99, **CARD, **prices))
    assert said.prediction.heads[0].labels == ("fraud",)
    assert said.cost == 21  # 100 * 0.15 + 10 * 0.60
    (body,) = server.bodies
    assert server.keys == ["Bearer k:with"]
    assert [message["role"] for message in body["messages"]] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    system, _, answer, asked = (message["content"] for message in body["messages"])
    assert system.startswith("You read tickets.\n")
    assert '- "refund": wants money back\n' in system
    assert answer == '{"intent":"refund","flags":["urgent"]}'
    assert asked == '{"text":"hello"}'
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 99)
    assert (body["seed"], body["chat_template_kwargs"]) == (7, {"enable_thinking": False})


def test_what_is_null_is_not_sent_and_neither_is_a_key_that_is_not_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEYS, "shop:k")
    with ChatServer(lambda _: completion(FRAUD)).running() as server:
        said = ask(teacher(server.url, temperature=None, max_tokens=None, structured="none"))
    assert said.cost is None
    assert server.keys == [None]
    assert server.bodies[0].keys() == {"model", "messages"}


@pytest.mark.parametrize("keys", [None, "", "shop", "shop:", "shopping:abc,x:shop:abc"])
def test_a_key_that_the_environment_does_not_hold_is_told(
    monkeypatch: pytest.MonkeyPatch, keys: str | None
) -> None:
    monkeypatch.delenv(KEYS, raising=False)
    if keys is not None:
        monkeypatch.setenv(KEYS, keys)
    with pytest.raises(SettingsError, match=f"{KEYS} holds no key of the name 'shop'") as problem:
        asyncio.run(open_teacher(teacher(key="shop"), TASK))
    assert problem.value.mend == "let it hold shop:SECRET; several are separated by commas"
    assert "abc" not in str(problem.value)


def test_a_key_stands_in_no_settings_in_no_error_and_in_no_child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(KEYS, "shop:s3cret-of-the-shop")
    wrong = (401, {"error": {"message": "Incorrect API key: s3cret-of-the-shop"}})
    with ChatServer(lambda _: wrong).running() as server:
        chat = {"openai": {"url": server.url, "model": "m", "key": "shop"}}
        loaded = settings.load(settings_file(tmp_path, teacher=chat))
        with pytest.raises(TeacherRefused) as refused:
            ask(loaded.tasks["tickets"].teacher)
    assert server.keys == ["Bearer s3cret-of-the-shop"]
    assert "401" in refused.value.message
    for shown in (repr(loaded), loaded.model_dump_json(), str(refused.value)):
        assert "s3cret" not in shown
    assert repr(settings.teacher_key("shop")) == "SecretStr('**********')"
    assert KEYS not in settings.environment_without_keys()


def test_a_card_that_names_what_the_student_does_not_decide_is_refused() -> None:
    with pytest.raises(SettingsError, match="describes 'mood', which is no head"):
        asyncio.run(open_teacher(teacher(descriptions={"mood": {"glad": "says so"}}), TASK))

"""Settings of teachers elsewhere, and of several, become teachers that a gateway asks."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway import settings
from gateway.assembly import open_gateway
from gateway.contract.bundle import Bundle, open_bundle
from gateway.errors import BundleMissing, SettingsError
from gateway.settings import EnsembleSettings
from gateway.succession import teachers
from gateway.succession.teachers import open_teacher
from gateway.types import Answer, Instance, Reason, Route, Terms, Wish
from tests.factories import CONFIDENT, TASK, UNSURE, settings_file, tiny_bundle
from tests.gateway.teachers.raw import Raw, reply, says, serving

OIP = {"url": "https://host.example/v2-proxy", "model": "tickets"}
REFUND = {"scripted": {"labels": {"intent": "refund"}}}
FRAUD = {"scripted": {"labels": {"intent": "fraud"}}}
DOWN = {"scripted": {"fail_every": 1}}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Whatever a test opens, it closes: also when opening fails half-way."""
    before = set(threading.enumerate())
    yield
    left = [each for each in set(threading.enumerate()) - before if "asyncio" not in each.name]
    assert left == []


def loaded(folder: Path, teacher: dict[str, Any]) -> settings.Settings:
    return settings.load(settings_file(folder, teacher=teacher))


async def asked(chosen: settings.Settings, *instances: Instance) -> list[Answer]:
    """Open the gateway, ask it once, close it."""
    async with open_gateway(chosen) as gateway:
        return await gateway.cascade(None).answer(list(instances))


def said(answer: Answer) -> str:
    """The intent that was answered."""
    assert answer.prediction is not None
    return answer.prediction.heads[0].labels[0]


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"oip": OIP | {"url": "host"}}, "teacher.oip: url: not a plain URL"),
        ({"oip": OIP | {"url": "http://a:b@host"}}, "teacher.oip: url: a URL holds no user"),
        (
            {"oip": OIP | {"url": "http://169.254.169.254"}},
            "teacher.oip: url: no teacher is asked at this address",
        ),
        ({"oip": OIP | {"model": "../x"}}, "teacher.oip.model"),
        ({"oip": OIP | {"version": "1?"}}, "teacher.oip.version"),
        ({"oip": OIP | {"scores": "votes"}}, "teacher.oip.scores"),
        ({"oip": {"url": "http://host"}}, "teacher.oip.model: this key is required"),
        ({"oip": OIP, "scripted": {}}, "teacher: name one kind of teacher: bundle, scripted, "),
        ({"ensemble": {"members": {}}}, "teacher.ensemble.members"),
        (
            {"ensemble": {"members": {"a": {"ensemble": {"members": {"b": REFUND}}}}}},
            "teacher.ensemble.members.a.ensemble: unknown key",
        ),
        (
            {"ensemble": {"members": {"a": REFUND | {"retries": 2}}}},
            "teacher.ensemble.members.a.retries: unknown key",
        ),
        (
            {"ensemble": {"members": {"a": {}}}},
            "teacher.ensemble.members.a: name one kind of teacher: bundle, scripted, openai, oip",
        ),
        (
            {"ensemble": {"members": {"a": REFUND}, "quorum": 2}},
            "teacher.ensemble: quorum 2 is above the 1 members",
        ),
        (
            {"ensemble": {"members": {"a": REFUND}, "weights": {"b": {"intent": 1}}}},
            "teacher.ensemble: 'b' is no member; name a",
        ),
        (
            {"ensemble": {"members": {"a": REFUND}, "weights": {"a": {"intent": -1}}}},
            "teacher.ensemble.weights.a.intent",
        ),
        (
            {"ensemble": {"members": {"a": REFUND}, "default": "a"}},
            "teacher.ensemble: mode vote does not read default",
        ),
        (
            {"ensemble": {"members": {"a": REFUND}, "mode": "first"}},
            "teacher.ensemble: mode first needs a default",
        ),
        (
            {"ensemble": {"members": {"a": REFUND}, "mode": "first", "default": "b"}},
            "teacher.ensemble: 'b' is no member",
        ),
        (
            {"ensemble": {"members": {"a": REFUND}, "mode": "first", "default": "a", "quorum": 1}},
            "teacher.ensemble: mode first does not read quorum",
        ),
        (
            {
                "ensemble": {
                    "members": {"a": REFUND},
                    "mode": "first",
                    "default": "a",
                    "skills": [{"member": "a", "when": {"name": "r", "head": "intent"}}],
                }
            },
            "teacher.ensemble.skills.0.when: a rule on a head names its labels",
        ),
    ],
)
def test_a_mistake_names_its_key(tmp_path: Path, teacher: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        loaded(tmp_path, teacher)
    assert f"tasks.tickets.{message}" in raised.value.message
    assert "a:b@" not in raised.value.message


def test_the_bundle_of_a_member_lies_where_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    place = tiny_bundle(tmp_path / "a" / "bundles", role="teacher")
    members = {"x": {"bundle": f"bundles/{place.name}"}, "y": REFUND}
    chosen = loaded(tmp_path / "a", {"ensemble": {"members": members}})
    ensemble = chosen.tasks["tickets"].teacher.ensemble
    assert ensemble is not None
    assert ensemble.members["x"].bundle == place
    assert ensemble.members["y"].bundle is None


def _tensors(intent: str) -> bytes:
    row = {"datatype": "BYTES", "shape": [1]}
    outputs = [
        {"name": "intent", "data": [intent], **row},
        {"name": "flags", "data": ['["legal"]'], **row},
    ]
    return orjson.dumps({"outputs": outputs})


def test_a_gateway_asks_a_server_of_the_open_inference_protocol_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_TEACHER_KEYS", "big:s3cret")

    async def scene() -> tuple[Answer, Raw]:
        async with serving(says(reply(_tensors("fraud")))) as raw:
            teacher = {"oip": {"url": f"{raw.url}/base", "model": "m", "key": "big"}}
            (answer,) = await asked(loaded(tmp_path, teacher), Instance(UNSURE))
            return answer, raw

    answer, raw = asyncio.run(scene())
    assert (answer.route, said(answer)) == (Route.TEACHER, "fraud")
    (head,) = raw.heads
    assert head.startswith("POST /base/v2/models/m/infer HTTP/1.1")
    assert "Authorization: Bearer s3cret" in head


def test_a_key_that_the_environment_has_not_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no key of the name 'big'"):
        asyncio.run(asked(loaded(tmp_path, {"oip": OIP | {"key": "big"}}), Instance(UNSURE)))


def test_garbage_of_a_server_never_becomes_an_answer(tmp_path: Path) -> None:
    async def scene() -> Answer:
        async with serving(says(reply(_tensors("no such label")))) as raw:
            teacher = {"oip": {"url": raw.url, "model": "m"}}
            (answer,) = await asked(loaded(tmp_path, teacher), Instance(UNSURE))
            return answer

    answer = asyncio.run(scene())
    assert (answer.route, answer.teacher) == (Route.FALLBACK, None)
    assert answer.failure == "teacher_garbled"


def test_members_vote_with_their_weights(tmp_path: Path) -> None:
    members = {"a": REFUND, "b": FRAUD, "c": {"bundle": str(tiny_bundle(tmp_path / "t"))}}
    ensemble = {"members": members, "weights": {"b": {"intent": 5}}}
    (answer,) = asyncio.run(asked(loaded(tmp_path, {"ensemble": ensemble}), Instance(UNSURE)))
    assert (answer.route, answer.decision.reason) == (Route.TEACHER, Reason.LOW_CONFIDENCE)
    assert said(answer) == "fraud"
    assert answer.teacher is not None
    assert answer.teacher.bundle.startswith("vote-of-3@")


def test_a_member_that_is_down_costs_no_answer(tmp_path: Path) -> None:
    ensemble = {"members": {"a": DOWN, "b": FRAUD}}
    (answer,) = asyncio.run(asked(loaded(tmp_path, {"ensemble": ensemble}), Instance(UNSURE)))
    assert (answer.route, said(answer)) == (Route.TEACHER, "fraud")


def test_too_few_members_are_a_teacher_that_is_down(tmp_path: Path) -> None:
    ensemble = {"members": {"a": DOWN, "b": FRAUD}, "quorum": 2}
    (answer,) = asyncio.run(asked(loaded(tmp_path, {"ensemble": ensemble}), Instance(UNSURE)))
    assert (answer.route, answer.failure) == (Route.FALLBACK, "teacher_unavailable")


def test_a_member_that_is_slow_leaves_the_others_their_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tenth of a second of 100: what is left after it is enough for a busy machine too.
    monkeypatch.setattr(teachers, "_MEMBERS_SHARE", 0.001)
    slow = {"scripted": {"delay_ms": 3_600_000}}
    ensemble = {"members": {"a": slow, "b": FRAUD}}
    chosen = loaded(tmp_path, {"ensemble": ensemble, "timeout_s": 100.0})
    (answer,) = asyncio.run(asked(chosen, Instance(UNSURE)))
    assert (answer.route, said(answer)) == (Route.TEACHER, "fraud")


def test_a_member_is_chosen_by_text_or_field(tmp_path: Path) -> None:
    ensemble = {
        "mode": "first",
        "members": {"usual": REFUND, "large": FRAUD},
        "skills": [{"member": "large", "when": {"name": "big", "field": "amount", "above": 10}}],
        "default": "usual",
    }
    answers = asyncio.run(
        asked(
            loaded(tmp_path, {"ensemble": ensemble}),
            Instance(UNSURE),
            Instance(UNSURE, {"amount": 11}),
        )
    )
    assert [said(answer) for answer in answers] == ["refund", "fraud"]


def skilled(head: str, label: str) -> dict[str, Any]:
    """An ensemble in which fraud is what `b` knows best."""
    return {
        "mode": "first",
        "members": {"a": REFUND, "b": FRAUD},
        "skills": [{"member": "b", "when": {"name": "b", "head": head, "labels": [label]}}],
        "default": "a",
    }


def test_a_member_is_chosen_by_what_the_student_says_live_and_in_an_audit(tmp_path: Path) -> None:
    """The one for refunds says "fraud", the other one "refund": so they are told apart."""
    chosen = settings.load(
        settings_file(
            tmp_path,
            teacher={"ensemble": skilled("intent", "refund")},
            tickets={"audit": {"share": 1.0}},
        )
    )

    async def scene() -> list[Answer]:
        async with open_gateway(chosen) as gateway:
            cascade = gateway.cascade(None)
            texts = [Instance(CONFIDENT), Instance("this is fraud")]
            live = await cascade.answer(texts, Terms(wish=Wish.TEACHER))
            return [*live, *await cascade.answer(texts)]  # closing waits for the audits

    *live, refund, fraud = asyncio.run(scene())
    assert [said(answer) for answer in live] == ["fraud", "refund"]
    assert (refund.route, fraud.route) == (Route.STUDENT, Route.STUDENT)
    with contextlib.closing(sqlite3.connect(tmp_path / "records.db")) as database:
        audits = dict(database.execute("select record, teacher_labels from audits"))
    assert orjson.loads(audits[refund.id])["intent"] == ["fraud"]
    assert orjson.loads(audits[fraud.id])["intent"] == ["refund"]


@pytest.mark.parametrize(
    ("head", "label", "message"),
    [
        ("mood", "angry", r"skills\.0\.when \(b\): the task has no head 'mood'"),
        ("intent", "angry", r"skills\.0\.when \(b\): the head 'intent' has no label 'angry'"),
    ],
)
def test_a_skill_that_no_answer_of_the_student_asks_for_is_refused(
    tmp_path: Path, head: str, label: str, message: str
) -> None:
    chosen = loaded(tmp_path, {"ensemble": skilled(head, label)})
    with pytest.raises(SettingsError, match=message):
        asyncio.run(asked(chosen, Instance(UNSURE)))


@pytest.mark.parametrize(
    ("broken", "error"),
    [({"bundle": "nowhere"}, BundleMissing), ({"oip": OIP | {"key": "none"}}, SettingsError)],
)
def test_what_was_open_is_closed_where_a_member_cannot_be_opened(
    tmp_path: Path, broken: dict[str, Any], error: type[Exception]
) -> None:
    members = {"a": {"bundle": str(tiny_bundle(tmp_path / "t"))}, "b": broken}
    with pytest.raises(error):
        asyncio.run(asked(loaded(tmp_path, {"ensemble": {"members": members}}), Instance(UNSURE)))


def test_another_mix_of_members_has_another_name(tmp_path: Path) -> None:
    def name(**ensemble: Any) -> str:
        async def scene() -> str:
            chosen = loaded(tmp_path, {"ensemble": ensemble}).tasks["tickets"].teacher
            guard = await open_teacher(chosen, TASK)
            await guard.close()
            return guard.name

        return asyncio.run(scene())

    two = {"a": REFUND, "b": FRAUD}
    names = [
        name(members=two),
        name(members=two, quorum=2),
        name(members=two, weights={"a": {"intent": 2}}),
        name(members={"a": REFUND}),
        name(members=two, mode="first", default="a"),
        name(members=two, mode="first", default="b"),
    ]
    assert len(set(names)) == len(names)
    assert name(members=two) == names[0]


def test_an_ensemble_needs_a_member() -> None:
    assert EnsembleSettings.model_fields["members"].is_required()


def test_a_large_bundle_is_not_loaded_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def opened(path: Path) -> Bundle:
        threads.append(threading.current_thread())
        return open_bundle(path)

    monkeypatch.setattr(teachers, "open_bundle", opened)
    chosen = loaded(tmp_path, {"bundle": str(tiny_bundle(tmp_path / "t"))})

    async def scene() -> None:
        await (await open_teacher(chosen.tasks["tickets"].teacher, TASK)).close()

    asyncio.run(scene())
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()

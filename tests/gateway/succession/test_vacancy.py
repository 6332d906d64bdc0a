"""A task without a student: its teacher answers, and a student may come and go while it runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import cores, settings
from gateway.assembly import Gateway, open_gateway
from gateway.contract import archive
from gateway.contract.bundle import open_bundle
from gateway.contract.manifest import Head, HeadKind, Task
from gateway.drills import drill
from gateway.drills.findings import Kind
from gateway.errors import BundleMismatch, BundleMissing, SettingsError, Unanswered, UnderstudyError
from gateway.reload import reload
from gateway.students.vacancy import NO_STUDENT
from gateway.succession.line import Succession
from gateway.types import Answer, Instance, Reason, Route, Terms, Wish
from tests.acceptance.command import understudy
from tests.factories import CONFIDENT, TASK, UNSURE, tiny_bundle

HEADS = {head.name: {"kind": head.kind.value, "labels": list(head.labels)} for head in TASK.heads}
SCRIPT = {"scripted": {"labels": {"intent": "other"}}}
DOWN = {"scripted": {"fail_every": 1}, "retries": 0}
FEWER = Task(
    name=TASK.name,
    heads=(Head(name="intent", kind=HeadKind.CHOICE, labels=("a", "b", "c")), TASK.heads[1]),
)

Work = Callable[[Gateway, Succession], Awaitable[None]]


def write(folder: Path, **keys: Any) -> Path:
    """Settings of one task without a student; `keys` are further ones of the task."""
    student = {"run_in": "threads", "workers": 1} | keys.pop("student", {})
    task = {"student": student, "teacher": SCRIPT, "heads": HEADS, **keys}
    task = {name: value for name, value in task.items() if value is not None}
    path = folder / "understudy.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "tasks": {TASK.name: task}}))
    return path


def during(path: Path, *work: Work) -> None:
    """Open a gateway of those settings for each of the steps in turn."""

    async def run(each: Work) -> None:
        async with open_gateway(settings.load(path), read=lambda: settings.load(path)) as gateway:
            await each(gateway, gateway.successions[TASK.name])

    for each in work:
        asyncio.run(run(each))


async def ask(gateway: Gateway, text: str = CONFIDENT, terms: Terms | None = None) -> Answer:
    return (await gateway.answer(None, [Instance(text)], terms or Terms())).answers[0]


def refusal(path: Path) -> UnderstudyError:
    async def work(_gateway: Gateway, _succession: Succession) -> None:
        pytest.fail("it opened")

    with pytest.raises(UnderstudyError) as raised:
        during(path, work)
    return raised.value


def test_somebody_must_say_what_the_task_decides(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, heads=None))
    assert isinstance(error, SettingsError)
    assert "nothing says what the task decides" in error.message
    assert "tasks.tickets.heads" in error.mend


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_heads_may_not_contradict_a_bundle(tmp_path: Path, who: str) -> None:
    bundle = {
        "bundle": str(tiny_bundle(tmp_path, role="teacher" if who == "teacher" else "student"))
    }
    heads = HEADS | {"intent": {"labels": ["refund", "other"]}}
    error = refusal(write(tmp_path, **{"heads": heads, who: bundle}))
    assert isinstance(error, SettingsError)
    assert "tasks.tickets.heads" in error.message
    assert "answers other heads or labels" in error.message


def test_heads_that_no_model_could_decide_are_refused_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, heads={"intent": {"labels": ["only"]}})
    with pytest.raises(SettingsError, match="needs two labels or more"):
        settings.load(path)


def test_a_bundle_teacher_knows_its_heads_and_answers_everything(tmp_path: Path) -> None:
    rule = {"name": "legal", "text": "lawyer"}
    teacher = {"bundle": str(tiny_bundle(tmp_path, role="teacher"))}
    policy = {"rules": [rule], "threshold": 0.0}
    path = write(tmp_path, heads=None, teacher=teacher, policy=policy)

    async def work(gateway: Gateway, succession: Succession) -> None:
        answer = await ask(gateway)
        assert (answer.route, answer.decision.reason) == (Route.TEACHER, Reason.NO_STUDENT)
        assert (answer.student, answer.failure, answer.cost.student) == (None, "", 0)
        wished = await ask(gateway, terms=Terms(wish=Wish.STUDENT))
        assert (wished.route, wished.decision.reasons) == (Route.TEACHER, (Reason.NO_STUDENT,))
        risky = (await ask(gateway, "my lawyer calls")).decision
        assert risky.reasons == (Reason.NO_STUDENT, Reason.HIGH_RISK)
        assert risky.detail == "legal"
        assert gateway.alive
        assert succession.roles.serving == NO_STUDENT

    during(path, work)


def test_without_a_student_an_outage_is_an_abstention_or_an_error(tmp_path: Path) -> None:
    async def abstains(gateway: Gateway, _: Succession) -> None:
        answer = await ask(gateway)
        assert (answer.route, answer.prediction) == (Route.ABSTAIN, None)
        assert answer.failure == "teacher_unavailable"

    async def fails(gateway: Gateway, _: Succession) -> None:
        with pytest.raises(Unanswered, match="no_student"):
            await ask(gateway)

    during(write(tmp_path, teacher=DOWN), abstains)
    during(write(tmp_path, teacher=DOWN, policy={"on_unavailable": "error"}), fails)


def test_a_student_of_other_labels_is_not_taken_in(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, task=FEWER)
    with (tmp_path / "packed.tar").open("wb") as file:
        archive.pack(bundle, file)

    async def work(gateway: Gateway, succession: Succession) -> None:
        with pytest.raises(BundleMismatch, match="the heads or their labels differ") as raised:
            await succession.add(tmp_path / "packed.tar", by="test")
        assert "intent (choice: refund, fraud, other)" in raised.value.mend
        assert (await ask(gateway)).decision.reason is Reason.NO_STUDENT

    during(write(tmp_path), work)


def test_a_reload_fills_the_seat_and_empties_it_again(tmp_path: Path) -> None:
    path = write(tmp_path)
    bundle = tiny_bundle(tmp_path)

    async def work(gateway: Gateway, succession: Succession) -> None:
        write(tmp_path, student={"bundle": str(bundle)})
        await reload(gateway, by="test")
        assert (await ask(gateway)).route is Route.STUDENT
        assert (succession.roles.serving, succession.roles.previous) == (bundle.name, NO_STUDENT)
        write(tmp_path, heads=None)
        with pytest.raises(SettingsError, match="nothing says what the task decides"):
            await reload(gateway, by="test")
        assert (await ask(gateway)).route is Route.STUDENT
        write(tmp_path)
        await reload(gateway, by="test")
        assert (await ask(gateway)).decision.reason is Reason.NO_STUDENT
        assert (succession.roles.serving, succession.roles.previous) == (NO_STUDENT, bundle.name)
        write(tmp_path, heads=HEADS | {"intent": {"labels": ["new", "other"]}})
        with pytest.raises(SettingsError, match="answers other heads or labels"):
            await reload(gateway, by="test")

    async def again(gateway: Gateway, _: Succession) -> None:
        assert (await ask(gateway)).decision.reason is Reason.NO_STUDENT

    async def named(gateway: Gateway, _: Succession) -> None:
        assert (await ask(gateway)).route is Route.STUDENT

    during(path, work)
    write(tmp_path)
    during(path, again)
    write(tmp_path, student={"bundle": str(bundle)}, heads=None)
    during(path, named, again_without(bundle.name))


def again_without(bundle: str) -> Work:
    """A step that empties the seat and fills it again, by name."""

    async def work(gateway: Gateway, succession: Succession) -> None:
        assert (await succession.swap(NO_STUDENT, by="test")).previous == bundle
        assert (await ask(gateway, UNSURE)).decision.reasons == (Reason.NO_STUDENT,)
        assert not (await succession.swap(NO_STUDENT, by="test")).changed
        assert (await succession.roll_back(by="test")).serving == bundle
        assert (await ask(gateway)).route is Route.STUDENT

    return work


def test_nothing_that_runs_takes_away_what_a_restart_needs(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)

    async def work(gateway: Gateway, succession: Succession) -> None:
        write(tmp_path, heads=None)
        with pytest.raises(SettingsError, match="nothing says what the task decides"):
            await reload(gateway, by="test")
        write(tmp_path, heads=None, student={"bundle": str(bundle)})
        await reload(gateway, by="test")
        assert (succession.roles.serving, succession.roles.previous) == (bundle.name, NO_STUDENT)
        (tmp_path / bundle.name).rename(tmp_path / "elsewhere")  # the registry has it
        for leave in (succession.roll_back(by="test"), succession.swap(NO_STUDENT, by="test")):
            with pytest.raises(BundleMissing):
                await leave
        assert (await ask(gateway)).route is Route.STUDENT

    during(write(tmp_path), work)


def test_the_student_that_serves_is_tuned_and_says_what_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "available", lambda: 1)
    named = Task(
        name=TASK.name,
        heads=(
            Head(name="intent", kind=HeadKind.CHOICE, labels=("back", "fraud", "rest")),
            TASK.heads[1],
        ),
    )
    first, second = tiny_bundle(tmp_path), tiny_bundle(tmp_path, task=named)
    script = {"scripted": {"delay_ms": 0}}  # it says the first label of each head
    path = write(tmp_path, student={"bundle": str(first)}, teacher=script, heads=None)
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"records": {"text": "full"}}))
    config, out = ("--config", path), tmp_path / "rows.jsonl"

    async def filled(gateway: Gateway, succession: Succession) -> None:
        await asyncio.to_thread(succession.registry.keep, second)
        await succession.swap(second.name, by="test")
        await ask(gateway, UNSURE)

    async def emptied(_gateway: Gateway, succession: Succession) -> None:
        await succession.swap(NO_STUDENT, by="test")

    def handed() -> tuple[int, int, str]:
        told = json.loads(understudy("handover", *config, "--out", out, "--json").out)
        label = json.loads(out.read_text())["labels"]["intent"]
        return told["examples"], told["unaudited"], label

    during(path, filled)
    assert handed() == (1, 0, "back")
    assert understudy("tune", *config, "--seconds", "0.1").status == 0
    tuned = json.loads((tmp_path / "understudy.tuned.json").read_text())["bundles"]
    assert list(tuned) == [open_bundle(second).id]
    during(path, emptied)
    assert handed() == (1, 0, "back")  # it served last, and no settings name another
    assert "nothing to tune" in understudy("tune", *config).err


def test_the_commands_say_that_there_is_no_student(tmp_path: Path) -> None:
    config = ("--config", write(tmp_path))
    checked = understudy("check", *config)
    assert "tickets: there is no student, so everything goes to the teacher" in checked.out
    told = json.loads(understudy("policy", "explain", CONFIDENT, *config, "--json").out)
    assert (told["student"], told["score"], told["heads"]) == (NO_STUDENT, None, [])
    assert (told["route"], told["reason"]) == ("teacher", NO_STUDENT)
    assert "teacher answers" in understudy("policy", "explain", CONFIDENT, *config).out
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "x"}\n')
    replayed = understudy("policy", "simulate", "--data", data, *config)
    assert (replayed.status, "has no student" in replayed.err) == (2, True)
    assert "nothing to tune" in understudy("tune", *config).err
    assert understudy("doctor", *config).status == 0
    with pytest.raises(SettingsError, match="without a student every outage"):
        drill.rehearse(settings.load(config[1]), Kind.DOWN)


def test_what_was_answered_is_handed_over_or_nothing_is_written(tmp_path: Path) -> None:
    path, out = write(tmp_path), tmp_path / "rows.jsonl"
    config = ("--config", path, "--out", out)

    async def work(gateway: Gateway, _: Succession) -> None:
        await ask(gateway)

    during(path, work)
    hidden = understudy("handover", *config)
    assert (hidden.status, out.exists()) == (2, False)
    assert "1 without their text" in hidden.err
    assert "records.text: full" in hidden.err

    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"records": {"text": "full"}}))
    during(path, work)
    told = json.loads(understudy("handover", *config, "--since", "7d", "--json").out)
    counts = {name: told[name] for name in ("examples", "duplicates", "without_text", "strange")}
    assert counts == {"examples": 1, "duplicates": 0, "without_text": 1, "strange": 0}
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (row["text"], row["labels"]["intent"], row["source"]) == (CONFIDENT, "other", "teacher")
    assert "keeps the texts" in understudy("handover", *config).out
    nowhere = understudy("handover", "--config", path, "--out", tmp_path / "no" / "rows.jsonl")
    assert (nowhere.status, "--out" in nowhere.err) == (2, True)
    assert sorted(each.name for each in tmp_path.glob("*rows*")) == ["rows.jsonl"]

"""The composition root: settings become a gateway that runs, or an error that says why not."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway import settings
from gateway.assembly import Gateway, open_gateway
from gateway.contract.manifest import Head, HeadKind
from gateway.errors import (
    BundleMismatch,
    BundleMissing,
    Draining,
    RecordsUnavailable,
    SettingsError,
    StudentFailed,
    UnknownTask,
)
from gateway.settings import Settings
from gateway.students.student import Student
from gateway.teachers.base import Said
from gateway.teachers.scripted import ScriptedTeacher
from gateway.types import Answer, Instance, Prediction, Reason, Route, Terms
from tests.factories import CONFIDENT, TASK, UNSURE, settings_file, tiny_bundle
from tests.timelapse import TimeLapse, played

SOON = 120.0  # seconds; far beyond what any wait here takes
DAY_MS = 86_400_000.0  # milliseconds of a wait that nobody sees end


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Whatever a test opens, it closes: also when opening fails half-way."""
    before = set(threading.enumerate())
    yield
    left = [each for each in set(threading.enumerate()) - before if "asyncio" not in each.name]
    assert left == []


def loaded(folder: Path, **sections: Any) -> Settings:
    return settings.load(settings_file(folder, **sections))


def answers(chosen: Settings, *texts: str, task: str | None = None) -> list[Answer]:
    """Open the gateway, ask it once, close it."""

    async def work() -> list[Answer]:
        async with open_gateway(chosen) as gateway:
            return await gateway.cascade(task).answer([Instance(text) for text in texts])

    return asyncio.run(work())


def opened(chosen: Settings) -> Gateway:
    """A gateway that was opened and closed again."""

    async def work() -> Gateway:
        async with open_gateway(chosen) as gateway:
            assert gateway.alive
            assert not gateway.draining
        return gateway

    return asyncio.run(work())


def test_an_opened_gateway_answers_with_the_certified_threshold(tmp_path: Path) -> None:
    sure, unsure = answers(loaded(tmp_path), CONFIDENT, UNSURE)
    assert (sure.route, unsure.route) == (Route.STUDENT, Route.TEACHER)
    assert sure.decision.threshold == 0.9


def test_a_closed_gateway_has_ended_its_threads_and_takes_no_more(tmp_path: Path) -> None:
    gateway = opened(loaded(tmp_path))
    assert not gateway.alive
    with pytest.raises(Draining):
        asyncio.run(gateway.cascade(None).answer([Instance(CONFIDENT)]))


def test_every_answer_is_on_record_when_it_has_closed(tmp_path: Path) -> None:
    chosen = loaded(tmp_path)

    async def work() -> Gateway:
        async with open_gateway(chosen) as gateway:
            await gateway.cascade(None).answer([Instance(CONFIDENT), Instance(UNSURE)])
        return gateway

    gateway = asyncio.run(work())
    assert gateway.writer is not None
    account = gateway.writer.records
    assert (account.stored, account.dropped) == (2, 0)


def test_the_deadline_of_a_task_ends_the_wait_for_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {"scripted": {"delay_ms": DAY_MS}, "timeout_s": 3_600}
    chosen = loaded(tmp_path, teacher=slow)
    task = chosen.tasks["tickets"].model_copy(update={"deadline_ms": 60_000.0})
    chosen = chosen.model_copy(update={"tasks": {"tickets": task}})
    calls: list[Instance] = []
    scripted = ScriptedTeacher.answer

    async def answered(teacher: ScriptedTeacher, instance: Instance) -> Said:
        calls.append(instance)
        return await scripted(teacher, instance)

    monkeypatch.setattr(ScriptedTeacher, "answer", answered)

    async def work(loop: TimeLapse) -> Answer:
        async with open_gateway(chosen) as gateway:
            asked = asyncio.ensure_future(gateway.answer(None, [Instance(UNSURE)], Terms()))
            await loop.skip(120.0, after=lambda: asked.done() or bool(calls))
            async with asyncio.timeout(SOON):
                return (await asked).answers[0]

    answer = played(work)
    assert (answer.route, answer.failure) == (Route.FALLBACK, "teacher_timeout")


def test_the_deadline_of_a_task_ends_the_wait_for_its_records(tmp_path: Path) -> None:
    chosen = loaded(tmp_path, records={"path": "records.db", "ack": "strict"})
    task = chosen.tasks["tickets"].model_copy(update={"deadline_ms": 60_000.0})
    records = chosen.records.model_copy(update={"strict_wait_ms": DAY_MS})
    chosen = chosen.model_copy(update={"tasks": {"tickets": task}, "records": records})

    async def work(loop: TimeLapse) -> None:
        async with open_gateway(chosen) as gateway:
            writer = gateway.writer
            assert writer is not None
            holder = sqlite3.connect(tmp_path / "records.db", isolation_level=None, timeout=SOON)
            with closing(holder) as other:
                other.execute("BEGIN EXCLUSIVE")
                asked = asyncio.ensure_future(gateway.answer(None, [Instance(CONFIDENT)], Terms()))
                await loop.skip(120.0, after=lambda: asked.done() or writer.records.offered > 0)
                with pytest.raises(RecordsUnavailable, match="not committed in time"):
                    async with asyncio.timeout(SOON):
                        await asked

    played(work)


def test_a_threshold_of_the_settings_replaces_the_certified_one(tmp_path: Path) -> None:
    (answer,) = answers(loaded(tmp_path, policy={"threshold": 0.5}), UNSURE)
    assert answer.route is Route.STUDENT
    assert answer.decision.threshold == 0.5


def test_a_threshold_of_zero_is_a_threshold(tmp_path: Path) -> None:
    (answer,) = answers(loaded(tmp_path, policy={"threshold": 0.0}), UNSURE)
    assert answer.route is Route.STUDENT


def test_a_bundle_without_a_certificate_escalates_everything(tmp_path: Path) -> None:
    student = tiny_bundle(tmp_path / "bundles", threshold=None)
    (answer,) = answers(loaded(tmp_path, student=student), CONFIDENT)
    assert answer.route is Route.TEACHER
    assert answer.decision.reason is Reason.NO_CERTIFICATE


def test_a_threshold_without_a_certificate_is_not_used(tmp_path: Path) -> None:
    student = tiny_bundle(tmp_path / "bundles", certified=False)
    (answer,) = answers(loaded(tmp_path, student=student), CONFIDENT)
    assert answer.route is Route.TEACHER
    assert answer.decision.reason is Reason.NO_CERTIFICATE
    (answer,) = answers(loaded(tmp_path, student=student, policy={"threshold": 0.9}), CONFIDENT)
    assert answer.route is Route.STUDENT  # a person has answered for it


def test_an_operating_point_that_the_bundle_lacks_is_refused(tmp_path: Path) -> None:
    chosen = loaded(tmp_path, tickets={"student": {"operating_point": "strict"}})
    with pytest.raises(
        SettingsError, match=r"tasks\.tickets\.student\.operating_point: .* has no 'strict'"
    ) as problem:
        opened(chosen)
    assert problem.value.mend == "name one of: default"


def test_the_rules_of_the_settings_are_kept(tmp_path: Path) -> None:
    policy = {"rules": [{"name": "gold", "field": "tier", "values": ["gold"]}]}

    async def work() -> list[Answer]:
        async with open_gateway(loaded(tmp_path, policy=policy)) as gateway:
            asked = [Instance(CONFIDENT, {"tier": tier}) for tier in ("gold", "red")]
            return await gateway.cascade("tickets").answer(asked)

    gold, red = asyncio.run(work())
    assert (gold.decision.reason, gold.decision.detail) == (Reason.HIGH_RISK, "gold")
    assert red.route is Route.STUDENT


@pytest.mark.parametrize(
    ("policy", "routes"),
    [
        ({}, [Route.FALLBACK, Route.ABSTAIN]),
        ({"on_unavailable": "abstain"}, [Route.ABSTAIN, Route.ABSTAIN]),
    ],
)
def test_what_happens_without_the_teacher_is_as_the_settings_say(
    tmp_path: Path, policy: dict[str, Any], routes: list[Route]
) -> None:
    down = {"scripted": {"fail_every": 1}}
    rules = [{"name": "legal", "text": "solicitor"}]
    chosen = loaded(tmp_path, teacher=down, policy={"rules": rules, **policy})
    assert [each.route for each in answers(chosen, UNSURE, "my solicitor")] == routes


def test_a_slow_teacher_is_cut_off_by_its_timeout(tmp_path: Path) -> None:
    slow = {"scripted": {"delay_ms": 3_600_000}, "timeout_s": 0.001}
    (answer,) = answers(loaded(tmp_path, teacher=slow), UNSURE)
    assert answer.failure == "teacher_timeout"


def test_a_bundle_can_be_the_teacher(tmp_path: Path) -> None:
    teacher = tiny_bundle(tmp_path / "bundles", role="teacher", bias={"fraud": 20.0})
    (answer,) = answers(loaded(tmp_path, teacher={"bundle": str(teacher)}), UNSURE)
    assert answer.route is Route.TEACHER
    assert answer.prediction is not None
    assert answer.prediction.heads[0].labels == ("fraud",)
    assert teacher.name.endswith(answer.prediction.bundle[:12])


def test_a_teacher_of_other_labels_is_refused(tmp_path: Path) -> None:
    intent, flags = TASK.heads
    renamed = Head(name=intent.name, kind=HeadKind.CHOICE, labels=("refund", "theft", "other"))
    other = tiny_bundle(tmp_path / "b", task=TASK.model_copy(update={"heads": (renamed, flags)}))
    with pytest.raises(BundleMismatch, match="answers other heads or labels than the student"):
        opened(loaded(tmp_path, teacher={"bundle": str(other)}))


def test_a_script_for_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot say 'theft'"):
        opened(loaded(tmp_path, teacher={"scripted": {"labels": {"intent": "theft"}}}))


def test_a_bundle_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match="nowhere"):
        opened(loaded(tmp_path, student=tmp_path / "nowhere"))


def test_a_student_that_fails_on_its_first_text_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_student: Student, _texts: Sequence[str]) -> list[Prediction]:
        raise RuntimeError("no answer")

    monkeypatch.setattr(Student, "predict", broken)
    with pytest.raises(StudentFailed, match="RuntimeError: no answer"):
        opened(loaded(tmp_path))


def test_drawn_answers_are_audited_before_the_gateway_has_closed(tmp_path: Path) -> None:
    chosen = loaded(tmp_path, tickets={"audit": {"share": 1.0}})

    async def work() -> Gateway:
        async with open_gateway(chosen) as gateway:
            await gateway.cascade(None).answer([Instance(CONFIDENT)] * 3)
        return gateway

    gateway = asyncio.run(work())
    assert gateway.audits_skipped("tickets") == {"busy": 0, "down": 0, "failed": 0}
    said = gateway.metrics.render().decode()
    compared = [line for line in said.splitlines() if line.startswith("understudy_comparisons")]
    assert {line.split()[-1] for line in compared if 'source="audit"' in line} == {"3.0"}


def test_skipped_audits_are_shown_by_cause(tmp_path: Path) -> None:
    audited = {"audit": {"share": 1.0}}
    chosen = loaded(tmp_path, teacher={"scripted": {"fail_every": 1}}, tickets=audited)

    async def work() -> Gateway:
        async with open_gateway(chosen) as gateway:
            await gateway.cascade(None).answer([Instance(CONFIDENT)] * 3)
        return gateway

    gateway = asyncio.run(work())
    assert gateway.audits_skipped("tickets") == {"busy": 0, "down": 0, "failed": 3}
    assert gateway.audits_skipped("other") == {}
    said = gateway.metrics.render().decode()
    assert 'understudy_shadow_skipped_total{cause="failed"} 3.0' in said
    assert 'understudy_shadow_skipped_total{cause="busy"} 0.0' in said
    assert 'understudy_queue_depth{task="tickets"} 0.0' in said


def test_two_tasks_are_told_apart_by_their_names(tmp_path: Path) -> None:
    chosen = loaded(tmp_path)
    task = chosen.tasks["tickets"]
    both = chosen.model_copy(update={"tasks": {"one": task, "two": task}})

    async def work() -> None:
        async with open_gateway(both) as gateway:
            assert gateway.cascade("two").task == "two"
            with pytest.raises(UnknownTask, match="the request names no task") as unnamed:
                gateway.cascade(None)
            assert unnamed.value.mend == "name one of: one, two"
            with pytest.raises(UnknownTask, match="there is no task 'three' here"):
                gateway.cascade("three")
            (answer,) = await gateway.cascade("one").answer([Instance(CONFIDENT)])
            assert answer.task == "one"

    asyncio.run(work())


def test_the_only_task_needs_no_name(tmp_path: Path) -> None:
    gateway = opened(loaded(tmp_path))
    assert gateway.cascade(None) is gateway.cascade("tickets")
    with pytest.raises(UnknownTask):
        gateway.cascade("other")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"head": "tone", "labels": ["angry"]}, "has no head 'tone'"),
        ({"head": "intent", "labels": ["fraud", "froud"]}, "has no label 'froud'"),
    ],
)
def test_a_rule_that_could_never_hold_is_refused(
    tmp_path: Path, rule: dict[str, Any], message: str
) -> None:
    chosen = loaded(tmp_path, policy={"rules": [{"name": "careful", **rule}]})
    with pytest.raises(SettingsError, match=message):
        opened(chosen)

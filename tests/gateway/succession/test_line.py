"""How one student takes over from another: real bundles, a real registry, requests meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway import assembly, settings
from gateway.assembly import Gateway, open_gateway
from gateway.contract import archive
from gateway.contract.bundle import Bundle
from gateway.contract.manifest import Head, HeadKind, Task
from gateway.errors import (
    BundleCorrupt,
    BundleMismatch,
    BundleMissing,
    Conflict,
    SettingsError,
    UnderstudyError,
)
from gateway.store.changes import latest
from gateway.store.database import open_database
from gateway.students.registry import ROLES, Owed, Registry, Roles
from gateway.succession.line import Succession
from gateway.types import Answer, Instance, Route, Terms
from tests.factories import CONFIDENT, TASK, UNSURE, settings_file, tiny_bundle

# The same decisions as TASK, other words for them.
RENAMED = Task(
    name=TASK.name,
    heads=(
        Head(name="intent", kind=HeadKind.CHOICE, labels=("money_back", "theft", "rest")),
        Head(name="flags", kind=HeadKind.FLAGS, labels=("now", "court")),
    ),
)
Work = Callable[[Gateway, Succession], Awaitable[None]]


def during(folder: Path, work: Work, *, again: Work | None = None, **sections: Any) -> None:
    """Open a gateway on a tiny bundle and do something; then `again`, after a restart."""
    path = settings_file(folder, **sections)

    async def run(each: Work) -> None:
        async with open_gateway(settings.load(path), read=lambda: settings.load(path)) as gateway:
            await each(gateway, gateway.successions[TASK.name])

    for each in (work, again):
        if each is not None:
            asyncio.run(run(each))


async def add(succession: Succession, path: Path) -> str:
    """Send a bundle's folder, and give its name."""
    packed = path.with_suffix(".tar")
    with packed.open("wb") as file:
        archive.pack(path, file)
    return (await succession.add(packed, by="test")).name


async def ask(gateway: Gateway, text: str = CONFIDENT) -> Answer:
    return (await gateway.answer(None, [Instance(text)], Terms())).answers[0]


def series(gateway: Gateway, line: str) -> float:
    """A line of /metrics; 0 where there is none."""
    lines = (each.rpartition(" ") for each in gateway.metrics.render().decode().splitlines())
    return next((float(value) for name, _, value in lines if name == f"understudy_{line}"), 0.0)


def test_a_bundle_that_was_added_serves_when_it_is_told_to(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        old = succession.roles.serving
        name = await add(succession, tiny_bundle(tmp_path / "new", bias={"fraud": 20.0}))
        assert succession.roles.serving == old
        change = await succession.swap(name, by="test")
        assert (change.serving, change.previous, change.changed) == (name, old, True)
        answer = await ask(gateway)
        assert answer.prediction is not None
        assert answer.prediction.heads[0].labels == ("fraud",)
        assert f"{TASK.name}-{answer.prediction.bundle[:12]}" == name
        for role, bundle in (("student", name), ("previous", old)):
            labels = f'bundle="{bundle}",role="{role}",task="{TASK.name}"'
            assert series(gateway, f"bundle_info{{{labels}}}") == 1
        assert series(gateway, f'swaps_total{{result="swapped",task="{TASK.name}"}}') == 1

    during(tmp_path, work)


def test_a_bundle_that_serves_already_changes_nothing(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        rung = gateway.tasks[TASK.name].rung
        change = await succession.swap(succession.roles.serving, by="test")
        assert (change.changed, change.previous) == (False, None)
        for result, times in (("unchanged", 1), ("swapped", 0)):
            name = f'swaps_total{{result="{result}",task="{TASK.name}"}}'
            assert series(gateway, name) == times
        assert gateway.tasks[TASK.name].rung is rung

    during(tmp_path, work)


def test_going_back_takes_the_student_that_is_still_loaded(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        first = gateway.tasks[TASK.name].rung
        name = await add(succession, tiny_bundle(tmp_path / "new", seed=1))
        await succession.swap(name, by="test")
        change = await succession.roll_back(by="test")
        assert change.previous == name
        assert series(gateway, f'swaps_total{{result="rolled_back",task="{TASK.name}"}}') == 1
        assert gateway.tasks[TASK.name].rung.student is first.student
        with pytest.raises(BundleMissing, match=f"{name} was rolled back itself") as caught:
            await succession.roll_back(by="test")
        assert f"understudy students swap {name}" in caught.value.mend
        assert (await succession.swap(name, by="test")).roles.sent_back == ()

    during(tmp_path, work)


def test_without_a_previous_student_there_is_no_way_back(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        with pytest.raises(BundleMissing, match="no previous bundle"):
            await succession.roll_back(by="test")
        assert series(gateway, f'swaps_total{{result="refused",task="{TASK.name}"}}') == 1

    during(tmp_path, work)


def test_the_third_student_ends_the_first_once_its_callers_have_their_answers(
    tmp_path: Path,
) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        first = gateway.tasks[TASK.name].rung.student
        for seed in (1, 2):
            waiting = first.submit([CONFIDENT] * 50)
            name = await add(succession, tiny_bundle(tmp_path / "new", seed=seed))
            await succession.swap(name, by="test")
            assert len(await waiting) == 50
        await asyncio.wait(succession._cast.leaving or {asyncio.ensure_future(asyncio.sleep(0))})
        assert not first.alive
        assert gateway.alive

    during(tmp_path, work)


def test_a_restart_serves_what_was_serving_and_can_go_back(tmp_path: Path) -> None:
    names: list[str] = []

    async def work(_gateway: Gateway, succession: Succession) -> None:
        names.append(succession.roles.serving)
        names.append(await add(succession, tiny_bundle(tmp_path / "new", seed=1)))
        await succession.swap(names[1], by="test")
        shutil.rmtree(tmp_path / "new")  # the registry needs nothing of elsewhere

    async def again(gateway: Gateway, succession: Succession) -> None:
        answer = await ask(gateway)
        assert answer.prediction is not None
        assert answer.prediction.bundle.startswith(names[1].rpartition("-")[2])
        assert (await succession.roll_back(by="test")).serving == names[0]

    during(tmp_path, work, again=again)


def test_settings_that_name_another_bundle_win_at_the_next_start(tmp_path: Path) -> None:
    link = tmp_path / "student"
    link.symlink_to(tiny_bundle(tmp_path / "bundles"))
    third = tiny_bundle(tmp_path / "bundles", seed=3)
    swapped: list[str] = []

    async def work(_gateway: Gateway, succession: Succession) -> None:
        swapped.append(await add(succession, tiny_bundle(tmp_path / "new", seed=1)))
        await succession.swap(swapped[0], by="test")
        link.unlink()
        link.symlink_to(third)

    async def again(_gateway: Gateway, succession: Succession) -> None:
        roles = succession.roles
        assert (roles.configured, roles.serving) == (third.name, third.name)
        assert roles.previous == swapped[0]
        assert succession.registry.roles() == roles

    during(tmp_path, work, again=again, student=link)


def test_a_restart_that_names_the_bundle_which_serves_already_keeps_the_way_back(
    tmp_path: Path,
) -> None:
    new = tiny_bundle(tmp_path / "bundles", seed=1)
    names: list[str] = []

    async def work(_gateway: Gateway, succession: Succession) -> None:
        names.append(succession.roles.serving)
        await succession.swap(await add(succession, new), by="test")

    async def again(_gateway: Gateway, succession: Succession) -> None:
        roles = succession.roles
        assert (roles.configured, roles.serving, roles.previous) == (new.name, new.name, names[0])
        assert succession.registry.roles() == roles
        assert (await succession.roll_back(by="test")).serving == names[0]
        roles = roles.model_copy(update={"previous": new.name})
        succession.registry.remember(roles)  # as a version wrote it that lost the way back

    async def lost(_gateway: Gateway, succession: Succession) -> None:
        with pytest.raises(BundleMissing, match="no previous bundle"):
            await succession.roll_back(by="test")

    during(tmp_path, work)
    during(tmp_path, again, again=lost, student=new)


def test_of_gateways_that_start_at_once_on_new_settings_each_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = tiny_bundle(tmp_path / "bundles", seed=3)
    remember = assembly._remember

    def beside_another(*said: Any) -> None:
        remember(*said)  # the other one, which has read the same
        remember(*said)

    async def work(_gateway: Gateway, succession: Succession) -> None:
        name = await add(succession, tiny_bundle(tmp_path / "new", seed=1))
        await succession.swap(name, by="test")

    async def again(_gateway: Gateway, succession: Succession) -> None:
        assert succession.roles.serving == third.name
        assert succession.registry.roles() == succession.roles

    during(tmp_path, work)
    monkeypatch.setattr(assembly, "_remember", beside_another)
    during(tmp_path, again, student=third)


def test_a_row_that_is_owed_at_the_start_comes_before_all_others(tmp_path: Path) -> None:
    names: list[str] = []

    async def work(_gateway: Gateway, succession: Succession) -> None:
        names.append(succession.roles.serving)
        names.append(await add(succession, tiny_bundle(tmp_path / "new", seed=1)))
        await succession.swap(names[1], by="test")

    async def again(_gateway: Gateway, succession: Succession) -> None:
        assert succession.roles.owed == ()

    during(tmp_path, work)
    old, new = names
    path = tmp_path / "students" / TASK.name / ROLES
    row = Owed(id="1", at=1.0, what="rollback", who="bob", old=new, new=old)
    roles = Roles(configured=old, serving=old, previous=new, sent_back=(new,), owed=(row,))
    path.write_text(roles.model_dump_json())  # as a process left it that was killed just then
    during(tmp_path, again)
    engine = open_database(tmp_path / "records.db")
    found = [(row.what, row.new) for row in latest(engine, 9)[::-1]]
    engine.dispose()
    assert found == [("start", old), ("swap", new), ("rollback", old)]


def test_a_start_that_fails_leaves_the_roles_as_they_were(tmp_path: Path) -> None:
    async def work(_gateway: Gateway, succession: Succession) -> None:
        name = await add(succession, tiny_bundle(tmp_path / "new", seed=1))
        await succession.swap(name, by="test")

    during(tmp_path, work)
    path = tmp_path / "students" / TASK.name / ROLES
    before = path.read_bytes()
    third = tiny_bundle(tmp_path / "bundles", seed=3)
    with pytest.raises(SettingsError, match="operating_point"):
        during(tmp_path, work, student=third, tickets={"student": {"operating_point": "none"}})
    assert path.read_bytes() == before


def test_who_only_looks_writes_nothing(tmp_path: Path) -> None:
    link = tmp_path / "student"
    link.symlink_to(tiny_bundle(tmp_path / "bundles"))
    third = tiny_bundle(tmp_path / "bundles", seed=3)

    async def work(_gateway: Gateway, succession: Succession) -> None:
        await succession.swap(
            await add(succession, tiny_bundle(tmp_path / "new", seed=1)), by="test"
        )
        link.unlink()
        link.symlink_to(third)

    during(tmp_path, work, student=link)
    path = tmp_path / "students" / TASK.name / ROLES
    before = path.read_bytes()

    async def look() -> None:
        chosen = settings.load(tmp_path / "understudy.yaml")
        async with open_gateway(chosen, aside=True) as gateway:
            assert gateway.successions[TASK.name].roles.serving == third.name

    asyncio.run(look())
    assert path.read_bytes() == before


def test_a_serving_bundle_that_is_gone_is_an_error_at_the_start(tmp_path: Path) -> None:
    names: list[str] = []

    async def work(_gateway: Gateway, succession: Succession) -> None:
        names.append(await add(succession, tiny_bundle(tmp_path / "new", seed=1)))
        await succession.swap(names[0], by="test")

    during(tmp_path, work)
    shutil.rmtree(tmp_path / "students" / TASK.name / names[0])
    with pytest.raises(BundleMissing, match="gone from the registry") as caught:
        during(tmp_path, work)
    assert ROLES in caught.value.mend


def test_of_two_changes_at_once_one_wins(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        names = [
            await add(succession, tiny_bundle(tmp_path / "new", seed=seed)) for seed in (1, 2, 3)
        ]
        outcomes = await asyncio.gather(
            *(succession.swap(name, by="test") for name in names), return_exceptions=True
        )
        lost = [each for each in outcomes if isinstance(each, Conflict)]
        assert len(lost) == 2
        assert succession.roles.serving == names[0]
        assert series(gateway, f'swaps_total{{result="conflict",task="{TASK.name}"}}') == 2

    during(tmp_path, work)


def test_other_labels_come_with_the_student_that_says_them(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        name = await add(succession, tiny_bundle(tmp_path / "new", task=RENAMED))
        await succession.swap(name, by="test")
        answer = await ask(gateway)
        assert answer.prediction is not None
        assert answer.prediction.heads[0].labels == ("money_back",)
        assert answer.prediction.asked == RENAMED.heads
        answer = await ask(gateway, UNSURE)  # the script says the first label it knows
        assert answer.route is Route.TEACHER
        assert answer.prediction is not None
        assert answer.prediction.heads[0].labels == ("money_back",)
        await succession.roll_back(by="test")
        answer = await ask(gateway, UNSURE)
        assert answer.prediction is not None
        assert answer.prediction.heads[0].labels == ("refund",)

    during(tmp_path, work, teacher={"scripted": {"delay_ms": 0}})


def _refused(
    folder: Path, bundle: Path, kind: type[UnderstudyError], match: str, **sections: Any
) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        before = succession.roles
        with pytest.raises(kind, match=match):
            await succession.swap(await add(succession, bundle), by="test")
        assert succession.roles == before
        assert succession.registry.roles() is None
        assert (await ask(gateway)).route is Route.STUDENT

    during(folder, work, **sections)


def test_labels_that_the_teacher_does_not_know_are_refused(tmp_path: Path) -> None:
    teacher = {"bundle": str(tiny_bundle(tmp_path / "teacher", role="teacher"))}
    bundle = tiny_bundle(tmp_path / "new", task=RENAMED)
    _refused(tmp_path, bundle, BundleMismatch, "other heads or labels", teacher=teacher)


def test_labels_that_the_script_does_not_know_are_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "new", task=RENAMED)
    _refused(tmp_path, bundle, SettingsError, "cannot say 'other'")


def test_labels_that_a_rule_does_not_know_are_refused(tmp_path: Path) -> None:
    rules = [{"name": "fraud", "head": "intent", "labels": ["fraud"]}]
    _refused(
        tmp_path,
        tiny_bundle(tmp_path / "new", task=RENAMED),
        SettingsError,
        "no label 'fraud'",
        policy={"rules": rules},
        teacher={"scripted": {"delay_ms": 0}},
    )


@pytest.mark.parametrize(
    "heads",
    [
        (Head(name="aim", kind=HeadKind.CHOICE, labels=TASK.heads[0].labels), TASK.heads[1]),
        (TASK.heads[0], Head(name="flags", kind=HeadKind.CHOICE, labels=TASK.heads[1].labels)),
    ],
)
def test_heads_of_another_name_or_kind_are_refused(
    tmp_path: Path, heads: tuple[Head, Head]
) -> None:
    bundle = tiny_bundle(tmp_path / "new", task=Task(name=TASK.name, heads=heads))
    _refused(tmp_path, bundle, BundleMismatch, "differ in name or kind")


def test_a_bundle_of_another_task_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "new", task=Task(name="letters", heads=TASK.heads))
    _refused(tmp_path, bundle, BundleMismatch, "the task or its heads differ")


def test_a_teacher_is_no_student(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "new", role="teacher")
    _refused(tmp_path, bundle, BundleMismatch, "is a teacher, not a student")


def test_a_bundle_that_is_not_here_is_refused(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        with pytest.raises(BundleMissing, match="has no bundle"):
            await succession.swap("tickets-000000000000", by="test")
        assert gateway.alive

    during(tmp_path, work)


def test_a_bundle_that_was_damaged_since_it_came_is_refused(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        name = await add(succession, tiny_bundle(tmp_path / "new", seed=1))
        model = succession.registry.find(name) / "model.onnx"
        model.write_bytes(model.read_bytes()[:-1] + b"\0")
        with pytest.raises(BundleCorrupt):
            await succession.swap(name, by="test")
        assert (await ask(gateway)).route is Route.STUDENT

    during(tmp_path, work)


def test_roles_that_cannot_be_written_leave_everything_as_it_was(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        old = succession.roles.serving
        name = await add(succession, tiny_bundle(tmp_path / "new", seed=1))
        (tmp_path / "students" / TASK.name / ".roles.lock").mkdir()  # in the way of the file
        with pytest.raises(SettingsError, match=r"registry\.path"):
            await succession.swap(name, by="test")
        assert succession.roles.serving == old
        engine = open_database(tmp_path / "records.db")
        assert [row.what for row in latest(engine, 9)] == ["start"]  # nor is it in the log
        engine.dispose()
        assert (await ask(gateway)).route is Route.STUDENT

    during(tmp_path, work)


def test_a_student_made_ready_ends_when_the_one_that_serves_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        task = gateway.settings.tasks[TASK.name]
        student = task.student.model_copy(update={"bundle": tiny_bundle(tmp_path / "new", seed=1)})
        serving, keep = task.student.bundle, Registry.keep

        def full(registry: Registry, path: Path) -> Bundle:
            if path == serving:
                raise OSError("no space left")
            return keep(registry, path)

        monkeypatch.setattr(Registry, "keep", full)
        before = set(threading.enumerate())
        with pytest.raises(OSError, match="no space left"):
            await succession.prepare(task.model_copy(update={"student": student}))
        assert len(succession._cast.leaving) == 1
        await asyncio.wait(succession._cast.leaving)
        begun = set(threading.enumerate()) - before
        assert [each.name for each in begun if "student" in each.name] == []
        assert (await ask(gateway)).route is Route.STUDENT

    during(tmp_path, work)


def test_a_serving_bundle_whose_folder_is_gone_still_gives_way(tmp_path: Path) -> None:
    async def work(_gateway: Gateway, succession: Succession) -> None:
        old = succession.roles.serving
        name = await add(succession, tiny_bundle(tmp_path / "new", seed=1))
        shutil.rmtree(tmp_path / "bundles")
        assert (await succession.swap(name, by="test")).previous == old
        roles = succession.registry.roles()
        assert roles is not None
        assert roles.previous is None  # after a restart there is nothing to go back to
        assert (await succession.roll_back(by="test")).serving == old  # it is still loaded

    during(tmp_path, work)


def _swaps_under_load(folder: Path, swaps: int) -> None:
    """Three bundles of two sets of labels take turns while requests come without a pause."""
    labels: dict[str, tuple[str, ...]] = {}
    done = asyncio.Event()

    async def client(gateway: Gateway) -> int:
        asked = 0
        while not done.is_set():
            answer = await ask(gateway)
            assert answer.prediction is not None
            assert answer.route is Route.STUDENT
            said = answer.prediction.heads[0].labels
            assert said == labels[answer.prediction.bundle[:12]]
            asked += 1
        return asked

    async def work(gateway: Gateway, succession: Succession) -> None:
        labels[succession.roles.serving.rpartition("-")[2]] = ("refund",)
        names = []
        for seed, task in ((1, RENAMED), (2, TASK), (3, RENAMED)):
            name = await add(succession, tiny_bundle(folder / "new", seed=seed, task=task))
            labels[name.rpartition("-")[2]] = (task.heads[0].labels[0],)
            names.append(name)
        clients = [asyncio.create_task(client(gateway)) for _ in range(4)]
        for number in range(swaps):
            await succession.swap(names[number % 3], by="test")
        done.set()
        asked = await asyncio.gather(*clients)
        assert sum(asked) >= swaps

    # One slow batch predicts a long wait, for which the next requests would be refused.
    patient = {"student": {"max_wait_ms": 300_000}}
    during(folder, work, teacher={"scripted": {"delay_ms": 0}}, tickets=patient)


def test_no_request_fails_while_students_take_turns(tmp_path: Path) -> None:
    _swaps_under_load(tmp_path, 5)

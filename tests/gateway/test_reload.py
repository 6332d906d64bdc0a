"""New settings while the gateway runs: what holds at once, what waits, what is refused."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import settings
from gateway.assembly import Gateway, open_gateway
from gateway.errors import (
    BundleMissing,
    Conflict,
    LogUnavailable,
    SettingsError,
    UnderstudyError,
)
from gateway.reload import Hangup, Reloaded, reload
from gateway.settings import TaskSettings
from gateway.store.changes import Entry, latest
from gateway.students.registry import Draft
from gateway.succession.change import Successor
from gateway.types import Instance, Reason, Reply, Route, Terms
from tests.factories import CONFIDENT, TASK, UNSURE, settings_file, tiny_bundle
from tests.patience import eventually

Work = Callable[[Gateway, Path], Awaitable[None]]
_PRICES = {"teacher_usd_per_1000": 2, "instance_usd_per_hour": 3600}


def during(folder: Path, work: Work, **sections: Any) -> None:
    """Open a gateway from a settings file, which `work` may change."""
    path = settings_file(folder, **sections)

    async def run() -> None:
        async with open_gateway(settings.load(path), read=lambda: settings.load(path)) as gateway:
            await work(gateway, path)

    asyncio.run(run())


def change(path: Path, **changes: Any) -> None:
    """Write values at dotted keys into the settings file; dots are written as __."""
    document = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *steps, last = key.replace("task__", f"tasks__{TASK.name}__").split("__")
        place: dict[str, Any] = document
        for step in steps:
            place = place.setdefault(step, {})
        place[last] = value
    path.write_text(yaml.safe_dump(document))


def rename(path: Path, task: str, name: str) -> None:
    """Give a task of the settings file another name."""
    document = yaml.safe_load(path.read_text())
    document["tasks"][name] = document["tasks"].pop(task)
    path.write_text(yaml.safe_dump(document))


async def ask(gateway: Gateway, text: str) -> Any:
    reply: Reply = await gateway.answer(None, [Instance(text)], Terms())
    return reply.answers[0]


async def changed(gateway: Gateway, path: Path, **changes: Any) -> Reloaded:
    change(path, **changes)
    return await reload(gateway, by="test")


def test_a_file_that_says_the_same_changes_nothing(tmp_path: Path) -> None:
    async def work(gateway: Gateway, _path: Path) -> None:
        rung = gateway.tasks[TASK.name].rung
        done = await reload(gateway, by="test")
        assert (done.applied, done.restart, done.generation) == ((), (), 2)
        assert f"tasks.{TASK.name}.policy.threshold" in done.unchanged
        assert gateway.tasks[TASK.name].rung.student is rung.student
        assert b"understudy_config_generation 2.0" in gateway.metrics.render()

    during(tmp_path, work)


def test_a_threshold_holds_for_the_next_request(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        assert (await ask(gateway, UNSURE)).route is Route.TEACHER
        done = await changed(gateway, path, task__policy__threshold=0.5)
        assert done.applied == (f"tasks.{TASK.name}.policy.threshold",)
        answer = await ask(gateway, UNSURE)
        assert (answer.route, answer.decision.threshold) == (Route.STUDENT, 0.5)

    during(tmp_path, work)


def test_rules_hold_for_the_next_request(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        rules = [{"name": "money", "text": "refund"}]
        done = await changed(gateway, path, task__policy__rules=rules)
        assert done.applied == (f"tasks.{TASK.name}.policy.rules",)
        assert (await ask(gateway, CONFIDENT)).decision.reason is Reason.HIGH_RISK

    during(tmp_path, work)


def test_what_happens_without_a_teacher_may_change(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        assert (await ask(gateway, UNSURE)).route is Route.FALLBACK
        await changed(gateway, path, task__policy__on_unavailable="abstain")
        assert (await ask(gateway, UNSURE)).route is Route.ABSTAIN

    during(tmp_path, work, teacher={"scripted": {"fail_every": 1}})


def test_the_share_of_audits_may_change(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        await changed(gateway, path, task__audit__share=0.25)
        assert (await ask(gateway, CONFIDENT)).audit_propensity == 0.25

    during(tmp_path, work)


def test_prices_hold_from_the_next_request_on(tmp_path: Path) -> None:
    def spent(gateway: Gateway) -> Mapping[str, Any]:
        found: Mapping[str, Any] = gateway.figures.snapshot()["tasks"][TASK.name]["cost"]
        return found

    async def work(gateway: Gateway, path: Path) -> None:
        await ask(gateway, UNSURE)
        assert spent(gateway)["teacher"] == {"known": 1000, "unknown": 0}
        await changed(gateway, path, task__prices=_PRICES)
        assert (await ask(gateway, UNSURE)).cost.teacher == 2000
        assert spent(gateway)["teacher"] == {"known": 3000, "unknown": 0}
        assert spent(gateway)["student"] > 0  # its seconds were counted before they had a price
        before = spent(gateway)["student"]
        await changed(gateway, path, task__prices={"instance_usd_per_hour": 0})
        await ask(gateway, CONFIDENT)
        assert spent(gateway)["student"] == before  # what was spent stays spent

    during(tmp_path, work, tickets={"prices": {"teacher_usd_per_1000": 1}})


def test_a_deadline_holds_for_the_next_request(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        assert gateway.settings.tasks[TASK.name].deadline_ms is None
        done = await changed(gateway, path, task__deadline_ms=60_000)
        assert done.applied == (f"tasks.{TASK.name}.deadline_ms",)
        assert (await ask(gateway, CONFIDENT)).route is Route.STUDENT

    during(tmp_path, work)


def test_another_bundle_takes_over(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        succession = gateway.successions[TASK.name]
        old = succession.roles.serving
        new = tiny_bundle(tmp_path / "new", bias={"fraud": 20.0})
        done = await changed(gateway, path, task__student__bundle=str(new))
        assert done.applied == (f"tasks.{TASK.name}.student.bundle",)
        assert (await ask(gateway, CONFIDENT)).prediction.heads[0].labels == ("fraud",)
        roles = succession.roles
        assert (roles.configured, roles.serving, roles.previous) == (new.name, new.name, old)
        assert succession.registry.roles() == roles
        assert (await succession.roll_back(by="test")).serving == old

    during(tmp_path, work)


def test_a_link_that_means_another_bundle_counts_as_a_change(tmp_path: Path) -> None:
    link = tmp_path / "student"
    link.symlink_to(tiny_bundle(tmp_path / "bundles"))
    new = tiny_bundle(tmp_path / "bundles", seed=1)

    async def work(gateway: Gateway, _path: Path) -> None:
        link.unlink()
        link.symlink_to(new)
        done = await reload(gateway, by="test")
        assert done.applied == (f"tasks.{TASK.name}.student.bundle",)
        assert gateway.successions[TASK.name].roles.serving == new.name

    during(tmp_path, work, student=link)


def test_a_swap_outlives_a_reload_that_names_no_other_bundle(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        succession = gateway.successions[TASK.name]
        kept = succession.registry.keep(tiny_bundle(tmp_path / "new", seed=1))
        await succession.swap(kept.name, by="test")
        await changed(gateway, path, task__policy__threshold=0.5)
        assert succession.roles.serving == kept.name
        back = await succession.roll_back(by="test")
        assert back.previous == kept.name
        assert (await ask(gateway, UNSURE)).decision.threshold == 0.5  # of the settings of now

    during(tmp_path, work)


def test_naming_the_bundle_that_serves_already_makes_it_the_configured_one(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        succession = gateway.successions[TASK.name]
        new = tiny_bundle(tmp_path / "new", seed=1)
        succession.registry.keep(new)
        await succession.swap(new.name, by="test")
        await changed(gateway, path, task__student__bundle=str(new))
        roles = succession.registry.roles()
        assert roles is not None
        assert (roles.configured, roles.serving) == (new.name, new.name)

    during(tmp_path, work)


def test_keys_limits_and_retention_hold_at_once(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        keys = [{"name": "ann", "sha256": "a" * 64}]
        done = await changed(
            gateway,
            path,
            keys=keys,
            server__max_inputs=8,
            server__max_characters=50,
            server__max_body_bytes=2048,
            records__retention_days=1,
        )
        assert set(done.applied) == {
            "keys",
            "server.max_inputs",
            "server.max_characters",
            "server.max_body_bytes",
            "records.retention_days",
        }
        assert gateway.settings.keys[0].name == "ann"
        assert gateway.settings.server.max_inputs == 8
        assert gateway.retention is not None
        assert gateway.retention._days == 1

    during(tmp_path, work)


def test_the_level_of_logs_holds_at_once(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        done = await changed(gateway, path, logging__level="error")
        assert done.applied == ("logging.level",)
        assert logging.getLogger().level == logging.ERROR

    during(tmp_path, work)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server__host", "127.0.0.2"),
        ("server__port", 9000),
        ("server__drain_delay_s", 1.0),
        ("admin__port", 9001),
        ("task__student__workers", 2),
        ("task__student__queue", 5000),
        ("task__teacher__timeout_s", 3.0),
        ("task__teacher__scripted__delay_ms", 1.0),
        ("records__path", "other.db"),
        ("records__text", "full"),
        ("registry__path", "elsewhere"),
        ("logging__format", "json"),
    ],
)
def test_what_is_read_at_the_start_only_is_named_and_kept(
    tmp_path: Path, key: str, value: Any
) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        before = gateway.settings
        done = await changed(gateway, path, **{key: value}, task__policy__threshold=0.5)
        dotted = key.replace("task__", f"tasks__{TASK.name}__").replace("__", ".")
        assert [name for name in done.restart if dotted.startswith(name)] == list(done.restart)
        assert len(done.restart) == 1
        assert done.applied == (f"tasks.{TASK.name}.policy.threshold",)
        after = gateway.settings.model_dump()
        after["tasks"][TASK.name]["policy"]["threshold"] = None
        assert after == before.model_dump()

    during(tmp_path, work)


def test_a_task_that_comes_or_goes_waits_for_a_restart(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        rename(path, TASK.name, "letters")
        done = await reload(gateway, by="test")
        assert done.restart == ("tasks.letters", f"tasks.{TASK.name}")
        assert (await ask(gateway, CONFIDENT)).route is Route.STUDENT

    during(tmp_path, work)


@pytest.mark.parametrize(
    ("changes", "kind", "match"),
    [
        ({"task__policy__treshold": 0.5}, SettingsError, "did you mean 'threshold'"),
        ({"task__policy__threshold": 2}, SettingsError, "less than or equal to 1"),
        ({"task__student__operating_point": "strict"}, SettingsError, "has no 'strict'"),
        ({"task__student__bundle": "nowhere"}, BundleMissing, "is gone"),
        (
            {"task__policy__rules": [{"name": "x", "head": "mood", "labels": ["bad"]}]},
            SettingsError,
            "no head 'mood'",
        ),
        # Neither alone is wrong: the queue of now is 4096, and only a restart makes it longer.
        ({"server__max_inputs": 5000, "task__student__queue": 6000}, SettingsError, "max_inputs"),
    ],
)
def test_with_anything_wrong_nothing_changes(
    tmp_path: Path, changes: dict[str, Any], kind: type[UnderstudyError], match: str
) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        before, cascade = gateway.settings, gateway.tasks[TASK.name]
        with pytest.raises(kind, match=match):
            await changed(gateway, path, **changes, task__audit__share=0.5)
        assert gateway.settings is before
        assert gateway.generation == 1
        assert gateway.tasks[TASK.name] is cascade
        assert (await ask(gateway, CONFIDENT)).audit_propensity == 0.0

    during(tmp_path, work)


def test_of_several_tasks_none_changes_where_one_cannot(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    first = {
        "student": {"bundle": str(tiny_bundle(bundles)), "workers": 1, "run_in": "threads"},
        "teacher": {"scripted": {"labels": {"intent": "other"}}},
    }
    new = tiny_bundle(bundles, seed=1)

    async def work(gateway: Gateway, path: Path) -> None:
        with pytest.raises(BundleMissing):
            await changed(
                gateway,
                path,
                tasks__a__student__bundle=str(new),
                tasks__b__student__bundle="nowhere",
            )
        for name in "ab":
            succession = gateway.successions[name]
            assert succession.roles.serving != new.name
            assert succession.registry.roles() is None
        await asyncio.sleep(0)
        assert gateway.alive

    during(tmp_path, work, tasks={"a": first, "b": first})


def test_a_reload_beside_a_swap_is_refused(tmp_path: Path) -> None:
    async def work(gateway: Gateway, _path: Path) -> None:
        async with gateway.successions[TASK.name].claim():
            with pytest.raises(Conflict):
                await reload(gateway, by="test")
        await reload(gateway, by="test")

    during(tmp_path, work)


def test_a_key_is_revoked_at_once_beside_a_change_and_a_database_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = ({"name": name, "sha256": name[0] * 64} for name in ("ann", "bob"))

    async def work(gateway: Gateway, path: Path) -> None:
        change(path, keys=[bob])
        with closing(sqlite3.connect(tmp_path / "records.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # nobody else can write now
            async with gateway.successions[TASK.name].claim():
                told = asyncio.create_task(reload(gateway, by="test"))
                await eventually(lambda: [key.name for key in gateway.settings.keys] == ["bob"])
                assert not told.done()
        assert (await told).applied == ("keys",)
        held = gateway.successions[TASK.name]
        prepare = held.prepare

        async def overtaken(task: TaskSettings) -> Successor:
            gateway.settings = gateway.settings.model_copy(update={"keys": ()})  # as keys alone do
            return await prepare(task)

        monkeypatch.setattr(held, "prepare", overtaken)
        await changed(gateway, path, task__policy__threshold=0.5)
        assert gateway.settings.keys == ()  # what was read before brings no key back

    during(tmp_path, work, keys=[ann, bob])


def test_with_new_keys_costs_are_read_anew_and_the_keys_hold_whatever_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = tmp_path / "costs.csv"
    keys = [{"name": name, "sha256": name[0] * 64} for name in ("ann", "bob", "cid", "dan")]

    def write(miss: int) -> None:
        costs.write_text(f"true,refund,fraud,other\nrefund,0,1,1\nfraud,{miss},0,1\nother,1,1,0\n")

    async def work(gateway: Gateway, path: Path) -> None:
        def holds() -> tuple[str, float]:
            severity = gateway.tasks[TASK.name].rung.policy.severity
            assert severity is not None
            return gateway.settings.keys[0].name, severity.heads[0].largest

        def noted() -> list[Any]:
            assert gateway.changes is not None
            found = latest(gateway.changes._engine, 9)
            return [(row.evidence or {})["applied"] for row in found[::-1][1:]]

        assert holds() == ("ann", 5.0)
        write(7)
        assert (await changed(gateway, path, keys=keys[1:2])).applied == ("keys",)
        assert (holds(), noted(), gateway.generation) == (("bob", 7.0), [["keys"]], 2)
        costs.write_text("nonsense")
        with pytest.raises(SettingsError, match=r"costs\.csv") as caught:
            await changed(gateway, path, keys=keys[2:3])
        assert caught.value.mend.endswith("; the new keys hold already")
        assert (holds(), noted(), gateway.generation) == (("cid", 7.0), [["keys"]] * 2, 3)

        def full(*_entries: Entry) -> None:
            raise LogUnavailable("the disk is full", mend="make room")

        monkeypatch.setattr(gateway.changes, "append", full)
        write(9)
        assert (await changed(gateway, path, keys=keys[3:])).applied == ("keys",)
        assert (holds(), noted(), gateway.generation) == (("dan", 7.0), [["keys"]] * 2, 4)

    write(5)
    severity = {"costs": {"intent": "costs.csv"}, "usd_per_unit": 1}
    during(
        tmp_path, work, keys=keys[:1], policy={"severity": severity}, tickets={"prices": _PRICES}
    )


def test_who_serves_and_the_settings_change_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, float | None]] = []

    async def work(gateway: Gateway, path: Path) -> None:
        close, held = Draft.close, gateway.successions[TASK.name]

        def look(draft: Draft) -> None:  # it is the first thing that is done after the step
            seen.append(
                (
                    gateway.tasks[TASK.name] is held.cascade,
                    gateway.settings.tasks[TASK.name].policy.threshold,
                )
            )
            close(draft)

        monkeypatch.setattr(Draft, "close", look)
        await changed(gateway, path, task__policy__threshold=0.5)
        assert seen == [(True, 0.5)]

    during(tmp_path, work)


def test_a_gateway_that_has_no_file_says_so(tmp_path: Path) -> None:
    async def run() -> None:
        async with open_gateway(settings.load(settings_file(tmp_path))) as gateway:
            with pytest.raises(SettingsError, match="not opened from a settings file"):
                await reload(gateway, by="test")

    asyncio.run(run())


def test_a_hangup_reloads_and_survives_a_mistake(tmp_path: Path) -> None:
    async def work(gateway: Gateway, path: Path) -> None:
        hangup = Hangup(gateway)
        for value, generation in ((0.5, 2), ("high", 2), (0.6, 3)):
            change(path, task__policy__threshold=value)
            hangup()
            await asyncio.wait(hangup._running)
            assert gateway.generation == generation
        assert gateway.tasks[TASK.name].rung.policy.threshold == 0.6

    during(tmp_path, work)

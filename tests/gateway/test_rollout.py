"""How a candidate comes to serve and what stops it: a real gateway, and a clock that is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gateway import settings
from gateway.assembly import Gateway, open_gateway
from gateway.errors import (
    BundleMismatch,
    BundleMissing,
    Conflict,
    Forbidden,
    Invalid,
    NotProved,
    PromotionFrozen,
    SettingsError,
    UnderstudyError,
)
from gateway.reload import reload
from gateway.rollout import Rollout
from gateway.shadow.promotion import Gate, Pair, Terms, Trial, Verdict
from gateway.store.changes import Row, latest, verify
from gateway.store.database import open_database
from gateway.students.registry import Frozen, Roles
from gateway.succession import Succession
from gateway.types import Answer, Instance, Reason, Route
from gateway.types import Terms as Asked
from tests.factories import CONFIDENT, TASK, settings_file, tiny_bundle
from tests.gateway.test_succession import RENAMED

TEXTS = [f"{CONFIDENT} {number}" for number in range(120)]
STEPS = [
    {"share": 0.25, "minimum_s": 60.0, "rows": 5},
    {"share": 1.0, "minimum_s": 600.0, "rows": 0},
]


def verdict(rows: int, *, differing: int = 0, lasts_s: float = 0.0) -> Verdict:
    """What a trial says of a candidate after so many rows; 219 without a difference prove 2 %."""
    terms = Terms(limits={Gate.DISAGREEMENT: 0.02}, minimum_s=lasts_s, cycle_s=0.0)
    trial = Trial(terms, began=0.0)
    for number in range(rows):
        trial.add(Pair(differs=number < differing))
    return trial.verdict(now=0.0)


@dataclass
class Known:
    """A judge who knows what it is told."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def verdict(self, bundle: str) -> Verdict | None:
        """Its verdict."""
        return self.verdicts.get(bundle)


@dataclass
class Hands:
    """Of a clock that stands still: `now` in seconds."""

    now: float


@dataclass
class Stage:
    """A gateway with a candidate that says fraud to everything, and what moves it."""

    gateway: Gateway
    judge: Known
    candidate: str
    hands: Hands

    @property
    def succession(self) -> Succession:
        """Who serves."""
        return self.gateway.successions[TASK.name]

    @property
    def rollout(self) -> Rollout:
        """Who is on the way there."""
        return self.gateway.rollouts[TASK.name]

    @property
    def roles(self) -> Roles:
        """Who has which role."""
        return self.succession.roles

    @property
    def at(self) -> float | None:
        """The canary's share."""
        canary = self.gateway.tasks[TASK.name].canary
        return None if canary is None else canary.share

    @property
    def counted(self) -> bool:
        """Whether the served error of the student that serves has its first answer."""
        served = self.gateway.quality.served(TASK.name)
        assert served is not None
        return served.since is not None

    async def ask(self) -> list[Answer]:
        """The answers to all texts, each of which goes to one of the two students."""
        said = await self.gateway.answer(None, [Instance(text) for text in TEXTS], Asked())
        return list(said.answers)

    async def after(self, seconds: float) -> None:
        """Let time pass, and look what is due; the gateway itself may be about that already."""
        self.hands.now += seconds
        await self.rollout.look()
        async with self.succession.claim():
            pass


Work = Callable[[Stage], Awaitable[None]]


async def opened(
    stack: AsyncExitStack, path: Path, candidate: Path, now: float = 1_000_000.0
) -> Stage:
    """A gateway that has the candidate, under a judge who has proved it."""
    hands = Hands(now)
    opening = open_gateway(
        settings.load(path), read=lambda: settings.load(path), clock=lambda: hands.now
    )
    gateway = await stack.enter_async_context(opening)
    judge = Known({candidate.name: verdict(300)})
    stage = Stage(gateway, judge, candidate.name, hands)
    stage.rollout.judge = judge
    await admit(stage, candidate)
    return stage


async def admit(stage: Stage, bundle: Path) -> str:
    """Put a bundle into the registry. What is added is rehearsed; that has tests of its own."""
    registry = stage.succession.registry
    registry._rehearsed.add(bundle.name)
    return (await asyncio.to_thread(registry.keep, bundle)).name


def during(
    folder: Path, work: Work, *, again: Work | None = None, seed: int = 0, **sections: Any
) -> list[Row]:
    """Do something with a stage; then `again`, after a restart. Returns the log, oldest first."""
    sections = {"promotion": {"steps": STEPS, **sections.pop("promotion", {})}, **sections}
    path = settings_file(folder, tickets=sections)
    candidate = tiny_bundle(folder / "new", bias={"fraud": 20.0}, seed=seed)

    now = [1_000_000.0]

    async def run(each: Work) -> None:
        async with AsyncExitStack() as stack:
            stage = await opened(stack, path, candidate, now[0])
            await each(stage)
            now[0] = stage.hands.now

    for each in (work, again):
        if each is not None:
            asyncio.run(run(each))
    engine = open_database(folder / "records.db")
    assert verify(engine).flaw is None
    rows = latest(engine, 100)[::-1]
    engine.dispose()
    return rows


def evidence(row: Row) -> Mapping[str, Any]:
    assert row.evidence is not None
    return row.evidence


def told(rows: list[Row]) -> list[tuple[str, str, str | None]]:
    """What was done, by whom, and to which bundle, after the start."""
    return [(row.what, row.who, row.new) for row in rows[1:]]


def intents(answers: list[Answer]) -> set[str]:
    return {each.prediction.heads[0].labels[0] for each in answers if each.prediction}


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        (None, "it is not under test"),
        (verdict(100), r"hold: disagreement is open at 4\.\d\d% \(limit 2\.00%\)"),
        (verdict(200, differing=60), "reject: disagreement is failed"),
        (verdict(300, lasts_s=7200.0), r"the test runs for another 2\.0 hours"),
    ],
)
def test_a_candidate_that_is_not_proved_is_refused_with_what_is_missing(
    tmp_path: Path, said: Verdict | None, missing: str
) -> None:
    async def work(stage: Stage) -> None:
        stage.judge.verdicts = {} if said is None else {stage.candidate: said}
        with pytest.raises(NotProved, match=missing) as caught:
            await stage.rollout.promote(stage.candidate, by="ann")
        assert "--override --why" in caught.value.mend
        assert (stage.at, stage.roles.canary) == (None, None)

    assert told(during(tmp_path, work)) == []


def test_a_proved_candidate_takes_its_steps_and_then_serves(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        old = stage.roles.serving
        await stage.rollout.promote(stage.candidate, by="ann", why="it is better")
        assert stage.at == 0.25
        assert not (await stage.rollout.promote(stage.candidate, by="bob")).changed
        await stage.after(60.0)
        assert stage.at == 0.25  # the time is up, and no row has come
        answers = await stage.ask()
        assert intents(answers) == {"refund", "fraud"}
        stage.hands.now -= 1.0
        await stage.after(0.0)
        assert stage.at == 0.25  # the rows have come, and the time is not up
        await stage.after(1.0)
        assert stage.at == 1.0
        assert stage.roles.serving == old
        assert intents(await stage.ask()) == {"fraud"}
        assert stage.counted
        await stage.after(600.0)
        assert stage.at is None
        assert (stage.roles.serving, stage.roles.previous) == (stage.candidate, old)
        assert not stage.counted  # its served error is its own
        assert intents(await stage.ask()) == {"fraud"}
        assert stage.counted
        change = await stage.succession.roll_back(by="bob")
        assert (change.serving, change.previous) == (old, stage.candidate)
        assert intents(await stage.ask()) == {"refund"}

    rows = during(tmp_path, work)
    name, old = rows[1].new, rows[0].new
    assert told(rows) == [
        ("promote", "ann", name), ("step", "canary", name), ("takeover", "canary", name),
        ("rollback", "bob", old), ("freeze", "bob", None),
    ]  # fmt: skip
    assert (rows[1].why, evidence(rows[1])["share"]) == ("it is better", 0.25)
    assert evidence(rows[1])["verdict"]["decision"] == "promote"
    assert evidence(rows[1])["verdict"]["findings"][0]["pairs"] == 300
    assert evidence(rows[2])["rows"] >= 5


def test_an_override_is_made_with_a_reason_and_noted_as_one(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        stage.judge.verdicts = {stage.candidate: verdict(100)}
        with pytest.raises(Invalid, match="an override without a reason"):
            await stage.rollout.promote(stage.candidate, by="ann", override=True)
        with pytest.raises(BundleMissing):
            await stage.rollout.promote("../x", by="ann", override=True, why="a slip")
        await stage.rollout.promote(stage.candidate, by="ann", override=True, why="the sale")
        assert stage.at == 0.25
        with pytest.raises(Conflict, match="is the canary of tickets already"):
            await stage.rollout.promote("another", by="ann", override=True, why="me too")

    (_, row) = during(tmp_path, work)
    assert (row.what, row.why, evidence(row)["verdict"]["decision"]) == (
        "override", "the sale", "hold",
    )  # fmt: skip


def test_a_second_person_approves_what_the_first_proposed(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        with pytest.raises(BundleMissing):
            await stage.rollout.promote("nowhere", by="ann", override=True, why="a slip")
        with pytest.raises(Invalid, match="nobody has proposed"):
            await stage.rollout.approve(stage.candidate, by="bob")
        await stage.rollout.promote(stage.candidate, by="ann")
        assert not (await stage.rollout.promote(stage.candidate, by="ann")).changed
        assert (stage.at, stage.roles.canary) == (None, None)
        with pytest.raises(Forbidden, match="ann has proposed"):
            await stage.rollout.approve(stage.candidate, by="ann")

    async def again(stage: Stage) -> None:
        stage.judge.verdicts = {}
        with pytest.raises(NotProved):  # it was, when it was proposed
            await stage.rollout.approve(stage.candidate, by="bob")
        stage.judge.verdicts = {stage.candidate: verdict(300)}
        await stage.rollout.approve(stage.candidate, by="bob", why="I looked too")
        assert not (await stage.rollout.approve(stage.candidate, by="bob")).changed
        assert (stage.at, stage.roles.proposal) == (0.25, None)

    rows = during(tmp_path, work, again=again, promotion={"second_person": True})
    assert [(what, who) for what, who, _ in told(rows)] == [("promote", "ann"), ("approve", "bob")]
    assert evidence(rows[1])["waits_for"] == "a second person"


def test_a_rollback_ends_the_canary_and_freezes_promotion_until_somebody_has_looked(
    tmp_path: Path,
) -> None:
    async def work(stage: Stage) -> None:
        old = stage.roles.serving
        await stage.rollout.promote(stage.candidate, by="ann")
        rung = stage.gateway.tasks[TASK.name].rung
        change = await stage.succession.roll_back(by="bob", why="complaints")
        assert (change.serving, change.roles.canary, stage.at) == (old, None, None)
        assert stage.gateway.tasks[TASK.name].rung is rung
        assert intents(await stage.ask()) == {"refund"}

    async def again(stage: Stage) -> None:
        with pytest.raises(PromotionFrozen, match="frozen: complaints"):
            await stage.rollout.promote(stage.candidate, by="ann")
        with pytest.raises(Invalid, match="nothing is said"):
            await stage.rollout.unfreeze(by="ann", why=" ")
        await stage.rollout.unfreeze(by="ann", why="it was the data")
        assert not (await stage.rollout.unfreeze(by="ann", why="it was the data")).changed
        await stage.rollout.promote(stage.candidate, by="ann")
        await stage.rollout.freeze(by="ann", why="a holiday")
        assert not (await stage.rollout.freeze(by="bob", why="me too")).changed
        await stage.ask()
        await stage.after(3600.0)
        assert stage.at == 0.25  # a frozen canary takes no further step

    rows = during(tmp_path, work, again=again)
    assert [row.what for row in rows[1:]] == [
        "promote", "rollback", "freeze", "unfreeze", "promote", "freeze",
    ]  # fmt: skip
    assert rows[4].evidence == {"was": "complaints"}


def test_a_restart_goes_on_with_the_step_that_was_reached(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        await stage.rollout.promote(stage.candidate, by="ann")
        await stage.ask()
        await stage.after(60.0)
        assert stage.at == 1.0

    async def again(stage: Stage) -> None:
        assert stage.at == 1.0
        assert intents(await stage.ask()) == {"fraud"}
        await stage.after(599.0)
        assert stage.at == 1.0
        await stage.after(1.0)
        assert stage.roles.serving == stage.candidate

    during(tmp_path, work, again=again)


def test_a_canary_that_differs_from_the_teacher_goes_back_by_itself(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        await stage.rollout.promote(stage.candidate, by="ann")
        for _ in range(4):
            await stage.ask()
            await stage.succession.auditor.close()  # all audits are done
        await stage.after(0.0)
        assert (stage.at, stage.roles.canary) == (None, None)
        assert stage.roles.frozen is not None
        assert "disagrees with the teacher in more than 10.0%" in stage.roles.frozen.why

    teacher = {"scripted": {"labels": {"intent": "refund"}}}
    rows = during(tmp_path, work, teacher=teacher, audit={"share": 1.0})
    assert [(row.what, row.who) for row in rows[1:]] == [
        ("promote", "ann"), ("rollback", "alarm"), ("freeze", "alarm"),
    ]  # fmt: skip


def test_a_canary_that_fails_goes_back_and_another_is_watched_anew(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        await stage.rollout.promote(stage.candidate, by="ann")
        lookout, canary = stage.succession.lookout, stage.gateway.tasks[TASK.name].canary
        assert canary is not None
        for answer in await stage.ask():
            lookout.answered(replace(answer, student=None))
        assert lookout.why is not None
        assert "fails on more than 1.0%" in lookout.why
        await stage.after(0.0)
        assert stage.at is None
        await stage.rollout.unfreeze(by="ann", why="a bad disk")
        await stage.rollout.promote(stage.candidate, by="ann")
        assert lookout.why is None

    during(tmp_path, work)


def test_a_proved_candidate_begins_by_itself_only_where_the_settings_say_so(
    tmp_path: Path,
) -> None:
    async def work(stage: Stage) -> None:
        await stage.after(30.0)
        assert stage.at == 0.25

    rows = during(tmp_path / "on", work, promotion={"automatic": True})
    assert [(what, who) for what, who, _ in told(rows)] == [("promote", "automatic")]

    async def off(stage: Stage) -> None:
        await stage.after(3600.0)
        assert stage.at is None

    assert told(during(tmp_path / "off", off)) == []


def test_a_new_student_has_a_safety_net_for_its_first_days(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        assert {each.route for each in await stage.ask()} == {Route.STUDENT}
        await stage.succession.swap(stage.candidate, by="ann")
        said = await stage.ask()
        assert {(each.decision.reason, each.decision.detail) for each in said} == {
            (Reason.HIGH_RISK, "safety_net")
        }
        stage.hands.now += 2 * 86_400.0
        assert {each.route for each in await stage.ask()} == {Route.STUDENT}

    during(tmp_path, work, promotion={"safety_net": {"share": 1.0, "days": 2}})


def test_a_net_for_labels_that_nobody_says_is_refused_at_the_start(tmp_path: Path) -> None:
    async def work(_stage: Stage) -> None:
        raise AssertionError

    rule = {"name": "odd", "head": "intent", "labels": ["theft"]}
    net = {"share": 1.0, "days": 2, "rules": [rule]}
    with pytest.raises(SettingsError, match=r"safety_net\.rules\.0 \(odd\).*no label 'theft'"):
        during(tmp_path, work, promotion={"safety_net": net})


def test_a_candidate_with_other_labels_is_no_canary(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        name = await admit(stage, tiny_bundle(tmp_path / "renamed", task=RENAMED))
        with pytest.raises(BundleMismatch, match="cannot be a canary") as caught:
            await stage.rollout.promote(name, by="ann", override=True, why="new words")
        assert f"students swap {name}" in caught.value.mend

    during(tmp_path, work)


def test_a_reload_leaves_the_canary_on_its_step_under_the_new_settings(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        await stage.rollout.promote(stage.candidate, by="ann")
        path = tmp_path / "understudy.yaml"
        path.write_text(path.read_text().replace("share: 0.25", "share: 0.5"))
        await reload(stage.gateway, by="ann")
        assert (stage.at, stage.roles.canary and stage.roles.canary.step) == (0.5, 0)
        assert intents(await stage.ask()) == {"refund", "fraud"}
        await stage.succession.swap(stage.candidate, by="ann")  # and a swap ends it
        assert (stage.at, stage.roles.canary) == (None, None)

    during(tmp_path, work)


def test_replicas_that_share_a_registry_follow_each_other(tmp_path: Path) -> None:
    promotion = {"steps": STEPS}
    path = settings_file(tmp_path, tickets={"promotion": promotion}, records={"enabled": False})
    candidate = tiny_bundle(tmp_path / "new", bias={"fraud": 20.0})

    async def run() -> None:
        async with AsyncExitStack() as stack:
            one, two = [await opened(stack, path, candidate) for _ in range(2)]
            old = one.roles.serving
            await one.rollout.promote(candidate.name, by="ann")
            await two.after(0.0)
            assert (two.at, two.roles) == (0.25, one.roles)
            change = await one.succession.roll_back(by="ann", leaving=candidate.name)
            assert change.changed
            change = await two.succession.roll_back(by="ann", leaving=candidate.name)
            assert (change.changed, change.serving, two.at) == (False, old, None)
            assert two.roles.frozen == one.roles.frozen
            await one.succession.swap(candidate.name, by="ann")
            stale = two.roles.model_copy(update={"frozen": None})
            with pytest.raises(Conflict, match="another replica"):
                await two.succession.become(stale)
            await two.after(0.0)
            assert two.roles.serving == candidate.name
            assert intents(await two.ask()) == {"fraud"}

    asyncio.run(run())


def test_a_rollback_goes_through_though_another_replica_changes_something_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(stage: Stage) -> None:
        registry, others = stage.succession.registry, [Frozen(why="an alarm", at=1.0)]
        written = registry.replace

        def overtaken(seen: Roles | None, roles: Roles, *, first: Callable[[], None]) -> None:
            if others and seen is not None:
                registry.remember(seen.model_copy(update={"frozen": others.pop()}))
            written(seen, roles, first=first)

        await stage.rollout.promote(stage.candidate, by="ann")
        monkeypatch.setattr(registry, "replace", overtaken)
        change = await stage.succession.roll_back(by="bob", why="complaints")
        assert (change.roles.canary, others) == (None, [])
        assert change.roles.frozen == Frozen(why="an alarm", at=1.0)  # it was the first

    rows = during(tmp_path, work)
    assert [row.what for row in rows[1:]] == ["promote", "rollback"]


def test_what_cannot_be_followed_is_tried_again_later_and_costs_no_answer(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        lost = stage.roles.model_copy(update={"serving": "tickets-0123456789ab"})
        await asyncio.to_thread(stage.succession.registry.remember, lost)
        await stage.after(0.0)
        with pytest.raises(UnderstudyError, match="has no bundle"):
            await stage.succession.catch_up()
        assert intents(await stage.ask()) == {"refund"}
        found = lost.model_copy(update={"serving": stage.candidate})
        await asyncio.to_thread(stage.succession.registry.remember, found)
        await stage.after(4.0)
        assert stage.roles.serving != stage.candidate
        await stage.after(1.0)
        assert stage.roles.serving == stage.candidate

    during(tmp_path, work)

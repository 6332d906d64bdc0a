"""How a candidate comes to serve and what stops it: a real gateway, and a clock that is told."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import assembly, settings
from gateway.api.stats import canaries, stats_of
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
)
from gateway.reload import reload
from gateway.shadow.alarm import Level
from gateway.shadow.promotion import Gate, Pair, Terms, Trial, Verdict
from gateway.shadow.streams import Reading, Stream
from gateway.store.changes import Anchor, Entry, Row, What, latest, verify
from gateway.store.database import open_database
from gateway.students.registry import Frozen, Roles
from gateway.students.student import Student
from gateway.students.vacancy import NO_STUDENT
from gateway.succession import retreat
from gateway.succession.change import Basis
from gateway.succession.line import Succession
from gateway.succession.rollout import Rollout
from gateway.types import Answer, Coin, Decision, Instance, Reason, Route
from gateway.types import Terms as Asked
from tests.acceptance.process import TIMEOUT_S
from tests.factories import CONFIDENT, TASK, settings_file, tiny_bundle
from tests.gateway.succession.test_line import RENAMED
from tests.gateway.telemetry.answers import audit

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
    return trial.verdict()


@pytest.fixture(autouse=True)
def _nobody_else_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice in a second a gateway looks what is due; here only a test does, so that it knows when.

    That gateways look by themselves is for tests with real processes.
    """

    async def never(_rollouts: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(assembly, "keep_looking", never)


@dataclass
class Known:
    """A judge who knows what it is told."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)

    async def verdict(self, bundle: str) -> Verdict | None:
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
        """Let time pass, and look what is due."""
        self.hands.now += seconds
        await self.rollout.look()
        await self.rollout.settled()


Work = Callable[[Stage], Awaitable[None]]


def fail(stage: Stage, answers: list[Answer]) -> None:
    """As if the canary had failed on its part of these, one a second: so many rows of its alarm."""
    for second, answer in enumerate(answers):
        decision = Decision(
            escalate=True, reason=Reason.STUDENT_FAILED, reasons=(Reason.STUDENT_FAILED,)
        )
        at = stage.hands.now + second
        failed = replace(answer, student=None, prediction=None, decision=decision, at=at)
        stage.succession.lookout.answered(failed)


class Hanging:
    """A rehearsal that does not end before it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self, _bundle: Path) -> None:
        """Rehearse."""
        self.begun.set()
        self.go.wait(TIMEOUT_S)


def rehearsed_by(stage: Stage, rehearse: Callable[[Path], None]) -> None:
    """From now on the stage's gateway rehearses the candidate so before it loads it."""
    registry = stage.succession.registry
    registry._rehearsed.discard(stage.candidate)
    registry._rehearse = rehearse


@asynccontextmanager
async def replicas(folder: Path, **tickets: Any) -> AsyncIterator[tuple[Stage, Stage]]:
    """Two gateways that share a registry, and no log."""
    tickets = {"promotion": {"steps": STEPS}} | tickets
    path = settings_file(folder, tickets=tickets, records={"enabled": False})
    candidate = tiny_bundle(folder / "new", bias={"fraud": 20.0})
    async with AsyncExitStack() as stack:
        one, two = [await opened(stack, path, candidate) for _ in range(2)]
        yield one, two


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the task in the settings file."""
    path = folder / "understudy.yaml"
    content = yaml.safe_load(path.read_text())
    change(content["tasks"][TASK.name])
    path.write_text(yaml.safe_dump(content))


async def opened(
    stack: AsyncExitStack, path: Path, candidate: Path, now: float = 1_000_000.0
) -> Stage:
    """A gateway that has the candidate, under a judge who has proved it."""
    hands = Hands(now)
    opening = open_gateway(
        settings.load(path),
        read=lambda: settings.load(path),
        clock=lambda: hands.now,
        ticks=lambda: hands.now,
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
        with pytest.raises(Forbidden, match="without keys nobody can be told"):
            await stage.rollout.approve(stage.candidate, by="(no key)")
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
        with pytest.raises(NotProved, match="was rolled back"):
            await stage.rollout.promote(stage.candidate, by="ann")
        await stage.rollout.promote(stage.candidate, by="ann", override=True, why="I looked")
        await stage.rollout.freeze(by="ann", why="a holiday")
        assert not (await stage.rollout.freeze(by="bob", why="me too")).changed
        await stage.ask()
        await stage.after(3600.0)
        assert stage.at == 0.25  # a frozen canary takes no further step

    rows = during(tmp_path, work, again=again)
    assert [row.what for row in rows[1:]] == [
        "promote", "rollback", "freeze", "unfreeze", "override", "freeze",
    ]  # fmt: skip
    assert rows[4].evidence == {"was": "complaints"}


def test_a_rollback_to_the_teacher_lets_every_student_go_whoever_they_are(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        held = stage.succession
        await stage.rollout.promote(stage.candidate, by="ann")
        other = sqlite3.connect(tmp_path / "records.db", isolation_level=None)
        with closing(other):
            other.execute("BEGIN IMMEDIATE")  # nobody else can write now
            change = await held.clear(by="bob", why="both")
            assert (change.changed, change.serving, change.roles.canary) == (True, NO_STUDENT, None)
        assert {each.route for each in await stage.ask()} == {Route.TEACHER}
        assert not (await held.clear(by="bob")).changed
        with pytest.raises(BundleMissing, match="was rolled back itself") as refused:
            await held.roll_back(by="bob")
        assert "--to-teacher" not in str(refused.value)  # it answers alone already
        await stage.rollout.unfreeze(by="ann", why="I looked")
        with pytest.raises(NotProved, match="was rolled back"):
            await stage.rollout.promote(stage.candidate, by="ann")
        await stage.rollout.promote(stage.candidate, by="ann", override=True, why="again")
        assert Route.STUDENT in {each.route for each in await stage.ask()}
        change = await held.clear(by="bob", why="no")  # nobody serves, and a canary answers
        assert (change.changed, change.roles.canary) == (True, None)
        await stage.rollout.unfreeze(by="ann", why="I looked")
        assert (await held.clear(by="bob", why="nobody comes")).roles.frozen is not None

    rows = during(tmp_path, work)
    old, new = rows[1].old, rows[1].new
    assert [(row.what, row.old, row.new) for row in rows[2:]] == [
        ("rollback", new, NO_STUDENT), ("rollback", old, NO_STUDENT), ("freeze", None, None),
        ("unfreeze", None, None), ("override", NO_STUDENT, new),
        ("rollback", new, NO_STUDENT), ("freeze", None, None),
        ("unfreeze", None, None), ("freeze", None, None),
    ]  # fmt: skip


def test_the_teacher_alone_answers_at_once_beside_a_rollback_that_still_loads_a_student(
    tmp_path: Path,
) -> None:
    hanging = Hanging()

    async def work(stage: Stage) -> None:
        held = stage.succession
        other = await admit(stage, tiny_bundle(tmp_path / "other", seed=3, bias={"other": 20.0}))
        held.registry._rehearsed.discard(other)
        held.registry._rehearse = hanging
        held.registry.remember(stage.roles.model_copy(update={"previous": other}))
        back = asyncio.create_task(held.roll_back(by="bob"))
        assert await asyncio.to_thread(hanging.begun.wait, TIMEOUT_S)
        change = await held.clear(by="ann", why="now")
        assert (change.serving, back.done()) == (NO_STUDENT, False)
        assert {each.route for each in await stage.ask()} == {Route.TEACHER}
        hanging.go.set()
        assert not (await back).changed
        assert (stage.roles.serving, held.registry.roles()) == (NO_STUDENT, stage.roles)

    rows = during(tmp_path, work)
    assert [(row.what, row.who) for row in rows[1:]] == [("rollback", "ann"), ("freeze", "ann")]


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
        fail(stage, await stage.ask())
        assert lookout.why is not None
        assert "fails on more than 1.0%" in lookout.why
        await stage.after(0.0)
        assert stage.at is None
        await stage.rollout.unfreeze(by="ann", why="a bad disk")
        await stage.rollout.promote(stage.candidate, by="ann", override=True, why="another disk")
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
            with pytest.raises(Conflict, match="just been changed"):
                await two.succession.become(Basis(two.roles, two.roles), stale)
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

        def overtaken(seen: Roles | None, roles: Roles) -> None:
            if others and seen is not None:
                registry.remember(seen.model_copy(update={"frozen": others.pop()}))
            written(seen, roles)

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
        assert stage.roles.serving != lost.serving
        assert intents(await stage.ask()) == {"refund"}
        found = lost.model_copy(update={"serving": stage.candidate})
        await asyncio.to_thread(stage.succession.registry.remember, found)
        await stage.after(0.0)
        assert stage.roles.serving == stage.candidate

    during(tmp_path, work)


def test_a_reload_on_a_second_replica_undoes_nothing_of_the_first(tmp_path: Path) -> None:
    async def run() -> None:
        async with replicas(tmp_path) as (one, two):
            old = one.roles.serving
            new = tiny_bundle(tmp_path / "newer", seed=7)
            rewrite(tmp_path, lambda task: task["student"].update(bundle=str(new)))
            await reload(one.gateway, by="ann")
            assert one.roles.serving == new.name
            await one.succession.roll_back(by="ann", why="complaints")
            with pytest.raises(Conflict, match="was told to serve"):
                await two.rollout.unfreeze(by="bob", why="I know nothing of it")
            await reload(two.gateway, by="ann")
            for each in (one, two):
                assert (each.roles.serving, each.roles.previous) == (old, new.name)
                assert each.roles.frozen is not None
                assert each.roles.frozen.why == "complaints"
                assert intents(await each.ask()) == {"refund"}
            assert two.succession.registry.roles() == one.roles

    asyncio.run(run())


def test_a_rollback_between_the_preparation_of_a_reload_and_its_end_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(stage: Stage) -> None:
        await stage.rollout.promote(stage.candidate, by="ann")
        held, prepare = stage.succession, stage.succession.prepare
        waiting = [True]

        async def overtaken(task: Any) -> Any:
            ready = await prepare(task)
            if waiting.pop() if waiting else False:
                await held.roll_back(by="bob", why="just then")
            return ready

        monkeypatch.setattr(held, "prepare", overtaken)
        rewrite(tmp_path, lambda task: task["promotion"].update(key="user"))
        done = await reload(stage.gateway, by="ann")
        assert done.applied == ("tasks.tickets.promotion.key",)
        assert (stage.at, stage.roles.canary, waiting) == (None, None, [])
        assert stage.roles.frozen is not None

    rows = during(tmp_path, work)
    assert [row.what for row in rows[1:]][-1] == "reload"
    assert "rollback" in {row.what for row in rows}


def test_a_replica_that_cannot_load_the_canary_goes_on_without_and_can_still_go_back(
    tmp_path: Path,
) -> None:
    def refuse(_bundle: Path) -> None:
        raise BundleMismatch("it does not run on this host", mend="mend the host")

    async def run() -> None:
        async with replicas(tmp_path) as (one, two):
            rehearsed_by(two, refuse)
            await one.rollout.promote(one.candidate, by="ann")
            await two.after(0.0)
            assert (one.at, two.at) == (0.25, None)
            assert two.roles.canary == one.roles.canary
            assert intents(await two.ask()) == {"refund"}
            shown = (await stats_of(two.gateway)).tasks[TASK.name].canary
            assert shown is not None
            assert (shown.absent, shown.by) == ("it does not run on this host", "ann")
            assert (shown.step, shown.steps, shown.share) == (1, 2, 0.25)
            two.gateway.metrics.climbing(canaries(two.gateway))
            assert 'canary_absent{task="tickets"} 1.0' in two.gateway.metrics.render().decode()
            one.gateway.metrics.climbing(canaries(one.gateway))
            for line in (b"canary_absent", b"canary_step"):
                value = b"0.0" if line == b"canary_absent" else b"1.0"
                assert line + b'{task="tickets"} ' + value in one.gateway.metrics.render()
            await two.succession.freeze(by="bob", why="a holiday")
            await two.succession.roll_back(by="bob", why="complaints")
            await one.after(0.0)
            assert (one.at, one.roles.canary, one.roles.frozen) == (None, None, two.roles.frozen)
            assert (await stats_of(two.gateway)).tasks[TASK.name].canary is None
            # and where it cannot load who serves, its alarm is about who answers: nobody is harmed
            await one.succession.swap(one.candidate, by="ann")
            await two.after(0.0)
            assert intents(await two.ask()) == {"refund"}
            change = await two.succession.roll_back(by="bob", leaving=one.candidate)
            assert change.changed
            await one.after(0.0)
            assert intents(await one.ask()) == {"refund"}

    asyncio.run(run())


def test_whatever_is_wrong_with_the_previous_student_an_alarm_ends_at_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(stage: Stage) -> None:
        held, old = stage.succession, stage.roles.serving
        ready, wrong = held._wings.ready, [Exception()]

        async def broken(name: str, *said: Any) -> Any:
            if name == old:
                raise wrong[0]
            return await ready(name, *said)

        for error in (
            SettingsError("no such operating point", mend="name another"),
            OSError("the disk does not answer"),
        ):
            await held.swap(stage.candidate, by="ann")
            with monkeypatch.context() as patch:
                wrong[0] = error
                patch.setattr(held._wings, "ready", broken)
                change = await held.send_away(
                    stage.candidate, by="alarm", why="it errs", evidence={}, freeze_only=False
                )
            assert (change.serving, change.roles.sent_back) == (NO_STUDENT, (stage.candidate,))
            assert {each.route for each in await stage.ask()} == {Route.TEACHER}
            await stage.rollout.unfreeze(by="ann", why="a round of the test")
            await held.swap(old, by="ann")

    during(tmp_path, work)


def test_nothing_unforeseen_ends_a_rescue_before_another_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(stage: Stage) -> None:
        held, old = stage.succession, stage.roles.serving
        await held.swap(stage.candidate, by="ann")
        registry, bundle = held.registry, stage.gateway.tasks[TASK.name].rung.bundle
        errors, written = [OSError("EIO"), OSError("EIO")], registry.replace

        def unsteady(*said: Any) -> None:
            if errors:
                raise errors.pop()
            written(*said)

        def unread() -> tuple[str, ...]:
            raise OSError("EIO")

        assert bundle is not None
        # It holds up the previous student, and then the teacher; then there is a new round.
        monkeypatch.setattr(retreat, "_LATER_S", 0.0)
        monkeypatch.setattr(registry, "replace", unsteady)
        monkeypatch.setattr(registry, "names", unread)
        alarm = Reading(Stream.ERROR, Level.ALARM, 0.1, 300.0, 200.0, 4, 4.0)
        held._retreat.ring(bundle.id, alarm)
        assert held._retreat.rescuing is not None
        await held._retreat.rescuing
        assert (stage.roles.serving, errors) == (old, [])

    during(tmp_path, work, alarms={"action": "rollback"})


def test_two_rollbacks_at_once_on_two_replicas_go_back_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with replicas(tmp_path) as (one, two):
            old = one.roles.serving
            await one.succession.swap(one.candidate, by="ann")
            registry, written = one.succession.registry, one.succession.registry.replace
            loop, others = asyncio.get_running_loop(), [two.succession.roll_back]

            def overtaken(*said: Any) -> None:
                while others:
                    change = others.pop()(by="bob")
                    asyncio.run_coroutine_threadsafe(change, loop).result(TIMEOUT_S)
                written(*said)

            monkeypatch.setattr(registry, "replace", overtaken)
            change = await one.succession.roll_back(by="ann")
            assert (change.changed, change.serving, others) == (False, old, [])
            for each in (one, two):
                assert (each.roles.serving, each.roles.sent_back) == (old, (one.candidate,))

    asyncio.run(run())


def test_who_is_told_what_another_replica_has_just_done_finds_it_done(tmp_path: Path) -> None:
    async def run() -> None:
        async with replicas(tmp_path) as (one, two):
            await one.succession.swap(one.candidate, by="ann")
            change = await two.succession.swap(one.candidate, by="ann")
            assert (change.changed, change.serving) == (False, one.candidate)
            assert intents(await two.ask()) == {"fraud"}

    asyncio.run(run())


def test_the_way_back_is_loaded_after_a_restart_and_a_freeze_does_not_wait_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging()

    async def work(stage: Stage) -> None:
        await stage.succession.swap(stage.candidate, by="ann")

    async def again(stage: Stage) -> None:
        held, old = stage.succession, stage.roles.previous
        await stage.after(0.0)
        assert held._arrivals._backing is not None
        await held._arrivals._backing

        def refuse(*_said: Any) -> None:
            raise AssertionError

        with monkeypatch.context() as patch:
            patch.setattr(held._wings, "_opened", refuse)
            assert (await held.roll_back(by="bob")).serving == old
        other = await admit(stage, tiny_bundle(tmp_path / "other", seed=3, bias={"other": 20.0}))
        await stage.rollout.unfreeze(by="ann", why="I looked")
        held.registry._rehearsed.discard(other)
        held.registry._rehearse = hanging
        held.registry.remember(stage.roles.model_copy(update={"previous": other}))
        back = asyncio.create_task(held.roll_back(by="bob"))
        assert await asyncio.to_thread(hanging.begun.wait, TIMEOUT_S)
        change = await stage.rollout.freeze(by="ann", why="a holiday")
        assert (change.changed, change.serving, back.done()) == (True, old, False)
        hanging.go.set()
        assert (await back).serving == other
        assert stage.roles.frozen is not None
        assert stage.roles.frozen.why == "a holiday"

    during(tmp_path, work, again=again)


@pytest.mark.parametrize("by", ["a person", "an alarm"])
def test_who_goes_back_waits_for_the_heir_that_is_on_the_way_and_loads_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    hanging = Hanging()

    async def work(stage: Stage) -> None:
        held = stage.succession
        await held.swap(stage.candidate, by="ann")
        heir = await admit(stage, tiny_bundle(tmp_path / "heir", seed=3, bias={"other": 20.0}))
        loaded, load = list[str](), held._wings._opened

        def counted(name: str, task: settings.TaskSettings) -> Student:
            loaded.append(name)
            return load(name, task)

        backed, waits = held._arrivals.backed, asyncio.Event()

        async def awaited(heir: str) -> None:
            waits.set()
            await backed(heir)

        monkeypatch.setattr(held._wings, "_opened", counted)
        monkeypatch.setattr(held._arrivals, "backed", awaited)
        held.registry._rehearsed.discard(heir)
        held.registry._rehearse = hanging
        held.registry.remember(stage.roles.model_copy(update={"previous": heir}))
        await held.catch_up()
        assert await asyncio.to_thread(hanging.begun.wait, TIMEOUT_S)
        going = (
            held.roll_back(by="bob")
            if by == "a person"
            else held.send_away(
                stage.candidate, by="alarm", why="it errs", evidence={}, freeze_only=False
            )
        )
        back = asyncio.create_task(going)
        await asyncio.wait_for(waits.wait(), TIMEOUT_S)
        hanging.go.set()
        assert ((await back).serving, loaded) == (heir, [heir])

    during(tmp_path, work)


def test_a_wish_that_is_cancelled_after_its_row_still_takes_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(stage: Stage) -> None:
        held, move = stage.succession, stage.succession.stage.move
        noted, go = asyncio.Event(), asyncio.Event()

        async def slow(*said: Any) -> None:
            noted.set()
            await go.wait()
            await move(*said)

        monkeypatch.setattr(held.stage, "move", slow)
        wish = asyncio.create_task(held.swap(stage.candidate, by="ann"))
        await noted.wait()
        wish.cancel()
        asyncio.get_running_loop().call_soon(go.set)
        with pytest.raises(asyncio.CancelledError):
            await wish
        assert stage.roles.serving == stage.candidate
        assert intents(await stage.ask()) == {"fraud"}

    rows = during(tmp_path, work)
    assert [row.what for row in rows[1:]] == ["swap"]


def test_a_look_that_fails_holds_back_no_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(stage: Stage) -> None:
        async def uncounted() -> None:
            raise SettingsError("the disk is full", mend="make room")

        await stage.rollout.promote(stage.candidate, by="ann")
        monkeypatch.setattr(stage.succession, "count", uncounted)
        await stage.rollout.look()
        fail(stage, await stage.ask())
        await stage.rollout.look()  # no time has passed, and the pause has not
        assert (stage.at, stage.roles.sent_back) == (None, (stage.candidate,))

    assert [row.who for row in during(tmp_path, work)[2:]] == ["alarm", "alarm"]


def test_a_rollback_waits_for_no_student_that_is_being_loaded(tmp_path: Path) -> None:
    hanging = Hanging()

    async def work(stage: Stage) -> None:
        held, old = stage.succession, stage.roles.serving
        other = await admit(stage, tiny_bundle(tmp_path / "other", seed=3, bias={"other": 20.0}))
        await held.swap(other, by="ann")
        rehearsed_by(stage, hanging)
        swap = asyncio.create_task(held.swap(stage.candidate, by="ann"))
        assert await asyncio.to_thread(hanging.begun.wait, TIMEOUT_S)
        change = await held.roll_back(by="bob", why="complaints")
        assert (change.serving, swap.done()) == (old, False)
        assert intents(await stage.ask()) == {"refund"}
        hanging.go.set()
        with pytest.raises(Conflict):
            await swap
        assert (stage.roles.serving, held.registry.roles()) == (old, stage.roles)

    rows = during(tmp_path, work)
    assert [(row.what, row.who) for row in rows[1:]] == [
        ("swap", "ann"), ("rollback", "bob"), ("freeze", "bob"),
    ]  # fmt: skip


def test_a_replica_that_still_loads_the_canary_follows_its_rollback(tmp_path: Path) -> None:
    hanging = Hanging()

    async def run() -> None:
        async with replicas(tmp_path) as (one, two):
            rehearsed_by(two, hanging)
            await one.rollout.promote(one.candidate, by="ann")
            await two.rollout.look()
            assert await asyncio.to_thread(hanging.begun.wait, TIMEOUT_S)
            await one.succession.roll_back(by="bob", why="complaints")
            await two.rollout.look()
            assert two.roles.frozen == one.roles.frozen
            hanging.go.set()
            await two.after(0.0)
            assert (two.at, two.roles.canary) == (None, None)

    asyncio.run(run())


def test_a_rollback_holds_before_its_row_can_be_written_and_the_row_comes_once(
    tmp_path: Path,
) -> None:
    async def work(stage: Stage) -> None:
        held = stage.succession
        await stage.rollout.promote(stage.candidate, by="ann")
        other = sqlite3.connect(tmp_path / "records.db", isolation_level=None)
        with closing(other):
            other.execute("BEGIN IMMEDIATE")  # nobody else can write now
            await held.roll_back(by="bob", why="complaints")
            found = held.registry.roles()
            assert found is not None
            assert (stage.at, found.canary) == (None, None)
            assert [each.what for each in found.owed] == ["rollback", "freeze"]
        await stage.rollout.unfreeze(by="ann", why="I looked")  # what was before it comes before
        assert (stage.roles.owed, held.registry.roles()) == ((), stage.roles)
        again = {
            each.id: Entry(what=What.ROLLBACK, who="bob", task=TASK.name) for each in found.owed
        }
        assert held._changes is not None
        await asyncio.to_thread(held._changes.append_once, TASK.name, again)

    rows = during(tmp_path, work)
    assert [row.what for row in rows[1:]] == ["promote", "rollback", "freeze", "unfreeze"]
    assert evidence(rows[2])["held_at"] == 1_000_000.0


def test_a_wish_that_a_rollback_overtakes_is_withdrawn_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(stage: Stage) -> None:
        held = stage.succession
        await stage.rollout.promote(stage.candidate, by="ann")
        changes, loop = held._changes, asyncio.get_running_loop()
        assert changes is not None
        append = changes.append

        def overtaken(*entries: Entry) -> Anchor:
            done = append(*entries)
            if entries[0].what is What.SWAP:
                going = held.roll_back(by="bob", why="just then")
                asyncio.run_coroutine_threadsafe(going, loop).result(TIMEOUT_S)
            return done

        monkeypatch.setattr(changes, "append", overtaken)
        with pytest.raises(Conflict):
            await held.swap(stage.candidate, by="ann")
        assert (stage.at, stage.roles.serving != stage.candidate) == (None, True)

    rows = during(tmp_path, work)
    assert [(row.what, row.who) for row in rows[1:]] == [
        ("promote", "ann"), ("swap", "ann"), ("rollback", "bob"), ("freeze", "bob"),
        ("withdrawn", "ann"),
    ]  # fmt: skip


def test_a_canary_at_100_percent_that_is_late_or_misses_what_is_critical_goes_back(
    tmp_path: Path,
) -> None:
    steps = [{"share": 1.0, "minimum_s": 1e6, "rows": 0}]
    alarms = {"action": "none", "latency_ms": 0.001}

    async def late(stage: Stage) -> None:
        await stage.rollout.promote(stage.candidate, by="ann")
        for _ in range(12):
            await stage.ask()
            stage.hands.now += 1.0
        await stage.after(0.0)
        assert stage.at is None
        assert stage.roles.frozen is not None
        assert "is late with more than 5.0%" in stage.roles.frozen.why

    rows = during(tmp_path / "late", late, promotion={"steps": steps}, alarms=alarms)
    (gone,) = [row for row in rows if row.what == "rollback"]
    assert (gone.who, evidence(gone)["stream"]) == ("alarm", "latency")

    async def missing(stage: Stage) -> None:
        old = (await stage.ask())[0].student
        await stage.rollout.promote(stage.candidate, by="ann")
        assert old is not None
        for answer in (await stage.ask())[:40]:  # audits in which the teacher says: refund
            drawn = replace(answer, coin=Coin.UNIFORM, prediction=answer.student)
            stage.succession.lookout.audited(audit(drawn, old))
        await stage.after(0.0)
        assert stage.roles.frozen is not None
        assert "misses what is critical in more than 10.0%" in stage.roles.frozen.why

    promotion = {"steps": steps, "alarm": {"disagreement": None}}
    policy = {"critical": {"labels": {"intent": ["refund"]}}}
    during(tmp_path / "missing", missing, promotion=promotion, policy=policy)


def test_a_reload_of_the_alarm_reaches_a_canary_that_runs(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        await stage.rollout.promote(stage.candidate, by="ann")
        fail(stage, await stage.ask())
        await stage.after(0.0)
        assert stage.at == 0.25  # nobody wanted to know
        rewrite(tmp_path, lambda task: task["promotion"].update(alarm={"failures": 0.01}))
        await reload(stage.gateway, by="ann")
        assert stage.at == 0.25
        fail(stage, await stage.ask())
        await stage.after(0.0)
        assert stage.at is None

    during(tmp_path, work, promotion={"alarm": {"failures": None}})


def test_who_was_rolled_back_is_not_promoted_by_itself_again(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        await stage.after(30.0)
        assert stage.at == 0.25
        await stage.succession.roll_back(by="bob", why="complaints")
        await stage.rollout.unfreeze(by="bob", why="it was the data")
        await stage.after(31.0)
        held = stage.roles
        assert (held.canary, held.sent_back) == (None, (stage.candidate,))
        await stage.rollout.promote(stage.candidate, by="ann", override=True, why="new data")
        again = stage.roles
        assert (again.canary is not None, again.sent_back) == (True, ())

    during(tmp_path, work, promotion={"automatic": True})


def test_of_two_proposals_the_second_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        other = await admit(stage, tiny_bundle(tmp_path / "other", seed=3))
        override = {"override": True, "why": "a test"}
        await stage.rollout.promote(stage.candidate, by="ann")
        with pytest.raises(Conflict, match="ann has proposed it") as caught:
            await stage.rollout.promote(other, by="bob", **override)  # type: ignore[arg-type]
        assert f"students approve {stage.candidate}" in caught.value.mend
        await stage.rollout.promote(other, by="ann", **override)  # type: ignore[arg-type]
        assert stage.roles.proposal is not None
        assert stage.roles.proposal.bundle == other  # who proposed may change their mind
        await stage.rollout.freeze(by="bob", why="neither")
        assert stage.roles.proposal is None

    during(tmp_path, work, promotion={"second_person": True})


def test_the_rows_of_a_step_are_those_of_all_replicas(tmp_path: Path) -> None:
    steps = [{"share": 0.25, "minimum_s": 60.0, "rows": 40}, STEPS[1]]

    async def run() -> None:
        async with replicas(tmp_path, promotion={"steps": steps}) as (one, two):
            await one.rollout.promote(one.candidate, by="ann")
            await two.after(60.0)
            rows = sum("fraud" in intents([each]) for each in await one.ask())
            assert 20 <= rows < 40
            await one.after(60.0)
            assert one.at == 0.25
            await two.ask()
            await two.rollout.look()  # the clock of this one has come as far: who is first steps
            await two.rollout.settled()
            await one.after(0.0)
            assert (one.at, two.at) == (1.0, 1.0)
            progress = one.rollout.progress()
            assert progress is not None
            assert (progress.step, progress.rows, progress.by) == (2, 0, "ann")
            await one.ask()
            await one.rollout.look()
            await two.rollout.look()
            assert two.rollout.progress() == one.rollout.progress()
            assert two.succession.rows == len(TEXTS)

    asyncio.run(run())

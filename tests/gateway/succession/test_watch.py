"""The watch over a task: alarms that send a student away, drift that makes a certificate stale.

All in a real gateway: a tiny bundle, a scripted teacher, SQLite, the registry's files.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import settings
from gateway.api.stats import stats_of, validities, watched
from gateway.assembly import Gateway, open_gateway
from gateway.contract import archive
from gateway.reload import reload
from gateway.shadow.alarm import Level
from gateway.shadow.drift import Signal
from gateway.shadow.streams import Reading, Stream, Terms
from gateway.shadow.window import State
from gateway.store.changes import latest
from gateway.store.database import open_database
from gateway.succession.line import Succession
from gateway.succession.watch import Duty, Watch
from gateway.types import Answer, Coin, Instance, Reason, Route, Wish
from gateway.types import Terms as Asked
from tests.factories import CONFIDENT, TASK, UNSURE, settings_file, tiny_bundle
from tests.gateway.telemetry.answers import audit, confident, escalated, prediction

Work = Callable[[Gateway, Succession], Awaitable[None]]

# The scripted teacher says "other", so that each audit finds "refund" wrong. Of two streams with
# 100 rows apart the bar is 200, which the fourth wrong row passes: 3.3, 17, 78, 384.
ALARMED: dict[str, dict[str, Any]] = {
    "audit": {"share": 1.0},
    "alarms": {"action": "rollback", "error": 0.1, "failures": 0.1, "apart": 100},
}


def during(folder: Path, *works: Work, **sections: Any) -> None:
    """Open a gateway and do something; then the next, after a restart."""
    path = settings_file(folder, **sections)

    async def run(each: Work) -> None:
        async with open_gateway(settings.load(path), read=lambda: settings.load(path)) as gateway:
            await each(gateway, gateway.successions[TASK.name])

    for each in works:
        asyncio.run(run(each))


async def ask(gateway: Gateway, text: str = CONFIDENT, wish: Wish = Wish.AUTO) -> Answer:
    return (await gateway.answer(None, [Instance(text)], Asked(wish=wish))).answers[0]


async def ask_often(gateway: Gateway, succession: Succession, *, times: int) -> None:
    """Ask so often, one after the other, and wait for what their audits lead to."""
    for _ in range(times):
        await ask(gateway)
        await asyncio.gather(*succession.auditor._running)
    if succession._retreat.rescuing is not None:
        await succession._retreat.rescuing


async def add(succession: Succession, path: Path) -> str:
    packed = path.with_suffix(".tar")
    with packed.open("wb") as file:
        archive.pack(path, file)
    return (await succession.add(packed, by="test")).name


def rows(folder: Path) -> list[tuple[str, str, str | None]]:
    engine = open_database(folder / "records.db")
    found = [(row.what, row.who, row.new) for row in latest(engine, 20)]
    engine.dispose()
    return found[::-1]


async def watch_of(gateway: Gateway) -> dict[str, Any]:
    found = (await stats_of(gateway)).tasks[TASK.name].watch
    assert found is not None
    return found.model_dump()


def test_an_alarm_lets_the_previous_student_serve_and_opens_an_incident(tmp_path: Path) -> None:
    names: list[str] = []

    async def work(gateway: Gateway, succession: Succession) -> None:
        first = succession.roles.serving
        names.append(await add(succession, tiny_bundle(tmp_path / "new", seed=1)))
        await succession.swap(names[0], by="test")
        await ask_often(gateway, succession, times=3)
        assert succession.roles.serving == names[0]
        assert (await watch_of(gateway))["alarms"]["error"]["level"] == "warn"
        assert (await ask(gateway)).audit_uniform == 1.0
        await ask_often(gateway, succession, times=1)
        roles = succession.roles
        assert (roles.serving, roles.previous) == (first, names[0])
        assert roles.frozen is not None
        assert roles.frozen.student == names[0]
        assert roles.frozen.why == f"{names[0]}: error is above its limit of 0.1 (100.0% of 4 rows)"
        shown = await watch_of(gateway)
        assert shown["incident"]["why"] == roles.frozen.why
        assert shown["alarms"]["error"] == {
            "level": "calm", "limit": 0.1, "share": None, "rows": 0, "statistic": 0.0, "bar": 200.0,
        }  # fmt: skip

    async def again(gateway: Gateway, succession: Succession) -> None:
        assert succession.roles.frozen is not None  # until somebody has looked
        assert (await watch_of(gateway))["incident"]["student"] == names[0]
        # What serves is no better: its alarm may not send it to the one that was sent away, also
        # where somebody has looked meanwhile.
        await gateway.rollouts[TASK.name].unfreeze(by="ann", why="I looked")
        await ask_often(gateway, succession, times=5)
        assert succession.roles.serving == Reason.NO_STUDENT
        assert succession.roles.sent_back == (names[0], succession.roles.previous)
        answer = await ask(gateway)
        assert (answer.route, answer.decision.reason) == (Route.TEACHER, Reason.NO_STUDENT)

    during(tmp_path, work, again, tickets=ALARMED)
    told = [(what, who) for what, who, _ in rows(tmp_path)]
    gone = [("rollback", "alarm"), ("freeze", "alarm")]
    looked = ("unfreeze", "ann")
    assert told == [("start", "start"), ("swap", "test"), *gone, looked, *gone]
    assert rows(tmp_path)[-2][2] == Reason.NO_STUDENT


def test_without_a_previous_student_the_teacher_answers_everything(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        name = succession.roles.serving
        await ask_often(gateway, succession, times=4)
        assert (await ask(gateway)).route is Route.TEACHER
        assert succession.roles.previous == name  # a person may let it serve again
        assert (await watch_of(gateway))["alarms"] == {}

    during(tmp_path, work, tickets=ALARMED)


def test_an_alarm_that_only_freezes_lets_the_student_serve_and_is_in_the_metrics(
    tmp_path: Path,
) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        await ask_often(gateway, succession, times=5)
        assert (await ask(gateway)).route is Route.STUDENT
        assert succession.roles.frozen is not None
        assert succession.roles.frozen.student is None
        gateway.metrics.watched(watched(gateway))
        shown = gateway.metrics.render().decode().splitlines()
        for line in (
            'alarm_level{stream="error",task="tickets"} 2.0',
            'alarm_level{stream="failures",task="tickets"} 0.0',
            'incident_open{task="tickets"} 1.0',
            'certificate_stale{task="tickets"} 0.0',
            'drift_statistic{signal="score",task="tickets"} 0.0',
        ):
            assert f"understudy_{line}" in shown
        share = next(line for line in shown if "alarm_statistic" in line and '"error"' in line)
        assert float(share.split()[-1]) == pytest.approx(384 / 200, rel=0.02)

    freezing = ALARMED | {"alarms": ALARMED["alarms"] | {"action": "freeze"}}
    # What is kept rings again after the restart, and changes nothing: the incident is open.
    during(tmp_path, work, work, tickets=freezing)
    assert [what for what, _, _ in rows(tmp_path)] == ["start", "freeze"]


def test_an_alarm_rings_again_after_somebody_has_looked(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        await ask_often(gateway, succession, times=5)
        assert succession.roles.frozen is not None
        await gateway.rollouts[TASK.name].unfreeze(by="ann", why="I looked")
        assert (await watch_of(gateway))["alarms"]["error"]["rows"] == 0
        assert succession.roles.frozen is None
        await ask_often(gateway, succession, times=5)
        assert succession.roles.frozen is not None

    freezing = ALARMED | {"alarms": ALARMED["alarms"] | {"action": "freeze"}}
    during(tmp_path, work, tickets=freezing)
    assert [what for what, _, _ in rows(tmp_path)] == ["start", "freeze", "unfreeze", "freeze"]


def test_a_warning_doubles_the_audits_until_it_is_calm(tmp_path: Path) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        said = (await ask(gateway)).student
        assert said is not None
        drawn = replace(confident(coin=None), student=said, prediction=said)
        for _ in range(3):
            succession.watch.audited(audit(replace(drawn, coin=Coin.UNIFORM), _other(said)))
        assert (await ask(gateway)).audit_uniform == 0.5
        assert (await watch_of(gateway))["audits_doubled"] is True
        for _ in range(40):
            succession.watch.audited(audit(replace(drawn, coin=Coin.UNIFORM), said))
        assert (await ask(gateway)).audit_uniform == 0.25
        assert (await watch_of(gateway))["audits_doubled"] is False
        for _ in range(5):
            succession.watch.audited(audit(replace(drawn, coin=Coin.UNIFORM), _other(said)))
        assert (await watch_of(gateway))["alarms"]["error"]["level"] == "alarm"
        assert (await ask(gateway)).route is Route.STUDENT  # this one is only shown
        assert (await watch_of(gateway))["incident"] is None

    warned = {"audit": {"share": 0.25}, "alarms": ALARMED["alarms"] | {"action": "none"}}
    agreeing = {"scripted": {"labels": {"intent": "refund"}}}
    during(tmp_path, work, teacher=agreeing, tickets=warned)


def _other(said: Any) -> Any:
    intent, flags = said.heads
    return replace(said, heads=(replace(intent, labels=("other",)), flags))


def drift(watch: Watch, *, shift: bool = True, rows: int = 1500) -> None:
    """Traffic whose score falls from 0.9 to 0.5, as an observer hears it."""
    hear(watch, *(0.5 if shift and number >= rows // 2 else 0.9 for number in range(rows)))


def hear(watch: Watch, *scores: float, student: str | None = None) -> None:
    """Answers of that student with those scores."""
    for number, score in enumerate(scores):
        said = replace(prediction(), score=score, bundle=student or STUDENT)
        watch.answered(replace(confident(number), student=said))


STUDENT, ANOTHER = "s" * 64, "t" * 64
BEFORE, LATER = 1.6e9, 1.8e9  # the rows are of 1.7e9 and the seconds after
DUTY = Duty(STUDENT, Terms(limits={Stream.ERROR: 0.1}), certificate="one", issued=BEFORE)


def watching(file: Path | None = None) -> tuple[Watch, list[Reading]]:
    rung: list[Reading] = []
    watch = Watch(
        "tickets",
        ring=lambda _, reading: rung.append(reading),
        file=file,
        random=random.Random(0),
    )
    return watch, rung


def test_traffic_that_drifts_makes_the_certificate_stale_until_there_is_a_new_one() -> None:
    watch, rung = watching()
    watch.follow(DUTY)
    drift(watch, shift=False)
    assert (watch.stale, watch.alert) == (False, False)
    drift(watch)
    assert (watch.stale, watch.alert) == (True, True)
    moved = {each.signal: each for each in watch.drift().movements}
    assert moved[Signal.SCORE].state is State.DRIFTING
    assert moved[Signal.SCORE].distance == pytest.approx(-0.4, abs=0.05)
    assert moved[Signal.ESCALATED].distance == 0.0
    watch.follow(replace(DUTY, terms=Terms(limits={})))  # only the limits are others
    assert watch.stale
    watch.follow(replace(DUTY, certificate="two", issued=LATER))
    assert not watch.stale
    assert rung == []  # drift calls nobody


def test_traffic_that_is_not_watched_makes_nothing_stale() -> None:
    watch, _ = watching()
    watch.follow(replace(DUTY, drift=False))
    drift(watch)
    assert not watch.stale


def test_only_what_was_proved_after_traffic_moved_is_fresh(tmp_path: Path) -> None:
    """A serves, traffic moves, B comes back: a way back proves nothing, and nor does a restart."""
    file = tmp_path / "watch.json"
    a, b = DUTY, replace(DUTY, student=ANOTHER, certificate="")

    async def first() -> None:
        watch, _ = watching(file)
        watch.follow(a)
        drift(watch)
        assert watch.stale
        for duty in (b, Duty(None, Terms(limits={})), b, a, replace(a, certificate="old")):
            watch.follow(duty)
            assert watch.stale or duty.student is None
        watch.follow(replace(a, certificate="new", issued=LATER))
        assert not watch.stale  # and who was proved before is not by that
        watch.follow(b)
        hear(watch, *[0.5] * 2000, student=ANOTHER)
        assert watch.stale
        await watch.close()

    async def then() -> None:
        for duty in (b, replace(b, student="u" * 64), a):
            watch, _ = watching(file)
            watch.follow(duty)
            assert watch.stale
        hear(watch, *[0.9] * 2000)  # A still knows what traffic was, and sees it come back
        assert not watch.stale
        watch.follow(b)
        assert watch.stale  # it has never seen that
        watch.follow(replace(b, issued=LATER, certificate="new"))
        assert not watch.stale

    asyncio.run(first())
    asyncio.run(then())


def test_who_knows_traffic_from_before_clears_himself_once_it_is_as_it_was() -> None:
    watch, _ = watching()
    b = replace(DUTY, student=ANOTHER)
    watch.follow(b)
    hear(watch, *[0.8] * 1500, student=ANOTHER)
    watch.follow(DUTY)
    drift(watch)
    watch.follow(b)
    hear(watch, *[0.8] * 999, student=ANOTHER)
    assert watch.stale
    hear(watch, *[0.8] * 2, student=ANOTHER)
    assert not watch.stale


def test_other_settings_are_no_drift_and_clear_none() -> None:
    """Under the new threshold every second is escalated; before, one in ten.

    Risk rules and safety nets escalate others, and may come and go.
    """
    watch, _ = watching()
    duty = replace(DUTY, policy="first", threshold=0.5)
    watch.follow(duty)

    def ask_all(doubted: int, *, ruled: bool = False) -> None:
        said = replace(prediction(), bundle=STUDENT, score=0.6)
        for number in range(1500):
            gates = (Reason.HIGH_RISK, Reason.SEVERITY)
            held = tuple(
                gate
                for gate, holds in zip(gates, (ruled, number % doubted == 0), strict=True)
                if holds
            ) or (Reason.CONFIDENT,)
            answer = replace(confident(number), student=said)
            decision = replace(answer.decision, reason=held[0], reasons=held)
            watch.answered(replace(answer, decision=decision))

    ask_all(10)
    ask_all(10, ruled=True)
    assert not watch.stale
    watch.follow(replace(duty, policy="second"))
    ask_all(2)
    assert not watch.stale
    ask_all(1)
    assert watch.stale
    watch.follow(replace(duty, policy="third"))
    ask_all(2)
    assert watch.stale  # nobody can say any more that it is over
    watch.follow(replace(duty, policy="third", certificate="two", issued=LATER))
    assert not watch.stale


def test_what_another_student_answers_is_not_this_ones() -> None:
    watch, _ = watching()
    watch.follow(replace(DUTY, elsewhere=lambda instance: instance.text == "where is my money"))
    watch.answered(confident())  # of another bundle
    failed = replace(escalated(teacher=prediction()), instance=confident().instance)
    watch.answered(failed)  # nobody has spoken, and the text is the canary's
    watch.audited(audit(confident(coin=None), prediction("login")))
    assert [each.rows for each in watch.readings()] == [0]
    assert {each.rows for each in watch.drift().movements} == {0}
    watch.follow(Duty(None, Terms(limits={})))
    watch.answered(failed)  # there is no student
    assert watch.readings() == ()


def test_what_was_not_for_the_student_to_decide_is_no_sign_of_drift() -> None:
    watch, _ = watching()
    watch.follow(DUTY)
    said = replace(prediction(), bundle=STUDENT)
    for number, reason in enumerate(
        (Reason.REQUESTED, Reason.NO_CERTIFICATE, Reason.LOW_CONFIDENCE)
    ):
        answer = escalated(number, student=said, teacher=prediction())
        decision = replace(answer.decision, reason=reason, reasons=(reason,))
        watch.answered(replace(answer, decision=decision))
    watch.answered(replace(confident(2), student=said))  # a text of the same moment
    counted = {each.signal: each.rows for each in watch.drift().movements}
    assert counted == {Signal.SCORE: 3, Signal.UNFAMILIAR: 0, Signal.ESCALATED: 1}


def test_what_is_known_outlives_the_process(tmp_path: Path) -> None:
    file = tmp_path / "tickets" / "watch.json"

    async def first() -> tuple[Reading, ...]:
        watch, _ = watching(file)
        watch.follow(DUTY)
        drift(watch)
        said = replace(prediction(), bundle=STUDENT)
        wrong = replace(confident(), student=said, coin=Coin.UNIFORM)
        watch.audited(audit(wrong, prediction("login")))
        await watch.close()
        return watch.readings()

    kept = asyncio.run(first())
    watch, _ = watching(file)
    watch.follow(DUTY)
    assert watch.stale
    assert watch.readings() == kept
    assert kept[0].rows == 1
    assert [each.name for each in file.parent.iterdir()] == [file.name]
    another, _ = watching(file)
    another.follow(replace(DUTY, student=ANOTHER, issued=LATER))
    assert not another.stale
    assert [each.rows for each in another.readings()] == [0]


KEPT: dict[str, Any] = {"policy": "", "norm": None, "since": None, "left": 0, "traffic": {}}
BROKEN: list[dict[str, Any]] = [
    {"traffic": 7},
    {"traffic": {"score": {"buckets": [[0, 1, 1, 1]], "before": None, "until_look": 1}}},
    {"traffic": {"score": {"buckets": [], "before": [0, 0.5, 0.1], "until_look": 1}}},
    {"since": "long ago"},
    {"left": -1},
    {"norm": True, "since": 1e999},
]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"version": 1}',
        '{"version": 2, "streams": [], "footings": [3, {}, {"of": "one"}]}',
        json.dumps({"version": 2, "student": STUDENT, "streams": [], "footings": 3}),
        *(
            json.dumps(
                {
                    "version": 2,
                    "student": STUDENT,
                    "streams": {"error": {}},
                    "footings": [{"of": [STUDENT, "one"], **KEPT, **broken}],
                }
            )
            for broken in BROKEN
        ),
    ],
)
def test_a_file_that_makes_no_sense_costs_what_it_held_and_nothing_else(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "watch.json"
    file.write_text(content)
    watch, _ = watching(file)
    watch.follow(DUTY)
    assert [(each.level, each.rows) for each in watch.readings()] == [(Level.CALM, 0)]
    assert not watch.stale


def test_a_stale_certificate_escalates_everything_where_the_settings_say_so(
    tmp_path: Path,
) -> None:
    async def work(gateway: Gateway, succession: Succession) -> None:
        said = (await ask(gateway)).student
        assert said is not None
        for number in range(3000):
            scored = replace(said, score=0.95 if number < 1500 else 0.91)
            succession.watch.answered(replace(confident(number), student=scored))
        assert (await watch_of(gateway))["certificate_stale"] is True
        assert await standing(gateway) == (None, False)
        assert (await ask(gateway)).route is Route.STUDENT

        settings_file(tmp_path, tickets={"drift": {"certificate": "escalate"}})
        await reload(gateway, by="a test")
        assert await standing(gateway) == ("stale", False)
        answer = await ask(gateway)
        assert answer.route is Route.TEACHER
        assert (answer.decision.reason, answer.decision.detail) == (Reason.NO_CERTIFICATE, "stale")
        unsure = await ask(gateway, UNSURE)
        assert unsure.decision.reasons == (Reason.NO_CERTIFICATE, Reason.LOW_CONFIDENCE)
        assert (await ask(gateway, wish=Wish.STUDENT)).route is Route.STUDENT

        settings_file(tmp_path, tickets={"drift": {"enabled": False}})
        await reload(gateway, by="a test")
        assert await standing(gateway) == (None, True)

    during(tmp_path, work)


def test_a_stale_certificate_makes_the_policy_strict_until_traffic_is_as_it_was(
    tmp_path: Path,
) -> None:
    """The tiny bundle promises 5 %: the threshold of 0.5 becomes 0.95, and UNSURE has 0.62."""

    async def threshold(gateway: Gateway) -> float | None:
        serving = (await stats_of(gateway)).tasks[TASK.name].serving
        assert serving is not None
        return serving.threshold

    async def work(gateway: Gateway, succession: Succession) -> None:
        unsure = await ask(gateway, UNSURE)
        assert unsure.route is Route.STUDENT
        drift_of(succession, unsure, scores=(0.95, 0.55))
        assert await standing(gateway) == (
            None,
            False,
        )  # the student answers, and nothing is promised
        serving = (await stats_of(gateway)).tasks[TASK.name].serving
        assert serving is not None
        assert (serving.certificate, serving.certificate_stale) == (None, True)
        assert await threshold(gateway) == 0.95
        doubted = await ask(gateway, UNSURE)
        assert (doubted.route, doubted.decision.threshold) == (Route.TEACHER, 0.95)
        assert doubted.decision.reason is Reason.LOW_CONFIDENCE
        assert (await ask(gateway)).route is Route.STUDENT
        # What is escalated only because it is stale keeps nobody stale.
        drift_of(succession, doubted, scores=(0.95, 0.95))
        assert not succession.watch.stale
        assert await threshold(gateway) == 0.5
        assert (await ask(gateway, UNSURE)).route is Route.STUDENT

        drift_of(succession, unsure, scores=(0.95, 0.55))
        settings_file(tmp_path, student=bundle, tickets={"drift": {"certificate": "warn"}})
        await reload(gateway, by="a test")
        assert succession.watch.stale
        assert (await ask(gateway, UNSURE)).route is Route.STUDENT

        heard = {each.signal: each.rows for each in succession.watch.drift().movements}
        settings_file(tmp_path, student=bundle, policy={"threshold": 0.6})
        await reload(gateway, by="a test")
        began = {each.signal: each.rows for each in succession.watch.drift().movements}
        assert began == heard | {Signal.ESCALATED: 0}
        # Of 2026, and so of before the traffic of 2033 that moved.
        await succession.swap(await add(succession, tiny_bundle(tmp_path / "b", seed=1)), by="me")
        assert (await watch_of(gateway))["certificate_stale"] is True

    bundle = tiny_bundle(tmp_path / "bundles", threshold=0.5)
    during(tmp_path, work, student=bundle)


def drift_of(succession: Succession, answer: Answer, *, scores: tuple[float, float]) -> None:
    """Traffic like that answer, with one score and then the other."""
    assert answer.student is not None
    for number in range(3000):
        said = replace(answer.student, score=scores[number >= 1500])
        succession.watch.answered(replace(answer, student=said, at=2e9 + number))


def test_what_the_student_says_and_how_right_its_scores_are_is_shown(tmp_path: Path) -> None:
    """Its score is 0.997, and the teacher says "other" to all: 300 audits leave no doubt."""

    async def work(gateway: Gateway, succession: Succession) -> None:
        answer = await ask(gateway)
        assert answer.student is not None
        sure = replace(answer, coin=Coin.UNIFORM)
        for number in range(300):
            succession.watch.answered(replace(sure, at=2e9 + number))
            succession.watch.audited(audit(sure, _other(answer.student)))
        shown = await watch_of(gateway)
        assert shown["mix"]["intent"]["shares"] == {"refund": 1.0}
        assert (shown["mix"]["intent"]["limit"], shown["mix"]["flags"]["shares"]) == (None, {})
        accuracy = shown["accuracy"]
        assert accuracy["estimated"] == pytest.approx(0.997, abs=0.001)
        assert (accuracy["audited"], accuracy["audits"]) == (0.0, 300)
        assert accuracy["recalibrate"] is True
        for number in range(3000):
            heads = (replace(answer.student.heads[0], labels=("fraud",)), answer.student.heads[1])
            said = replace(answer.student, heads=heads if number >= 2500 else answer.student.heads)
            succession.watch.answered(replace(sure, student=said, at=3e9 + number))
        assert (await watch_of(gateway))["mix"]["intent"]["state"] == "drifting"
        gateway.metrics.watched(watched(gateway))
        lines = gateway.metrics.render().decode().splitlines()
        for line in (
            'label_share{head="intent",label="fraud",task="tickets"} ',
            'drift_psi{head="intent",task="tickets"} ',
            'drift_psi_limit{head="intent",task="tickets"} ',
            'estimated_accuracy{task="tickets"} 0.99',
            'audited_accuracy{task="tickets"} 0.0',
            'score_off{task="tickets"} 1.0',
        ):
            assert [each for each in lines if each.startswith(f"understudy_{line}")], line

    during(tmp_path, work, tickets={"alarms": {"action": "none"}})


async def standing(gateway: Gateway) -> tuple[str | None, bool]:
    """Why the certificate does not hold, and whether it does."""
    serving = (await stats_of(gateway)).tasks[TASK.name].serving
    assert serving is not None
    return serving.certificate_void, validities(gateway)[TASK.name].valid

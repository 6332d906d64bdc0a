"""Who is compared, who is not and why, and what is known of them over processes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway import settings
from gateway.assembly import Gateway, open_gateway
from gateway.contract import certificate
from gateway.contract.certificate import Fault, PolicyCertificate
from gateway.errors import BundleCorrupt, BundleMissing, NotProved, SettingsError
from gateway.reload import reload
from gateway.shadow.audit import Skip
from gateway.shadow.promotion import Decision, Footing, Gate, Pair, Terms, Trial, Why
from gateway.shadow.runner import Shed, State
from gateway.shadow.slices import Kept, Slices
from gateway.store.database import Database
from gateway.store.trials import Counted, headers, save
from gateway.store.verdicts import Verdict as Gold
from gateway.students import process
from gateway.students.registry import CANDIDATES
from gateway.succession.candidacy import Candidacy
from gateway.succession.dossier import Known, Moment
from gateway.succession.policies import fingerprint
from gateway.types import Answer, Coin, Instance, Route
from gateway.types import Terms as Ask
from tests.factories import CONFIDENT, TASK, THRESHOLD, UNSURE, settings_file, tiny_bundle
from tests.gateway.telemetry.answers import prediction
from tests.patience import LIMIT_S, eventually

GATES = {"disagreement": 0.2, "serving": None, "escalation": 0.2, "latency": None,
         "minimum_s": 0.0, "cycle_s": 0.0}  # fmt: skip
_ALIKE = Pair(differs=False, escalates=False, serving_escalates=False)
LONG = 3600.0  # seconds; far beyond what any test takes
# All is compared, and a candidate whose batch took long does not rest nine times as long.
SHADOW: dict[str, Any] = {"share": 1.0, "busy": 1.0, "gates": GATES}


@pytest.fixture(autouse=True)
def _no_candidate_stands_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its process has no turn while the machine has anything else to do."""
    monkeypatch.setattr(process, "_stand_aside", lambda _child: None)


async def until(happened: Callable[[], bool]) -> None:
    """Let the event loop go on until a process has done its work."""
    await eventually(happened, look_s=0.01)


def with_gateway(
    path: Path, work: Callable[[Gateway, Candidacy], Awaitable[None]], *, looks: bool = True
) -> None:
    """Do `work` with a gateway, which `looks` at its candidates now and then; else work alone."""

    async def play() -> None:
        async with open_gateway(settings.load(path), read=lambda: settings.load(path)) as gateway:
            candidacy = gateway.candidacies[TASK.name]
            if not looks:
                assert candidacy._living is not None
                candidacy._living.cancel()
                await asyncio.wait({candidacy._living})
            await work(gateway, candidacy)

    asyncio.run(play())


def test_who_may_not_be_compared_is_told_why(tmp_path: Path) -> None:
    shadow = SHADOW | {"candidates": 2}

    def write(**changes: object) -> Path:
        return settings_file(tmp_path, tickets={"shadow": shadow | changes})

    path = write(share=0.0)
    bundles = [tiny_bundle(tmp_path / "new", seed=seed) for seed in (1, 2)]

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        held = gateway.successions[TASK.name]
        candidacy._every = 0.05
        for each in bundles:
            held.registry.keep(each)
        first, second = (each.name for each in bundles)
        assert "share is 0" in await candidacy.add(first)
        assert candidacy.names == ()
        await candidacy.remove(first, by="a test")  # it was noted, and waited for a share
        assert held.registry.candidates() == ()
        assert "share is 0" in await candidacy.add(first)
        assert "it serves" in await candidacy.add(held.roles.serving)
        write()
        await reload(gateway, by="a test")
        await until(lambda: candidacy.names == (first,))  # it was noted, and now has a share
        assert await candidacy.add(second) == ""
        write(candidates=1)
        await reload(gateway, by="a test")
        await until(lambda: candidacy.names == (first,))  # who came first stays
        assert held.registry.candidates() == (first, second)  # and the other waits for room
        await candidacy.remove(second, by="a test")
        assert "1 candidates are under test already" in await candidacy.add(second)
        assert await candidacy.add(first) == ""
        with pytest.raises(BundleMissing, match="no candidate"):
            await candidacy.remove(second, by="a test")
        (answer,) = (await gateway.answer(None, [Instance(CONFIDENT)], Ask())).answers
        assert answer.prediction is not None
        (candidate,) = candidacy.shadow.candidates
        await until(lambda: candidate.slices.whole.compared == 1)
        runner = candidate.runner
        runner.shed[Shed.FULL] = 100
        write(candidates=1, queue=7, gates=GATES | {"escalation": 0.3})
        await reload(gateway, by="a test")
        assert candidate.runner is not runner  # the new bounds are those of new processes
        assert candidacy.shadow.skipped["full"] == 100
        await candidacy.shadow.retired()
        assert candidacy.shadow.skipped["full"] == 100
        verdict = await candidacy.verdict(first)
        assert verdict is not None
        pairs = {each.gate: (each.limit, each.pairs) for each in verdict.findings}
        assert pairs == {Gate.DISAGREEMENT: (0.2, 0), Gate.ESCALATION: (0.3, 0)}  # anew: it moved
        await held.swap(first, by="a test")
        await until(lambda: held.registry.candidates() == ())  # who serves is none any more
        assert candidacy.names == ()
        assert await candidacy.verdict(first) is None

    with_gateway(path, work)


async def ask(
    gateway: Gateway, candidacy: Candidacy, times: int, text: str = CONFIDENT
) -> list[Answer]:
    """So many answers, of which the first candidate has been told."""
    (candidate, *_) = candidacy.shadow.candidates
    before = candidate.slices.whole.compared
    asked = [Instance(text, {"number": number}) for number in range(times)]
    reply = await gateway.answer(None, asked, Ask())
    await until(lambda: candidate.slices.whole.compared == before + times)
    return list(reply.answers)


async def pairs(candidacy: Candidacy) -> dict[str, int]:
    (found, *_) = await candidacy.progress()
    return {each.gate.value: each.pairs for each in found.verdict.findings}


async def anew(candidacy: Candidacy) -> Mapping[str, Sequence[Gate]]:
    (found, *_) = await candidacy.progress()
    return found.anew


def test_evidence_is_about_who_served_and_under_which_policies(tmp_path: Path) -> None:
    gates = GATES | {"disagreement": 0.9, "serving": 0.1}

    def write(**policy: object) -> Path:
        return settings_file(
            tmp_path,
            policy=policy,
            tickets={"shadow": SHADOW | {"gates": gates}, "audit": {"share": 1.0}},
        )

    path = write()
    bundle, other = (tiny_bundle(tmp_path / "new", seed=seed) for seed in (1, 2))

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        held = gateway.successions[TASK.name]
        first = held.roles.serving
        for each in (bundle, other):
            held.registry.keep(each)
        assert await candidacy.add(bundle.name) == ""
        (candidate,) = candidacy.shadow.candidates
        await until(lambda: candidate.runner.state is State.RUNNING)
        await ask(gateway, candidacy, 3)
        assert await pairs(candidacy) == {"disagreement": 3, "serving": 3, "escalation": 3}
        with capture_logs() as told:
            await held.swap(other.name, by="a test")
            await candidacy.progress()  # whoever looks sees who serves now
            await ask(gateway, candidacy, 2)
        assert await pairs(candidacy) == {"disagreement": 5, "serving": 2, "escalation": 2}
        (why,) = (await anew(candidacy)).items()
        assert why == ("another student serves", (Gate.SERVING, Gate.ESCALATION))
        (log,) = [each for each in told if each["event"] == "evidence begun anew"]
        assert (log["gates"], log["because"]) == (["serving", "escalation"], [why[0]])

        await held.swap(first, by="a test")  # what was seen beside it still stands
        await candidacy.progress()
        await ask(gateway, candidacy, 1)
        assert await pairs(candidacy) == {"disagreement": 6, "serving": 4, "escalation": 4}
        assert await anew(candidacy) == {}

        await candidacy.remove(bundle.name, by="a test")  # nor does it look twice
        assert await candidacy.add(bundle.name) == ""
        assert await pairs(candidacy) == {"disagreement": 6, "serving": 4, "escalation": 4}

        write(threshold=0.75)
        await reload(gateway, by="a test")
        assert await pairs(candidacy) == {"disagreement": 0, "serving": 0, "escalation": 0}
        (reason,) = set(await anew(candidacy)) - {"its own policy or its teacher changed"}
        assert reason.startswith("its own policy or its teacher changed; the policy of the")
        write()
        await reload(gateway, by="a test")
        assert await pairs(candidacy) == {"disagreement": 6, "serving": 4, "escalation": 4}

    with_gateway(path, work)


def test_a_student_that_is_strict_for_a_stale_certificate_is_compared_as_if_it_were_not(
    tmp_path: Path,
) -> None:
    """Both keep the text by their thresholds of 0.5; strict, the teacher answers it meanwhile."""
    gates = GATES | {"serving": 0.1}
    serving = tiny_bundle(tmp_path / "bundles", threshold=0.5)
    path = settings_file(
        tmp_path,
        student=serving,
        tickets={"shadow": SHADOW | {"gates": gates}, "audit": {"share": 1.0}},
    )
    bundle = tiny_bundle(tmp_path / "new", seed=1, threshold=0.5)

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        held = gateway.successions[TASK.name]
        held.registry.keep(bundle)
        assert await candidacy.add(bundle.name) == ""
        (candidate,) = candidacy.shadow.candidates
        await until(lambda: candidate.runner.state is State.RUNNING)
        cascade = gateway.tasks[TASK.name]
        routes = []
        for strict in (False, True):
            cascade._strict = cascade.stale = lambda strict=strict: strict  # type: ignore[misc]
            (answer,) = await ask(gateway, candidacy, 1, text=UNSURE)
            routes.append(answer.route)
        assert routes == [Route.STUDENT, Route.TEACHER]
        assert candidate.trial.saved()["counts"]["escalation"] == [0, 2, 0]  # they are alike
        assert await pairs(candidacy) == {"disagreement": 2, "serving": 2, "escalation": 2}
        assert await anew(candidacy) == {}

    with_gateway(path, work)


def test_the_shadow_hears_of_audits_that_never_come(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        teacher={"scripted": {"fail_every": 1}},
        tickets={
            "shadow": SHADOW | {"audit_wait_s": LONG},
            "audit": {"share": 1.0},
        },
    )
    bundle = tiny_bundle(tmp_path / "new", seed=1)

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        held = gateway.successions[TASK.name]
        held.registry.keep(bundle)
        assert await candidacy.add(bundle.name) == ""
        (candidate,) = candidacy.shadow.candidates
        await until(lambda: candidate.runner.state is State.RUNNING)
        (answer,) = await ask(gateway, candidacy, 1)  # it is not waited for any longer
        assert (answer.coin, +held.auditor.skipped) == (Coin.UNIFORM, {Skip.FAILED: 1})
        assert candidacy.shadow._draws == {}

    with_gateway(path, work)


def test_what_a_canary_answers_is_no_pair_with_who_serves(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        tickets={
            "shadow": SHADOW,
            "audit": {"share": 1.0},
            "promotion": {"steps": [{"share": 1.0, "minimum_s": 1e6, "rows": 0}]},
        },
    )
    bundle, other = (tiny_bundle(tmp_path / "new", seed=seed) for seed in (1, 2))

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        for each in (bundle, other):
            gateway.successions[TASK.name].registry.keep(each)
        assert await candidacy.add(bundle.name) == ""
        (candidate,) = candidacy.shadow.candidates
        await until(lambda: candidate.runner.state is State.RUNNING)
        rollout = gateway.rollouts[TASK.name]
        await rollout.promote(other.name, by="a test", why="a test", override=True)
        await until(lambda: gateway.tasks[TASK.name].canary is not None)
        await ask(gateway, candidacy, 2)
        assert await pairs(candidacy) == {"disagreement": 2, "escalation": 0}

    with_gateway(path, work)


def counted(
    name: str, candidate: str, trial: Trial, *, until: float, slices: Kept | None
) -> Counted:
    return Counted(name, candidate, trial.began, until, trial.saved(), slices)


def test_what_other_processes_have_counted_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings_file(
        tmp_path,
        tickets={"shadow": SHADOW | {"gates": GATES | {"sequence": True, "cycle_s": 60.0}}},
    )
    bundle, rival = (tiny_bundle(tmp_path / "new", seed=seed) for seed in (1, 2))

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        held = gateway.successions[TASK.name]
        for each in (bundle, rival):
            held.registry.keep(each)
        database = candidacy._dossier._database
        limits = candidacy._settings.shadow.gates.terms().limits
        assert database is not None
        assert await candidacy.add(bundle.name) == ""
        footing = candidacy.shadow.candidates[0].trial.footing

        def trial(began: float, footing: Footing) -> Trial:
            made = Trial(Terms(limits=limits), began=began, footing=footing)
            for name in limits:
                made._evidence[name].add(0.0, times=98)
            for at in (began, began + 40.0):
                made.add(_ALIKE, at=at)
            return made

        empty = Slices().saved()
        broken: Kept = {"whole": [], "heads": {}, "parts": {}}
        beside_another = replace(footing, serving="0" * 64)
        rows = [
            # From 5 to 45 s and from 15 to 55 s: fifty seconds of a test, and not eighty.
            counted("one", bundle.name, trial(5.0, footing), until=45.0, slices=empty),
            counted("two", bundle.name, trial(15.0, footing), until=55.0, slices=empty),
            # Its slices cannot be read; what it proves can.
            counted("bad", bundle.name, trial(6.0, footing), until=7.0, slices=broken),
            counted("gone", "tickets-before", trial(1.0, footing), until=9.0, slices=empty),
            counted("old", "tickets-long-ago", trial(0.0, footing), until=3.0, slices=empty),
            counted("set", bundle.name, trial(70.0, beside_another), until=95.0, slices=empty),
        ]
        save(database, TASK.name, rows, known=frozenset())
        (progress,) = await candidacy.progress()
        verdict = await candidacy.verdict(bundle.name)
        assert progress.verdict == verdict  # one rule for both
        assert verdict is not None
        assert {each.gate: each.pairs for each in verdict.findings} == {
            Gate.DISAGREEMENT: 400, Gate.ESCALATION: 300}  # fmt: skip
        assert verdict.elapsed_s == pytest.approx(50.0)
        assert verdict.remaining_s == pytest.approx(10.0)
        assert (verdict.decision, verdict.why) == (Decision.HOLD, Why.EARLY)
        # It is the third candidate ever, and one of two that were under test at once.
        third = 0.05 * 6 / (3 * math.pi) ** 2
        assert verdict.alpha == pytest.approx(third / 2)
        assert progress.began == 5.0
        # One in 50 is a pair, and of half the requests it has room for a tenth.
        rare = replace(verdict.findings[0], pairs=20, compared=1000, needed=10)
        halved = replace(progress, share=0.5, shown=0.1)
        assert halved.requests(rare) == 10 * 50 / 0.05
        assert halved.requests(replace(rare, pairs=0)) is None
        assert progress.anew == {}  # that was seen later, and elsewhere

        assert await candidacy.add(rival.name) == ""
        judged, know = [], Moment.known

        def known(moment: Moment, name: str, terms: Terms) -> Known:
            judged.append(name)
            return know(moment, name, terms)

        monkeypatch.setattr(Moment, "known", known)
        among = await candidacy.verdict(bundle.name)
        assert await candidacy.verdict("tickets-nobody") is None
        assert judged == [bundle.name]  # and no other
        await candidacy.remove(rival.name, by="a test")  # it was compared with nothing
        alone = await candidacy.verdict(bundle.name)
        assert among is not None
        assert alone is not None
        assert among.alpha == pytest.approx(third / 3)
        assert alone.alpha == pytest.approx(third / 2)

    with_gateway(path, work, looks=False)


def test_what_people_say_counts_where_the_settings_ask_for_it(tmp_path: Path) -> None:
    path = settings_file(tmp_path, tickets={"shadow": SHADOW | {"gates": GATES | {"losses": 0.5}}})
    bundle = tiny_bundle(tmp_path / "new", seed=1, bias={"fraud": 20.0})

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        gateway.successions[TASK.name].registry.keep(bundle)
        assert await candidacy.add(bundle.name) == ""
        (candidate,) = candidacy.shadow.candidates
        await until(lambda: candidate.runner.state is State.RUNNING)
        answers = await ask(gateway, candidacy, 2)
        writer, verdicts = gateway.writer, gateway.verdicts
        assert writer is not None
        assert verdicts is not None
        await until(lambda: writer.comparisons.stored == 2)
        right = {each.head: each.labels for each in answers[0].prediction.heads}  # type: ignore[union-attr]
        verdicts.add(Gold(answers[0].id, right, who="ann"))
        candidacy._wake.set()

        async def losses() -> int:
            return (await pairs(candidacy))["losses"]

        async with asyncio.timeout(LIMIT_S):
            while not await losses():  # noqa: ASYNC110  what happens is a thread's work
                await asyncio.sleep(0.01)
        await candidacy._dossier.hear((bundle.name,), candidate.trial.terms, candidate.measure)
        (found,) = await candidacy.progress()
        (lost,) = [each for each in found.verdict.findings if each.gate is Gate.LOSSES]
        assert (lost.pairs, lost.value) == (1, 1.0)  # the candidate says fraud, and is wrong

    with_gateway(path, work)


def test_a_candidate_is_measured_under_the_policy_that_it_would_serve_under(
    tmp_path: Path,
) -> None:
    path = settings_file(
        tmp_path,
        policy={"certificate": "certificate.json"},
        tickets={"shadow": SHADOW},
    )
    bundle = tiny_bundle(tmp_path / "new", seed=1)

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        gateway.successions[TASK.name].registry.keep(bundle)
        assert await candidacy.add(bundle.name) == ""
        (candidate,) = candidacy.shadow.candidates
        database = candidacy._dossier._database
        assert database is not None
        good = Trial(candidacy._settings.shadow.gates.terms(), began=1.0,
                     footing=candidate.trial.footing)  # fmt: skip
        for evidence in good._evidence.values():
            evidence.add(0.0, times=300)
        proved = counted("one", bundle.name, good, until=2.0, slices=None)
        save(database, TASK.name, [proved], known=frozenset())
        (found,) = await candidacy.progress()
        assert (found.void, found.verdict.decision) == (Fault.MISSING, Decision.HOLD)
        assert found.verdict.why is Why.UNCERTIFIED
        assert candidate.policy.threshold == THRESHOLD

        policy = candidacy._settings.policy
        issued = PolicyCertificate(
            task=TASK.name,
            student=candidate.bundle,
            teacher=gateway.tasks[TASK.name].teacher.name,
            policy=fingerprint(policy, None, candidate.policy.min_familiarity),
            labels="gold",
            alpha=0.02,
            delta=0.05,
            rows=1000,
            undetected_errors=1,
            upper_bound=0.01,
            escalation=0.1,
            threshold=0.81,
            issued_at=datetime.now(UTC) - timedelta(days=40),
            valid_days=30.0,
        )
        where = tmp_path / f"certificate.{bundle.name}.json"
        certificate.write(where, issued)
        await reload(gateway, by="a test")
        (found,) = await candidacy.progress()
        assert (candidate.policy.threshold, found.void) == (THRESHOLD, Fault.EXPIRED)
        assert found.verdict.why is Why.UNCERTIFIED

        certificate.write(where, issued.model_copy(update={"issued_at": datetime.now(UTC)}))
        await reload(gateway, by="a test")
        (found,) = await candidacy.progress()
        assert (candidate.policy.threshold, found.void) == (0.81, None)
        assert [each.pairs for each in found.verdict.findings] == [0, 0]  # of another threshold

        after = time.time() + 31 * 86_400.0
        said = replace(prediction(), score=0.99)
        assert not candidate.policy.decide(Instance("a"), said, now=after).escalate
        candidacy._clock = lambda: after  # the certificate ends while it is under test
        (found,) = await candidacy.progress()
        assert (candidate.policy.threshold, found.void) == (THRESHOLD, Fault.EXPIRED)
        assert [each.pairs for each in found.verdict.findings] == [300, 300]
        assert (found.verdict.decision, found.verdict.why) == (Decision.HOLD, Why.UNCERTIFIED)

    with_gateway(path, work, looks=False)


def test_who_comes_in_after_a_swap_finds_all_beside_the_same_student(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        tickets={
            "shadow": SHADOW | {"gates": GATES | {"serving": 0.1}},
            "audit": {"share": 1},
        },
    )
    bundle, other, late = (tiny_bundle(tmp_path / "new", seed=seed) for seed in (1, 2, 3))

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        held = gateway.successions[TASK.name]
        for each in (bundle, other, late):
            held.registry.keep(each)
        assert await candidacy.add(bundle.name) == ""
        (candidate,) = candidacy.shadow.candidates
        await until(lambda: candidate.runner.state is State.RUNNING)
        await ask(gateway, candidacy, 1)
        await held.swap(other.name, by="a test")
        assert await candidacy.add(late.name) == ""
        assert candidate.trial.footing.serving == gateway.tasks[TASK.name].rung.bundle.id  # type: ignore[union-attr]
        await ask(gateway, candidacy, 2)
        assert await pairs(candidacy) == {"disagreement": 3, "serving": 2, "escalation": 2}

    with_gateway(path, work, looks=False)


def test_who_is_half_known_or_could_not_serve_is_held(tmp_path: Path) -> None:
    path = settings_file(tmp_path, tickets={"shadow": SHADOW})
    bundle = tiny_bundle(tmp_path / "new", seed=1)

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        gateway.successions[TASK.name].registry.keep(bundle)
        database = candidacy._dossier._database
        assert database is not None
        rename(database, "trials", "away")  # what was counted before this process began
        assert await candidacy.add(bundle.name) == ""
        (candidate,) = candidacy.shadow.candidates
        for evidence in candidate.trial._evidence.values():
            evidence.add(0.0, times=300)

        async def verdict() -> tuple[Decision, Why]:
            found = await candidacy.verdict(bundle.name)
            assert found is not None
            return found.decision, found.why

        assert await verdict() == (Decision.HOLD, Why.UNREAD)
        promote = partial(gateway.rollouts[TASK.name].promote, bundle.name, by="a test", why="")
        with pytest.raises(NotProved, match="could not be read yet"):
            await promote(override=False)
        rename(database, "away", "trials")
        assert await verdict() == (Decision.PROMOTE, Why.PROVED)
        await until(lambda: candidate.runner.state is State.RUNNING)  # from here on it stays
        candidate.runner._lanes[0].state = State.STOPPED
        assert await verdict() == (Decision.HOLD, Why.STOPPED)
        with pytest.raises(NotProved, match="its processes fail"):
            await promote(override=False)

    with_gateway(path, work, looks=False)


def test_one_broken_candidate_or_file_stops_nobody_else(tmp_path: Path) -> None:
    path = settings_file(tmp_path, tickets={"shadow": SHADOW})
    good, broken = (tiny_bundle(tmp_path / "new", seed=seed) for seed in (1, 2))

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        registry = gateway.successions[TASK.name].registry
        for each in (good, broken):
            registry.keep(each)
        model = next(registry.find(broken.name).glob("*.onnx"))
        whole = model.read_bytes()
        model.write_bytes(whole[:-1])
        for each in (broken, good):
            registry.nominate(each.name)
        candidacy._every = 0.05
        candidacy._wake.set()
        await until(lambda: good.name in candidacy.decisions)
        assert candidacy.names == (good.name,)
        assert registry.candidates() == (broken.name, good.name)  # others may well open it
        with pytest.raises(BundleCorrupt):
            await candidacy.add(broken.name)

        model.write_bytes(whole)
        await reload(gateway, by="a test")
        await until(lambda: broken.name in candidacy.names)

        (registry.folder / CANDIDATES).write_text("{")
        await until(lambda: candidacy.shadow.candidates[0].runner.state is State.RUNNING)
        await ask(gateway, candidacy, 2)
        engine = candidacy._dossier._database
        assert engine is not None
        await until(lambda: any(each.candidate == good.name for each in headers(engine, TASK.name)))
        assert set(candidacy.names) == {good.name, broken.name}

    with_gateway(path, work)


def rename(database: Database, old: str, new: str) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")


def test_trouble_with_the_database_is_told_when_it_begins_and_when_it_ends(tmp_path: Path) -> None:
    path = settings_file(tmp_path, tickets={"shadow": SHADOW})

    async def work(_: Gateway, candidacy: Candidacy) -> None:
        database = candidacy._dossier._database
        assert database is not None
        said: list[str] = []
        for name in ("trials RENAME TO away", None, "away RENAME TO trials", None):
            if name is not None:
                with database.begin() as connection:
                    connection.exec_driver_sql(f"ALTER TABLE {name}")
            with capture_logs() as told:
                await candidacy.progress()
            said += [each["event"] for each in told]
        assert said == ["the evidence waits", "the evidence goes on"]

    with_gateway(path, work, looks=False)


@pytest.mark.parametrize(
    ("shadow", "words"),
    [
        ({"gates": dict.fromkeys(("disagreement", "serving", "escalation", "latency"))},
         "no gate is asked for"),
        ({"gates": {"noise": 0.01}}, "double_asked is 0"),
        ({"gates": {"critical": 0.02}}, "policy.critical"),
    ],
)  # fmt: skip
def test_gates_that_nothing_can_be_known_of_are_refused(
    shadow: dict[str, object], words: str, tmp_path: Path
) -> None:
    path = settings_file(tmp_path, tickets={"shadow": shadow})
    with pytest.raises(SettingsError, match=words):
        settings.load(path)

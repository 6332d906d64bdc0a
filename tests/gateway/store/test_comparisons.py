"""Comparisons are stored, read back as what they say, and go with their records."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from sqlalchemy import Engine, select

from gateway import identity as names
from gateway.contract.manifest import Head, HeadKind
from gateway.shadow.pairing import seen
from gateway.shadow.promotion import Footing, Saved
from gateway.store import comparisons, records, tables, trials
from gateway.store.comparisons import Compared
from gateway.store.database import open_database, writing
from gateway.store.records import Selection
from gateway.store.trials import Counted
from gateway.store.verdicts import Verdict, Verdicts
from gateway.store.writer import Account, RecordWriter
from gateway.types import Comparison, HeadPrediction, Lapse, Prediction, Source
from tests.gateway.store.conftest import PATIENT_S, SOON, Locked, failure_of
from tests.gateway.store.times import DAY, NOON, at
from tests.gateway.telemetry.answers import confident, escalated, identity, prediction

NAME = "tickets-0123456789ab"
SAID = prediction("login")
TEACHER = prediction("refund")


def compared(number: int, **changes: object) -> Comparison:
    """A candidate that says login where who serves says refund, and would keep it."""
    plain = Comparison(
        answer=confident(number, text=f"text {number}"),
        candidate=NAME,
        prediction=SAID,
        escalates=False,
        propensity=0.1,
        seconds=0.25,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def store(engine: Engine, *found: Comparison) -> None:
    writer = RecordWriter(engine, store_text="full")
    for each in found:
        writer.answered(each.answer)
        writer.compared(each)
    writer.close(SOON)
    assert writer.comparisons == Account(len(found), len(found), 0)


def test_what_is_stored_is_seen_as_it_was(engine: Engine) -> None:
    failed = compared(2, prediction=None, lapse=Lapse.HUNG, seconds=None, escalates=True)
    taught = compared(
        3,
        answer=escalated(3, student=prediction(), teacher=TEACHER),
        teacher=TEACHER,
        source=Source.ESCALATED,
        second=SAID,
        by_chance=True,
        serving_escalates=True,
    )
    store(engine, compared(1), failed, taught)
    found = list(comparisons.each(engine, "tickets", NAME))
    assert [each.sight for each in found] == [seen(each) for each in (compared(1), failed, taught)]
    assert [each.at for each in found] == [1_700_000_001.0, 1_700_000_002.0, 1_700_000_003.0]
    assert list(comparisons.each(engine, "tickets", "another")) == []


def test_margin_and_rank_are_those_of_the_heads(engine: Engine) -> None:
    asked = (
        Head(name="intent", kind=HeadKind.CHOICE, labels=("refund", "login", "other")),
        Head(name="risk", kind=HeadKind.FLAGS, labels=("legal",)),
    )
    said = Prediction(
        heads=(
            HeadPrediction("intent", ("login",), 0.5, np.array([0.2, 0.5, 0.3], np.float32)),
            HeadPrediction("risk", (), 0.95, np.array([0.05], np.float32)),
        ),
        score=0.475,
        truncated=False,
        bundle="c" * 64,
        asked=asked,
    )
    store(engine, compared(1, prediction=said, teacher=TEACHER, source=Source.AUDIT))
    with engine.connect() as connection:
        (row,) = connection.execute(select(tables.comparisons)).mappings()
    assert round(row["margin"], 4) == 0.2  # 0.5 - 0.3; the flag is 0.9 away from turning
    assert row["ranks"] == {"intent": 3}  # the teacher's refund has 0.2, the least of three
    assert (row["agrees_serving"], row["agrees_teacher"]) == (False, False)
    assert row["labels"] == {"intent": ["login"], "risk": []}
    assert (row["score"], row["propensity"], row["source"]) == (0.475, 0.1, "audit")


def test_the_worst_disagreements_are_the_surest_ones_with_the_teacher(engine: Engine) -> None:
    def at(number: int, score: float, teacher: Prediction | None) -> Comparison:
        return compared(number, prediction=replace(SAID, score=score), teacher=teacher)

    store(
        engine,
        at(1, 0.99, None),  # differs from who serves, and the teacher has not looked
        at(2, 0.6, TEACHER),
        at(3, 0.9, TEACHER),
        at(4, 0.95, prediction("login")),  # right, and not who serves
    )
    found = comparisons.worst(engine, "tickets", NAME, limit=10)
    assert [each.text for each in found] == ["text 3", "text 2", "text 1"]
    first = found[0]
    assert (first.said["intent"], first.score) == (["login"], 0.9)
    assert first.teacher is not None
    assert first.teacher["intent"] == ["refund"]
    assert len(comparisons.worst(engine, "tickets", NAME, limit=2)) == 2


def segment(found: Sequence[Compared]) -> list[Counted]:
    """One segment, of so many rows."""
    footing = asdict(Footing())
    state = Saved(began=1.0, footing=footing, limits={}, counts={"losses": [len(found)]},
                  compared={}, spans={}, read={})  # fmt: skip
    return [Counted(names.answer_id(), NAME, 1.0, 1.0, state, None, ended=True)]


def test_what_people_say_counts_once_though_it_comes_late_and_replicas_look_at_once(
    engine: Engine, database: str | Path
) -> None:
    # Whoever finds it locked waits for the others.
    replicas = [open_database(database, busy_s=PATIENT_S) for _ in range(4)]
    store(engine, compared(1, policy="own", serving="b", serving_policy="its"), compared(2))
    verdicts, seen_by = Verdicts(engine), []

    def count(found: Sequence[Compared]) -> list[Counted]:
        seen_by.append([(each.record, each.sight.gold) for each in found])
        return segment(found)

    def judge(replica: Engine = replicas[0], *, since: float | None = None) -> int:
        return comparisons.judge(replica, "tickets", NAME, count, since=since)

    assert judge() == 0
    for intent in ("login", "refund"):  # of several the last
        verdicts.add(Verdict(identity(1), {"intent": (intent,), "risk": ()}, who="ann"))
    assert judge(since=time.time() + 3600.0) == 0  # later ones alone
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(judge, replicas)) == [0, 0, 0, 1]
    gold = {"intent": frozenset({"refund"}), "risk": frozenset()}
    assert seen_by == [[(identity(1), gold)]]
    verdicts.add(Verdict(identity(1), {"intent": ("login",), "risk": ()}, who="bob"))
    assert judge() == 0  # it counts already
    (header,) = trials.headers(engine, "tickets")
    assert trials.counted(engine, [header.segment])[0].state["counts"] == {"losses": [1]}
    told = {each.record: each.sight for each in comparisons.each(engine, "tickets", NAME)}
    assert told[identity(1)].gold == {"intent": frozenset({"login"}), "risk": frozenset()}
    assert (told[identity(1)].policy, told[identity(1)].serves) == ("own", "b")
    assert told[identity(2)].gold is None
    for each in replicas:
        each.dispose()


def test_comparisons_without_a_record_go_when_their_days_are_over(engine: Engine) -> None:
    with writing(engine).begin() as connection:
        comparisons.keep(
            connection, [compared(each, answer=at(NOON - each * DAY)) for each in (1, 9)]
        )
    assert comparisons.purge(engine, NOON - 5 * DAY) == 1
    left = [(NOON - each.at) / DAY for each in comparisons.each(engine, "tickets", NAME)]
    assert left == [1]


def test_comparisons_leave_half_of_the_queue_to_answers(engine: Engine, locked: Locked) -> None:
    failed = failure_of(engine)
    writer = RecordWriter(engine, capacity=11)
    with locked() as release:
        writer.answered(confident(1))
        assert failed.wait(SOON)  # the thread holds it, and tries again
        for number in range(2, 12):
            writer.compared(compared(number))
        assert writer.comparisons.dropped == 5  # 1 + 5 wait: half of 11 is reached
        writer.answered(confident(12))
        release()
        writer.close(SOON)
    assert writer.records == Account(2, 2, 0)
    assert writer.comparisons == Account(10, 5, 5)


def test_a_comparison_goes_with_its_record(engine: Engine) -> None:
    store(engine, compared(1), compared(2))
    assert sum(records.purge(engine, Selection())) == 2
    assert list(comparisons.each(engine, "tickets", NAME)) == []

"""Comparisons are stored, read back as what they say, and go with their records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sqlalchemy import Engine, select

from gateway.contract.manifest import Head, HeadKind
from gateway.shadow.pairing import seen
from gateway.store import comparisons, records, tables
from gateway.store.comparisons import Counted
from gateway.store.records import Selection
from gateway.store.writer import Account, RecordWriter
from gateway.types import Comparison, HeadPrediction, Lapse, Prediction, Source
from tests.gateway.store.conftest import SOON, Locked, failure_of
from tests.gateway.telemetry.answers import confident, escalated, prediction

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
    )
    store(engine, compared(1), failed, taught)
    found = list(comparisons.each(engine, "tickets", NAME))
    assert [each.sight for each in found] == [seen(each) for each in (compared(1), failed, taught)]
    assert [each.at for each in found] == [1_700_000_001.0, 1_700_000_002.0, 1_700_000_003.0]
    assert list(comparisons.each(engine, "tickets", "another")) == []
    late = list(comparisons.each(engine, "tickets", NAME, since=1_700_000_003.0))
    assert [each.record for each in late] == [taught.answer.id]


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
    assert (row["labels"], row["serving"]) == ({"intent": ["login"], "risk": []}, "b" * 64)
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


def test_what_processes_have_counted_is_kept_for_each(engine: Engine) -> None:
    one = Counted("one", NAME, 10.0, {"rows": 1})
    comparisons.save(engine, "tickets", "one", [one])
    comparisons.save(engine, "tickets", "two", [replace(one, process="two", began=5.0)])
    comparisons.save(engine, "tickets", "one", [replace(one, state={"rows": 2})])
    assert comparisons.counted(engine, "tickets") == [
        Counted("two", NAME, 5.0, {"rows": 1}),
        Counted("one", NAME, 10.0, {"rows": 2}),
    ]
    assert comparisons.counted(engine, "other") == []


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

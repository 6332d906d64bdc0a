"""Records: what is kept of an answer, and how it is found again."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from gateway.identity import answer_id
from gateway.store import tables
from gateway.store.database import writing
from gateway.store.intake import StoreText, keep
from gateway.store.records import Counts, Record, Selection, count, each, latest, purge
from gateway.types import Answer, Audit, Coin, Cost, FieldValue, Instance, Reason, Route, Stages
from tests.gateway.store.times import DAY, NOON, at
from tests.gateway.telemetry.answers import audit, confident, escalated, identity, prediction

# What `prediction` is sure of, for every label that has a probability.
SCORES = {"intent": {"refund": 0.9, "login": 0.1}, "risk": {"legal": 0.2}}


def store(
    engine: Engine, *answers: Answer, audits: tuple[Audit, ...] = (), text: StoreText = "hash"
) -> int:
    with writing(engine).begin() as connection:
        return keep(connection, answers, audits, text=text)


def only(engine: Engine) -> Record:
    (record,) = latest(engine, Selection(), 10)
    return record


def audit_rows(engine: Engine) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(tables.audits)).mappings()]


def test_a_confident_answer_comes_back_as_it_was(engine: Engine) -> None:
    store(engine, confident(1, text="hello", coin=Coin.UNIFORM), text="full")
    assert only(engine) == Record(
        id=identity(1),
        at=1_700_000_001.0,
        task="tickets",
        route=Route.STUDENT,
        reason=Reason.CONFIDENT,
        reasons=(Reason.CONFIDENT,),
        detail="",
        score=0.72,
        familiarity=None,
        threshold=0.7,
        labels={"intent": ("refund",), "risk": ()},
        confidences={"intent": 0.9, "risk": 0.8},
        student_labels={"intent": ("refund",), "risk": ()},
        teacher_labels=None,
        bundle="b" * 64,
        truncated=False,
        text="hello",
        text_sha256=hashlib.sha256(b"hello").hexdigest(),
        fields={"amount": 12.5},
        cost=Cost(student=1, teacher=0, avoided=2500),
        stages=Stages(queue=0.001, student=0.002, teacher=0.0, total=0.004),
        audit_propensity=0.02,
        propensity=0.02,
        audit_uniform=0.02,
        coin=Coin.UNIFORM,
        failure="",
        teacher_scores=None,
    )


def test_an_escalated_answer_keeps_what_both_said(engine: Engine) -> None:
    teacher = prediction("refund", risk=("legal",))
    store(engine, escalated(student=prediction("login", truncated=True), teacher=teacher))
    record = only(engine)
    assert record.route is Route.TEACHER
    assert record.reasons == (Reason.LOW_CONFIDENCE,)
    assert record.detail == "lawsuit"
    assert record.labels == record.teacher_labels == {"intent": ("refund",), "risk": ("legal",)}
    assert record.student_labels == {"intent": ("login",), "risk": ()}
    assert record.truncated
    assert (record.audit_propensity, record.propensity) == (0.0, 1.0)


def test_an_answer_that_nobody_gave_has_no_labels(engine: Engine) -> None:
    failed = escalated(route=Route.ABSTAIN, reason=Reason.STUDENT_FAILED, failure="teacher_timeout")
    store(engine, failed)
    record = only(engine)
    assert (record.labels, record.student_labels, record.teacher_labels) == (None, None, None)
    assert (record.score, record.confidences, record.bundle) == (None, None, None)
    assert record.propensity == 0.0
    assert record.failure == "teacher_timeout"


def test_an_unknown_cost_stays_unknown(engine: Engine) -> None:
    store(engine, confident(cost=Cost(None, 0, None)))
    assert only(engine).cost == Cost(None, 0, None)


@pytest.mark.parametrize(
    ("kept", "text", "hashed", "fields"),
    [
        ("none", None, False, None),
        ("hash", None, True, None),
        ("full", "hello", True, {"amount": 12.5}),
    ],
)
def test_text_is_kept_only_as_far_as_asked(
    engine: Engine,
    kept: StoreText,
    text: str | None,
    hashed: bool,  # noqa: FBT001  pytest gives it by name
    fields: dict[str, float] | None,
) -> None:
    store(engine, confident(text="hello"), text=kept)
    record = only(engine)
    assert record.text == text
    assert (record.text_sha256 is not None) == hashed
    assert record.fields == fields


def test_an_id_that_is_there_stays_as_it_is(engine: Engine) -> None:
    store(engine, confident(1, text="first"), text="full")
    store(engine, confident(1, text="second"), confident(2), text="full")
    new, old = latest(engine, Selection(), 10)
    assert (new.id, old.text) == (identity(2), "first")


def test_an_audit_is_kept_beside_its_record(engine: Engine) -> None:
    agreeing, differing = confident(1), confident(2)
    audits = (audit(agreeing, prediction()), audit(differing, prediction("login"), cost=None))
    assert store(engine, agreeing, differing, audits=audits) == 0
    assert audit_rows(engine) == [
        {
            "record": identity(1),
            "at": 1_700_000_001.0,
            "teacher_labels": {"intent": ["refund"], "risk": []},
            "agrees": True,
            "cost": 2500,
            "seconds": 0.05,
            "teacher_scores": SCORES,
        },
        {
            "record": identity(2),
            "at": 1_700_000_002.0,
            "teacher_labels": {"intent": ["login"], "risk": []},
            "agrees": False,
            "cost": None,
            "seconds": 0.05,
            "teacher_scores": SCORES,
        },
    ]


def test_an_audit_without_its_record_is_left_out_and_reported(engine: Engine) -> None:
    audits = (audit(confident(1), prediction()), audit(confident(2), prediction()))
    assert store(engine, confident(1), audits=audits) == 1
    assert [row["record"] for row in audit_rows(engine)] == [identity(1)]


def test_an_audit_that_is_offered_twice_is_kept_once(engine: Engine) -> None:
    seen = audit(confident(1), prediction())
    store(engine, confident(1), audits=(seen,))
    assert store(engine, audits=(seen,)) == 0
    assert len(audit_rows(engine)) == 1


def test_the_newest_come_first_and_can_be_chosen(engine: Engine) -> None:
    taught = escalated(3, student=prediction(), teacher=prediction(), reason=Reason.HIGH_RISK)
    store(engine, confident(2), taught, confident(1), confident(4, task="other"))
    numbers = [int(record.id[-12:]) for record in latest(engine, Selection(task="tickets"), 2)]
    assert numbers == [3, 2]
    assert [each.id for each in latest(engine, Selection(), 1)] == [identity(4)]
    assert [each.id for each in latest(engine, Selection(route=Route.TEACHER), 9)] == [identity(3)]
    assert [
        each.id for each in latest(engine, Selection(task="tickets", reason=Reason.CONFIDENT), 9)
    ] == [
        identity(2),
        identity(1),
    ]


def test_records_are_chosen_by_their_time(engine: Engine) -> None:
    store(engine, at(NOON - DAY), at(NOON), at(NOON + DAY))
    assert [record.at for record in each(engine, Selection(since=NOON))] == [NOON, NOON + DAY]
    assert [record.at for record in each(engine, Selection(until=NOON))] == [NOON - DAY]
    assert count(engine, Selection(since=NOON, until=NOON + 1)) == Counts(records=1, audits=0)


def test_the_id_of_a_real_answer_begins_with_its_time(engine: Engine) -> None:
    before = time.time()
    store(engine, replace(confident(1), id=answer_id()))
    after = time.time()
    assert count(engine, Selection(since=before - 0.001, until=after + 0.001)).records == 1
    assert count(engine, Selection(since=after + 0.001)).records == 0


def test_more_records_than_a_page_holds_come_each_once_and_in_order(engine: Engine) -> None:
    numbers = range(1, 2502)  # two pages and one more
    store(engine, *(confident(number) for number in numbers))
    found = [int(record.id[-12:]) for record in each(engine, Selection())]
    assert found == list(numbers)


def test_the_records_of_one_text_are_deleted_and_no_others(engine: Engine) -> None:
    one, two = (at(NOON + number, text="erase me") for number in range(2))
    other = at(NOON + 2)
    store(engine, one, two, other, audits=(audit(one, prediction()), audit(other, prediction())))
    meant = Selection(text_sha256=hashlib.sha256(b"erase me").hexdigest())
    assert count(engine, meant) == Counts(records=2, audits=1)
    assert list(purge(engine, meant, page=1)) == [1, 1]
    assert [record.id for record in each(engine, Selection())] == [other.id]
    assert [row["record"] for row in audit_rows(engine)] == [other.id]
    assert list(purge(engine, meant)) == []


def test_a_nul_in_a_text_is_replaced_and_the_hash_is_of_the_real_one(engine: Engine) -> None:
    store(engine, confident(1, text="a\0b"), text="full")
    assert only(engine).text == "a\ufffdb"
    assert only(engine).text_sha256 == hashlib.sha256(b"a\0b").hexdigest()


def test_a_nul_in_a_field_is_replaced_in_its_name_and_its_value(engine: Engine) -> None:
    fields: dict[str, FieldValue] = {
        "a\0b": "c\0d",
        "plain": r"\u0000",
        "amount": 12.5,
        "gone": None,
    }
    store(engine, replace(confident(1), instance=Instance("hello", fields)), text="full")
    assert only(engine).fields == {
        "a\ufffdb": "c\ufffdd", "plain": r"\u0000", "amount": 12.5, "gone": None,
    }  # fmt: skip

"""Verdicts: what people say of stored answers, kept, found again, and handed over as gold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from gateway.errors import RecordsUnavailable, UnknownRecord
from gateway.store import tables
from gateway.store.database import writing
from gateway.store.handover import Tally
from gateway.store.intake import keep
from gateway.store.records import Selection, purge
from gateway.store.verdicts import Verdict, Verdicts
from gateway.types import Answer, Instance, Reason
from tests.gateway.store.conftest import Locked
from tests.gateway.store.test_handover import handed, store, taught
from tests.gateway.telemetry.answers import audit, confident, escalated, identity, prediction

LOGIN = {"intent": ("login",), "risk": ("legal",)}
REFUND = {"intent": ("refund",), "risk": ()}


def came(number: int, text: str, *, propensity: float = 0.02) -> Answer:
    """The student answered it; the coin of an audit had this probability."""
    answer = confident(number, text=text, audit_propensity=propensity)
    return replace(answer, instance=Instance(text))


def judge(engine: Engine, number: int, labels: dict[str, tuple[str, ...]] | None = None) -> str:
    return Verdicts(engine).add(Verdict(identity(number), labels or LOGIN, who="desk", by="ann"))


def test_a_verdict_takes_the_teachers_place_and_leaves_its_chance(
    engine: Engine, tmp_path: Path
) -> None:
    seen = came(2, "audited")
    store(engine, taught(1, "sent"), seen, audits=(audit(seen, prediction()),))
    judge(engine, 1, REFUND)
    for number in (1, 2):
        judge(engine, number)
    rows, tally = handed(engine, tmp_path)
    shown = {row.text: (row.labels, row.source, row.propensity, row.chosen) for row in rows}
    labels = {"intent": "login", "risk": ("legal",)}
    assert shown == {"audited": (labels, "gold", 0.02, False), "sent": (labels, "gold", 1.0, True)}
    assert all(row.scores["intent"] == {"refund": 0.9, "login": 0.1} for row in rows)
    assert (tally.examples, tally.verdicts) == (2, 2)


def test_what_only_a_person_saw_was_seen_with_a_chance_that_nobody_knows(
    engine: Engine, tmp_path: Path
) -> None:
    store(engine, came(1, "picked"), came(2, "nobody looked"), taught(3, "sent"))
    judge(engine, 1)
    rows, tally = handed(engine, tmp_path)
    assert [(row.text, row.source, row.propensity) for row in rows] == [
        ("sent", "teacher", 1.0),
        ("picked", "gold", None),
    ]
    assert (tally.examples, tally.verdicts) == (2, 1)


def test_a_text_that_came_often_was_seen_by_any_of_the_coins(
    engine: Engine, tmp_path: Path
) -> None:
    """Coins of 0.2 and 0.5 both miss with 0.8 * 0.5 = 0.4; an escalation misses never."""
    coins = [came(1, "twice", propensity=0.2), came(2, "twice", propensity=0.5)]
    both = [taught(3, "both"), came(4, "both", propensity=0.2)]
    store(
        engine, *coins, *both, audits=(audit(coins[0], prediction()), audit(both[1], prediction()))
    )
    rows, _ = handed(engine, tmp_path)
    assert {row.text: row.propensity for row in rows} == {"both": 1.0, "twice": pytest.approx(0.6)}


def test_a_verdict_on_another_time_that_the_text_came_does_not_unmake_its_chance(
    engine: Engine, tmp_path: Path
) -> None:
    seen = came(1, "said again", propensity=0.5)
    again = came(2, "said again", propensity=0.0)
    store(engine, seen, again, audits=(audit(seen, prediction()),))
    judge(engine, 2)
    (row,), tally = handed(engine, tmp_path)
    assert (row.labels["intent"], row.source, row.propensity) == ("login", "gold", 0.5)
    assert tally.duplicates == 1


def test_a_verdict_on_what_a_student_chose_while_nothing_could_be_audited_has_no_chance(
    engine: Engine, tmp_path: Path
) -> None:
    """Such rows are left out beside audits, but what a person says of them is still right."""
    blind = [replace(taught(number, f"blind {number}"), auditable=False) for number in (1, 2, 3)]
    anyway = replace(taught(4, "asked", reason=Reason.REQUESTED), auditable=False)
    seen = [came(5, "audited"), came(6, "blind 3")]
    audits = tuple(audit(each, prediction()) for each in seen)
    store(engine, *blind, anyway, *seen, audits=audits)
    for number in (1, 3, 4):
        judge(engine, number)
    rows, tally = handed(engine, tmp_path)
    assert [(row.text, row.source, row.propensity, row.chosen) for row in rows] == [
        ("blind 3", "gold", 0.02, False),
        ("audited", "teacher", 0.02, False),
        ("asked", "gold", 1.0, False),
        ("blind 1", "gold", None, False),
    ]
    assert tally == Tally(examples=4, verdicts=3, duplicates=1, unaudited=1)


def test_a_verdict_of_labels_that_are_no_more_leaves_the_teachers(
    engine: Engine, tmp_path: Path
) -> None:
    store(engine, taught(1, "sent"), came(2, "picked"))
    for number in (1, 2):
        judge(engine, number, {"intent": ("sign_up",), "risk": ()})
    (row,), tally = handed(engine, tmp_path)
    assert (row.text, row.labels["intent"], row.source) == ("sent", "refund", "teacher")
    assert (tally.verdicts, tally.strange) == (0, 1)


def test_verdicts_need_their_record_and_go_with_it(engine: Engine) -> None:
    verdicts = Verdicts(engine, clock=lambda: 5.0)
    with pytest.raises(UnknownRecord, match=identity(1)):
        verdicts.task_of(identity(1))
    with pytest.raises(UnknownRecord, match=identity(1)):
        judge(engine, 1)
    with writing(engine).begin() as connection:
        keep(connection, [escalated(1)], [], text="hash")
    assert verdicts.task_of(identity(1)) == "tickets"
    name = verdicts.add(Verdict(identity(1), LOGIN, who="desk", by="ann", note="not a refund"))
    with engine.connect() as connection:
        (row,) = connection.execute(select(tables.verdicts)).mappings().all()
    assert dict(row) == {
        "id": name,
        "at": 5.0,
        "record": identity(1),
        "who": "desk",
        "by": "ann",
        "labels": {"intent": ["login"], "risk": ["legal"]},
        "note": "not a refund",
    }
    assert list(purge(engine, Selection())) == [1]
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(tables.verdicts)) == 0


def test_a_verdict_that_cannot_be_stored_is_refused(engine: Engine, locked: Locked) -> None:
    store(engine, taught(1, "sent"))
    with locked(), pytest.raises(RecordsUnavailable, match="the verdict is not stored"):
        judge(engine, 1)

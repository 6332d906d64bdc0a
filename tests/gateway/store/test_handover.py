"""The hand-over: which rows become examples, and what is said of those that do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, update

from gateway.contract.examples import Example, Label
from gateway.store import handover, tables
from gateway.store.database import writing
from gateway.store.handover import Handover, Tally
from gateway.store.intake import StoreText, keep
from gateway.store.records import Selection, latest
from gateway.types import (
    Answer,
    Audit,
    FieldValue,
    HeadPrediction,
    Instance,
    Prediction,
    Reason,
    Route,
)
from tests.gateway.telemetry.answers import (
    TICKETS,
    audit,
    confident,
    escalated,
    identity,
    prediction,
)

# What `prediction` is sure of, for every label that has a probability.
SCORES = {"intent": {"refund": 0.9, "login": 0.1}, "risk": {"legal": 0.2}}


def said(shares: tuple[float, float], *, risk: float = 0.0) -> Prediction:
    """A teacher of those probabilities of refund and login, and of the flag."""
    heads = (
        HeadPrediction("intent", ("refund",), shares[0], np.array(shares, np.float32)),
        HeadPrediction("risk", (), 1.0 - risk, np.array([risk], np.float32)),
    )
    return replace(prediction(), heads=heads)


def taught(
    number: int,
    text: str,
    *,
    teacher: Prediction | None = None,
    reason: Reason = Reason.LOW_CONFIDENCE,
) -> Answer:
    """An answer that the teacher gave to this text."""
    answer = escalated(number, teacher=teacher or prediction(), reason=reason)
    return replace(answer, instance=Instance(text))


def store(
    engine: Engine, *answers: Answer, audits: tuple[Audit, ...] = (), text: StoreText = "full"
) -> None:
    with writing(engine).begin() as connection:
        assert keep(connection, answers, audits, text=text) == 0


def handed(engine: Engine, folder: Path) -> tuple[list[Example], Tally]:
    found = Handover(engine, "tickets", TICKETS.heads, folder)
    rows = list(found.examples())
    assert list(folder.glob(".seen*")) == []
    return rows, found.tally


def test_escalations_and_audits_are_handed_over_with_their_chances(
    engine: Engine, tmp_path: Path
) -> None:
    alone = confident(3, text="nobody but the student saw this")
    seen = confident(2, text="audited")
    abstained = escalated(4, route=Route.ABSTAIN, failure="teacher_timeout")
    store(engine, taught(1, "sue you"), seen, alone, abstained, audits=(audit(seen, prediction()),))
    rows, tally = handed(engine, tmp_path)
    labels: dict[str, Label] = {"intent": "refund", "risk": ()}
    row = Example("sue you", labels, source="teacher", scores=SCORES, chosen=True)
    beside = replace(row, text="audited", fields={"amount": 12.5}, propensity=0.02, chosen=False)
    assert rows == [beside, row]
    assert tally == Tally(examples=2)


def test_what_a_student_chose_while_nothing_could_be_audited_is_left_out_beside_audits(
    engine: Engine, tmp_path: Path
) -> None:
    blind = [
        replace(taught(number, text, reason=reason), auditable=False)
        for number, text, reason in (
            (1, "of a version that did not say", Reason.LOW_CONFIDENCE),
            (2, "audited", Reason.SEVERITY),
            (3, "asked for", Reason.REQUESTED),
        )
    ]
    seen = confident(5, text="audited")
    store(engine, *blind)
    with writing(engine).begin() as connection:
        oldest = tables.records.c.id == identity(1)
        connection.execute(update(tables.records).where(oldest).values(auditable=None))
    rows, tally = handed(engine, tmp_path)  # escalations alone: that is said of them, and no more
    assert [(row.text, row.chosen) for row in rows] == [
        ("asked for", False),
        ("audited", True),
        ("of a version that did not say", True),
    ]
    assert tally == Tally(examples=3)
    store(engine, taught(4, "audits could be made"), seen, audits=(audit(seen, prediction()),))
    rows, tally = handed(engine, tmp_path)
    assert [(row.text, row.chosen, row.propensity) for row in rows] == [
        ("audited", False, 0.02),
        ("audits could be made", True, 1.0),
        ("asked for", False, 1.0),
    ]
    assert tally == Tally(examples=3, unaudited=2)


def test_what_came_to_the_teacher_anyway_was_chosen_by_no_student(
    engine: Engine, tmp_path: Path
) -> None:
    store(engine, taught(1, "a", reason=Reason.NO_STUDENT), taught(2, "b", reason=Reason.SEVERITY))
    rows, _ = handed(engine, tmp_path)
    assert {row.text: row.chosen for row in rows} == {"a": False, "b": True}


def test_of_a_text_with_the_same_fields_the_latest_counts(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_PAGE", 2)  # rows: the four are read in three pages
    one: dict[str, FieldValue] = {"tier": "a", "amount": 1}
    other: dict[str, FieldValue] = {"amount": 1, "tier": "a"}
    store(
        engine,
        replace(taught(1, "x"), instance=Instance("x", one)),
        replace(taught(2, "x", teacher=prediction("login")), instance=Instance("x", other)),
        replace(taught(3, "x"), instance=Instance("x", {"tier": "b", "amount": 1})),
        taught(4, "y"),
    )
    rows, tally = handed(engine, tmp_path)
    assert [(row.text, row.fields, row.labels["intent"]) for row in rows] == [
        ("y", {}, "refund"),
        ("x", {"tier": "b", "amount": 1}, "refund"),
        ("x", {"tier": "a", "amount": 1}, "login"),
    ]
    assert tally == Tally(examples=3, duplicates=1)


def test_a_text_that_came_often_has_the_chance_that_any_of_its_requests_was_seen(
    engine: Engine, tmp_path: Path
) -> None:
    """Four requests of a chance of 0.02 each: 1 - 0.98 ** 4, though only one was seen.

    That one of them has other fields, or is written in capitals, makes it no other text.
    """
    often = [confident(number, text="often") for number in (1, 2, 3)]
    often[0] = replace(often[0], instance=Instance(" OFTEN", {"amount": 12.5}))
    other = replace(confident(4), instance=Instance("often", {"amount": 1}))
    once = confident(5, text="once")
    sure = [taught(6, "both"), replace(confident(7), instance=Instance("both"))]
    seen = (often[1], once, sure[1])
    store(engine, *often, other, once, *sure, audits=tuple(audit(e, prediction()) for e in seen))
    rows, tally = handed(engine, tmp_path)
    assert {row.text: row.propensity for row in rows} == {
        "often": pytest.approx(1 - 0.98**4),
        "once": 0.02,
        "both": 1.0,
    }
    assert tally == Tally(examples=3, duplicates=1)


def test_texts_that_differ_in_case_alone_are_all_handed_over_with_one_chance(
    engine: Engine, tmp_path: Path
) -> None:
    """Seen with 0.02 and with 1/2, and once with 0.1 by nobody: 1 - 0.98 * 0.5 * 0.9 = 0.559."""
    shares = {"Refund please": 0.02, "refund  PLEASE": 0.5, "REFUND PLEASE": 0.1}
    came = [
        replace(confident(number, text=text), audit_propensity=share)
        for number, (text, share) in enumerate(shares.items(), 1)
    ]
    store(engine, *came, audits=tuple(audit(each, prediction()) for each in came[:2]))
    rows, tally = handed(engine, tmp_path)
    assert {row.text: row.propensity for row in rows} == {
        "Refund please": pytest.approx(0.559),
        "refund  PLEASE": pytest.approx(0.559),
    }
    assert tally == Tally(examples=2)


def test_a_record_of_the_time_between_keeps_its_own_chance(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = confident(1, text="late")
    taken = Handover._taught

    def meanwhile(handover: Handover) -> Any:
        store(engine, late, audits=(audit(late, prediction()),))
        return taken(handover)

    monkeypatch.setattr(Handover, "_taught", meanwhile)
    rows, _ = handed(engine, tmp_path)
    assert [(row.text, row.propensity) for row in rows] == [("late", 0.02)]


def test_rows_without_text_or_of_other_labels_are_counted(engine: Engine, tmp_path: Path) -> None:
    store(engine, taught(1, "hidden"), text="hash")
    store(engine, taught(2, "old", teacher=prediction("sign_up")), taught(3, "new"))
    rows, tally = handed(engine, tmp_path)
    assert [row.text for row in rows] == ["new"]
    assert tally == Tally(examples=1, without_text=1, strange=1)


def test_only_the_time_and_the_task_that_are_meant_count(engine: Engine, tmp_path: Path) -> None:
    other = replace(taught(4, "other"), task="mail")
    store(engine, *(taught(number, f"text {number}") for number in (1, 2, 3)), other)
    ids = [row.id for row in latest(engine, Selection(), 9)]
    assert ids == [identity(number) for number in (4, 3, 2, 1)]
    everything = Handover(engine, "tickets", TICKETS.heads, tmp_path, since=0.0, until=1.0)
    assert len(list(everything.examples())) == 3
    nothing = Handover(engine, "tickets", TICKETS.heads, tmp_path, since=1.0)
    assert list(nothing.examples()) == []


def test_a_scratch_file_without_a_place_is_an_error_of_the_disk(
    engine: Engine, tmp_path: Path
) -> None:
    nowhere = Handover(engine, "tickets", TICKETS.heads, tmp_path / "missing")
    with pytest.raises(OSError, match="a scratch file beside it"):
        list(nowhere.examples())


def test_probabilities_are_rounded_and_zeros_and_mere_labels_left_out(engine: Engine) -> None:
    store(
        engine,
        taught(1, "sure", teacher=said((1.0, 0.0))),
        taught(2, "soft", teacher=said((0.98765432, 0.01234568))),
        taught(3, "edge", teacher=said((0.99999, 0.00001), risk=0.5)),
    )
    found = {row.text: row.teacher_scores for row in latest(engine, Selection(), 9)}
    assert found == {
        "sure": None,
        "soft": {"intent": {"refund": 0.9877, "login": 0.0123}},
        "edge": {"intent": {"refund": 1.0}, "risk": {"legal": 0.5}},
    }

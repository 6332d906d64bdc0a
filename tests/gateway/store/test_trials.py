"""Segments of trials: stored by one process, read by all, folded when they have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import pytest
from sqlalchemy import Engine

from gateway.errors import RecordsUnavailable
from gateway.shadow.promotion import Footing, Gate, Pair, Saved, Terms, Trial
from gateway.shadow.slices import Slices
from gateway.store import trials
from gateway.store.trials import DAY_S, Counted
from gateway.succession.dossier import total
from tests.gateway.store.times import NOON

NAME = "tickets-0123456789ab"
TERMS = Terms(limits={Gate.DISAGREEMENT: 0.02})
NOBODY: frozenset[str] = frozenset()


def state(rows: int, *, began: float, serving: str = "") -> Saved:
    """So many rows without a disagreement, one a second."""
    trial = Trial(TERMS, began=began, footing=Footing(policy="p", serving=serving))
    for number in range(rows):
        trial.add(Pair(differs=False), at=began + number)
    return trial.saved()


def segment(name: str, rows: int = 1, *, began: float = NOON, **changes: object) -> Counted:
    made = Counted(
        name, NAME, began, began + rows, state(rows, began=began), Slices().saved(), ended=True
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def counts(engine: Engine) -> list[Mapping[str, Sequence[float]]]:
    names = [each.segment for each in trials.headers(engine, "tickets")]
    return [each.state["counts"] for each in trials.counted(engine, names)]


def test_a_segment_is_stored_again_and_again_and_read_by_its_header(engine: Engine) -> None:
    first = segment("one", ended=False)
    assert trials.save(engine, "tickets", [first], known=NOBODY) == NOBODY
    assert trials.save(engine, "tickets", [first], known=NOBODY) == NOBODY  # tried again
    later = segment("one", 7)
    assert trials.save(engine, "tickets", [later], known={"one"}) == NOBODY
    assert trials.headers(engine, "tickets") == [later.header]
    assert trials.counted(engine, ["one"]) == [later]
    assert trials.counted(engine, []) == []
    assert trials.headers(engine, "other") == []


def test_ended_segments_of_one_footing_and_day_become_their_sum(engine: Engine) -> None:
    parts = [
        segment("one", 3),
        segment("two", 4, began=NOON + 1.0),
        segment("next-day", 5, began=NOON + DAY_S),
        segment("goes-on", 6, ended=False),
        segment("dead", 7, began=NOON - 3 * DAY_S, ended=False, until=NOON - 3 * DAY_S + 7.0),
        segment("beside-another", 8, state=state(8, began=NOON, serving="s")),
    ]
    trials.save(engine, "tickets", parts, known=NOBODY)
    assert trials.fold(engine, "tickets", now=NOON + 60.0, total=total) == 2
    assert sorted(each["disagreement"][0] for each in counts(engine)) == [5, 6, 7, 7, 8]
    assert trials.fold(engine, "tickets", now=NOON + 60.0, total=total) == 0
    (both,) = [each for each in trials.headers(engine, "tickets") if each.until == NOON + 5.0]
    assert both.began == NOON
    # The spans of both are one: they were tested at once, from 0 to 2 s and from 1 to 4 s.
    (sum_of,) = trials.counted(engine, [both.segment])
    assert sum_of.state["spans"] == {"disagreement": [[NOON, NOON + 4.0]]}


def test_a_segment_that_was_folded_while_it_went_on_does_not_come_again(engine: Engine) -> None:
    trials.save(engine, "tickets", [segment("one"), segment("two")], known=NOBODY)
    trials.fold(engine, "tickets", now=NOON, total=total)
    gone = trials.save(engine, "tickets", [segment("one", 9)], known={"one"})
    assert gone == {"one"}
    assert counts(engine) == [{"disagreement": [2.0, 0.0]}]


def test_slices_go_with_the_records_of_their_time_and_evidence_stays(engine: Engine) -> None:
    old, new = segment("old", began=NOON - 40 * DAY_S), segment("new")
    older = segment("older", began=NOON - 41 * DAY_S)
    trials.save(engine, "tickets", [old, new, older], known=NOBODY)
    trials.forget(engine, NOON - 30 * DAY_S)
    kept = {each.segment: each for each in trials.counted(engine, ["old", "new", "older"])}
    assert (kept["old"].slices, kept["new"].slices) == (None, new.slices)
    sliced = {each.segment: each.sliced for each in trials.headers(engine, "tickets")}
    assert sliced == {"old": False, "new": True, "older": False}  # who reads headers sees it
    assert kept["old"].state == old.state
    assert trials.fold(engine, "tickets", now=NOON, total=total) == 2  # of days nothing is known


def test_a_database_in_trouble_is_told_of_in_the_stores_own_words(
    engine: Engine,
) -> None:
    trials.save(engine, "tickets", [segment("one")], known=NOBODY)
    trials_gone = "no such table|does not exist"
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE trials RENAME TO away")
    for work in (
        lambda: trials.headers(engine, "tickets"),
        lambda: trials.counted(engine, ["one"]),
        lambda: trials.save(engine, "tickets", [segment("one")], known=NOBODY),
        lambda: trials.fold(engine, "tickets", now=NOON, total=total),
    ):
        with pytest.raises(RecordsUnavailable, match=trials_gone) as caught:
            work()
        assert caught.value.mend


def test_a_footing_is_stored_as_plain_names() -> None:
    """They are read by versions that come later."""
    assert asdict(Footing("a", "b", "c", 0.05)) == {
        "policy": "a", "serving": "b", "serving_policy": "c", "slow_s": 0.05,
    }  # fmt: skip

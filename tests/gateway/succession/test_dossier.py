"""What was counted of candidates, over segments: nothing is forgotten, and nothing counts twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gateway.shadow.promotion import Footing, Gate, Pair, Terms, Trial
from gateway.shadow.runner import Runner
from gateway.shadow.shadow import Candidate
from gateway.shadow.slices import Slices
from gateway.store import trials
from gateway.store.database import Database, open_database
from gateway.store.trials import DAY_S, Counted, Header
from gateway.succession.dossier import Dossier, Known, place_of, rivals, total
from gateway.types import Comparison
from tests.gateway.shadow.puppet import Puppet
from tests.gateway.shadow.test_shadow import SAID, a_candidate
from tests.gateway.telemetry.answers import confident
from tests.patience import eventually

NAME = "tickets-1"
TERMS = Terms(limits={Gate.ESCALATION: 0.02})
HERE, ELSEWHERE = Footing(policy="p"), Footing(policy="p", serving="s")
BEGAN = 1_700_000_000.0  # the answers are of the seconds after it


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path / "records.db")
    yield opened
    opened.dispose()


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self.now


Work = Callable[[Dossier, Candidate, Clock], Awaitable[None]]


def header(began: float, name: str, footing: Footing, **limits: float) -> Header:
    return Header("s", name, began, began, True, *trials.about(asdict(footing), limits))


def with_dossier(work: Work, database: Database | None = None) -> None:
    async def play() -> None:
        clock = Clock()
        dossier = Dossier("tickets", database, clock)
        runner = Runner(NAME, lambda: Puppet(SAID), queue=10)
        candidate = a_candidate(runner)
        dossier.begin(candidate, TERMS, HERE)
        try:
            await work(dossier, candidate, clock)
        finally:
            await runner.close()

    asyncio.run(play())


def compare(candidate: Candidate, *numbers: int) -> None:
    """Count answers of these seconds."""
    for number in numbers:
        candidate.count(
            Comparison(confident(number), NAME, SAID, escalates=False, propensity=1.0, seconds=0.1)
        )


def known(dossier: Dossier) -> Known:
    return dossier.moment([NAME]).known(NAME, TERMS)


def stored(database: Database) -> list[Counted]:
    headers = trials.headers(database, "tickets")
    return trials.counted(database, [each.segment for each in headers])


def test_without_a_database_a_process_forgets_nothing_and_keeps_one_segment_of_a_footing() -> None:
    async def work(dossier: Dossier, candidate: Candidate, clock: Clock) -> None:
        for footing in (ELSEWHERE, HERE, ELSEWHERE, HERE):
            compare(candidate, 1, 2)
            clock.now += 100.0
            dossier.begin(candidate, TERMS, footing)
        found = known(dossier)
        assert found.trial.rows == 4  # of two times here, and none of elsewhere
        assert found.slices.whole.compared == 8
        assert len(dossier._ended) == 2
        assert (found.rivals, found.place) == (1, 1)
        await dossier.look()
        await dossier.save()
        await dossier.fold()
        assert dossier.worst(NAME, 10) == ()
        assert found.read  # there is nothing to read

    with_dossier(work)


def test_another_footing_and_another_limit_are_another_try() -> None:
    moved, judged = Terms(limits={Gate.SERVING: 0.02}), {Gate.LOSSES: 0.5}
    both = Terms(limits={**moved.limits, **judged})
    headers = [
        header(5.0, "before", HERE, serving=0.01),
        header(9.0, NAME, HERE, serving=0.02, losses=0.5),
        header(6.0, NAME, HERE, losses=0.5),  # what people say, which is part of the one at 9 s
        header(7.0, NAME, ELSEWHERE, serving=0.01),
        header(8.0, NAME, HERE, serving=0.01),
        header(9.5, NAME, HERE, serving=0.01),  # another process
    ]
    assert place_of(NAME, HERE, both, headers) == 2
    assert place_of(NAME, ELSEWHERE, Terms(limits={Gate.SERVING: 0.01}), headers) == 3
    assert place_of(NAME, ELSEWHERE, moved, headers) == 5  # it has not begun: it is the next
    assert [rivals(name, headers) for name in (NAME, "before")] == [1, 1]


def test_a_test_that_gets_another_gate_keeps_its_place_and_so_does_one_that_loses_it() -> None:
    one, two = (
        Terms(limits={Gate.SERVING: 0.01}),
        Terms(limits={Gate.SERVING: 0.01, Gate.ESCALATION: 0.02}),
    )
    headers = [
        header(1.0, "a", HERE, serving=0.01),
        header(2.0, "b", HERE, serving=0.01),
        header(3.0, "b", HERE, serving=0.01, escalation=0.02),  # the gate was added meanwhile
        header(4.0, "a", HERE, serving=0.01, escalation=0.02),  # and it came back
    ]
    for terms in (one, two):
        assert [place_of(name, HERE, terms, headers) for name in ("a", "b", "c")] == [1, 2, 3]


def test_evidence_that_cannot_be_read_proves_nothing_and_is_not_none(database: Database) -> None:
    async def work(dossier: Dossier, candidate: Candidate, _: Clock) -> None:
        compare(candidate, 1, 2)
        await dossier.look()
        before = dossier.moment([NAME])
        assert before.known(NAME, TERMS).read
        damaged = replace(before.going[NAME], segment="damaged")
        damaged.state["counts"] = {"escalation": [1.0]}
        assert not replace(before, past=[damaged]).known(NAME, TERMS).read

    with_dossier(work, database)


def test_only_time_in_which_something_was_compared_counts() -> None:
    async def work(dossier: Dossier, candidate: Candidate, clock: Clock) -> None:
        compare(candidate, 5, 20)
        clock.now += 30_000.0
        dossier.begin(candidate, TERMS, HERE)  # a pause of more than eight hours
        compare(candidate, 30_030, 30_060)
        assert known(dossier).trial.verdict().elapsed_s == 15.0 + 30.0

    with_dossier(work)


def test_what_is_stored_is_what_was_counted_whoever_folds_it(database: Database) -> None:
    async def work(dossier: Dossier, candidate: Candidate, clock: Clock) -> None:
        compare(candidate, 1, 2)
        await dossier.save()
        await dossier.save()  # nothing is new
        await dossier.look()
        assert known(dossier).trial.rows == 2  # its own is not another's

        dossier.begin(candidate, TERMS, HERE)
        compare(candidate, 10)
        await dossier.save()
        assert (len(stored(database)), known(dossier).trial.rows) == (2, 3)

        # Another process takes the segment that goes on for dead.
        assert trials.fold(database, "tickets", now=BEGAN + 3 * DAY_S, total=total) == 2
        compare(candidate, 20)
        await dossier.save()  # and it is told so: of the fourth row the sum knows nothing
        assert known(dossier).trial.rows == 4
        await dossier.save()
        compare(candidate, 30)
        await dossier.save()
        await dossier.look()
        assert known(dossier).trial.rows == 5

        clock.now += DAY_S  # the segment ends, so that its slices go with their day
        await dossier.save()
        assert [each.ended for each in stored(database)] == [True, True, True]
        dossier.end(candidate)
        await dossier.save()
        await dossier.fold()
        assert sum(each.state["counts"]["escalation"][1] for each in stored(database)) == 5

    with_dossier(work, database)


def test_a_segment_that_ends_between_a_look_and_the_judgement_counts_once(
    database: Database,
) -> None:
    async def work(dossier: Dossier, candidate: Candidate, _: Clock) -> None:
        compare(candidate, 1, 2)
        moment = dossier.moment([NAME])
        dossier.begin(candidate, TERMS, HERE)
        await dossier.save()
        assert moment.known(NAME, TERMS).trial.rows == 2
        assert known(dossier).trial.rows == 2

    with_dossier(work, database)


def elsewhere(database: Database, segment: str, *numbers: int) -> None:
    """Another process has compared answers of these seconds."""
    trial = Trial(TERMS, began=BEGAN, footing=HERE)
    for number in numbers:
        trial.add(Pair(escalates=False, serving_escalates=False), at=BEGAN + number)
    row = Counted(segment, NAME, BEGAN, trial.until, trial.saved(), Slices().saved(), ended=True)
    trials.save(database, "tickets", [row], known=frozenset())


def test_what_was_seen_last_is_what_is_known(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, later_is_over = trials.headers, threading.Event()
    calls: list[str] = []

    def slow(engine: Database, task: str) -> list[Header]:
        found = read(engine, task)
        calls.append(task)
        if len(calls) == 1:
            later_is_over.wait(0.3)  # the one that came after it may overtake it now, if it can
        return found

    async def work(dossier: Dossier, _: Candidate, __: Clock) -> None:
        elsewhere(database, "one", 1)
        monkeypatch.setattr(trials, "headers", slow)
        first = asyncio.create_task(dossier.look())
        await eventually(lambda: len(calls) == 1)
        elsewhere(database, "two", 2, 3)
        second = asyncio.create_task(dossier.look())
        second.add_done_callback(lambda _: later_is_over.set())
        await asyncio.wait({first, second})
        assert known(dossier).trial.rows == 3

    with_dossier(work, database)


def test_what_is_folded_while_it_is_read_is_read_as_the_sum(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = trials.counted

    def folded(engine: Database, segments: Collection[str]) -> list[Counted]:
        trials.fold(engine, "tickets", now=BEGAN, total=total)
        return read(engine, segments)

    async def work(dossier: Dossier, _: Candidate, __: Clock) -> None:
        elsewhere(database, "one", 1)
        elsewhere(database, "two", 2, 3)
        monkeypatch.setattr(trials, "counted", folded)
        await dossier.look()
        assert known(dossier).trial.rows == 3

    with_dossier(work, database)


def test_until_its_past_was_read_once_little_is_known_of_a_candidate(database: Database) -> None:
    async def work(dossier: Dossier, candidate: Candidate, _: Clock) -> None:
        elsewhere(database, "one", 1)
        compare(candidate, 2)
        rename(database, "trials", "away")
        await dossier.look()
        assert (known(dossier).read, known(dossier).trial.rows) == (False, 1)
        rename(database, "away", "trials")
        await dossier.look()
        assert (known(dossier).read, known(dossier).trial.rows) == (True, 2)
        rename(database, "trials", "away")
        await dossier.look()  # what is known is as it was
        assert (known(dossier).read, known(dossier).trial.rows) == (True, 2)

    with_dossier(work, database)


def test_slices_that_are_forgotten_are_shown_no_more(database: Database) -> None:
    async def work(dossier: Dossier, candidate: Candidate, _: Clock) -> None:
        compare(candidate, 1, 2)
        dossier.begin(candidate, TERMS, HERE)
        await dossier.save()
        await dossier.look()
        assert known(dossier).slices.whole.compared == 2
        trials.forget(database, BEGAN + DAY_S)
        await dossier.look()
        assert (known(dossier).slices.whole.compared, known(dossier).trial.rows) == (0, 2)

    with_dossier(work, database)


def rename(database: Database, old: str, new: str) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

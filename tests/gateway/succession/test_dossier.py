"""What was counted of candidates, over segments: nothing is forgotten, and nothing counts twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.shadow.promotion import Footing, Gate, Terms
from gateway.shadow.runner import Runner
from gateway.shadow.shadow import Candidate
from gateway.store import trials
from gateway.store.database import Database, open_database
from gateway.store.trials import DAY_S
from gateway.succession.dossier import Dossier, Known, total
from gateway.types import Comparison
from tests.gateway.shadow.puppet import Puppet
from tests.gateway.shadow.test_shadow import SAID, a_candidate
from tests.gateway.telemetry.answers import confident

NAME = "tickets-1"
TERMS = Terms(limits={Gate.ESCALATION: 0.02})
HERE, ELSEWHERE = Footing(policy="p"), Footing(policy="p", serving="s")
BEGAN = 1_700_000_000.0  # the answers are of the seconds after it


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self.now


Work = Callable[[Dossier, Candidate, Clock], Awaitable[None]]


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


def known(dossier: Dossier, candidate: Candidate) -> Known:
    return dossier.known([dossier.live(candidate)], TERMS)[NAME]


def test_without_a_database_a_process_forgets_nothing_and_keeps_one_segment_of_a_footing() -> None:
    async def work(dossier: Dossier, candidate: Candidate, clock: Clock) -> None:
        for footing in (ELSEWHERE, HERE, ELSEWHERE, HERE):
            compare(candidate, 1, 2)
            clock.now += 100.0
            dossier.begin(candidate, TERMS, footing)
        found = known(dossier, candidate)
        assert found.trial.rows == 4  # of two times here, and none of elsewhere
        assert found.slices.whole.compared == 8
        assert len(dossier._ended) == 2
        assert (found.rivals, found.place) == (1, 1)
        await dossier.look([NAME])
        await dossier.save([candidate])
        await dossier.fold()
        assert dossier.worst(NAME, 10) == ()

    with_dossier(work)


def test_only_time_in_which_something_was_compared_counts() -> None:
    async def work(dossier: Dossier, candidate: Candidate, clock: Clock) -> None:
        compare(candidate, 5, 20)
        clock.now += 1000.0
        dossier.begin(candidate, TERMS, HERE)  # a pause of 980 s
        compare(candidate, 1030)
        assert known(dossier, candidate).trial.verdict().elapsed_s == 20.0 + 30.0

    with_dossier(work)


def test_what_is_stored_is_what_was_counted_whoever_folds_it(tmp_path: Path) -> None:
    database = open_database(tmp_path / "records.db")

    async def work(dossier: Dossier, candidate: Candidate, clock: Clock) -> None:
        compare(candidate, 1, 2)
        await dossier.save([candidate])
        await dossier.save([candidate])  # nothing is new
        await dossier.look([NAME])
        assert known(dossier, candidate).trial.rows == 2  # its own is not another's

        clock.now += DAY_S  # the segment ends, so that its slices go with their day
        compare(candidate, 86_410)
        await dossier.save([candidate])
        compare(candidate, 86_420)
        await dossier.save([candidate])
        await dossier.look([NAME])
        assert len(trials.headers(database, "tickets")) == 2
        assert known(dossier, candidate).trial.rows == 4

        clock.now += 3 * DAY_S  # another process takes the one that goes on for dead
        trials.fold(database, "tickets", now=clock.now, total=total)
        compare(candidate, 400_000)
        await dossier.save([candidate])
        await dossier.look([NAME])
        held = known(dossier, candidate).trial.rows
        compare(candidate, 400_001)
        await dossier.save([candidate])
        await dossier.look([NAME])
        assert known(dossier, candidate).trial.rows == held + 1

        clock.now += 3600.0
        dossier.end(candidate)
        await dossier.save(())
        await dossier.fold()
        stored = trials.counted(
            database, [each.segment for each in trials.headers(database, "tickets")]
        )
        assert sum(each.state["counts"]["escalation"][1] for each in stored) == held + 1

    with_dossier(work, database)
    database.dispose()

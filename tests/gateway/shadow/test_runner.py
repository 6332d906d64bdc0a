"""A candidate's processes: what they run, what is refused, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from gateway.errors import StudentFailed
from gateway.shadow import runner as runners
from gateway.shadow.runner import Run, Runner, Shed, State
from gateway.types import Lapse
from tests.gateway.shadow.puppet import Puppet
from tests.gateway.telemetry.answers import prediction
from tests.patience import eventually

SAID = prediction()
LONG = 3600.0  # seconds; far beyond what any test takes


def with_runner(
    work: Callable[[Runner, list[Run]], Awaitable[None]],
    *puppets: Callable[[], Puppet],
    queue: int = 4,
    limit_s: float = 60.0,
    busy: float = 1.0,
    pause_s: float = 0.0,
) -> None:
    """Do `work` with a runner whose processes are those, one after the other."""

    async def play() -> None:
        waiting = list(puppets)
        runner = Runner(
            "tickets-1",
            lambda: waiting.pop(0)(),  # noqa: PLW0108  another one each time
            queue=queue,
            limit_s=limit_s,
            busy=busy,
            pause_s=pause_s,
        )
        runs: list[Run] = []
        try:
            await eventually(lambda: runner.state is not State.STARTING)
            await work(runner, runs)
        finally:
            await runner.close()

    asyncio.run(play())


def test_a_text_is_run_and_its_share_of_the_batch_told() -> None:
    async def work(runner: Runner, runs: list[Run]) -> None:
        assert runner.offer("one", runs.append)
        assert runner.offer("two", runs.append)
        await eventually(lambda: len(runs) == 2)
        assert runs == [Run(SAID, 0.5), Run(SAID, 0.5)]

    with_runner(work, lambda: Puppet(SAID))


def test_a_text_that_was_run_by_itself_has_its_own_time_whatever_the_batch_took() -> None:
    async def work(runner: Runner, runs: list[Run]) -> None:
        runner.offer("one", runs.append)
        await eventually(lambda: bool(runs))
        assert runs == [Run(SAID, 0.02)]  # the half second of the batch was others' processor

    with_runner(work, lambda: Puppet(SAID, took=0.02))


def test_a_text_that_the_model_fails_on_fails_alone() -> None:
    async def work(runner: Runner, runs: list[Run]) -> None:
        runner.offer("one", runs.append)
        await eventually(lambda: bool(runs))
        assert runs == [Run(None, None, Lapse.FAILED)]
        assert (runner.state, runner.lapses[Lapse.FAILED]) == (State.RUNNING, 1)

    with_runner(work, lambda: Puppet(StudentFailed("no numbers")))


@pytest.mark.parametrize("text", ["one", "x" * 3_900_000])
def test_what_finds_no_room_is_refused_and_counted(text: str) -> None:
    puppet: list[Puppet] = []

    def mute() -> Puppet:
        puppet.append(Puppet(SAID, mute=True))
        return puppet[0]

    async def work(runner: Runner, runs: list[Run]) -> None:
        runner.offer("first", runs.append)
        await puppet[0].got.wait()
        taken = [runner.offer(text, runs.append) for _ in range(6)]
        room = 4 if text == "one" else 1  # texts; characters in all
        assert taken == [True] * room + [False] * (6 - room)
        assert (runner.shed[Shed.FULL], runner.depth) == (6 - room, room)
        assert runner.shown == (1 + room) / 7

    with_runner(work, mute)


def test_a_batch_that_does_not_end_is_ended_and_the_next_process_goes_on() -> None:
    puppets: list[Puppet] = []

    def begin(*, mute: bool) -> Puppet:
        puppets.append(Puppet(SAID, mute=mute))
        return puppets[-1]

    async def work(runner: Runner, runs: list[Run]) -> None:
        runner.offer("hangs", runs.append)
        await eventually(lambda: bool(runs))
        assert runs == [Run(None, None, Lapse.HUNG)]
        await eventually(lambda: len(puppets) == 2 and runner.state is State.RUNNING)
        assert puppets[0].killed
        runner.offer("goes on", runs.append)
        await eventually(lambda: len(runs) == 2)
        assert runs[1] == Run(SAID, 0.5)

    with_runner(work, lambda: begin(mute=True), lambda: begin(mute=False), limit_s=0.01)


def test_a_crash_costs_the_batch_and_what_comes_in_the_pause() -> None:
    puppet: list[Puppet] = []

    def mute() -> Puppet:
        puppet.append(Puppet(SAID, mute=True))
        return puppet[0]

    async def work(runner: Runner, runs: list[Run]) -> None:
        runner.offer("one", runs.append)
        await puppet[0].got.wait()
        puppet[0].crash()
        await eventually(lambda: runner.state is State.RESTING)
        assert runs == [Run(None, None, Lapse.CRASHED)]
        assert not runner.offer("two", runs.append)
        assert runner.shed[Shed.RESTING] == 1

    with_runner(work, mute, pause_s=60.0)


def test_a_process_that_ends_while_it_has_nothing_to_do_is_begun_again() -> None:
    puppets: list[Puppet] = []

    def begin() -> Puppet:
        puppets.append(Puppet(SAID))
        return puppets[-1]

    async def work(runner: Runner, runs: list[Run]) -> None:
        puppets[0].crash()
        await eventually(lambda: len(puppets) == 2)
        await eventually(lambda: runner.state is State.RUNNING)
        runner.offer("one", runs.append)
        await eventually(lambda: bool(runs))

    with_runner(work, begin, begin)


def test_a_candidate_that_never_begins_is_left_alone_and_says_why() -> None:
    async def work(runner: Runner, runs: list[Run]) -> None:
        await eventually(lambda: runner.state is State.STOPPED)
        assert "a file has changed" in runner.ended
        assert not runner.offer("one", runs.append)

    with_runner(work, *[lambda: Puppet(SAID, broken=True)] * 5)


def test_texts_that_come_soon_after_another_share_its_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    puppet = Puppet(SAID)
    pauses: list[asyncio.Timeout] = []

    def paused(seconds: float) -> asyncio.Timeout:
        assert seconds == 0.025
        pauses.append(asyncio.Timeout(None))
        return pauses[-1]

    # A pause ends when it is told to, for a machine may be busy for as long as it lasts.
    told = SimpleNamespace(**{**vars(asyncio), "timeout": paused})
    monkeypatch.setattr(runners, "asyncio", told)

    async def work(runner: Runner, runs: list[Run]) -> None:
        runner.offer("one", runs.append)
        await eventually(lambda: bool(pauses or puppet.sent))
        for text in ("two", "three"):
            runner.offer(text, runs.append)
            await asyncio.sleep(0)
        assert puppet.sent == []
        pauses[0].reschedule(asyncio.get_running_loop().time())
        await eventually(lambda: len(runs) == 3)
        assert puppet.sent == [["one", "two", "three"]]

    with_runner(work, lambda: puppet)


def test_others_have_their_turn_between_any_two_results() -> None:
    async def work(runner: Runner, runs: list[Run]) -> None:
        seen: list[int] = []
        for text in ("one", "two", "three"):
            runner.offer(text, runs.append)
        while len(runs) < 3:
            seen.append(len(runs))
            await asyncio.sleep(0)
        assert set(seen) == {0, 1, 2}

    with_runner(work, lambda: Puppet(SAID))


def test_a_process_rests_as_long_as_its_share_of_the_time_asks_for() -> None:
    async def work(runner: Runner, runs: list[Run]) -> None:
        assert runner.rest(2.0) == 0.5  # worked 0.8 of 2.5 s
        assert runner.pause(1, 2.0) == 0.5
        assert runner.rest(1000.0) == 250.0
        clock = asyncio.get_running_loop().time
        began = clock()
        runner.offer("half a second", runs.append)  # says the puppet, which takes none
        await eventually(lambda: len(runs) == 1)
        runner.offer("after an eighth", runs.append)
        await eventually(lambda: len(runs) == 2)
        assert clock() - began >= 0.125

    with_runner(work, lambda: Puppet(SAID), busy=0.8)


@pytest.mark.parametrize("crashes", [False, True])
def test_what_a_lost_batch_took_is_rested_from_too(
    *, crashes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tenth of the time: a batch of 0.01 s at least asks for nine times as long."""
    puppet = Puppet(SAID, mute=True)
    pauses: list[tuple[float, float]] = []
    pause = Runner.pause

    def noted(self: Runner, failures: int, lost: float) -> float:
        pauses.append((lost, pause(self, failures, lost)))
        return pauses[-1][1]

    monkeypatch.setattr(Runner, "pause", noted)

    async def work(runner: Runner, runs: list[Run]) -> None:
        runner.offer("hangs", runs.append)
        if crashes:
            await puppet.got.wait()
            asyncio.get_running_loop().call_later(0.02, puppet.crash)
        await eventually(lambda: runner.state is State.RESTING)
        ((lost, rest),) = pauses
        assert lost >= 0.01
        assert rest == pytest.approx(9.0 * lost)

    with_runner(work, lambda: puppet, limit_s=60.0 if crashes else 0.02, busy=0.1)


def test_a_process_that_ends_while_it_rests_is_begun_again_at_once() -> None:
    puppets: list[Puppet] = []

    def begin() -> Puppet:
        puppets.append(Puppet(SAID))
        return puppets[-1]

    async def work(runner: Runner, runs: list[Run]) -> None:
        runner.offer("one", runs.append)
        await eventually(lambda: len(runs) == 1)  # it rests for a minute now
        runner.offer("two", runs.append)
        puppets[0].crash()
        await eventually(lambda: len(puppets) == 2)
        assert runner.depth == 1

    with_runner(work, begin, begin, busy=0.001)


def test_a_batch_whose_process_is_kept_from_the_processor_has_not_hung() -> None:
    puppet = Puppet(SAID, mute=True, starved_s=60.0)

    async def work(runner: Runner, runs: list[Run]) -> None:
        runner.offer("one", runs.append)
        before = puppet.looked
        await eventually(lambda: puppet.looked >= before + 3)  # each time the limit had passed
        assert not puppet.killed
        puppet.answer()
        await eventually(lambda: len(runs) == 1)
        assert runs == [Run(SAID, 0.5)]

    with_runner(work, lambda: puppet, limit_s=0.01)

"""The breaker: when it opens, whom it lets try, when it closes."""

from __future__ import annotations

import pytest

from gateway.teachers.breaker import Breaker, Limits, State
from tests.gateway.telemetry.clock import Clock

LIMITS = Limits(
    failures=3, window_s=10.0, calls=10, error_ratio=0.5, slow_ratio=0.8, slow_s=2.0, open_s=5.0
)


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until it is moved."""
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """A breaker that is closed."""
    return Breaker(LIMITS, clock=clock)


def state(breaker: Breaker) -> State:
    """Its state, which a type checker cannot know to be that of the line before."""
    return breaker.state


def call(breaker: Breaker, *, ok: bool | None = True, seconds: float = 0.1) -> None:
    """A call that is let in, and ends so."""
    ticket = breaker.enter()
    assert ticket is not None
    breaker.ended(ticket, ok=ok, seconds=seconds)


def opened(breaker: Breaker) -> None:
    """Let it open by failures in a row."""
    for _ in range(LIMITS.failures):
        call(breaker, ok=False)
    assert state(breaker) is State.OPEN


def test_failures_in_a_row_open_it_and_one_fewer_does_not(breaker: Breaker) -> None:
    for _ in range(2):
        call(breaker, ok=False)
    assert state(breaker) is State.CLOSED
    call(breaker)  # a success between them: the row begins again
    for _ in range(2):
        call(breaker, ok=False)
    assert state(breaker) is State.CLOSED
    call(breaker, ok=False)
    assert state(breaker) is State.OPEN
    assert breaker.enter() is None


def test_by_default_five_failures_in_a_row_are_enough() -> None:
    breaker = Breaker()
    for _ in range(4):
        call(breaker, ok=False)
    assert state(breaker) is State.CLOSED
    call(breaker, ok=False)
    assert state(breaker) is State.OPEN


def test_half_of_the_calls_failing_opens_it_once_there_are_enough(breaker: Breaker) -> None:
    for _ in range(4):
        call(breaker)
        call(breaker, ok=False)
    assert state(breaker) is State.CLOSED  # 4 of 8: the share is reached, the number is not
    call(breaker)
    assert state(breaker) is State.CLOSED  # 4 of 9
    call(breaker, ok=False)
    assert state(breaker) is State.OPEN  # 5 of 10


def test_a_share_below_the_limit_leaves_it_closed(breaker: Breaker) -> None:
    for _ in range(20):
        call(breaker)
        call(breaker)
        call(breaker, ok=False)
    assert state(breaker) is State.CLOSED


def test_slow_calls_open_it_though_all_of_them_succeed(breaker: Breaker) -> None:
    for _ in range(2):
        call(breaker, seconds=1.999)
    for _ in range(7):
        call(breaker, seconds=2.0)
    assert state(breaker) is State.CLOSED  # 7 of 9
    call(breaker, seconds=2.0)
    assert state(breaker) is State.OPEN  # 8 of 10


def test_what_lies_before_the_window_is_forgotten(breaker: Breaker, clock: Clock) -> None:
    for _ in range(4):
        call(breaker)
        call(breaker, ok=False)
    clock.now += 10.1
    for _ in range(4):
        call(breaker)
    for _ in range(2):
        call(breaker, ok=False)
    assert state(breaker) is State.CLOSED  # 2 of 6, where 6 of 14 would be enough calls
    for _ in range(2):
        call(breaker)
        call(breaker, ok=False)
    assert state(breaker) is State.CLOSED  # 4 of 10


def test_a_call_that_says_nothing_counts_for_nothing(breaker: Breaker) -> None:
    for _ in range(2):
        call(breaker, ok=False)
    for _ in range(50):
        call(breaker, ok=None, seconds=60.0)
    assert state(breaker) is State.CLOSED
    call(breaker, ok=False)  # the third in a row, whatever lay between
    assert state(breaker) is State.OPEN


def test_while_it_is_open_it_says_how_long_to_wait(breaker: Breaker, clock: Clock) -> None:
    assert breaker.wait_s == 0.0
    opened(breaker)
    assert breaker.wait_s == 5.0
    clock.now += 4.0
    assert breaker.wait_s == 1.0
    assert state(breaker) is State.OPEN
    clock.now += 1.0
    assert breaker.wait_s == 0.0
    assert state(breaker) is State.HALF_OPEN


def test_after_a_while_one_call_may_try_and_its_success_closes_it(
    breaker: Breaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += 5.0
    probe = breaker.enter()
    assert probe is not None
    assert state(breaker) is State.HALF_OPEN
    assert breaker.enter() is None  # one, not two
    breaker.ended(probe, ok=True, seconds=0.1)
    assert state(breaker) is State.CLOSED
    for _ in range(2):  # and the failures of before are forgotten
        call(breaker, ok=False)
    assert state(breaker) is State.CLOSED


@pytest.mark.parametrize(("ok", "seconds"), [(False, 0.1), (True, 2.0), (None, 0.1)])
def test_a_probe_that_did_not_go_well_leaves_it_open(
    breaker: Breaker, clock: Clock, *, ok: bool | None, seconds: float
) -> None:
    """One that was slow or says nothing has not gone well."""
    opened(breaker)
    clock.now += 5.0
    call(breaker, ok=ok, seconds=seconds)
    assert state(breaker) is State.OPEN
    assert breaker.wait_s == 5.0
    clock.now += 5.0
    call(breaker)
    assert state(breaker) is State.CLOSED


def test_a_probe_that_hangs_does_not_put_the_next_one_off(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 5.0
    hanging = breaker.enter()
    assert hanging is not None
    clock.now += 5.0
    call(breaker)
    assert state(breaker) is State.CLOSED
    breaker.ended(hanging, ok=False, seconds=60.0)  # too late to have a say
    for _ in range(2):
        call(breaker, ok=False)
    assert state(breaker) is State.CLOSED


def test_a_probe_that_was_not_begun_lets_another_one_try_at_once(
    breaker: Breaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += 5.0
    probe = breaker.enter()
    assert probe is not None
    breaker.give_back(probe)
    call(breaker)
    assert state(breaker) is State.CLOSED
    ordinary = breaker.enter()
    assert ordinary is not None
    breaker.give_back(ordinary)  # while it is closed there is nothing to give back
    assert state(breaker) is State.CLOSED


def test_calls_begun_before_it_opened_do_not_close_it(breaker: Breaker, clock: Clock) -> None:
    early = [breaker.enter() for _ in range(4)]
    opened(breaker)
    for ticket, ok in zip(early, (True, False, True, False), strict=True):
        assert ticket is not None
        breaker.ended(ticket, ok=ok, seconds=0.1)
    assert state(breaker) is State.OPEN
    assert breaker.wait_s == 5.0
    clock.now += 5.0
    assert state(breaker) is State.HALF_OPEN


def test_at_a_high_rate_it_remembers_the_last_thousand_calls() -> None:
    breaker = Breaker(Limits(failures=10_000), clock=Clock())
    for _ in range(5000):
        call(breaker)
    for _ in range(511):
        call(breaker, ok=False)
    assert state(breaker) is State.CLOSED  # 511 of 1024
    call(breaker, ok=False)
    assert state(breaker) is State.OPEN

"""Retries and hedges: how many there may be, and how far apart."""

from __future__ import annotations

import random

import pytest

from gateway.teachers.hedges import HedgeBudget
from gateway.teachers.retries import RetryBudget, pause
from tests.gateway.telemetry.clock import Clock


def taken(budget: RetryBudget | HedgeBudget) -> int:
    """How many are granted until none is."""
    count = 0
    while budget.take():
        count += 1
    return count


@pytest.mark.parametrize(
    ("calls", "retries"), [(0, 1), (1, 1), (10, 1), (19, 1), (20, 2), (99, 9), (1000, 100)]
)
def test_a_tenth_of_the_calls_is_retried_and_one_in_any_case(calls: int, retries: int) -> None:
    budget = RetryBudget(0.1, clock=Clock())
    for _ in range(calls):
        budget.called()
    assert taken(budget) == retries


def test_no_ten_seconds_have_more_than_their_share() -> None:
    clock = Clock()
    budget = RetryBudget(0.1, clock=clock)
    for _ in range(50):
        budget.called()
    assert taken(budget) == 5
    clock.now += 9.9
    for _ in range(50):
        budget.called()
    assert taken(budget) == 5  # of 100 calls 10, and 5 were made before
    clock.now += 0.1  # the first 50 calls and their retries are ten seconds old
    assert taken(budget) == 0
    clock.now += 10.0
    assert taken(budget) == 1  # nothing has happened for ten seconds: one in any case


def test_a_share_of_nothing_still_has_the_one() -> None:
    budget = RetryBudget(0.0, clock=Clock())
    for _ in range(1000):
        budget.called()
    assert taken(budget) == 1


@pytest.mark.parametrize(
    ("retry", "longest"), [(0, 0.2), (1, 0.4), (2, 0.8), (4, 3.2), (5, 5.0), (50, 5.0)]
)
def test_a_pause_is_anything_up_to_the_longest_of_its_turn(retry: int, longest: float) -> None:
    source = random.Random(0)
    pauses = [pause(retry, source) for _ in range(1000)]
    assert 0.0 <= min(pauses) < 0.01 * longest
    assert 0.99 * longest < max(pauses) <= longest


def test_a_twentieth_of_the_calls_may_be_hedged_and_none_to_begin_with() -> None:
    budget = HedgeBudget(0.05)
    assert taken(budget) == 0
    for _ in range(39):
        budget.called()
    assert taken(budget) == 1  # 1.95 are saved
    budget.called()
    budget.called()
    assert taken(budget) == 1  # 0.95 and two times 0.05


def test_hedges_are_not_saved_up_for_ever() -> None:
    budget = HedgeBudget(0.05)
    for _ in range(10_000):
        budget.called()
    assert taken(budget) == 5

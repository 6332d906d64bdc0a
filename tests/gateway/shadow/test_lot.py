"""A lot is the same wherever it is drawn, and falls as often as it should."""

from __future__ import annotations

import pytest

from gateway.shadow.lot import lot


def test_a_lot_is_that_of_the_hash() -> None:
    # SHA-256 of ["x"] begins with these eight bytes.
    assert lot("x") == 0xCD65EA2C2AD99E94 / 2**64


@pytest.mark.parametrize("other", [
    lot("shown", "tickets-1", "2"),
    lot("counted", "tickets-1", "1"),
    lot("shown", "tickets-2", "1"),
    lot("shown", "tickets-11"),
])  # fmt: skip
def test_whatever_differs_has_another_lot(other: float) -> None:
    assert lot("shown", "tickets-1", "1") != other


def test_lots_fall_as_often_as_a_share_says_and_two_purposes_know_nothing_of_each_other() -> None:
    names = [f"answer {number}" for number in range(4000)]
    first = [lot("shown", "a", each) < 0.1 for each in names]
    second = [lot("shown", "b", each) < 0.1 for each in names]
    # Of 4,000 at 0.1: 400, four standard deviations are 76; of both: 40, four are 25.
    assert abs(sum(first) - 400) < 76
    assert abs(sum(one and two for one, two in zip(first, second, strict=True)) - 40) < 25

"""A lot is the same wherever it is drawn, and falls as often as it should."""

from __future__ import annotations

import pytest

from gateway.shadow.lot import lot, lot_of
from gateway.types import Instance


def test_the_same_request_has_the_same_lot_whatever_the_order_of_its_fields() -> None:
    one = Instance("a text", {"tier": "gold", "amount": 3})
    other = Instance("a text", {"amount": 3, "tier": "gold"})
    assert lot_of(one, "shown", "tickets-1") == lot_of(other, "shown", "tickets-1")
    # SHA-256 of ["x"] begins with these eight bytes.
    assert lot("x") == 0xCD65EA2C2AD99E94 / 2**64


@pytest.mark.parametrize("other", [
    lot_of(Instance("a text "), "shown", "tickets-1"),
    lot_of(Instance("a text", {"tier": None}), "shown", "tickets-1"),
    lot_of(Instance("a text"), "counted", "tickets-1"),
    lot_of(Instance("a text"), "shown", "tickets-2"),
])  # fmt: skip
def test_whatever_differs_has_another_lot(other: float) -> None:
    assert lot_of(Instance("a text"), "shown", "tickets-1") != other


def test_lots_fall_as_often_as_a_share_says_and_two_purposes_know_nothing_of_each_other() -> None:
    texts = [Instance(f"text {number}") for number in range(4000)]
    first = [lot_of(each, "shown", "a") < 0.1 for each in texts]
    second = [lot_of(each, "shown", "b") < 0.1 for each in texts]
    # Of 4,000 at 0.1: 400, four standard deviations are 76; of both: 40, four are 25.
    assert abs(sum(first) - 400) < 76
    assert abs(sum(one and two for one, two in zip(first, second, strict=True)) - 40) < 25

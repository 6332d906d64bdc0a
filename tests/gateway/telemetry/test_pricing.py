"""Prices: integer micro-USD, and unknown where a price is unknown."""

from __future__ import annotations

from decimal import Decimal

from gateway.telemetry.pricing import Prices, micro_usd

PRICES = Prices(teacher_usd_per_1000=Decimal("2.50"), instance_usd_per_hour=Decimal("0.36"))


def test_a_teacher_call_is_a_thousandth_of_the_price_of_a_thousand() -> None:
    assert PRICES.teacher_call == 2500


def test_busy_time_is_a_share_of_the_hour() -> None:
    assert PRICES.student_usd(10.0) == Decimal("0.001")
    assert PRICES.student_time(10.0) == 1000


def test_one_short_answer_rounds_to_nothing_but_a_sum_of_them_does_not() -> None:
    assert PRICES.student_time(0.001) == 0
    assert PRICES.student_time(0.001 * 1_000_000) == 100_000


def test_an_unknown_price_is_unknown_and_never_zero() -> None:
    assert Prices().teacher_call is None
    assert Prices().student_time(10.0) is None
    assert Prices().student_usd(0.0) is None


def test_a_price_of_zero_is_known() -> None:
    free = Prices(teacher_usd_per_1000=Decimal(0), instance_usd_per_hour=Decimal(0))
    assert free.teacher_call == 0
    assert free.student_time(10.0) == 0


def test_half_a_micro_usd_rounds_to_even() -> None:
    assert micro_usd(Decimal("0.0000005")) == 0
    assert micro_usd(Decimal("0.0000015")) == 2

"""The coins: how often each falls, and what is said of it."""

from __future__ import annotations

import random

import pytest

from gateway.shadow.coins import Coins
from gateway.types import Coin, Draw


class Falls(random.Random):
    """Falls as it is told, one after the other."""

    def __init__(self, *falls: float) -> None:
        super().__init__(0)
        self.falls = list(falls)

    def random(self) -> float:
        """The next fall."""
        return self.falls.pop(0)


@pytest.mark.parametrize(
    ("fall", "share", "coin"),
    [
        (0.0, 0.02, Coin.UNIFORM),
        (0.019, 0.02, Coin.UNIFORM),
        (0.02, 0.02, None),  # [0, 1) is cut at the share, which is not in
        (0.999, 1.0, Coin.UNIFORM),  # a share of all draws all
    ],
)
def test_the_uniform_coin_falls_below_its_share(
    fall: float, share: float, coin: Coin | None
) -> None:
    assert Coins(share, random=Falls(fall)).toss(0.9) == Draw(share, share, coin, open=True)


def test_without_audits_no_coin_is_tossed() -> None:
    assert Coins(random=Falls()).toss(0.9) == Draw(0.0, 0.0, None)


def test_while_no_audit_can_be_made_no_coin_is_tossed() -> None:
    coins = Coins(1.0, random=Falls(), ready=lambda: False)
    assert coins.toss(0.9) == Draw()
    assert coins.toss(None) == Draw()


def test_what_the_teacher_has_said_needs_no_coin() -> None:
    assert Coins(1.0, random=Falls()).toss(None) == Draw(open=True)


@pytest.mark.parametrize(
    ("score", "aimed"),
    [
        (0.5, 0.1),  # 2 sqrt(1/4) = 1: all of it
        (0.9, 0.06),  # 2 sqrt(0.09) = 0.6
        (0.98, 0.028),  # 2 sqrt(0.0196) = 0.28
        (1.0, 0.0),
        (1.0000001, 0.0),  # rounding of a score is no square root of less than nothing
    ],
)
def test_the_targeted_coin_falls_more_often_where_the_student_is_less_sure(
    score: float, aimed: float
) -> None:
    draw = Coins(0.02, 0.1, random=Falls(0.5, 0.5)).toss(score)
    assert draw.propensity == pytest.approx(1 - 0.98 * (1 - aimed))
    assert (draw.uniform, draw.coin) == (0.02, None)


def test_the_uniform_coin_goes_first_and_the_targeted_one_says_that_it_was_it() -> None:
    coins = Coins(0.02, 0.1, random=Falls(0.01, 0.5, 0.05, 0.02, 0.06))
    assert coins.toss(0.9).coin is Coin.UNIFORM  # the other is not tossed then
    assert coins.toss(0.9).coin is Coin.TARGETED
    assert coins.toss(0.9).coin is None  # 0.06 is cut off


def test_each_coin_falls_as_often_as_it_says() -> None:
    coins = Coins(0.05, 0.2, random=random.Random(7))
    draws = [coins.toss(0.9) for _ in range(20_000)]
    uniform = sum(draw.coin is Coin.UNIFORM for draw in draws)
    either = sum(draw.coin is not None for draw in draws)
    # 1000 of standard deviation 31; 1 - 0.95 * 0.88 = 0.164: 3280 of 52. Four of them each.
    assert 876 <= uniform <= 1124
    assert 3072 <= either <= 3488
    assert draws[0].propensity == pytest.approx(0.164)


@pytest.mark.parametrize(("share", "doubled"), [(0.02, 0.04), (0.6, 1.0), (0.0, 0.0)])
def test_a_closer_look_doubles_the_uniform_coin_and_says_so(share: float, doubled: float) -> None:
    coins = Coins(share, random=Falls(0.999), doubled=lambda: True)
    drawn = coins.toss(0.9)
    assert (coins.share, drawn.propensity, drawn.uniform) == (doubled, doubled, doubled)
    assert drawn.coin is (Coin.UNIFORM if doubled == 1.0 else None)

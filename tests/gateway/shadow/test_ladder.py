"""The steps of a canary, by a clock that is told."""

from __future__ import annotations

import pytest

from gateway.settings import PromotionSettings
from gateway.shadow.ladder import Ladder, Standing, Step

FIRST = Step(share=0.01, minimum_s=60.0, rows=10)
LAST = Step(share=1.0, minimum_s=600.0, rows=0)
LADDER = Ladder([FIRST, LAST])


@pytest.mark.parametrize(
    ("now", "rows", "seconds", "missing"),
    [(1000.0, 0, 60.0, 10), (1059.5, 10, 0.5, 0), (1060.0, 9, 0.0, 1), (999.0, 99, 61.0, 0)],
)
def test_a_step_lasts_until_its_time_and_its_rows_are_both_reached(
    now: float, rows: int, seconds: float, missing: int
) -> None:
    found = LADDER.standing(0, since=1000.0, rows=rows, now=now)
    assert found == Standing(FIRST, last=False, remaining_s=seconds, remaining_rows=missing)
    assert not found.done
    assert LADDER.standing(0, since=1000.0, rows=10, now=1060.0).done


def test_a_canary_beyond_the_steps_of_new_settings_is_on_the_last_one() -> None:
    found = LADDER.standing(7, since=0.0, rows=0, now=600.0)
    assert (found.step, found.last, found.done) == (LAST, True, True)
    assert LADDER.standing(1, since=0.0, rows=0, now=0.0).last


def test_the_settings_climb_from_one_percent_to_all_in_four_steps() -> None:
    ladder = PromotionSettings().ladder()
    assert [ladder.step(number).share for number in range(len(ladder))] == [0.01, 0.05, 0.25, 1.0]
    assert ladder.step(3).minimum_s == 86_400.0


@pytest.mark.parametrize("shares", [[0.5, 0.1, 1.0], [0.1, 0.1, 1.0], [0.1, 0.5]])
def test_steps_that_do_not_lead_up_to_everything_are_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="let each share be above the one before, and the last 1"):
        PromotionSettings.model_validate({"steps": [{"share": share} for share in shares]})

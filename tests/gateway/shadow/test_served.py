"""The served error: what counts, what is void, what is unknown, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.shadow.served import OTHER, Audited, Rate, ServedQuality
from gateway.types import Answer, Coin, Instance, Reason, Route
from tests.gateway.telemetry.answers import TICKETS, audit, confident, escalated, prediction

ON = Audited(uniform=True, any=True, fields=("tier",))
RIGHT = prediction()
WRONG = prediction("login")  # the students of these tests say "refund"


def quality(audited: Audited = ON) -> ServedQuality:
    made = ServedQuality([TICKETS])
    made.follow("tickets", audited)
    return made


def row(number: int = 1, *, coin: Coin | None = None, share: float = 0.25) -> Answer:
    """A confident answer, of score 0.72; its heads are 0.9 and 0.8 sure."""
    return confident(number, audit_propensity=share, coin=coin)


def taught() -> Answer:
    return escalated(student=WRONG, teacher=RIGHT)


def whole(made: ServedQuality) -> Rate:
    found = made.served("tickets")
    assert found is not None
    return found.whole


def test_before_the_first_audit_nothing_is_known() -> None:
    made = quality()
    made.answered(row())
    made.answered(taught())
    assert whole(made) == Rate(rows=2, audits=0, estimate=None, lower=None, upper=None)
    assert made.rates() == {}


def test_the_estimate_is_the_guess_corrected_where_the_teacher_looked() -> None:
    made = quality()
    for number in range(3):
        made.answered(row(number))
    made.answered(taught())
    drawn = row(4, coin=Coin.UNIFORM)
    made.answered(drawn)
    made.audited(audit(drawn, WRONG))
    found = whole(made)
    assert (found.rows, found.audits) == (5, 1)
    # Guesses of 0.28 for four rows and 0 for the teacher's; one is corrected by (1 - 0.28) / 0.25.
    assert found.estimate == pytest.approx((4 * 0.28 + 0.72 / 0.25) / 5)
    assert found.lower is not None
    assert found.upper is not None
    assert 0.0 <= found.lower <= 0.8 <= found.upper <= 1.0
    assert made.rates() == {"tickets": found}


def test_rows_after_the_last_drawn_one_count_at_once_and_those_before_it_when_it_is_judged() -> (
    None
):
    made, drawn = quality(), row(3, coin=Coin.UNIFORM)
    made.answered(row(1))
    made.answered(row(2))
    assert whole(made).rows == 2
    made.answered(drawn)
    assert whole(made).rows == 0
    made.answered(row(4))
    assert whole(made).rows == 1
    made.audited(audit(drawn, RIGHT))
    assert whole(made).rows == 4


def test_a_skipped_audit_voids_the_rows_that_it_stood_for() -> None:
    made = quality()
    first, second = (row(number, coin=Coin.UNIFORM, share=0.5) for number in (2, 4))
    for answer in (row(1), first, row(3), second, row(5)):
        made.answered(answer)
    made.skipped(first)
    made.audited(audit(second, RIGHT))
    found = made.served("tickets")
    assert found is not None
    assert found.void == 2
    assert (found.whole.rows, found.whole.audits) == (3, 1)
    assert found.whole.estimate == pytest.approx((3 * 0.28 - 0.28 / 0.5) / 3)
    made.skipped(first)  # it is settled
    made.audited(audit(first, WRONG))
    assert made.served("tickets") == found


def test_what_the_teacher_never_saw_is_not_counted_as_right() -> None:
    made = quality()
    wished = replace(
        row(share=0.0),
        decision=replace(row().decision, reason=Reason.REQUESTED, reasons=(Reason.REQUESTED,)),
    )
    made.answered(wished)
    made.answered(escalated(student=RIGHT, route=Route.FALLBACK))
    made.answered(escalated(route=Route.ABSTAIN))  # nothing was served: it is no served answer
    found = made.served("tickets")
    assert found is not None
    assert (found.whole.rows, found.unmeasured) == (0, 2)


def test_the_teachers_answers_do_not_stand_for_all_while_audits_are_off() -> None:
    made = quality(Audited())
    made.answered(replace(taught(), auditable=False))
    made.answered(row(share=0.0))
    found = made.served("tickets")
    assert found is not None
    assert (found.whole.rows, found.unmeasured) == (0, 1)


def test_while_no_audit_can_be_made_the_teachers_answers_count_no_more_than_the_others() -> None:
    made = quality()
    made.answered(replace(taught(), auditable=False))
    made.answered(row(share=0.0))
    found = made.served("tickets")
    assert found is not None
    assert (found.whole.rows, found.unmeasured) == (0, 2)


def test_a_teacher_that_is_silent_on_a_head_settles_nothing() -> None:
    made, drawn = quality(), row(coin=Coin.UNIFORM)
    made.answered(drawn)
    made.audited(audit(drawn, replace(RIGHT, heads=RIGHT.heads[:1])))
    found = made.served("tickets")
    assert found is not None
    assert (found.whole.audits, found.void) == (0, 1)


def test_each_head_and_each_label_has_its_own_rate() -> None:
    made, drawn = quality(), row(coin=Coin.UNIFORM, share=1.0)
    made.answered(taught())
    made.answered(drawn)
    made.audited(audit(drawn, prediction(risk=("legal",))))
    found = made.served("tickets")
    assert found is not None
    estimates = {head: rate.estimate for head, rate in found.heads.items()}
    assert estimates == pytest.approx({"intent": 0.0, "risk": 0.5})
    assert found.whole.estimate == pytest.approx(0.5)
    assert {name: rate.rows for name, rate in found.labels["intent"].items()} == {"refund": 2}
    assert found.labels["risk"]["none"].estimate == pytest.approx(0.5)


def test_fields_slice_what_is_measured_and_their_values_are_bounded() -> None:
    made = quality()
    for tier in ("gold", None, True, "x" * 65, *range(70)):
        made.answered(replace(row(share=1.0), instance=Instance("a", {"tier": tier})))
    made.answered(replace(row(share=1.0), instance=Instance("a")))
    found = made.served("tickets")
    assert found is not None
    rows = {name: rate.rows for name, rate in found.fields["tier"].items()}
    assert list(rows)[:5] == ["gold", "missing", "True", OTHER, "0"]
    assert rows["missing"] == 2
    # 64 are told apart; 4 came before the numbers, so that 60 of the 70 found a place.
    assert len(rows) == 64
    assert rows[OTHER] == 1 + 10


def test_a_reload_changes_the_slices_and_keeps_those_that_stay() -> None:
    made = quality()
    made.answered(replace(row(), instance=Instance("a", {"tier": "gold", "lang": "en"})))
    made.follow("tickets", Audited(uniform=True, any=True, fields=("lang", "tier")))
    made.answered(replace(row(), instance=Instance("a", {"tier": "gold", "lang": "en"})))
    found = made.served("tickets")
    assert found is not None
    assert found.fields["tier"]["gold"].rows == 2
    assert found.fields["lang"]["en"].rows == 1


def test_bounds_come_from_the_uniform_coin_alone() -> None:
    made = quality()
    drawn = replace(row(coin=Coin.TARGETED, share=0.5), audit_uniform=0.02)
    made.answered(drawn)
    made.audited(audit(drawn, WRONG))
    found = whole(made)
    assert found.audits == 1
    assert found.estimate == pytest.approx(0.28 + 0.72 / 0.5)  # no share, and so it is not shown
    assert found.shown == 1.0
    assert (found.lower, found.upper) == (None, None)


def test_a_lower_share_begins_the_bounds_again_and_a_higher_one_is_weighted() -> None:
    made = quality()

    def look(share: float, rows: int) -> Rate:
        for number in range(rows):
            drawn = row(number, coin=Coin.UNIFORM, share=share)
            made.answered(drawn)
            made.audited(audit(drawn, RIGHT))
        return whole(made)

    before = look(1.0, 200).upper
    assert before is not None
    assert before < 0.05
    lower = look(0.5, 1).upper
    assert lower == 1.0
    after = look(1.0, 400).upper
    assert after is not None
    # As if half of the audits had been made: a zero at share 1 says no more than one at a half.
    assert before < after < 0.06


def test_a_task_that_is_not_ours_is_nothing_to_it() -> None:
    made, stranger = quality(), confident(task="x", coin=Coin.UNIFORM)
    made.answered(stranger)
    made.skipped(stranger)
    made.audited(audit(stranger, WRONG))
    assert made.served("x") is None
    assert whole(made).rows == 0

"""The served error: what counts, what is void, what is unknown, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.shadow.account import OTHER, Audited, Part
from gateway.shadow.rate import Rate
from gateway.shadow.served import ServedQuality
from gateway.types import Answer, Coin, Instance, Reason, Route
from tests.gateway.telemetry.answers import TICKETS, audit, confident, escalated, prediction

ON = Audited(any=True, fields={"tier": ()})
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
    assert made.parts()[0] == Part("tickets", whole(made))


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
    assert made.parts()[0] == Part("tickets", found)


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
    made.follow("tickets", Audited(any=True, fields={"lang": (), "tier": ()}))
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


def test_a_share_that_changes_leaves_estimate_and_bound_of_the_same_rows() -> None:
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
    lowered = look(0.5, 1)
    assert lowered.rows == 201
    assert lowered.upper is not None
    # The bets above a half are given up, and the 201 rows still speak through the others.
    assert before < lowered.upper < 0.09
    raised = look(1.0, 400).upper
    assert raised is not None
    assert raised < 0.05


def test_rows_that_only_the_targeted_coin_could_have_drawn_are_wrong_at_worst() -> None:
    made = quality()
    for number in range(100):
        made.answered(replace(row(number, share=0.5), audit_uniform=0.0))
    for number in range(300):
        drawn = row(number, coin=Coin.UNIFORM, share=1.0)
        made.answered(drawn)
        made.audited(audit(drawn, RIGHT))
    found = whole(made)
    assert (found.rows, found.lower) == (400, 0.0)
    assert found.upper is not None
    assert 0.25 < found.upper < 0.28  # a quarter of them is not known at all


def test_disagreement_counts_what_the_student_would_have_said() -> None:
    made, drawn = quality(), row(5, coin=Coin.UNIFORM, share=1.0)
    made.answered(taught())  # the student said login, the teacher refund
    made.answered(escalated(student=RIGHT, teacher=RIGHT))
    made.answered(escalated(student=None, teacher=RIGHT))  # it said nothing
    made.answered(drawn)
    made.audited(audit(drawn, WRONG))
    found = made.served("tickets")
    assert found is not None
    assert found.whole.rows == 4
    assert found.whole.estimate == pytest.approx(1 / 4)
    assert found.whole.disagreement == pytest.approx(2 / 3)
    assert found.heads["risk"].disagreement == pytest.approx(0.0)
    assert found.whole.disagreement_upper == 1.0  # four rows bound nothing


def test_a_field_whose_values_are_named_tells_those_apart_and_no_other() -> None:
    made = quality(Audited(any=True, fields={"tier": ("gold", "free"), "lang": ()}))
    for tier in ("gold", "gold", "platinum"):
        made.answered(replace(row(), instance=Instance("a", {"tier": tier, "lang": "en"})))
    found = made.served("tickets")
    assert found is not None
    rows = {name: rate.rows for name, rate in found.fields["tier"].items()}
    assert rows == {"gold": 2, "free": 0, OTHER: 1}
    # What has a name from the settings or the bundle may be a label of a metric; "en" has none.
    assert {(part.head, part.field, part.value) for part in made.parts()} == {
        (None, None, None),
        ("intent", None, None),
        ("risk", None, None),
        (None, "tier", "gold"),
        (None, "tier", "free"),
        (None, "tier", OTHER),
    }


def test_what_was_served_before_counts_as_if_there_had_been_no_break() -> None:
    """The break falls between rows that wait for a draw, which then stands for all of them."""
    first, second = (row(number, coin=Coin.UNIFORM, share=0.5) for number in (2, 6))
    rows = [row(1), first, taught(), row(3, share=0.5), row(4), row(5), second, row(7)]
    one = quality()
    for answer in rows:
        one.answered(answer)
    one.audited(audit(first, WRONG))
    one.audited(audit(second, RIGHT))

    two = quality()
    past = two.past("tickets")
    past.answered(row(1), None, fields=True)
    past.forget()  # such as rows of a version that kept less
    for answer in rows[:5]:
        past.answered(answer, WRONG if answer is first else None, fields=True)
    for answer in rows[5:]:
        two.answered(answer)
    two.absorb(past)
    two.audited(audit(second, RIGHT))
    assert two.served("tickets") == one.served("tickets")


def test_another_student_begins_anew_and_what_the_one_before_it_said_counts_no_more() -> None:
    mine, strange = "b" * 64, "a" * 64

    def by_another(answer: Answer) -> Answer:
        return replace(answer, student=replace(prediction(), bundle=strange))

    made = quality()
    made.serves("tickets", strange)
    drawn = by_another(row(1, coin=Coin.UNIFORM, share=0.5))
    made.answered(drawn)
    assert whole(made).rows + len(made._tasks["tickets"]._waiting) == 1
    earlier = made.past("tickets")
    made.serves("tickets", mine)
    made.audited(audit(drawn, WRONG))  # drawn before, judged after
    made.answered(by_another(row(2)))  # in flight when the other one took over
    assert whole(made).rows == 0
    earlier.answered(by_another(row(0)), None, fields=True)
    made.absorb(earlier)  # was read while the other one served
    assert whole(made).rows == 0
    made.answered(row(3, share=0.5))
    made.answered(escalated(4, teacher=RIGHT, reason=Reason.STUDENT_FAILED))  # it is mine that did
    assert whole(made).rows == 2
    past = made.past("tickets")
    nobody = escalated(0, teacher=RIGHT, reason=Reason.NO_STUDENT)
    for answer in (row(-3), by_another(row(-2)), row(-1), nobody, row(0)):
        past.answered(answer, None, fields=True)
    made.absorb(past)
    assert whole(made).rows == 3  # with the one that came after all of another's
    made.serves("tickets", mine)  # a reload that changes something else
    assert whole(made).rows == 3
    made.serves("tickets", None)
    made.answered(row(5))
    made.answered(nobody)
    assert whole(made).rows == 1


def test_a_task_that_is_not_ours_is_nothing_to_it() -> None:
    made, stranger = quality(), confident(task="x", coin=Coin.UNIFORM)
    made.answered(stranger)
    made.skipped(stranger)
    made.audited(audit(stranger, WRONG))
    assert made.served("x") is None
    assert whole(made).rows == 0

"""Rows that were seen with other chances: weighed in training, thinned where they are measured."""

from __future__ import annotations

import pytest

from distill.data import chances
from distill.data.split import Splits
from gateway.contract.examples import Example
from gateway.errors import DataError


def rows(count: int, propensity: float | None, kind: str) -> tuple[Example, ...]:
    return tuple(
        Example(f"{kind} {n}", {"intent": kind}, source="teacher", propensity=propensity)
        for n in range(count)
    )


def test_a_rare_row_stands_for_as_many_as_its_chance_says() -> None:
    # 1, 1 and 1 / 0.02 = 50: a mean of 52 / 3. A chance of 1 in 1,000 is taken as 1 in 100.
    found = chances.weights([*rows(2, 1.0, "sent"), *rows(1, 0.02, "audited")])
    assert found is not None
    assert found.tolist() == pytest.approx([3 / 52, 3 / 52, 150 / 52])
    clipped = chances.weights([*rows(1, 1.0, "sent"), *rows(1, 0.001, "audited")])
    assert clipped is not None
    assert clipped[1] / clipped[0] == pytest.approx(100)
    assert chances.weights(rows(3, 0.5, "sent")) is None
    assert chances.weights([]) is None


def test_what_is_held_out_is_thinned_to_equal_chances_and_training_rows_stay() -> None:
    """2,000 rows of chance 1 and 100 of 0.1 are traffic of 1,000 : 500 = 2 : 1 of each kind."""
    mixed = (*rows(2000, 1.0, "sent"), *rows(100, 0.1, "audited"))
    even = chances.evened(Splits(mixed, mixed, mixed, mixed, ()), seed=0)
    assert even.train == mixed
    for part in (even.calibration, even.certification, even.test):
        kinds = [row.labels["intent"] for row in part]
        assert kinds.count("audited") == 100
        # A tenth of 2,000, within four standard deviations of a binomial: 4 * 13.4.
        assert abs(kinds.count("sent") - 200) < 54
    assert even.removed == 3 * 2100 - sum(
        map(len, (even.calibration, even.certification, even.test))
    )
    alike = Splits(mixed[:5], mixed[:5], mixed[:5], mixed[:5], ())
    assert chances.evened(alike, seed=0) is alike


def test_rows_of_no_known_chance_teach_for_themselves_and_measure_nothing() -> None:
    # 1 for what a person picked, and 1 / 0.5 = 2: a mean of 3 / 2.
    found = chances.weights([*rows(1, None, "picked"), *rows(1, 0.5, "audited")])
    assert found is not None
    assert found.tolist() == pytest.approx([2 / 3, 4 / 3])
    sent, picked = rows(3, 1.0, "sent"), rows(3, None, "picked")
    even = chances.evened(Splits(picked, sent + picked, sent, sent + picked, ()), seed=0)
    assert (even.train, even.calibration, even.test, even.removed) == (picked, sent, sent, 6)
    assert chances.smallest(picked) == 1.0


def test_the_rarest_counts_also_where_all_of_its_kind_are_learnt_from() -> None:
    """Held-out rows of escalations alone say nothing of the rest: they are a tenth of it."""
    sent = rows(2000, 1.0, "sent")
    even = chances.evened(Splits(rows(9, 0.1, "audited"), sent, sent, sent, ()), seed=0)
    for part in (even.calibration, even.certification, even.test):
        assert abs(len(part) - 200) < 54  # four standard deviations of a binomial
    with pytest.raises(DataError, match="no row is left for calibration"):
        chances.evened(Splits(rows(1, 1e-9, "audited"), sent, sent, sent, ()), seed=0)


def test_a_test_set_with_a_file_of_its_own_is_thinned_by_itself_alone() -> None:
    mixed, gold = (*rows(2000, 1.0, "sent"), *rows(100, 0.1, "audited")), rows(50, 1.0, "gold")
    even = chances.evened(Splits(mixed, mixed, mixed, gold, ()), seed=0, own_test=True)
    assert even.test == gold
    assert len(even.certification) < 400
    other = chances.evened(Splits(gold, gold, gold, mixed, ()), seed=0, own_test=True)
    assert (other.calibration, other.certification) == (gold, gold)
    assert abs(len(other.test) - 300) < 54


def test_nothing_left_to_measure_is_refused() -> None:
    one, audited = rows(1, 1.0, "sent"), rows(1, 1e-9, "audited")
    with pytest.raises(DataError, match="no row is left for calibration") as refused:
        chances.evened(Splits(one, one, audited, one, ()), seed=0)
    assert "audit.share" in refused.value.mend


def test_rows_that_a_student_chose_need_others_that_chance_chose() -> None:
    chosen = Example("a", {"intent": "x"}, source="teacher", chosen=True)
    audited = Example("b", {"intent": "x"}, source="teacher", propensity=0.02)
    with pytest.raises(DataError, match=r"1 of the 1 labelled rows .* none was audited") as refused:
        chances.check([chosen, Example("c")], allow_biased=False)
    assert "data.allow_biased" in refused.value.mend
    (warning,) = chances.check([chosen], allow_biased=True)
    assert "hold for such rows only" in warning
    assert chances.check([chosen, audited], allow_biased=False) == ()
    assert chances.check([audited], allow_biased=False) == ()

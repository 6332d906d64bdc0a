"""Where a candidate differs, counted by label, length, hour and field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.shadow.slices import Counts, Slices
from gateway.types import Comparison, Instance, Source
from tests.gateway.telemetry.answers import confident, prediction

ONE = Comparison(
    answer=confident(1), candidate="tickets-1", prediction=prediction("login"), escalates=False,
    propensity=1.0, seconds=0.1,
)  # fmt: skip


def test_a_request_counts_in_every_slice_that_it_belongs_to() -> None:
    slices = Slices(("amount", "tier"))
    slices.add(ONE)
    taught = replace(ONE, teacher=prediction("login"), source=Source.AUDIT, escalates=True)
    slices.add(taught)
    slices.add(replace(taught, answer=confident(2), serving_policy=None))  # of a canary
    assert slices.whole == Counts(3, 2, 2, 0, 1, 2, 2, 1)
    assert slices.heads == {
        "intent": Counts(3, 2, 2, 0, 1, 2, 2, 1),
        "risk": Counts(3, 0, 2, 0, 0, 2, 2, 1),
    }
    first, second = Counts(1, 1, paired=1), Counts(2, 1, 2, 0, 1, 2, 1, 1)
    assert slices.parts == {
        "length": {"up to 64": first.plus(second)},
        "hour": {"22": first.plus(second)},  # 1,700,000,001 s is 22:13 in UTC
        "label.intent": {"refund": first, "login": second},  # of who serves; of the teacher
        "label.risk": {"none": first.plus(second)},
        "field.amount": {"12.5": first.plus(second)},
        "field.tier": {"missing": first.plus(second)},
    }


def test_values_are_bounded_and_long_ones_are_no_names() -> None:
    slices = Slices(("tier",))
    for number in range(100):
        instance = Instance("x" * 2000, {"tier": f"t{number}"})
        slices.add(replace(ONE, answer=replace(ONE.answer, instance=instance)))
    instance = Instance("", {"tier": "t" * 65})
    slices.add(replace(ONE, answer=replace(ONE.answer, instance=instance)))
    tiers = slices.parts["field.tier"]
    assert len(tiers) == 65
    assert tiers["other"].compared == 37
    assert slices.parts["length"]["longer"].compared == 100


def test_what_is_saved_comes_back_and_adds_up() -> None:
    slices = Slices()
    slices.add(ONE)
    both = Slices.restored(slices.saved()).absorb(slices)
    twice = Counts(2, 2, paired=2)
    assert both.whole == twice
    assert both.heads["intent"] == twice
    assert both.parts["label.intent"] == {"refund": twice}
    broken = slices.saved()
    broken["whole"] = []
    with pytest.raises(TypeError):
        Slices.restored(broken)

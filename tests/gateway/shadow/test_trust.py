"""Trust: the accuracy that scores promise, against what audits find."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import DataError
from gateway.shadow.sequential import ConfidenceSequence
from gateway.shadow.trust import Trust


def test_confidence_that_holds_needs_no_recalibration() -> None:
    trust = Trust()
    for at in range(2000):
        trust.answered(0.95)
        trust.audited(0.95, right=at % 20 != 0)
    found = trust.accuracy()
    assert found.estimated == pytest.approx(0.95)
    assert found.audited == 0.95
    assert found.lower < 0.0 < found.upper
    assert not found.recalibrate


def test_confidence_that_says_fine_where_audits_say_worse_asks_for_recalibration() -> None:
    trust = Trust()
    for _ in range(10_000):
        trust.answered(0.98)
    for at in range(600):
        trust.audited(0.98, right=at % 10 != 0)
    found = trust.accuracy()
    assert found.estimated == pytest.approx(0.98)
    assert found.audited == 0.9
    assert 0.01 < found.lower < 0.08 < found.upper
    assert found.recalibrate


def test_confidence_that_says_worse_than_it_is_asks_for_it_too() -> None:
    trust = Trust()
    for _ in range(400):
        trust.audited(0.8, right=True)
    found = trust.accuracy()
    assert found.estimated is None
    assert found.upper < -0.01
    assert found.recalibrate


def test_both_bounds_together_are_wrong_as_often_as_is_said() -> None:
    """So each of them has half of it."""
    trust, gaps = Trust(), ConfidenceSequence()
    for at in range(300):
        trust.audited(0.9, right=at % 5 != 0)
        gaps.add((1.9 - (at % 5 != 0)) / 2.0)
        trust.accuracy()  # however often somebody looks
    half = gaps.bounds(0.025)
    found = trust.accuracy(delta=0.05)
    assert (found.lower, found.upper) == (2.0 * half.lower - 1.0, 2.0 * half.upper - 1.0)


def test_nothing_audited_says_nothing() -> None:
    found = Trust().accuracy()
    assert (found.estimated, found.audited, found.audits) == (None, None, 0)
    assert (found.lower, found.upper, found.recalibrate) == (-1.0, 1.0, False)


def test_it_goes_on_from_what_was_saved() -> None:
    trust = Trust()
    for at in range(50):
        trust.answered(0.9)
        trust.audited(0.9, right=at % 5 != 0)
    again = Trust().restore(json.loads(json.dumps(trust.saved())))
    assert again.accuracy() == trust.accuracy()
    assert again.accuracy().audited == 0.8
    for each in (trust, again):
        each.audited(0.9, right=False)
    assert again.accuracy() == trust.accuracy()


@pytest.mark.parametrize(
    "changed",
    [{"gaps": [1, 0.5, [0.0], [0.0]]}, {"gaps": 3}, {"scores": 9.0}, {"right": 1}, {"rows": "x"}],
)
def test_what_is_no_trust_is_refused(changed: dict[str, Any]) -> None:
    kept: Any = Trust().saved() | changed
    with pytest.raises(DataError, match="saved accuracy"):
        Trust().restore(kept)

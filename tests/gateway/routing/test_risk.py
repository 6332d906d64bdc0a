"""Risk rules: what holds, what does not, and that a doubt counts as risky."""

from __future__ import annotations

import math

import numpy as np
import pytest
import re2

from gateway.routing.risk import (
    LabelRule,
    MissingRule,
    RangeRule,
    TextRule,
    ValueRule,
    first,
)
from gateway.types import FieldValue, HeadPrediction, Instance, Prediction


def having(**fields: FieldValue) -> Instance:
    return Instance("a text", fields)


def saying(*labels: str, head: str = "flags") -> Prediction:
    other = HeadPrediction("intent", ("refund",), 1.0, np.ones(1, np.float32))
    said = HeadPrediction(head, labels, 1.0, np.ones(1, np.float32))
    return Prediction(heads=(other, said), score=1.0, truncated=False, bundle="b")


@pytest.mark.parametrize(
    ("pattern", "text", "holds"),
    [
        ("lawyer", "my lawyer says", True),
        ("lawyer", "my LAWYER says", False),
        ("(?i)lawyer", "my LAWYER says", True),
        (r"\bsue\b", "an issue", False),
        (r"\bsue\b", "line one\nI sue you", True),
        ("^sue", "we sue", False),
        ("straße", "die straße", True),
        ("x", "", False),
    ],
)
def test_a_pattern_is_searched_in_the_whole_text(pattern: str, text: str, *, holds: bool) -> None:
    assert TextRule("r", re2.compile(pattern)).holds(Instance(text), None) is holds


@pytest.mark.timeout(20)
def test_a_pattern_takes_time_linear_in_the_text() -> None:
    """RE2 has no backtracking: this pattern would hold Python's `re` for ages."""
    rule = TextRule("r", re2.compile("(a*)*b"))
    assert not rule.holds(Instance("a" * 50_000), None)


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        (100.1, True),
        (100, False),  # equal is not above
        (10, False),  # equal is not below
        (9.99, True),
        (50, False),
        (math.inf, True),
        (-math.inf, True),
        (math.nan, True),  # what cannot be compared is risky
        ("50", True),
        ("", True),
        (True, True),
        (False, True),
        (None, False),
    ],
)
def test_a_range_holds_outside_its_bounds(value: FieldValue, *, holds: bool) -> None:
    rule = RangeRule("r", "amount", above=100, below=10)
    assert rule.holds(having(amount=value), None) is holds


def test_a_bound_that_is_not_given_does_not_count() -> None:
    assert not RangeRule("r", "amount", above=0.0).holds(having(amount=-5), None)
    assert not RangeRule("r", "amount", below=0.0).holds(having(amount=5), None)
    assert RangeRule("r", "amount", below=0.0).holds(having(amount=-0.1), None)


def test_a_range_says_nothing_of_a_missing_field() -> None:
    assert not RangeRule("r", "amount", above=1).holds(having(other=5), None)


@pytest.mark.parametrize(
    ("value", "holds"),
    [("gold", True), ("silver", False), (7, True), (7.0, True), ("7", False), (None, False)],
)
def test_a_value_rule_looks_the_value_up(value: FieldValue, *, holds: bool) -> None:
    rule = ValueRule("r", "tier", frozenset(["gold", 7]))
    assert rule.holds(having(tier=value), None) is holds
    assert not rule.holds(having(), None)


def test_a_missing_rule_holds_for_absent_and_for_null() -> None:
    rule = MissingRule("r", "consent")
    assert rule.holds(having(), None)
    assert rule.holds(having(consent=None), None)
    assert not rule.holds(having(consent=False), None)
    assert not rule.holds(having(consent=""), None)
    assert not rule.holds(having(consent=0), None)


def test_a_label_rule_holds_when_the_student_says_any_of_its_labels() -> None:
    rule = LabelRule("r", "flags", frozenset(["legal", "threat"]))
    assert rule.holds(having(), saying("urgent", "legal"))
    assert not rule.holds(having(), saying("urgent"))
    assert not rule.holds(having(), saying())
    assert not rule.holds(having(), saying("legal", head="topic"))
    assert not rule.holds(having(), None)


def test_the_first_rule_that_holds_is_found() -> None:
    absent, tier = MissingRule("absent", "tier"), ValueRule("tier", "tier", frozenset(["gold"]))
    anything = TextRule("anything", re2.compile(""))
    assert first([absent, tier, anything], having(tier="gold"), None) is tier
    assert first([absent, tier, anything], having(tier="red"), None) is anything
    assert first([absent, tier], having(tier="red"), None) is None
    assert first([], having(), None) is None

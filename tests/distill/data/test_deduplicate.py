"""Deduplicate: which texts are equal, which row is kept, and what is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distill.data.deduplicate import Report, deduplicate, template
from gateway.contract.examples import Example, folded


def gold(text: str, label: str) -> Example:
    return Example(text=text, labels={"category": label})


@pytest.mark.parametrize(
    "text",
    ["my card", "  My\tCARD\n", "\uff4d\uff59 card", "my\u00a0card", "MY  CARD"],
)
def test_form_case_and_whitespace_do_not_tell_texts_apart(text: str) -> None:
    assert folded(text) == "my card"


def test_case_folding_knows_more_than_lower_case() -> None:
    assert folded("Stra\u00dfe") == folded("STRASSE")


def test_other_words_numbers_and_marks_do() -> None:
    texts = ["my card", "my cards", "my card 1", "my card 2", "my card!"]
    kept, report = deduplicate([Example(text=text) for text in texts])
    assert [row.text for row in kept] == texts
    assert report.duplicates == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Order 12 for 1,299.50", "order 0 for 0"),
        ("on 2024-05-01 at 10:30", "on 0 at 0"),
        ("A7B", "a0b"),
        ("none", "none"),
        ("\u0661\u0662 coins", "0 coins"),
    ],
)
def test_a_template_has_zero_for_each_number(text: str, expected: str) -> None:
    assert template(text) == expected


def test_the_first_of_equal_texts_is_kept_in_its_place() -> None:
    rows = [gold("A card", "x"), gold("other", "y"), gold("a  CARD", "x")]
    kept, report = deduplicate(rows)
    assert kept == tuple(rows[:2])
    assert report == Report(rows=3, kept=2, conflicts=0)
    assert report.duplicates == 1


def test_a_row_with_gold_labels_goes_before_one_without() -> None:
    kept, report = deduplicate([Example(text="a"), Example(text="b"), gold("A", "x")])
    assert [(row.text, dict(row.labels)) for row in kept] == [("A", {"category": "x"}), ("b", {})]
    assert report == Report(rows=3, kept=2, conflicts=0)


def test_a_conflict_is_counted_once_a_text() -> None:
    rows = [gold("a", "x"), gold("A", "y"), gold(" a", "z"), Example(text="a"), gold("b", "x")]
    kept, report = deduplicate(rows)
    assert [row.labels["category"] for row in kept] == ["x", "x"]
    assert report == Report(rows=5, kept=2, conflicts=1)


def test_what_is_kept_has_the_chance_of_its_text() -> None:
    """All rows of a text have it; one that a person picked has none, and one from before less."""
    chance = 1 - 0.98**3
    rows = [
        replace(gold("Refund", "x"), propensity=None),
        replace(gold("refund", "x"), propensity=chance),
        replace(gold("REFUND", "x"), propensity=chance),
        replace(gold("login", "y"), propensity=0.02),
        replace(gold("picked", "y"), propensity=None),
        replace(gold("Picked", "y"), propensity=None),
        replace(Example("both"), propensity=0.5),
        replace(gold("Both", "y"), propensity=0.02),
    ]
    kept, _ = deduplicate(rows)
    assert {row.text: row.propensity for row in kept} == {
        "Refund": chance,
        "login": 0.02,
        "picked": None,
        "Both": 0.5,
    }

"""The mix of what a student says: counts of late against those of the beginning, by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import DataError
from gateway.shadow.mix import NONE, OTHERS, Mix, shift
from gateway.shadow.window import State


def fed(mix: Mix, *said: tuple[str, int]) -> Mix:
    """Each label so often, in turns of ten so that every block has the same shares."""
    while any(count for _, count in said):
        for label, count in said:
            for _ in range(min(count, 10)):
                mix.add((label,))
        said = tuple((label, max(0, count - 10)) for label, count in said)
    return mix


def test_before_there_is_anything_to_compare_the_shares_are_those_so_far() -> None:
    assert Mix().makeup().shares == {}
    found = fed(Mix(), ("a", 30), ("b", 10)).makeup()
    assert found.shares == {"a": 0.75, "b": 0.25}
    assert (found.shift.limit, found.shift.rows) == (None, 0)


def test_what_is_said_of_late_is_held_against_the_beginning() -> None:
    mix = Mix(first=400)
    for _ in range(200):
        mix.add(("a",))
        mix.add(("b",))
    for at in range(200):
        mix.add(("a",) if at % 4 else ("b",))
    found = mix.makeup()
    assert found.shares == {"a": 0.75, "b": 0.25}
    assert found.shift == shift({"a": 200, "b": 200}, {"a": 150, "b": 50})
    assert found.shift.state is State.DRIFTING


def test_of_late_ends_where_blocks_are_forgotten() -> None:
    """Ten blocks of a hundred: after 1,050 rows of b the a before them are gone."""
    mix = Mix(first=10)
    for label, count in (("a", 10 + 500), ("b", 1050)):
        for _ in range(count):
            mix.add((label,))
    found = mix.makeup()
    assert found.shares == {"b": 1.0}
    assert 900 < found.shift.rows <= 1000


def test_flags_are_compared_as_sets_and_shown_one_by_one() -> None:
    mix = Mix(first=100)
    for _ in range(50):
        mix.add(("urgent", "legal"))
        mix.add(())
    for _ in range(60):
        mix.add(("urgent",))
    for _ in range(40):
        mix.add(())
    found = mix.makeup()
    assert found.shares == {"urgent": 0.6}
    sets = {"urgent + legal": 50, NONE: 50}
    assert found.shift == shift(sets, {"urgent": 60, NONE: 40})


def test_what_is_shown_is_reckoned_once_in_a_hundred_rows() -> None:
    mix = Mix(first=100)
    for _ in range(100):
        mix.add(("a",))
    shown = mix.makeup()
    for _ in range(99):
        mix.add(("b",))
    assert mix.makeup() is shown
    mix.add(("b",))
    assert mix.makeup().shares == {"b": 1.0}


def test_names_that_are_first_said_after_256_count_as_one() -> None:
    """Each row has flags that nobody has said before, as thirty flags may for a long time."""
    mix = Mix(first=2000)
    for number in range(4000):
        mix.add((f"flag {number % 1500}", "urgent"))
    kept = json.loads(json.dumps(mix.saved()))
    assert len(kept["first"]) == 257
    found = Mix(first=2000).restore(kept).makeup()
    assert found == mix.makeup()
    assert found.shares[OTHERS] == 0.744  # the last thousand are 0 to 999, of which 256 have names


def test_a_mix_goes_on_from_what_was_saved() -> None:
    mix = fed(Mix(first=100), ("a", 150), ("b", 150))
    kept: Any = json.loads(json.dumps(mix.saved()))
    again = Mix(first=100).restore(kept)
    assert again.makeup() == mix.makeup()
    assert fed(again, ("b", 300)).makeup() == fed(mix, ("b", 300)).makeup()
    half = Mix(first=100).restore(json.loads(json.dumps(fed(Mix(first=100), ("a", 60)).saved())))
    for _ in range(41):
        half.add(("b",))
    assert half.makeup().shift.rows == 1  # sixty and forty rows were the first hundred


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"first": 3, "blocks": [[]]},
        {"first": [[["a"], 0]], "blocks": [[]]},
        {"first": [[["a"], 11]], "blocks": [[]]},
        {"first": [], "blocks": []},
    ],
)
def test_what_is_no_mix_is_refused(kept: Any) -> None:
    with pytest.raises(DataError, match="saved mix"):
        Mix(first=10).restore(kept)

"""The parting of a batch by length: every row once, within the bounds, at the least cost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from gateway.students.lengths import parted


def cost(parts: list[list[int]], lengths: list[int], call: float) -> float:
    """What the parts cost, in tokens."""
    return sum(call + len(part) * max(lengths[place] for place in part) for part in parts)


def every_parting(places: list[int]) -> Iterator[list[list[int]]]:
    """All ways to part a set."""
    if not places:
        yield []
        return
    first, *rest = places
    for size in range(len(rest) + 1):
        for mates in itertools.combinations(rest, size):
            left = [place for place in rest if place not in mates]
            for others in every_parting(left):
                yield [[first, *mates], *others]


def test_one_length_shares_a_call_and_a_far_one_does_not() -> None:
    parts = parted([5, 30, 5, 5], max_rows=32, max_tokens=1000, call_tokens=4)
    assert parts == [[0, 2, 3], [1]]


def test_neighbours_share_a_call_where_padding_costs_less_than_a_call() -> None:
    # Two rows padded by 1 each cost 2 tokens more, a call costs 4.
    assert parted([9, 10, 9], max_rows=32, max_tokens=1000, call_tokens=4) == [[0, 2, 1]]
    # Three rows padded by 2 each cost 6.
    assert parted([8, 8, 8, 10], max_rows=32, max_tokens=1000, call_tokens=4) == [[0, 1, 2], [3]]


def test_nothing_is_padded_where_a_call_costs_nothing() -> None:
    parts = parted([3, 4, 3, 5], max_rows=32, max_tokens=1000, call_tokens=0)
    assert parts == [[0, 2], [1], [3]]


def test_a_row_above_the_bound_of_tokens_goes_alone() -> None:
    assert parted([50, 50], max_rows=32, max_tokens=10, call_tokens=4) == [[0], [1]]


@pytest.mark.parametrize(("max_rows", "max_tokens"), [(3, 1000), (32, 24)])
def test_no_part_is_above_its_bounds(max_rows: int, max_tokens: int) -> None:
    lengths = [random.Random(7).randint(1, 12) for _ in range(200)]
    parts = parted(lengths, max_rows=max_rows, max_tokens=max_tokens, call_tokens=4)
    assert sorted(itertools.chain(*parts)) == list(range(200))
    for part in parts:
        assert len(part) <= max_rows
        assert len(part) * max(lengths[place] for place in part) <= max_tokens


def test_no_other_parting_is_cheaper() -> None:
    source = random.Random(3)
    for _ in range(40):
        lengths = [source.randint(1, 16) for _ in range(source.randint(1, 7))]
        call = source.choice([0.0, 2.0, 4.0, 7.5])
        found = parted(lengths, max_rows=32, max_tokens=1000, call_tokens=call)
        best = min(cost(each, lengths, call) for each in every_parting(list(range(len(lengths)))))
        assert cost(found, lengths, call) == pytest.approx(best)

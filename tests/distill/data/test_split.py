"""Split: shares, strata, groups and seeds, and the leaks and gaps that are refused."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data import split as splitting
from distill.data.deduplicate import template
from distill.data.split import Splits, check_leaks, split
from distill.recipe import SplitShares
from gateway.contract.examples import Example
from gateway.errors import DataError

SHARES = SplitShares(calibration=0.1, certification=0.2, test=0.2)
WORDS = ["red", "green", "blue", "gold", "pink", "teal", "grey", "plum", "rust", "sand"]


def row(number: int, label: str | None = "a", group: str | None = None) -> Example:
    """A row whose text has no number, and differs from others for numbers below 1000."""
    text = " ".join(WORDS[int(digit)] for digit in f"{number:03d}")
    return Example(text=text, labels={"category": label} if label else {}, group=group)


def rows(count: int, labels: str = "ab") -> list[Example]:
    return [row(n, labels[n % len(labels)]) for n in range(count)]


def counts(splits: Splits) -> dict[str, int]:
    return {name: len(part) for name, part in splits.parts().items()}


CASES = st.lists(
    st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 30), st.booleans()),
    min_size=60,
    max_size=150,
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=CASES, seed=st.integers(0, 99), order=st.randoms(use_true_random=False))
def test_a_split_keeps_its_laws_for_any_rows(
    case: list[tuple[str, int | None, bool]], seed: int, order: random.Random
) -> None:
    given_rows = [
        replace(
            row(n, label),
            text=f"{row(n).text} {n}" if numbered else row(n).text,
            group=None if group is None else f"g{group}",
        )
        for n, (label, group, numbered) in enumerate(case)
    ]
    splits = split(given_rows, SHARES, seed=seed)
    # Every row is in one part.
    parts = splits.parts()
    assert sorted(each.id for part in parts.values() for each in part) == sorted(
        each.id for each in given_rows
    )
    # Groups never cross.
    homes: dict[str, set[str]] = {}
    for name, part in parts.items():
        for each in part:
            if each.group:
                homes.setdefault(each.group, set()).add(name)
    assert all(len(names) == 1 for names in homes.values())
    # Shares are kept but for the largest group and one forced row a label.
    groups = Counter(each.group for each in given_rows if each.group)
    slack = 3 + 2 * max(groups.values(), default=1)
    for name, share in [("train", 0.5), ("calibration", 0.1), ("test", 0.2)]:
        assert abs(len(parts[name]) - share * len(given_rows)) <= slack
    # The order of the rows does not matter.
    shuffled = list(given_rows)
    order.shuffle(shuffled)
    assert split(shuffled, SHARES, seed=seed) == splits


def test_single_rows_are_split_by_the_shares_in_every_stratum() -> None:
    splits = split(rows(200), SHARES, seed=0)
    assert counts(splits) == {
        "train": 100, "calibration": 20, "certification": 40, "test": 40, "unlabelled": 0,
    }  # fmt: skip
    for name, share in [("train", 50), ("calibration", 10), ("certification", 20), ("test", 20)]:
        labels = Counter(str(each.labels["category"]) for each in splits.parts()[name])
        assert abs(labels["a"] - share) <= 2
        assert abs(labels["b"] - share) <= 2


def test_small_strata_do_not_starve_a_small_part() -> None:
    labels = [f"label-{n // 5}" for n in range(200)]
    given_rows = [row(n, label) for n, label in enumerate(labels)]
    splits = split(given_rows, SHARES, seed=0)
    # 0.1 of five rows is no row; 0.1 of forty times five rows is twenty.
    assert abs(len(splits.calibration) - 20) <= 2
    assert {str(each.labels["category"]) for each in splits.train} == set(labels)


def test_another_seed_is_another_split_and_the_same_seed_the_same() -> None:
    assert split(rows(100), SHARES, seed=1) == split(rows(100), SHARES, seed=1)
    assert split(rows(100), SHARES, seed=1) != split(rows(100), SHARES, seed=2)


def test_texts_that_differ_in_numbers_alone_stay_together() -> None:
    given_rows = [
        replace(each, text=f"{each.text} order {n}") for each in rows(40) for n in range(3)
    ]
    parts = split(given_rows, SHARES, seed=3).parts()
    homes = Counter((template(each.text), name) for name, part in parts.items() for each in part)
    assert len(homes) == 40
    assert set(homes.values()) == {3}


def test_groups_and_texts_are_joined_through_each_other() -> None:
    chain = [
        replace(row(900), text="bill 1", group="g"),
        replace(row(901), text="bill 2", group="h"),
        replace(row(902), text="thanks", group="h"),
    ]
    ids = {each.id for each in chain}
    for seed in range(8):
        parts = split(rows(60) + chain, SHARES, seed=seed).parts()
        together = [len(ids & {each.id for each in part}) for part in parts.values()]
        assert sorted(together) == [0, 0, 0, 0, 3]


def test_unlabelled_rows_go_to_the_side_of_train() -> None:
    bare = [row(n, None) for n in range(500, 520)]
    splits = split(rows(60) + bare, SHARES, seed=0)
    assert sorted(each.id for each in splits.unlabelled) == sorted(each.id for each in bare)
    assert splits.removed == 0


def test_unlabelled_rows_of_a_held_out_group_are_removed_and_counted() -> None:
    given_rows = [replace(each, group=f"g{n}") for n, each in enumerate(rows(60))]
    bare = [replace(row(500 + n, None), group=f"g{n}") for n in range(60)]
    splits = split(given_rows + bare, SHARES, seed=0)
    train = {each.group for each in splits.train}
    assert {each.group for each in splits.unlabelled} == train
    assert splits.removed == 60 - len(train) > 0
    check_leaks(splits)


def test_a_test_set_that_stands_takes_its_group_and_texts_out_of_the_rest() -> None:
    stands = [
        replace(row(700), group="g"),
        replace(row(701, "b"), text="bill 7"),
        row(702, None),
    ]
    rest = rows(60)
    rest[0] = replace(rest[0], group="g")
    rest[1] = replace(rest[1], text="Bill 8")
    bare = replace(row(703, None), group="g")
    splits = split([*rest, bare], SHARES, seed=0, test=stands)
    assert sorted(each.id for each in splits.test) == sorted(each.id for each in stands)
    assert splits.removed == 3
    # The share of test goes to train: 58 * 0.7, 58 * 0.1, 58 * 0.2, each but for a row.
    expected = {"train": 40.6, "calibration": 5.8, "certification": 11.6}
    for name, count in expected.items():
        assert abs(len(splits.parts()[name]) - count) <= 1.5
    check_leaks(splits)


@pytest.mark.parametrize(
    "given_rows",
    [
        [],
        rows(3),
        [row(n, None) for n in range(50)],
        [replace(each, group="one") for each in rows(100)],
    ],
)
def test_a_part_without_rows_is_refused(given_rows: list[Example]) -> None:
    with pytest.raises(DataError, match="no labelled row is left for"):
        split(given_rows, SHARES, seed=0)


def test_rows_without_a_choice_are_one_stratum() -> None:
    given_rows = [replace(row(n), labels={"risk": ("x",) if n % 2 else ()}) for n in range(100)]
    splits = split(given_rows, SHARES, seed=0)
    assert counts(splits)["train"] == 50
    assert check_leaks(splits) == ()


def made(**parts: list[Example]) -> Splits:
    return Splits(
        train=tuple(parts.get("train", [])),
        calibration=tuple(parts.get("calibration", [])),
        certification=tuple(parts.get("certification", [])),
        test=tuple(parts.get("test", [])),
        unlabelled=tuple(parts.get("unlabelled", [])),
    )


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (
            {"train": [row(0)], "test": [replace(row(0), text="RED red  Red")]},
            "the text 'red red red' is in train and in test",
        ),
        (
            {"train": [replace(row(0), text="order 1")], "test": [replace(row(0), text="order 2")]},
            "the text 'order 0' is in train and in test",
        ),
        (
            {"calibration": [row(0, "a", "g")], "certification": [row(1, "a", "g")]},
            "the group 'g' is in calibration and in certification",
        ),
        ({"test": [row(0)], "unlabelled": [row(0, None)]}, "is in test and in unlabelled"),
    ],
)
def test_what_two_sides_know_is_a_leak(parts: dict[str, list[Example]], told: str) -> None:
    with pytest.raises(DataError) as caught:
        check_leaks(made(**parts))
    assert told in caught.value.message


def test_train_and_unlabelled_are_one_side() -> None:
    assert check_leaks(made(train=[row(0, "a", "g")], unlabelled=[row(1, None, "g")])) == ()


def test_a_label_that_train_lacks_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        check_leaks(made(train=rows(9, "a"), test=[row(100, "b")], calibration=[row(101, "b")]))
    assert caught.value.message == (
        "no row of train has the label 'b' of the head 'category'; "
        "it occurs only in calibration, test"
    )


def test_a_rare_label_that_a_part_lacks_is_a_warning() -> None:
    train = [*rows(60, "a"), *[row(100 + n, "b") for n in range(19)]]
    test = [row(200 + n) for n in range(60)]
    assert check_leaks(made(train=train, test=test)) == (
        "no row of test has the label 'b' of the head 'category': it is not measured there",
    )


def test_a_common_label_that_a_part_lacks_is_refused() -> None:
    train = [*rows(60, "a"), *[row(100 + n, "b") for n in range(20)]]
    test = [row(200 + n) for n in range(60)]
    # 20 rows of b, and test has 60 of the 140 rows: about 8.6 were to be expected there.
    with pytest.raises(DataError, match=r"no row of test has .* it occurs only in train"):
        check_leaks(made(train=train, test=test))


def test_a_common_label_may_miss_a_part_that_is_too_small_for_it() -> None:
    train = [*rows(60, "a"), *[row(100 + n, "b") for n in range(20)]]
    # 20 rows of b, and test has 20 of the 100 rows: 4 were to be expected there.
    assert len(check_leaks(made(train=train, test=[row(200 + n) for n in range(20)]))) == 1


def flagged(rows: list[Example], *flags: str) -> list[Example]:
    return [replace(each, labels={**each.labels, "risk": flags}) for each in rows]


def test_a_flag_that_train_lacks_is_refused() -> None:
    test = flagged([row(100), row(101)], "fraud")
    with pytest.raises(DataError) as caught:
        check_leaks(made(train=flagged(rows(9, "a")), test=test))
    assert caught.value.message == (
        "no row of train has the label 'fraud' of the head 'risk'; it occurs only in test"
    )


def test_a_flag_that_a_held_out_part_lacks_is_a_warning() -> None:
    train = [*flagged(rows(9, "a")), *flagged([row(50)], "fraud", "legal")]
    told = "no row of test has the label {!r} of the head 'risk': it is not measured there"
    assert check_leaks(made(train=train, test=flagged([row(100)], "legal"))) == (
        told.format("fraud"),
    )


def test_splits_are_read_as_they_were_saved(tmp_path: Path) -> None:
    flagged = [
        replace(each, labels={**each.labels, "risk": ("x",)}, fields={"amount": 1.5})
        for each in rows(60)
    ]
    bare = [row(500, None)]
    splits = replace(split(flagged + bare, SHARES, seed=0), removed=4)
    splitting.save(splits, tmp_path)
    assert splitting.load(tmp_path) == splits

"""Noisy copies: near their originals, never empty, the same for the same seed."""

from __future__ import annotations

from distill.data.augment import copies

TEXTS = [f"please tell me where my order number {number} is today" for number in range(200)]


def test_each_text_has_so_many_copies_in_the_order_of_the_texts() -> None:
    found = copies(TEXTS, count=2, seed=0)
    assert len(found) == 400
    shared = [
        len(set(copy.split()) & set(text.split()))
        for copy, text in zip(found, [*TEXTS, *TEXTS], strict=True)
    ]
    assert sum(shared) / 400 > 6  # of ten words, a fifth is dropped or replaced


def test_copies_differ_from_their_originals() -> None:
    found = copies(TEXTS, count=1, seed=0)
    same = sum(copy == text for copy, text in zip(found, TEXTS, strict=True))
    assert same < 20  # 0.78^10 of them keep every word, and half of those are swapped


def test_the_same_seed_gives_the_same_copies() -> None:
    assert copies(TEXTS, count=1, seed=3) == copies(TEXTS, count=1, seed=3)
    assert copies(TEXTS, count=1, seed=3) != copies(TEXTS, count=1, seed=4)


def test_no_copy_is_empty_and_a_single_word_survives() -> None:
    assert all(copies(["help"] * 300, count=1, seed=0))


def test_none_are_made_where_none_are_asked_for() -> None:
    assert copies(TEXTS, count=0, seed=0) == ()

"""Augment: noisy copies of teaching texts, for the teacher to label anew.

A student sees few texts and its teacher can say much about many: words are dropped, replaced by
other words of the texts, and swapped, about a fifth in all (arXiv 2305.12565 finds distillation to
gain from copies that lie further off than those for fine-tuning). No copy keeps the label of its
original.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

_DROPPED = 0.12  # share of words
_REPLACED = 0.10  # share of words
_SWAPPED = 0.5  # share of copies in which one pair of neighbours changes places


def copies(texts: Sequence[str], *, count: int, seed: int) -> tuple[str, ...]:
    """`count` noisy copies of each text, the same ones for the same seed; never an empty one."""
    dice = random.Random(f"augment/{seed}")  # noqa: S311  seeded, no secret
    words = [word for text in texts for word in text.split()]
    return tuple(_copy(text, words, dice) for _ in range(count) for text in texts)


def _copy(text: str, words: Sequence[str], dice: random.Random) -> str:
    kept: list[str] = []
    for word in text.split():
        chance = dice.random()
        if chance >= _DROPPED + _REPLACED:
            kept.append(word)
        elif chance >= _DROPPED:
            kept.append(dice.choice(words))
    if len(kept) > 1 and dice.random() < _SWAPPED:
        place = dice.randrange(len(kept) - 1)
        kept[place], kept[place + 1] = kept[place + 1], kept[place]
    return " ".join(kept) or text

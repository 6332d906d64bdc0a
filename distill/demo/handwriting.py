"""How people really type: slips of the finger, no capitals, no stops, shouting.

It knows nothing of labels, and never touches digits: order numbers and amounts stay as they were.
"""

from __future__ import annotations

import re

from distill.demo.dice import Dice

TYPOS = 0.25  # share of texts with one slip or more
_LOWER = 0.14  # share of texts without any capital
_BARE = 0.09  # share of texts without stops
_SHOUTED = 0.025
_EMOJI = 0.025
_MORE_SLIPS = 0.4  # chance of one more slip after each, up to _MOST_SLIPS
_MOST_SLIPS = 4
_SHORTEST_WORD = 4  # letters; slips in shorter words make other words of them

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    letter: row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
    for row in _ROWS
    for place, letter in enumerate(row)
}
_FACES = ("🙏", "😡", "😞", "🙂", "👍", "😤", "📦")
_WORD = re.compile(rf"[A-Za-z]{{{_SHORTEST_WORD},}}")
_STOPS = re.compile(r"[.,!?;:]+(?=\s|$)")


def handwritten(text: str, dice: Dice) -> str:
    """The text as it would have been typed."""
    if dice.chance(_BARE):
        text = _STOPS.sub("", text).replace("'", "")
    if dice.chance(TYPOS):
        text = with_slips(text, dice)
    if dice.chance(_LOWER):
        text = text.lower()
    elif dice.chance(_SHOUTED):
        text = text.upper()
    if dice.chance(_EMOJI):
        text = f"{text} {dice.pick(_FACES)}"
    return text


def with_slips(text: str, dice: Dice) -> str:
    """The text with one to four slips of the finger, each in a word of four letters or more."""
    for done in range(_MOST_SLIPS):
        if done and not dice.chance(_MORE_SLIPS):
            break
        if found := list(_WORD.finditer(text)):
            match = dice.pick(found)
            text = text[: match.start()] + _slip(match.group(), dice) + text[match.end() :]
    return text


def _slip(word: str, dice: Dice) -> str:
    """Swap, drop, double or miss one letter; the first one stays."""
    at = dice.whole(1, len(word) - 2)
    before, letter, after = word[:at], word[at], word[at + 1 :]
    return dice.pick(
        (
            before + after[0] + letter + after[1:],
            before + after,
            before + letter + letter + after,
            before + dice.pick(_NEIGHBOURS[letter.lower()]) + after,
        )
    )

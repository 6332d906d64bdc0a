"""The grammar's notation: phrases, marks, and what an intent is made of.

A phrase is one line. `{slot}` is filled with a word, `[a|b|]` stands for one of its alternatives,
and marks at its start say what the phrase means: `+refund` `+fraud` `+legal` `+high` `+low`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from distill.demo.dice import Dice

Urgency = Literal["low", "normal", "high"]

URGENCIES: tuple[Urgency, ...] = ("low", "normal", "high")
RISKS = ("refund", "fraud", "legal")
MARKS = frozenset({*RISKS, "high", "low"})

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_SPACES = re.compile(r" {2,}")
_LOOSE = re.compile(r" (?=[.,!?;:])")  # left where an empty alternative stood before a stop


@dataclass(frozen=True, slots=True)
class Phrase:
    """One line of the grammar and the marks that say what it means."""

    text: str
    marks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Intent:
    """What a customer can want, and the ways to say it.

    `frames` ask for it, and so do the `oblique` ones, seldom and without the usual words; `details`
    may follow, `asides` ask for it in passing. `risk` and `urgency` hold for every ticket of the
    intent, unless the marks of its phrases say more.
    """

    label: str
    weight: float  # how often it is asked, against the other intents
    urgency: Urgency
    frames: tuple[Phrase, ...]
    details: tuple[Phrase, ...]
    oblique: tuple[Phrase, ...] = ()
    asides: tuple[Phrase, ...] = ()
    risk: tuple[str, ...] = ()
    money: bool = False  # what is at stake: money or access to it, rather than a thing


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """Wording that fits two intents. Nobody can tell which one is meant."""

    likely: str
    rival: str
    frames: tuple[Phrase, ...]


def phrases(block: str) -> tuple[Phrase, ...]:
    """A block of lines -> phrases."""
    return tuple(_phrase(line.strip()) for line in block.splitlines() if line.strip())


def wording(text: str, dice: Dice) -> str:
    """Choose one of each `[a|b]`, the innermost first."""
    while match := _ALTERNATIVES.search(text):
        chosen = dice.pick(match.group(1).split("|"))
        text = text[: match.start()] + chosen + text[match.end() :]
    return _LOOSE.sub("", _SPACES.sub(" ", text)).strip()


def sentence(text: str, words: Mapping[str, str]) -> str:
    """Fill the slots, and begin with a capital letter."""
    filled = text.format_map(words)
    return filled[:1].upper() + filled[1:]


def _phrase(line: str) -> Phrase:
    marks = set()
    while line.startswith("+"):
        mark, _, line = line.partition(" ")
        marks.add(mark[1:])
    return Phrase(line, frozenset(marks))

"""Tickets: seeded, labelled messages to the support of a made-up shop with a wallet.

`generate` gives teaching data: distinct texts with their gold labels. The labels follow from what
the phrases say, so they can be learnt from the text alone, but for the ambiguous part, whose
gold label is a coin toss. Nothing here is read from a file or the network.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from distill.demo.ambiguities import AMBIGUITIES
from distill.demo.dice import Dice
from distill.demo.grammar import RISKS, URGENCIES, Intent, Phrase, Urgency, sentence, wording
from distill.demo.handwriting import handwritten
from distill.demo.intents import DANGEROUS, INTENTS
from distill.demo.manners import (
    ALSO,
    CLOSINGS,
    GREETINGS,
    HURRY,
    HURRY_MONEY,
    HURRY_THINGS,
    PATIENCE,
    RATHER,
    STORIES,
    THREATS,
)
from distill.demo.strangers import OTHER
from distill.demo.words import NAMES, words
from gateway.contract.manifest import Head, HeadKind, Task
from gateway.errors import DataError

Kind = Literal["plain", "two_topics", "ambiguous", "out_of_domain", "lost", "crate"]

COLUMNS = ("text", "intent", "urgency", "risk", "amount", "customer")

TASK = Task(
    name="tickets",
    heads=(
        Head(
            name="intent",
            kind=HeadKind.CHOICE,
            labels=(*(intent.label for intent in INTENTS), OTHER.label),
        ),
        Head(name="urgency", kind=HeadKind.CHOICE, labels=URGENCIES),
        Head(name="risk", kind=HeadKind.FLAGS, labels=RISKS),
    ),
)

_KINDS: tuple[Kind, ...] = ("plain", "two_topics", "ambiguous", "out_of_domain")
_KIND_SHARES = (0.74, 0.10, 0.12, 0.04)
_LIKELY = 0.7  # an ambiguous text means the likelier of its two intents

# How a message is made up: chances of its parts.
_GREETED = 0.45
_SIGNED = 0.2
_CLOSED = 0.35
_STORY = 0.35
_OBLIQUE = 0.22  # asks without the usual words
_DETAIL = 0.55
_CUE = 0.45  # says outright how urgent it is
_HURRIED = 0.55  # of those
_CUE_FIRST = 0.25
_THREATENED = 0.05  # of the plain ones: ends with a lawyer or a regulator
_ASIDE_FIRST = 0.4  # of the two topics; then the main one is named as such

_SHORTEST, _LONGEST = 5, 60  # words of a message
_REPEATS = 1000  # repeats in a row after which the grammar counts as used up

_WHOLE_DOLLARS = 0.35  # share of amounts without cents
_STATED = 0.4  # share of tickets whose form has an amount though the text names none
_LARGE_FROM, _LARGE_TO = 1001.0, 6000.0  # USD
_SMALL_FROM, _SMALL_TO = 6.0, 420.0  # USD

_BY_LABEL = {intent.label: intent for intent in INTENTS}
_CALM = tuple(intent for intent in INTENTS if intent.label not in DANGEROUS)
_MAY_THREATEN = frozenset(
    {"late_delivery", "damaged_item", "refund_request", "double_charge", "close_account"}
)


@dataclass(frozen=True, slots=True)
class Ticket:
    """One message with its gold labels. `amount` is the form's field in USD, often left empty."""

    text: str
    intent: str
    urgency: Urgency
    risk: tuple[str, ...]  # in the order of RISKS
    amount: float | None
    customer: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Mix:
    """What may differ between teaching data and live traffic."""

    dangerous: float  # factor on how often fraud and legal threats come
    large: float  # share of amounts above 1,000 USD
    customers: int  # how many there are


TEACHING = Mix(dangerous=1.0, large=0.03, customers=6000)


@dataclass(slots=True)
class _Draft:
    """A message before its slots are filled."""

    intent: Intent
    kind: Kind
    parts: list[str] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)

    def add(self, phrase: Phrase, dice: Dice, *, first: bool = False) -> None:
        self.parts.insert(0 if first else len(self.parts), wording(phrase.text, dice))
        self.marks |= phrase.marks

    def names(self, slot: str) -> bool:
        return any(slot in part for part in self.parts)


def generate(count: int, *, seed: int) -> list[Ticket]:
    """`count` tickets with distinct texts, the same ones for the same seed.

    Raises DataError where the grammar cannot say so many different things.
    """
    if count < 0:
        raise DataError(f"count: {count} tickets cannot be made", mend="ask for 0 or more")
    found = list(islice(distinct(stream(Dice(f"teaching/{seed}"), TEACHING)), count))
    if len(found) < count:
        raise DataError(
            f"count: the grammar gives only {len(found)} of {count} distinct tickets",
            mend="ask for fewer",
        )
    return found


def stream(dice: Dice, mix: Mix) -> Iterator[Ticket]:
    """Tickets without end; texts may repeat."""
    while True:
        ticket = _ticket(dice, mix)
        if _SHORTEST <= len(ticket.text.split()) <= _LONGEST:
            yield ticket


def distinct(tickets: Iterable[Ticket]) -> Iterator[Ticket]:
    """Leave out tickets whose text came before; ends when nothing new comes for long."""
    seen: set[str] = set()
    repeats = 0
    for ticket in tickets:
        folded = fold(ticket.text)
        if folded in seen:
            repeats += 1
            if repeats == _REPEATS:
                return
            continue
        repeats = 0
        seen.add(folded)
        yield ticket


def fold(text: str) -> str:
    """Texts that differ only in case and white space are one text."""
    return " ".join(text.lower().split())


def write_csv(tickets: Iterable[Ticket], path: Path) -> None:
    """Write tickets as a table; flags are joined by "|", an absent amount is empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for each in tickets:
            amount = "" if each.amount is None else f"{each.amount:.2f}"
            risk = "|".join(each.risk)
            table.writerow((each.text, each.intent, each.urgency, risk, amount, each.customer))


def _ticket(dice: Dice, mix: Mix) -> Ticket:
    draft = _draft(dice, mix)
    number = int(mix.customers * dice.share() ** 1.5)  # low numbers write more often
    name, amount = NAMES[number % len(NAMES)], _amount(dice, mix)
    powered = draft.names("{machine}")
    stated = draft.intent is not OTHER and (draft.names("{amount}") or dice.chance(_STATED))
    return Ticket(
        text=_text(draft, words(dice, name=name, amount=amount, powered=powered), dice),
        intent=draft.intent.label,
        urgency=_urgency(draft),
        risk=tuple(risk for risk in RISKS if risk in {*draft.intent.risk, *draft.marks}),
        amount=amount if stated else None,
        customer=f"c-{number:05}",
        kind=draft.kind,
    )


def _draft(dice: Dice, mix: Mix) -> _Draft:
    kind = dice.weighted(_KINDS, _KIND_SHARES)
    if kind == "out_of_domain":
        return _stranger(dice)
    if kind == "ambiguous":
        return _ambiguous(dice)
    if kind == "two_topics":
        return _two_topics(dice)
    return _plain(dice, mix)


def _plain(dice: Dice, mix: Mix) -> _Draft:
    factors = [mix.dangerous if each.label in DANGEROUS else 1.0 for each in INTENTS]
    weights = [each.weight * factor for each, factor in zip(INTENTS, factors, strict=True)]
    draft = _Draft(dice.weighted(INTENTS, weights), "plain")
    if dice.chance(_STORY):
        draft.add(dice.pick(STORIES), dice)
    intent = draft.intent
    draft.add(dice.pick(intent.oblique if dice.chance(_OBLIQUE) else intent.frames), dice)
    if dice.chance(_DETAIL):
        draft.add(dice.pick(intent.details), dice)
    _cue(draft, dice)
    if intent.label in _MAY_THREATEN and dice.chance(_THREATENED):
        draft.add(dice.pick(THREATS), dice)
    return draft


def _two_topics(dice: Dice) -> _Draft:
    """A main request and an aside. The main one comes first, or is named as the main one."""
    weights = [each.weight for each in _CALM]
    draft = _Draft(dice.weighted(_CALM, weights), "two_topics")
    others = [each for each in _CALM if each is not draft.intent]
    aside = dice.pick(dice.pick(others).asides)
    draft.add(dice.pick(draft.intent.frames), dice)
    first = dice.chance(_ASIDE_FIRST)
    joint = dice.pick(RATHER if first else ALSO).replace("{aside}", aside.text)
    draft.add(Phrase(joint, aside.marks), dice, first=first)
    _cue(draft, dice)
    return draft


def _ambiguous(dice: Dice) -> _Draft:
    ambiguity = dice.pick(AMBIGUITIES)
    label = ambiguity.likely if dice.chance(_LIKELY) else ambiguity.rival
    draft = _Draft(_BY_LABEL[label], "ambiguous")
    draft.add(dice.pick(ambiguity.frames), dice)
    _cue(draft, dice)
    return draft


def _stranger(dice: Dice) -> _Draft:
    draft = _Draft(OTHER, "out_of_domain")
    draft.add(dice.pick(OTHER.frames), dice)
    if dice.chance(_DETAIL):
        draft.add(dice.pick(OTHER.details), dice)
    return draft


def _cue(draft: _Draft, dice: Dice) -> None:
    """Perhaps say how urgent it is, where nothing has been said; danger is never called calm."""
    if draft.marks & {"high", "low"} or not dice.chance(_CUE):
        return
    hurried = draft.intent.label in DANGEROUS or dice.chance(_HURRIED)
    haste = HURRY + (HURRY_MONEY if draft.intent.money else HURRY_THINGS)
    draft.add(dice.pick(haste if hurried else PATIENCE), dice, first=dice.chance(_CUE_FIRST))


def _urgency(draft: _Draft) -> Urgency:
    if "high" in draft.marks:
        return "high"
    return "low" if "low" in draft.marks else draft.intent.urgency


def _amount(dice: Dice, mix: Mix) -> float:
    """USD; small amounts are spread evenly over their logarithm, as prices are."""
    large = dice.chance(mix.large)
    low, high = (_LARGE_FROM, _LARGE_TO) if large else (_SMALL_FROM, _SMALL_TO)
    amount = low * math.pow(high / low, dice.share())
    return round(amount, 0 if dice.chance(_WHOLE_DOLLARS) else 2)


def _text(draft: _Draft, slots: dict[str, str], dice: Dice) -> str:
    parts = [sentence(part, slots) for part in draft.parts]
    if dice.chance(_GREETED):
        parts.insert(0, dice.pick(GREETINGS))
    if dice.chance(_CLOSED):
        parts.append(dice.pick(CLOSINGS))
    if dice.chance(_SIGNED):
        parts.append(slots["name"])
    return handwritten(" ".join(parts), dice)

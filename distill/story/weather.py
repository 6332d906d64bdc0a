"""The weather: how the traffic of the shop changes, as the story wants it.

Two winds blow. Under the one, messages come that were meant for an airline of the same name: they
look like nothing that a student has seen. Under the other, the shop sells a new thing, the Glow
crate, whose maker answers all mail about it, so that whatever is asked of it is a product question:
such a message looks as ordinary as any, and the label that it would have had yesterday is wrong.
"""

# ruff: noqa: E501  a phrase is one line

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from distill.demo.dice import Dice
from distill.demo.grammar import Phrase, phrases, sentence, wording
from distill.demo.handwriting import handwritten
from distill.demo.intents import DANGEROUS, INTENTS, PRODUCT_QUESTION
from distill.demo.manners import CLOSINGS, GREETINGS
from distill.demo.strangers import OTHER
from distill.demo.tickets import Kind, Ticket, stream
from distill.demo.traffic import LIVE
from distill.demo.words import NAMES, words

_CRATES = ("Glow crate", "Glow crate", "glow crate", "monthly Glow crate", "big Glow crate")
_TAILS = (
    "It is the Glow crate.", "This is about the Glow crate.", "It's the Glow crate I mean.",
    "The order is a Glow crate.", "All of it for one Glow crate.", "Glow crate, by the way.",
)  # fmt: skip
_GREETED, _CLOSED = 0.45, 0.35  # chances, as in tickets
_TAILED = 0.35  # of those about the crate: its name comes only at the end

_LOST = phrases("""
    My suitcase did not come out on the belt in {city}, flight {code}, [tag|label] {card}.
    Boarding pass {code} will not open on my {device}, gate closes at {days}.
    We missed our connection in {city} because the first plane [sat on the runway|was held at the gate].
    Can I take {days} kilos in the hold to {city}, or does the second bag cost extra?
    I booked a window seat on {date} and was put [in the middle|by the galley], row {days}.
    Is lounge access part of fare class {code}, and may my wife come along in {city}?
    The crew on {code} to {city} was lovely, please tell the purser.
    How early does check-in open in {city} for the {day} flight?
    My miles from {city} were never added to card {card}, tier points neither.
    Our plane to {city} was diverted to an airfield in the fog, who pays for the bus?
    I need a wheelchair from the kerb to the gate in {city} on {date}.
    Does the infant need a passport of her own on {code} to {city}?
    Stroller and cot, do they travel free in the hold to {city}?
    We sat {days} hours on the apron in {city} without air or water.
    Can a small dog fly in the cabin to {city} on {day}, what carrier size?
    The upgrade to the front cabin on {code} was taken from my miles twice over, seat {days}.
    Which terminal is {code} from in {city}, the screens say two of them?
    Vegetarian meal on {code} please, the long leg to {city}.
    Crew roster {code}: I can swap the {day} leg to {city} with {name}.
    Turbulence over {city} broke my glasses, is that insured by the carrier's convention?
    Please hold seat {days} next to my son on the {city} leg, he is six and flies for the first time.
    Do you still fly {city} to {city} in winter, the timetable stops on {date}?
""")


@dataclass(frozen=True, slots=True)
class Weather:
    """Shares of the messages that come by each wind; the rest is ordinary."""

    lost: float = 0.0
    crate: float = 0.0


FAIR = Weather()


def traffic(*, seed: int, weather: Callable[[], Weather]) -> Iterator[Ticket]:
    """Tickets without end under the weather of the moment, the same ones for the same seed."""
    dice = Dice(f"weather/{seed}")
    ordinary = stream(Dice(f"story/{seed}"), LIVE)
    while True:
        now, lot = weather(), dice.share()
        if lot < now.lost:
            yield _ticket(dice, dice.pick(_LOST), OTHER.label, "lost")
        elif lot < now.lost + now.crate:
            yield _about_the_crate(dice)
        else:
            yield next(ordinary)


def _about_the_crate(dice: Dice) -> Ticket:
    """What anybody may want, of the crate; what is dangerous stays what it is."""
    intent = dice.pick([each for each in INTENTS if each.label not in DANGEROUS])
    named = [each for each in intent.frames if "{item}" in each.text]
    if not named or dice.chance(_TAILED):
        phrase = dice.pick(intent.frames)
        told = Phrase(f"{phrase.text} {dice.pick(_TAILS)}", phrase.marks)
    else:
        told = dice.pick(named)
    return _ticket(dice, told, PRODUCT_QUESTION.label, "crate")


def _ticket(dice: Dice, phrase: Phrase, intent: str, kind: Kind) -> Ticket:
    name = dice.pick(NAMES)
    slots = words(dice, name=name, amount=float(dice.whole(6, 420)), powered=False)
    if kind == "crate":
        slots |= {"item": dice.pick(_CRATES), "machine": dice.pick(_CRATES)}
    parts = [sentence(wording(phrase.text, dice), slots)]
    if dice.chance(_GREETED):
        parts.insert(0, dice.pick(GREETINGS))
    if dice.chance(_CLOSED):
        parts.append(dice.pick(CLOSINGS))
    text = handwritten(" ".join(parts), dice)
    return Ticket(text, intent, "normal", (), None, f"c-{name}", kind)

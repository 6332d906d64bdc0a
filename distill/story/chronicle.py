"""The chronicle: what the customers of the story saw, answer by answer, and what happened when.

Time is counted in answers, so that a slow machine tells the same story. Whether an answer was right
is known by gold, which only the sender has: no part of the gateway reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson

from distill.demo import crowd
from distill.demo.tickets import Ticket

STUDENT = "student"  # the route of what the student answered itself


@dataclass(frozen=True, slots=True)
class Stretch:
    """Answers in a row: how many were right by gold, and how many the student gave itself.

    `wrong` is its own answers that were wrong: nobody noticed them at the time.
    """

    answers: int
    right: int
    own: int
    wrong: int

    @property
    def accuracy(self) -> float:
        """Share of all answers that were right."""
        return self.right / self.answers if self.answers else 0.0

    @property
    def escalated(self) -> float:
        """Share of all answers that the student did not give."""
        return 1.0 - self.own / self.answers if self.answers else 0.0

    @property
    def undetected(self) -> float:
        """Share of all answers that the student gave and that were wrong."""
        return self.wrong / self.answers if self.answers else 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened after so many answers."""

    answers: int
    kind: str  # act, promoted, step, rollback, drift, ...
    words: str


@dataclass(frozen=True, slots=True)
class Bound:
    """What was known of a candidate's gate after so many answers."""

    answers: int
    candidate: str
    gate: str
    limit: float
    value: float | None
    lower: float
    upper: float
    rows: int


@dataclass(slots=True)
class Chronicle:
    """All that is to be told, as it comes."""

    events: list[Event] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    _right: bytearray = field(default_factory=bytearray)  # an entry an answer: 1 or 0
    _own: bytearray = field(default_factory=bytearray)

    @property
    def answers(self) -> int:
        """How many there were by now."""
        return len(self._right)

    def heard(self, ticket: Ticket, reply: Mapping[str, Any]) -> None:
        """A customer got a reply."""
        self._right.append(crowd.is_right(ticket, reply["labels"]))
        self._own.append(reply["route"] == STUDENT)

    def happened(self, kind: str, words: str) -> None:
        """Note an event."""
        self.events.append(Event(self.answers, kind, words))

    def judged(self, candidate: str, gates: Sequence[Mapping[str, Any]]) -> None:
        """Note where the gates of a candidate stand, as the gateway says."""
        self.bounds += [
            Bound(
                answers=self.answers,
                candidate=candidate,
                gate=each["gate"],
                limit=each["limit"],
                value=each["value"],
                lower=each["lower"],
                upper=each["upper"],
                rows=each["pairs"],
            )
            for each in gates
        ]

    def stretch(self, first: int, last: int | None = None) -> Stretch:
        """The answers from one number until before another; None: until now."""
        right, own = self._right[first:last], self._own[first:last]
        wrong = sum(mine and not good for good, mine in zip(right, own, strict=True))
        return Stretch(len(right), sum(right), sum(own), wrong)

    def rolling(self, window: int, every: int) -> Iterator[tuple[int, Stretch]]:
        """The last `window` answers, after every so many of them."""
        ends = range(min(window, self.answers), self.answers + 1, every)
        right = [0, *accumulate(self._right)]
        own = [0, *accumulate(self._own)]
        both = zip(self._right, self._own, strict=True)
        wrong = [0, *accumulate(mine and not good for good, mine in both)]
        for end in ends:
            start = max(0, end - window)
            counts = (each[end] - each[start] for each in (right, own, wrong))
            yield end, Stretch(end - start, *counts)

    def write(self, path: Path) -> None:
        """Write it as JSON: for each answer whether it was right, and whether the student's own."""
        content = {
            "right": self._right.hex(),
            "own": self._own.hex(),
            "events": [asdict(each) for each in self.events],
            "bounds": [asdict(each) for each in self.bounds],
        }
        path.write_bytes(orjson.dumps(content))

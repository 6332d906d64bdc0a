"""One rate of wrong answers as it is measured: rows that are counted, and audits that come later.

A row is known at once where the teacher answered it, and a guess where the student did. A drawn row
closes those since the draw before: they wait for its audit together, and count or are void so.
What this is good for, and why it is unbiased, stands in served.py; the bounds in weighted.py. All
that is kept are sums, so that what was measured before a restart is added by addition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gateway.shadow.sequential import Bounds
from gateway.shadow.weighted import Looked, bounds
from gateway.types import Answer, Coin

CONFIDENCE = 0.95  # with which each bound holds, at all times together

_CERTAIN = 1.0  # the probability with which a row is seen that the teacher answered itself


@dataclass(frozen=True, slots=True)
class Rate:
    """The share of wrong answers in `rows`, as far as `audits` tell; None: not known yet.

    While audits are few the estimate may lie outside of [0, 1]; `shown` is cut to it, which makes
    it a little too high on average. `void` rows are not among `rows`. `disagreement` is the share
    in which the student said something else than the teacher, whoever was served: of the rows that
    both could tell of.
    """

    rows: int
    audits: int
    estimate: float | None
    lower: float | None
    upper: float | None
    void: int = 0
    disagreement: float | None = None
    disagreement_upper: float | None = None

    @property
    def shown(self) -> float | None:
        """The estimate as a share."""
        return None if self.estimate is None else share(self.estimate)


class Tally(NamedTuple):
    """Counts of rows, and the sum of their guesses.

    `bare` rows could be drawn, but not by the uniform coin. On `silent` ones the teacher answered
    and the student said nothing; on `differing` ones it said something else.
    """

    rows: int = 0
    guesses: float = 0.0
    bare: int = 0
    silent: int = 0
    differing: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.rows + other.rows,
            self.guesses + other.guesses,
            self.bare + other.bare,
            self.silent + other.silent,
            self.differing + other.differing,
        )

    def minus(self, other: Tally) -> Tally:
        """Without the rows of the other, which are among these."""
        return Tally(
            self.rows - other.rows,
            self.guesses - other.guesses,
            self.bare - other.bare,
            self.silent - other.silent,
            self.differing - other.differing,
        )


@dataclass(frozen=True, slots=True)
class Held:
    """Rows that wait for the audit of the last of them; `guess` is that one's.

    `uniform`: those since the uniform coin fell last, where it has now.
    """

    guess: float
    rows: Tally
    uniform: Tally | None


class Measured(NamedTuple):
    """What a rate is made of at a moment, for bounds that are found while others measure on."""

    counted: Tally
    corrections: float
    audits: int
    void: int
    bounded: Tally
    wrong: Looked
    different: Looked


class Series:
    """A rate while it is measured. Its owner sees to it that one thread does that at a time."""

    __slots__ = (
        "_bare", "_bounded", "_corrections", "_counted", "_differing", "_first", "_guesses",
        "_least", "_mark", "_rows", "_silent", "_uniform_mark", "_wrong", "audits", "void",
    )  # fmt: skip

    def __init__(self) -> None:
        self.audits = 0
        self.void = 0
        # Of all rows that came; what is open is what came since a mark.
        self._rows = 0
        self._guesses = 0.0
        self._bare = 0
        self._silent = 0
        self._differing = 0
        self._first: float | None = None  # the uniform share of the first row that had one
        self._least = _CERTAIN
        self._mark = Tally()  # where a coin fell last
        self._uniform_mark = Tally()  # where the uniform one did
        self._counted = Tally()  # rows whose audit has come
        self._corrections = 0.0  # of their guesses, where the teacher looked
        self._bounded = Tally()  # the same, up to the uniform coin's last
        self._wrong: Counter[float] = Counter()  # seen by the uniform coin, by its share

    def guessed(self, guess: float, uniform: float) -> None:
        """A row of the student's, wrong with probability `guess`; `uniform`: that coin's share."""
        self._rows += 1
        self._guesses += guess
        if not uniform:
            self._bare += 1
            return
        if self._first is None:
            self._first = uniform
        self._least = min(self._least, uniform)

    def known(self, *, differs: bool | None) -> None:
        """A row of the teacher's; whether the student's word differs, None: it has none."""
        self._rows += 1
        if differs is None:
            self._silent += 1
        else:
            self._differing += differs

    def close(self, coin: Coin, guess: float) -> Held:
        """The last row was drawn: it and those that are open wait for its audit from now on."""
        now, uniform = self._total, None
        if coin is Coin.UNIFORM:
            uniform, self._uniform_mark = now.minus(self._uniform_mark), now
        held, self._mark = Held(guess, now.minus(self._mark), uniform), now
        return held

    def judge(self, held: Held, answer: Answer, *, wrong: bool | None) -> None:
        """What the teacher says of the row that was drawn; None: it does not."""
        if wrong is None:
            self.void += held.rows.rows
            return
        self.audits += 1
        self._counted = self._counted.plus(held.rows)
        self._corrections += (wrong - held.guess) / answer.audit_propensity
        if held.uniform is not None:
            self._bounded = self._bounded.plus(held.uniform)
            if wrong:
                self._wrong[answer.audit_uniform] += 1

    def absorb(self, past: Series) -> None:
        """Add what was measured before the first row of this one; `past` is of no use then.

        Rows that were open there are open here: who is drawn next stands for them.
        """
        self._rows += past._rows
        self._guesses += past._guesses
        self._bare += past._bare
        self._silent += past._silent
        self._differing += past._differing
        self._first = self._first if past._first is None else past._first
        self._least = min(self._least, past._least)
        self._mark = past._mark.plus(self._mark)
        self._uniform_mark = past._uniform_mark.plus(self._uniform_mark)
        self._counted = past._counted.plus(self._counted)
        self._corrections += past._corrections
        self._bounded = past._bounded.plus(self._bounded)
        self._wrong.update(past._wrong)
        self.audits += past.audits
        self.void += past.void

    def measured(self) -> Measured:
        """All that its rate is made of now."""
        first, seen = self._first or _CERTAIN, self._bounded
        sure = seen.rows - seen.bare
        different = Counter(self._wrong)
        if seen.differing:
            different[_CERTAIN] += seen.differing
        return Measured(
            counted=self._counted.plus(self._total.minus(self._mark)),
            corrections=self._corrections,
            audits=self.audits,
            void=self.void,
            bounded=seen,
            wrong=Looked(sure, Counter(self._wrong), first, self._least),
            different=Looked(sure - seen.silent, different, first, self._least),
        )

    @property
    def _total(self) -> Tally:
        return Tally(self._rows, self._guesses, self._bare, self._silent, self._differing)


def rates(measured: Sequence[Measured]) -> list[Rate]:
    """The rates, with their bounds; of many for little more than of one."""
    delta = 1.0 - CONFIDENCE
    errors = bounds([each.wrong for each in measured], delta)
    differences = bounds([each.different for each in measured], delta)
    return [
        _rate(each, error, difference)
        for each, error, difference in zip(measured, errors, differences, strict=True)
    ]


def _rate(found: Measured, error: Bounds, difference: Bounds) -> Rate:
    counted, bare = found.counted, found.bounded.bare
    guesses, compared = counted.guesses + found.corrections, counted.rows - counted.silent
    audited, bounded = found.audits > 0, found.wrong.rows > 0
    told = found.different.rows
    return Rate(
        rows=counted.rows,
        audits=found.audits,
        estimate=guesses / counted.rows if audited else None,
        lower=_over(error.lower, found.wrong.rows, right=bare) if bounded else None,
        upper=_over(error.upper, found.wrong.rows, wrong=bare) if bounded else None,
        void=found.void,
        disagreement=share((guesses + counted.differing) / compared)
        if audited and compared
        else None,
        disagreement_upper=_over(difference.upper, told, wrong=bare) if told else None,
    )


def _over(bound: float, rows: int, *, wrong: int = 0, right: int = 0) -> float:
    """A bound for these rows and others, of which nothing is known but the worst that may be."""
    return (bound * rows + wrong) / (rows + wrong + right)


def share(value: float) -> float:
    """What is no share is cut to one; what is no number is 0."""
    return min(1.0, max(0.0, value))

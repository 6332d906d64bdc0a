"""What a mistake costs, and when that is worth a call of the teacher. Pure.

Chow's rule (1970, IEEE Transactions on Information Theory 16(1)) with a cost matrix: the expected
loss of what the student said, less that of asking the teacher, against the price of a call. It only
decides who answers: what the student says stays its most probable label, also where another label
would cost less on average.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.contract.manifest import Head, HeadKind
from gateway.errors import SettingsError
from gateway.types import HeadPrediction, Prediction

Table = Mapping[str, Mapping[str, float]]  # true label -> said label -> cost
Floats = NDArray[np.float64]

MISSED = "missed"  # a flag that is so, and was not said
RAISED = "raised"  # a flag that was said, and is not so

_FLAG_COLUMNS = (MISSED, RAISED)
_WRONG = 1.0  # cost of a mistake that no table names
_LIMIT = 1_000_000  # bytes; a table of costs is a few kilobytes


class HeadCosts(Protocol):
    """What each mistake of one head costs, in units of loss."""

    @property
    def head(self) -> str:
        """The head's name."""

    @property
    def largest(self) -> float:
        """What the dearest answer to any truth costs."""

    def student(self, said: HeadPrediction) -> float:
        """Expected loss of what was said, by its own probabilities."""

    def teacher(self, said: HeadPrediction) -> float:
        """Expected loss of the teacher's answer, by the student's probabilities."""

    def gain(self, said: HeadPrediction) -> float:
        """The first less the second."""

    def realised(self, said: Sequence[str], truth: Sequence[str]) -> float:
        """What saying this costs where that is true."""


@dataclass(frozen=True)
class ChoiceCosts:
    """Costs of a choice: `matrix` is (true label, said label), `taught` (true label,)."""

    head: str
    labels: tuple[str, ...]
    matrix: Floats
    taught: Floats

    @cached_property
    def largest(self) -> float:
        """The largest cost of the matrix."""
        return float(self.matrix.max())

    def student(self, said: HeadPrediction) -> float:
        """The column of what was said, weighed by how probable each label is."""
        return float(self._columns[said.labels[0]][0].dot(said.probabilities))

    def teacher(self, said: HeadPrediction) -> float:
        """The teacher's loss at each label, weighed in the same way."""
        return float(self.taught.dot(said.probabilities))

    def gain(self, said: HeadPrediction) -> float:
        """Both at once."""
        return float(self._columns[said.labels[0]][1].dot(said.probabilities))

    def realised(self, said: Sequence[str], truth: Sequence[str]) -> float:
        """One cell of the matrix."""
        return float(self.matrix[self.labels.index(truth[0]), self.labels.index(said[0])])

    @cached_property
    def _columns(self) -> Mapping[str, tuple[Floats, Floats]]:
        """Said label -> its costs, and the same less the teacher's."""
        return {
            label: (column, column - self.taught)
            for label, column in zip(self.labels, np.ascontiguousarray(self.matrix.T), strict=True)
        }


@dataclass(frozen=True)
class FlagCosts:
    """Costs of flags, each (labels,): not saying one that is so, saying one that is not so."""

    head: str
    labels: tuple[str, ...]
    missed: Floats
    raised: Floats
    taught: Floats

    @cached_property
    def largest(self) -> float:
        """The dearer mistake of each flag, all at once."""
        return float(np.maximum(self.missed, self.raised).sum())

    def student(self, said: HeadPrediction) -> float:
        """The sum over flags: each is either missed or raised."""
        chance = said.probabilities.astype(np.float64)
        said_so = np.isin(self.labels, said.labels)
        return float(np.where(said_so, (1.0 - chance) * self.raised, chance * self.missed).sum())

    def teacher(self, said: HeadPrediction) -> float:
        """The teacher's loss at each flag, weighed by how probable the flag is."""
        return float(self.taught.dot(said.probabilities))

    def gain(self, said: HeadPrediction) -> float:
        """As if nothing were said, then corrected for each flag that was."""
        chance = said.probabilities
        total = float(self._unsaid.dot(chance))
        for label in said.labels:
            place, missed, raised = self._flags[label]
            one = float(chance[place])
            total += (1.0 - one) * raised - one * missed
        return total

    def realised(self, said: Sequence[str], truth: Sequence[str]) -> float:
        """The costs of all flags that are missed or raised."""
        wrong = [self._flags[label][1] for label in set(truth) - set(said)]
        wrong += [self._flags[label][2] for label in set(said) - set(truth)]
        return math.fsum(wrong)

    @cached_property
    def _unsaid(self) -> Floats:
        return self.missed - self.taught

    @cached_property
    def _flags(self) -> Mapping[str, tuple[int, float, float]]:
        rows = zip(self.labels, self.missed.tolist(), self.raised.tolist(), strict=True)
        return {
            label: (place, missed, raised) for place, (label, missed, raised) in enumerate(rows)
        }


@dataclass(frozen=True, slots=True)
class Loss:
    """Expected losses on one head, in units of loss."""

    head: str
    student: float
    teacher: float


@dataclass(frozen=True)
class Severity:
    """The costs of every head, and the bar: the price of a call in units of loss.

    One call answers all heads, so that their gains add up before they are held against the bar.
    """

    heads: tuple[HeadCosts, ...]
    bar: float

    @property
    def largest(self) -> float:
        """What the dearest answer to a request costs; realised losses lie in [0, largest]."""
        return math.fsum(costs.largest for costs in self.heads)

    def gain(self, prediction: Prediction) -> float:
        """What asking the teacher saves on average, in units of loss."""
        total = 0.0
        for costs, said in zip(self.heads, prediction.heads, strict=True):
            total += costs.gain(said)
        return total

    def holds(self, prediction: Prediction) -> bool:
        """Whether a call is worth its price."""
        return self.pays(self.gain(prediction))

    def pays(self, gain: float) -> bool:
        """Whether so much is worth the price of a call. A gain that is no number is."""
        return not gain <= self.bar

    def losses(self, prediction: Prediction) -> tuple[Loss, ...]:
        """The two sides of the gain, head by head."""
        return tuple(
            Loss(costs.head, costs.student(said), costs.teacher(said))
            for costs, said in zip(self.heads, prediction.heads, strict=True)
        )

    def dearest(self, prediction: Prediction) -> str:
        """The head that the teacher helps most."""
        if len(self.heads) == 1:
            return self.heads[0].head
        pairs = zip(self.heads, prediction.heads, strict=True)
        return max(pairs, key=lambda pair: pair[0].gain(pair[1]))[0].head

    def realised(self, said: Prediction, truth: Mapping[str, Sequence[str]]) -> float:
        """What this answer costs where `truth` (head -> labels) is so."""
        return math.fsum(
            costs.realised(head.labels, truth[costs.head])
            for costs, head in zip(self.heads, said.heads, strict=True)
        )


@dataclass(frozen=True, slots=True)
class CriticalHead:
    """The critical labels of one head and their places among its labels; `place` is the head's."""

    name: str
    place: int
    choice: bool
    labels: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Critical:
    """Labels that must not be missed.

    Holds where critical labels that the student does not say are together as probable as
    `threshold`, in [0, 1]. Of a choice, one critical label that it says stands for all.
    """

    heads: tuple[CriticalHead, ...]
    threshold: float

    def mass(self, prediction: Prediction) -> float:
        """How probable it is that a critical label is missed: the sum over heads."""
        total = 0.0
        for head in self.heads:
            said = prediction.heads[head.place]
            if head.choice and said.labels[0] in head.labels:
                continue
            for label, place in head.labels.items():
                if label not in said.labels:
                    total += said.probabilities.item(place)
        return total

    def holds(self, prediction: Prediction) -> bool:
        """Whether a critical label is too probable to be left out."""
        return self.reached(self.mass(prediction))

    def reached(self, mass: float) -> bool:
        """Whether so much is too much. Where all are said it is 0, and none can be missed."""
        return mass != 0.0 and not mass < self.threshold

    def concerns(self, truth: Mapping[str, Sequence[str]]) -> bool:
        """Whether any label of the truth (head -> labels) is critical."""
        return any(not head.labels.keys().isdisjoint(truth[head.name]) for head in self.heads)

    def missed(self, said: Prediction, truth: Mapping[str, Sequence[str]]) -> bool:
        """Whether a critical label is so and was not said."""
        for head in self.heads:
            answered = said.heads[head.place].labels
            due = head.labels.keys() & set(truth[head.name])
            stands = head.choice and not head.labels.keys().isdisjoint(answered)
            if not stands and not due <= set(answered):
                return True
        return False


def read(path: Path, *, where: str) -> Table:
    """A CSV of costs: the first row names what is said, the first column what is true.

    Raises SettingsError; `where` names the key that led here.
    """
    try:
        raw = path.read_bytes()[: _LIMIT + 1]
        lines = list(csv.reader(raw.decode("utf-8-sig").splitlines(), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(
            f"{where}: {path}: {error}", mend="name a CSV file of costs in UTF-8"
        ) from error
    rows = [[cell.strip() for cell in line] for line in lines if any(line)]
    if len(raw) > _LIMIT or len(rows) < 2:
        raise SettingsError(
            f"{where}: {path} is no table of costs",
            mend="write a row of said labels, then a row for each true label",
        )
    said, table = rows[0][1:], {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(said) + 1 or row[0] in table:
            raise SettingsError(
                f"{where}: {path}, line {number}: {len(row)} cells for {len(said) + 1} columns, "
                "or a label that stands there twice",
                mend="give each true label one row, and each row every column",
            )
        table[row[0]] = {label: _number(cell) for label, cell in zip(said, row[1:], strict=True)}
    return table


def costs_of(
    head: Head, table: Table, taught: Mapping[str, float], *, where: str, right_may_cost: bool
) -> HeadCosts:
    """The costs of a head; what the table does not name is 1 for a mistake and 0 for none.

    Raises SettingsError for a label that the head has not, for a cost that is negative or no
    number, and for a right answer that costs something without `right_may_cost`.
    """
    choice = head.kind is HeadKind.CHOICE
    labels = _places(head.labels)
    columns = labels if choice else _places(_FLAG_COLUMNS)
    matrix = 1.0 - np.eye(len(head.labels)) if choice else np.ones((len(head.labels), 2))
    for true, row in table.items():
        for said, cost in row.items():
            place = _place(labels, true, where), _place(columns, said, where)
            if not (math.isfinite(cost) and cost >= 0.0):
                raise SettingsError(
                    f"{where}: {true} said as {said} costs {cost}",
                    mend="a cost is a number from 0 on",
                )
            if choice and true == said and cost and not right_may_cost:
                raise SettingsError(
                    f"{where}: {true} said as {said} is right and costs {cost:g}",
                    mend="write 0, or let severity.right_may_cost be true",
                )
            matrix[place] = cost
    teacher = np.zeros(len(head.labels))
    for label, loss in taught.items():
        teacher[_place(labels, label, where)] = loss
    if choice:
        return ChoiceCosts(head.name, head.labels, matrix, teacher)
    missed, raised = np.ascontiguousarray(matrix.T)
    return FlagCosts(head.name, head.labels, missed, raised, teacher)


def critical_of(
    heads: Sequence[Head], named: Mapping[str, Sequence[str]], threshold: float, *, where: str
) -> Critical:
    """The critical labels of a task, by head. Raises SettingsError for one that is not there."""
    places = _places([head.name for head in heads])
    found = []
    for name, labels in named.items():
        place = _place(places, name, where)
        head, known = heads[place], _places(heads[place].labels)
        at = {label: _place(known, label, f"{where}.{name}") for label in labels}
        found.append(CriticalHead(name, place, head.kind is HeadKind.CHOICE, at))
    return Critical(tuple(found), threshold)


def _places(names: Sequence[str]) -> Mapping[str, int]:
    return {name: place for place, name in enumerate(names)}


def _place(places: Mapping[str, int], name: str, where: str) -> int:
    if name not in places:
        raise SettingsError(
            f"{where}: there is no {name!r} there", mend=f"name one of: {', '.join(places)}"
        )
    return places[name]


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan

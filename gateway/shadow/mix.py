"""How often a student says each label, of late and when it began: the mix of its classes.

    Mix    the counts of one head, at first and of late
    shift  two distributions against each other, with a limit that knows how many rows there are

What a student says needs no label, and so proves no error: it is shown, and does nothing. Rows are
counted in blocks, so that what is of late costs a few dictionaries and no list of rows. What is
shown is reckoned once for a block, and of so many names at most: whoever looks waits for little.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from gateway.errors import DataError
from gateway.shadow.window import State

Floats = NDArray[np.float64]
Said = tuple[str, ...]  # the labels of one answer: one of a choice, any number of flags

Plain = list[tuple[list[str], int]]  # labels of an answer, and how often they were said

OTHERS = "other names"  # those that come too seldom to be judged alone
NONE = "(none)"  # what an answer of flags is called that has none

_FIRST = 2_000  # rows that traffic is held against: 150 labels then come 13 times each
_BLOCK = 100  # rows: of late is a whole number of blocks, and the one that fills
_BLOCKS = 10
# Distinct answers that a head is counted by: thirty flags can come in a billion sets. Those that
# are first said after so many count as one.
_NAMES = 256
_REST: Said = (OTHERS,)


@dataclass(frozen=True, slots=True)
class Shift:
    """How far one distribution is from another.

    `psi` is the population stability index, sum of (a - b) ln(a / b). `limit` is where it lies by
    chance once in a hundred comparisons of so many rows; the usual 0.1 and 0.25 know no rows.
    """

    psi: float
    limit: float | None  # this one and `moved` are None where there was nothing to compare
    moved: str | None  # the name that contributes most
    rows: int

    @property
    def state(self) -> State:
        """Drifting where it is farther than chance would have it."""
        beyond = self.limit is not None and self.psi > self.limit
        return State.DRIFTING if beyond else State.STEADY


@dataclass(frozen=True, slots=True)
class Makeup:
    """What one head says of late: the share of answers with each label, and how far it has moved.

    Before there is anything to compare, the shares are those of the rows so far.
    """

    shares: Mapping[str, float]
    shift: Shift


class KeptMix(TypedDict):
    """The counts as plain numbers."""

    first: Plain
    blocks: list[Plain]  # the one that fills is the last


class Mix:
    """What one head of a student has said: in its first `first` rows, and of late.

    A head of flags is counted by the whole set that it says: each answer is one row of one name.
    """

    __slots__ = ("_block", "_closed", "_first", "_late", "_left", "_makeup", "_names", "_until")

    def __init__(self, first: int = _FIRST) -> None:
        self._left = first  # rows, before those that come are of late
        self._first: Counter[Said] = Counter()
        self._late: Counter[Said] = Counter()  # of all blocks
        self._block: Counter[Said] = Counter()  # the one that fills
        self._closed: deque[Plain] = deque()  # those that are full, as they are kept
        self._names: set[Said] = set()
        self._makeup: Makeup | None = None
        self._until = _BLOCK  # rows until it is reckoned anew

    def add(self, labels: Sequence[str]) -> None:
        """Observe an answer."""
        said = self._name(tuple(labels))
        self._until -= 1
        if not self._until:
            self._makeup, self._until = None, _BLOCK
        if self._left:
            self._left -= 1
            self._first[said] += 1
            return
        if self._block.total() >= _BLOCK:
            self._close_block()
        self._block[said] += 1
        self._late[said] += 1

    def makeup(self) -> Makeup:
        """What it says by now: after the first hundred rows it is reckoned anew in each hundred."""
        if self._makeup is None or self._first.total() < _BLOCK:
            self._makeup = self._reckoned()
        return self._makeup

    def saved(self) -> KeptMix:
        """The state as plain numbers."""
        return KeptMix(first=_plain(self._first), blocks=[*self._closed, _plain(self._block)])

    def restore(self, kept: KeptMix) -> Self:
        """Go on from what was saved. Raises DataError when that is no mix."""
        try:
            first, blocks = _counted(kept["first"]), [_counted(each) for each in kept["blocks"]]
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise _unreadable(error) from error
        left = self._left - first.total()
        late = sum(blocks, Counter[Said]())
        names = {*first, *late}
        if left < 0 or not 1 <= len(blocks) <= _BLOCKS or len(names) > _NAMES + 1:
            raise _unreadable("numbers that no mix has")
        self._left, self._first, self._late, self._names = left, first, late, names
        *closed, self._block = blocks
        self._closed = deque(map(_plain, closed))
        self._makeup, self._until = None, _BLOCK
        return self

    def _name(self, said: Said) -> Said:
        """As what it is counted."""
        if said not in self._names:
            if len(self._names) >= _NAMES:
                return _REST
            self._names.add(said)
        return said

    def _close_block(self) -> None:
        """Begin the next one, and forget the oldest where there are enough."""
        self._closed.append(_plain(self._block))
        self._block = Counter()
        if len(self._closed) == _BLOCKS:
            for labels, count in self._closed.popleft():
                said = tuple(labels)
                self._late[said] -= count
                if not self._late[said]:
                    del self._late[said]

    def _reckoned(self) -> Makeup:
        present = self._late or self._first
        rows = present.total()
        labels: Counter[str] = Counter()
        for said, count in present.items():
            for label in said:
                labels[label] += count
        shares = {label: count / rows for label, count in labels.items()}
        return Makeup(shares, shift(_named(self._first), _named(self._late)))


def shift(
    reference: Mapping[str, int], present: Mapping[str, int], *, chance: float = 0.01
) -> Shift:
    """Compare how often each name came. Names that come too seldom to be judged count as one.

    Where nothing has changed, PSI is about (1/n + 1/m) times a chi-square of one less than the
    names (Yurdakul and Naranjo 2020).
    """
    n, m = sum(reference.values()), sum(present.values())
    if not n or not m:
        return Shift(0.0, None, None, m)
    names, counts = _pooled(reference, present)
    if len(names) < 2:
        return Shift(0.0, None, None, m)
    shares = (counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True)  # no logarithm of 0
    parts = (shares[0] - shares[1]) * np.log(shares[0] / shares[1])
    limit = (1.0 / n + 1.0 / m) * _chi_square(len(names) - 1, chance)
    return Shift(float(parts.sum()), limit, names[int(parts.argmax())], m)


def _pooled(reference: Mapping[str, int], present: Mapping[str, int]) -> tuple[list[str], Floats]:
    """Names and counts of shape (2, names); where fewer than five rows are expected, one name."""
    names = sorted({*reference, *present})
    counts = np.array(
        [[float(side.get(name, 0)) for name in names] for side in (reference, present)]
    )
    rows = counts.sum(axis=1)
    rare = counts.sum(axis=0) / rows.sum() * rows.min() < 5.0
    kept = [name for name, seldom in zip(names, rare, strict=True) if not seldom]
    if not rare.any():
        return kept, counts
    return [*kept, OTHERS], np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])


def _chi_square(freedom: int, chance: float) -> float:
    """What a chi-square exceeds with that probability, within 1 % (Wilson and Hilferty 1931)."""
    spread = 2.0 / (9.0 * freedom)
    return freedom * (1.0 - spread + NormalDist().inv_cdf(1.0 - chance) * math.sqrt(spread)) ** 3


def _named(counts: Counter[Said]) -> dict[str, int]:
    return {" + ".join(said) or NONE: count for said, count in counts.items()}


def _plain(counts: Counter[Said]) -> Plain:
    return [([*said], count) for said, count in counts.items()]


def _counted(plain: Sequence[tuple[Sequence[str], int]]) -> Counter[Said]:
    found = Counter({tuple(map(str, said)): int(count) for said, count in plain})
    if any(count < 1 for count in found.values()):
        raise ValueError("a count is below 1")
    return found


def _unreadable(cause: object) -> DataError:
    return DataError(
        f"saved mix of classes: {cause!r}",
        mend="leave the saved state out: the mix begins anew",
    )

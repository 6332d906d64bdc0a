"""Whether traffic still looks like what it was, without a single label.

Drift is no error: a student may answer new traffic well, and answer old traffic badly. So what is
found here asks for more audits and for a new certificate. It never rolls back.

    Traffic  the signals of one task, each in its window: score, unfamiliar share, escalation share
    shift    two distributions against each other, with a limit that knows how many rows there are
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gateway.shadow.window import Kept, State, Window

Floats = NDArray[np.float64]

_STRANGE = 0.05  # a familiarity below this comes once in twenty rows, if nothing has changed


class Signal(StrEnum):
    """What of an answer is watched."""

    SCORE = "score"
    UNFAMILIAR = "unfamiliar"  # share with a familiarity below 5 %
    ESCALATED = "escalated"


@dataclass(frozen=True, slots=True)
class Movement:
    """What one signal does. Times are those that came with the rows."""

    signal: Signal
    state: State
    since: float | None  # when it was first as it is now; None before the first row
    mean: float | None
    before: float | None  # its mean before it began to drift; None while it is steady
    rows: int  # on which `mean` rests

    @property
    def distance(self) -> float:
        """How far it has moved, up or down; 0 while it is steady."""
        return 0.0 if self.mean is None or self.before is None else self.mean - self.before


@dataclass(frozen=True, slots=True)
class Drift:
    """What the traffic of a task does: it drifts if any of its signals does."""

    state: State
    movements: tuple[Movement, ...]


class Traffic:
    """The signals of one task, as its answers come."""

    __slots__ = ("_windows",)

    def __init__(self) -> None:
        self._windows = {signal: Window() for signal in Signal}

    def answered(
        self, *, score: float, familiarity: float | None, escalated: bool | None, at: float
    ) -> bool:
        """Observe an answer; whether a signal has changed, as seen by now.

        `familiarity` is None for a student that knows of no strange texts, `escalated` where
        somebody else than the student's doubts decided.
        """
        seen = {Signal.SCORE: score}
        if escalated is not None:
            seen[Signal.ESCALATED] = float(escalated)
        if familiarity is not None:
            seen[Signal.UNFAMILIAR] = float(familiarity < _STRANGE)
        changed = [self._windows[signal].add(value, at) for signal, value in seen.items()]
        return any(changed)

    @property
    def state(self) -> State:
        """Drifting if any of the signals does."""
        drifting = any(window.state is State.DRIFTING for window in self._windows.values())
        return State.DRIFTING if drifting else State.STEADY

    def drift(self) -> Drift:
        """What it does now."""
        movements = tuple(
            Movement(
                signal=signal,
                state=window.state,
                since=window.since,
                mean=window.mean,
                before=window.before.mean if window.before else None,
                rows=window.rows,
            )
            for signal, window in self._windows.items()
        )
        return Drift(self.state, movements)

    def renew(self) -> None:
        """What the traffic is now is what it should be: a new certificate has been issued."""
        for window in self._windows.values():
            window.renew()

    def saved(self) -> dict[str, Kept]:
        """The state of all windows, by signal."""
        return {signal.value: window.saved() for signal, window in self._windows.items()}

    def restore(self, kept: Mapping[str, Kept]) -> Self:
        """Go on from what was saved; a signal that is not in it begins anew. Raises DataError."""
        for signal, window in self._windows.items():
            if signal.value in kept:
                window.restore(kept[signal.value])
        return self


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


OTHERS = "other names"  # those that come too seldom to be judged alone


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

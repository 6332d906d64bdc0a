"""Whether traffic still looks like what it was, without a single label.

Drift is no error: a student may answer new traffic well, and answer old traffic badly. So what is
found here asks for more audits and for a new certificate. It never rolls back.

Three signals are watched, each in its window: score, unfamiliar share, escalation share. Beside
them stand two figures that are shown and do nothing: the mix of what the student says, and whether
its score still is what audits find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from gateway.errors import DataError
from gateway.shadow.mix import Makeup, Mix
from gateway.shadow.trust import Accuracy, Trust
from gateway.shadow.window import State, Window
from gateway.types import HeadPrediction

_MIXES, _TRUST = "mixes", "trust"  # beside the signals, in what is saved
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
    mixes: Mapping[str, Makeup] = field(default_factory=dict)  # what each head says
    accuracy: Accuracy | None = None  # of what the student serves; None: it is not known here


class Traffic:
    """The signals of one task, as its answers come, and the figures beside them.

    A signal drifts that has moved by more than `least` of its own standard deviations.
    """

    __slots__ = ("_least", "_mixes", "_trust", "_windows")

    def __init__(self, least: float = 0.0) -> None:
        self._least = least
        self._windows = {signal: Window(least=least) for signal in Signal}
        self._mixes: dict[str, Mix] = {}
        self._trust = Trust()

    def answered(
        self,
        *,
        score: float,
        familiarity: float | None,
        escalated: bool | None,
        at: float,
        heads: Sequence[HeadPrediction] = (),
        served: bool = False,
    ) -> bool:
        """Observe an answer; whether a signal has changed, as seen by now.

        `familiarity` is None for a student that knows of no strange texts, `escalated` where
        somebody else than the student's doubts decided. `heads` are what it said, and `served`
        whether that was the answer, for it was sure of it.
        """
        for each in heads:
            if each.head not in self._mixes:
                self._mixes[each.head] = Mix()
            self._mixes[each.head].add(each.labels)
        if served:
            self._trust.answered(score)
        seen = {Signal.SCORE: score}
        if escalated is not None:
            seen[Signal.ESCALATED] = float(escalated)
        if familiarity is not None:
            seen[Signal.UNFAMILIAR] = float(familiarity < _STRANGE)
        changed = [self._windows[signal].add(value, at) for signal, value in seen.items()]
        if any(changed):
            self._trust = Trust()  # what was right before says nothing of what comes now
        return any(changed)

    def audited(self, score: float, *, right: bool) -> None:
        """Observe what the teacher says of an answer that was served and the uniform coin drew."""
        self._trust.audited(score, right=right)

    @property
    def state(self) -> State:
        """Drifting if any of the signals does."""
        drifting = any(window.state is State.DRIFTING for window in self._windows.values())
        return State.DRIFTING if drifting else State.STEADY

    @property
    def since(self) -> float | None:
        """Since when it drifts: the first of its signals that do; None: it is steady."""
        found = [
            window.since
            for window in self._windows.values()
            if window.state is State.DRIFTING and window.since is not None
        ]
        return min(found, default=None)

    @property
    def rows(self) -> int:
        """That came since the score last changed: each answer has one."""
        return self._windows[Signal.SCORE].rows

    @property
    def movements(self) -> tuple[Movement, ...]:
        """What each signal does now."""
        return tuple(
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

    def drift(self) -> Drift:
        """What it does now."""
        mixes = {head: mix.makeup() for head, mix in self._mixes.items()}
        return Drift(self.state, self.movements, mixes, self._trust.accuracy())

    def forget(self, signal: Signal) -> None:
        """What this signal was says nothing of what it will be: it begins anew."""
        self._windows[signal] = Window(least=self._least)

    def saved(self) -> dict[str, Any]:
        """The state as plain numbers: of all windows by signal, and of what is beside them."""
        windows = {signal.value: window.saved() for signal, window in self._windows.items()}
        mixes = {head: mix.saved() for head, mix in self._mixes.items()}
        return windows | {_MIXES: mixes, _TRUST: self._trust.saved()}

    def restore(self, kept: Mapping[str, Any]) -> Self:
        """Go on from what was saved; what is not in it begins anew. Raises DataError."""
        if not isinstance(kept, Mapping):
            raise DataError(
                f"saved traffic: {kept!r:.80}", mend="leave the saved state out: it begins anew"
            )
        for signal, window in self._windows.items():
            if signal.value in kept:
                window.restore(kept[signal.value])
        mixes = kept.get(_MIXES, {})
        if not isinstance(mixes, Mapping):
            raise DataError(
                f"saved mixes of classes: {mixes!r:.80}",
                mend="leave the saved state out: the mixes begin anew",
            )
        self._mixes = {head: Mix().restore(each) for head, each in mixes.items()}
        if _TRUST in kept:
            self._trust = Trust().restore(kept[_TRUST])
        return self

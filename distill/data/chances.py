"""The chances with which rows were observed, and what follows for those who learn and measure.

A gateway sees the teacher's answer to what it escalates, and to a share of the rest. Such rows are
no fair sample of traffic: in training each stands for as many as its chance says (inverse
propensity, Horvitz and Thompson 1952), and what is held out is thinned until all its rows had the
same chance, so that plain counts, and the exact bounds on them, hold. Where the rest had no chance
at all nothing mends it, and it is refused. A test set with a file of its own was drawn otherwise,
and is a sample by itself. Rows whose chance nobody knows teach, each for itself, and measure
nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distill.data.split import Splits
from gateway.contract.examples import Example
from gateway.errors import DataError

HELD_OUT = ("calibration", "certification", "test")

_HEAVIEST = 100.0  # rows that one may stand for: an audit of 1 %; beyond it one row is most of it
_DIGITS = 13  # hexadecimal digits of a hash that make a float: 52 bits


def check(rows: Sequence[Example], *, allow_biased: bool) -> tuple[str, ...]:
    """Refuse labelled rows that a student has chosen, and none beside that chance has chosen.

    Raises DataError, or returns a warning where it is allowed.
    """
    labelled = [row for row in rows if row.labels]
    chosen = sum(row.chosen for row in labelled)
    if not chosen or any(row.propensity is not None and row.propensity < 1.0 for row in labelled):
        return ()
    told = (
        f"{chosen} of the {len(labelled)} labelled rows were escalated by a student, and none was "
        "audited: they say nothing of what the student answered itself"
    )
    if not allow_biased:
        raise DataError(
            told,
            mend="hand over rows from a time with audits, or set data.allow_biased to train on "
            "them all the same; no certificate then holds for whole traffic",
        )
    return (f"{told}; figures and certificate hold for such rows only",)


def evened(splits: Splits, *, seed: int, own_test: bool = False) -> Splits:
    """The same with held-out rows that all had the chance of the rarest to be there.

    The rarest is looked for among all labelled rows that could have been held out: a part that
    chance gave none of them is as much a sample of the rest. `own_test`: the test set has a file of
    its own, and is evened by itself. Raises DataError when nothing is left of a part.
    """
    parts = splits.parts()
    apart = ("test",) if own_test else ()
    drawn = [name for name in ("train", *HELD_OUT) if name not in apart]
    least = {
        name: smallest(row for each in names for row in parts[each])
        for names in (drawn, apart)
        for name in names
    }
    kept = {
        name: tuple(row for row in parts[name] if is_even(row, least[name], seed=seed))
        for name in HELD_OUT
    }
    removed = sum(len(parts[name]) - len(kept[name]) for name in HELD_OUT)
    if not removed:
        return splits
    if empty := next((name for name in HELD_OUT if not kept[name]), None):
        raise DataError(
            f"no row is left for {empty} once all have the chance of the rarest, "
            f"{least[empty]:.3g}",
            mend="hand over more audited rows, or raise audit.share and wait",
        )
    return replace(
        splits,
        calibration=kept["calibration"],
        certification=kept["certification"],
        test=kept["test"],
        removed=splits.removed + removed,
    )


def smallest(rows: Iterable[Example]) -> float:
    """The chance of the rarest row; 1 where none has a chance that is known."""
    return min((row.propensity for row in rows if row.propensity is not None), default=1.0)


def is_even(row: Example, least: float, *, seed: int) -> bool:
    """Whether a row is of a sample in which all had the chance `least` to be seen and drawn.

    It hangs on the seed and the text alone; a row whose chance is not known is of no such sample.
    """
    return row.propensity is not None and _draw(row, seed) < least / row.propensity


def weights(rows: Sequence[Example]) -> NDArray[np.float32] | None:
    """(rows,) what each row stands for, 1 in the mean; None where all stand for the same."""
    found = np.array([min(_HEAVIEST, 1.0 / (row.propensity or 1.0)) for row in rows])
    if not len(found) or (found == found[0]).all():
        return None
    return np.asarray(found / found.mean(), np.float32)


def _draw(row: Example, seed: int) -> float:
    """A number in [0, 1) that depends on the seed and the text alone."""
    digest = hashlib.sha256(f"chances/{seed}:{row.id}".encode()).hexdigest()
    return float(int(digest[:_DIGITS], 16) / 16**_DIGITS)

"""Traffic: what a gateway handed over beside the recipe's own data, and which rows may measure.

A gateway sees all that it escalates and a share of the rest. Of the rows that it hands over an even
sample is drawn, in which each had the same chance, that of the rarest, to be seen and drawn: plain
counts of it, and exact bounds on them, hold for the distinct texts of traffic. A share of that
sample is held out; all other rows teach, weighted by their chances. What stands in the own data
already, or was picked by a person, is known or of no known chance, and never measures.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

from distill.data import chances, split
from distill.data.split import Splits
from distill.recipe import HandoverPlan, Recipe, SplitShares
from gateway.contract.examples import Example, folded
from gateway.errors import DataError, RecipeError

_DIGITS = 13  # hexadecimal digits of a hash that make a float: 52 bits


def parted(
    recipe: Recipe,
    own: Sequence[Example],
    handed: Sequence[Example],
    test: Sequence[Example],
) -> tuple[Splits, tuple[str, ...]]:
    """The parts of all rows, and what to know of them. `test` is a test set that stands already.

    Each of the three holds a text once. Raises DataError.
    """
    plan = _plan(recipe)
    if plan.measure == "own":
        parts = split.split(own, recipe.data.split, seed=recipe.seed, test=test)
        parts = chances.evened(parts, seed=recipe.seed, own_test=bool(test))
        told = (
            "the handed over rows teach, and own rows alone measure: figures and certificate hold "
            "for such rows, and not for traffic that has drifted away from them"
        )
        return _taught(parts, handed), (told, *split.check_leaks(parts))
    parts = _drawn(own, handed, test, plan.split, seed=recipe.seed)
    told = (
        f"calibration and certification hold {len(parts.calibration)} and "
        f"{len(parts.certification)} rows of the traffic that was handed over, each of which had "
        f"the same chance, {chances.smallest(handed):.3g}, to be seen"
    )
    return parts, (told, *split.check_leaks(parts, by_label=False))


def check_enough(recipe: Recipe, splits: Splits) -> None:
    """Refuse a certification part that could prove nothing, though no row of it were wrong."""
    promise, plan = recipe.certificate, _plan(recipe)
    needed = math.ceil(math.log(promise.delta) / math.log1p(-promise.alpha))
    have = len(splits.certification)
    if plan.measure == "traffic" and have < needed:
        raise DataError(
            f"the traffic that was handed over leaves {have} rows to certify with, and a promise "
            f"of {promise.alpha:.1%} needs {needed} without any error",
            mend="wait for more audited traffic, or raise audit.share; or set "
            "data.handover.measure: own, which promises nothing of traffic as it is",
        )


def _plan(recipe: Recipe) -> HandoverPlan:
    if recipe.data.handover is None:
        raise RecipeError("there is no data.handover", mend="name a file of `understudy handover`")
    return recipe.data.handover


def _taught(parts: Splits, handed: Sequence[Example]) -> Splits:
    """The parts, with all handed over rows to learn that nothing held out knows of."""
    held = (*parts.calibration, *parts.certification, *parts.test)
    known = {key for row in held for key in split.keys(row)}
    ours = {folded(row.text) for row in parts.train}
    new = [row for row in handed if folded(row.text) not in ours]
    fit = [row for row in new if known.isdisjoint(split.keys(row))]
    return replace(
        parts, train=_ordered([*parts.train, *fit]), removed=parts.removed + len(new) - len(fit)
    )


def _drawn(
    own: Sequence[Example],
    handed: Sequence[Example],
    test: Sequence[Example],
    shares: SplitShares,
    *,
    seed: int,
) -> Splits:
    """The parts where traffic measures: whole clusters are drawn, whatever their labels are."""
    rows = [*handed, *own, *test]
    ours, tested = len(handed), len(handed) + len(own)
    least = chances.smallest(handed)
    parts: dict[str, list[Example]] = {name: [] for name in ("train", *chances.HELD_OUT)}
    removed = 0
    for indexes in split.joined(rows):
        members = [rows[index] for index in indexes]
        if max(indexes) >= tested:
            found = [rows[index] for index in indexes if index >= tested]
            parts["test"] += found
            removed += len(members) - len(found)
            continue
        known = max(indexes) >= ours
        place = "train" if known else _place(members, shares, seed=seed, test=not test)
        even = [row for row in members if chances.is_even(row, least, seed=seed)]
        if place == "train" or not even:
            learnt = _once(members)
            parts["train"] += learnt
            removed += len(members) - len(learnt)
        else:
            parts[place] += even
            removed += len(members) - len(even)
    _check_filled(parts)
    labelled = [row for row in parts["train"] if row.labels]
    unlabelled = [row for row in parts["train"] if not row.labels]
    return Splits(
        train=_ordered(labelled),
        calibration=_ordered(parts["calibration"]),
        certification=_ordered(parts["certification"]),
        test=_ordered(parts["test"]),
        unlabelled=_ordered(unlabelled),
        removed=removed,
    )


def _once(members: Sequence[Example]) -> list[Example]:
    """Each text once: of those with labels the last, which is an own one where there is one."""
    found: dict[str, Example] = {}
    for row in members:
        text = folded(row.text)
        if row.labels or text not in found:
            found[text] = row
    return list(found.values())


def _place(members: Sequence[Example], shares: SplitShares, *, seed: int, test: bool) -> str:
    """Where a cluster goes, by the seed and its texts alone."""
    first = min(row.id for row in members)
    digest = hashlib.sha256(f"traffic/{seed}:{first}".encode()).hexdigest()
    left = float(int(digest[:_DIGITS], 16) / 16**_DIGITS)
    wanted = {"calibration": shares.calibration, "certification": shares.certification}
    if test:
        wanted["test"] = shares.test
    for name, share in wanted.items():
        if left < share:
            return name
        left -= share
    return "train"


def _check_filled(parts: dict[str, list[Example]]) -> None:
    if empty := [name for name, rows in parts.items() if not rows]:
        raise DataError(
            f"no row of the traffic that was handed over is left for {empty[0]}",
            mend="hand over more audited rows, or raise audit.share and wait",
        )


def _ordered(rows: Sequence[Example]) -> tuple[Example, ...]:
    return tuple(sorted(rows, key=lambda row: row.id))

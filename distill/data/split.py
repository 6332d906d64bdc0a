"""Split: examples -> train, calibration, certification and test, with nothing known on two sides.

Rows of one group stay together, and so do texts that differ only in their numbers. The result
depends on the seed and the rows, not on their order. It refuses a split that would measure nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from distill.data.deduplicate import template
from distill.recipe import SplitShares
from gateway.contract import examples as lines
from gateway.contract.examples import Example
from gateway.errors import DataError

_RARE = 20  # examples of a label: with fewer, chance alone may keep it out of a small split
_EXPECTED = 5  # rows of a label that a split should have got, before their lack is an error

_SIDES = {  # what the student may learn from is one side, each held-out split another
    "train": "train",
    "unlabelled": "train",
    "calibration": "calibration",
    "certification": "certification",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Splits:
    """The parts, each in the order of its examples' ids.

    `unlabelled` has no gold labels and belongs to the side of `train`. `removed` counts the rows
    that were left out because their group or text stands in a held-out part.
    """

    train: tuple[Example, ...]
    calibration: tuple[Example, ...]
    certification: tuple[Example, ...]
    test: tuple[Example, ...]
    unlabelled: tuple[Example, ...]
    removed: int = 0

    def parts(self) -> dict[str, tuple[Example, ...]]:
        """Part -> its examples, `unlabelled` last."""
        return {each.name: getattr(self, each.name) for each in fields(self)[:-1]}


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Rows that share a group or a text, directly or through others: never parted."""

    gold: tuple[Example, ...]
    unlabelled: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def stratum(self) -> str:
        """The commonest label of the first choice head; the first by name of equally common."""
        counts = Counter(_first_choice(row) for row in self.gold)
        return min(counts, key=lambda label: (-counts[label], label))


def split(
    examples: Sequence[Example],
    shares: SplitShares,
    *,
    seed: int,
    test: Sequence[Example] = (),
) -> Splits:
    """Split deduplicated examples by shares, stratified by the label of the first choice head.

    `test` is a test set that stands already: then `shares.test` is ignored, and rows whose group
    or text is in it are removed. Raises DataError when a part would be empty.
    """
    weights = {"calibration": shares.calibration, "certification": shares.certification}
    if not test:
        weights["test"] = shares.test
    weights = {"train": 1.0 - sum(weights.values())} | weights
    parts: dict[str, list[Example]] = {name: [] for name in _SIDES}
    removed = 0
    clusters = list(_clusters(examples, test))
    for cluster, place in _placed(clusters, weights, seed):
        parts[place] += cluster.test or cluster.gold
        if place == "train":
            parts["unlabelled"] += cluster.unlabelled
        else:
            removed += len(cluster.unlabelled) + (len(cluster.gold) if cluster.test else 0)
    _check_filled(parts)
    ordered = {name: tuple(sorted(rows, key=lambda row: row.id)) for name, rows in parts.items()}
    return Splits(**ordered, removed=removed)


def check_leaks(splits: Splits, *, by_label: bool = True) -> tuple[str, ...]:
    """Check that no side knows another's rows and that each label can be learned and measured.

    Raises DataError; returns warnings about rare labels that a part lacks. Not `by_label`: the rows
    were drawn whatever their labels are, so that what a part lacks is chance, and told.
    """
    _check_sides(splits)
    held = {name: rows for name, rows in splits.parts().items() if name != "unlabelled" and rows}
    total = sum(map(len, held.values()))
    counts = {name: _label_counts(rows) for name, rows in held.items()}
    warnings = []
    for head, label in sorted(set().union(*counts.values())):
        have = {name: count[head, label] for name, count in counts.items()}
        for part in [name for name, count in have.items() if not count]:
            told = f"no row of {part} has the label {label!r} of the head {head!r}"
            expected = sum(have.values()) * len(held[part]) / total
            common = sum(have.values()) >= _RARE and expected >= _EXPECTED
            if by_label and (part == "train" or common):
                where = ", ".join(name for name, count in have.items() if count)
                raise DataError(
                    f"{told}; it occurs only in {where}",
                    mend="add such rows from other groups, or merge the label with another",
                )
            lack = "learned" if part == "train" else "measured there"
            warnings.append(f"{told}: it is not {lack}")
    return tuple(warnings)


def save(splits: Splits, folder: Path) -> None:
    """Write each part as Example lines into `folder`."""
    for name, rows in splits.parts().items():
        lines.write(folder / f"{name}.jsonl", rows)
    (folder / "splits.json").write_text(json.dumps({"removed": splits.removed}) + "\n")


def load(folder: Path) -> Splits:
    """Read what `save` wrote."""
    parts = {name: tuple(lines.read(folder / f"{name}.jsonl")) for name in _SIDES}
    return Splits(**parts, removed=json.loads((folder / "splits.json").read_text())["removed"])


def _clusters(examples: Sequence[Example], test: Sequence[Example]) -> Iterator[_Cluster]:
    """The clusters of both, one for each group of rows that are joined."""
    rows = [*examples, *test]
    for indexes in joined(rows):
        own = [rows[index] for index in indexes if index < len(examples)]
        yield _Cluster(
            gold=tuple(row for row in own if row.labels),
            unlabelled=tuple(row for row in own if not row.labels),
            test=tuple(rows[index] for index in indexes if index >= len(examples)),
        )


def joined(rows: Sequence[Example]) -> Iterator[list[int]]:
    """Indexes of rows that share a group or a text, or are joined through others (union-find)."""
    parent = list(range(len(rows)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, row in enumerate(rows):
        for key in keys(row):
            parent[root(index)] = root(first.setdefault(key, index))
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(len(rows)):
        members[root(index)].append(index)
    yield from members.values()


def _placed(
    clusters: Iterable[_Cluster], weights: Mapping[str, float], seed: int
) -> Iterator[tuple[_Cluster, str]]:
    """Each cluster with its part: always the part that lacks most of its share so far.

    Strata are walked one after the other, so that a stratum's shares are those of the whole but
    for a row or two, and what rounding takes from one stratum comes back in the next.
    """
    free = []
    for cluster in clusters:
        if cluster.test or not cluster.gold:
            yield cluster, "test" if cluster.test else "train"
        else:
            free.append((cluster.stratum, _rank(cluster, seed), cluster))
    have = dict.fromkeys(weights, 0)
    done = 0
    begun: set[str] = set()
    for stratum, _, cluster in sorted(free, key=lambda each: each[:2]):
        done += len(cluster.gold)
        lack = {name: weight * done - have[name] for name, weight in weights.items()}
        # The first of a stratum goes to train: a label that is not there cannot be learned.
        place = max(lack, key=lambda name: lack[name]) if stratum in begun else "train"
        begun.add(stratum)
        have[place] += len(cluster.gold)
        yield cluster, place


def _rank(cluster: _Cluster, seed: int) -> str:
    """A place in the draw that depends on the seed and on the texts alone."""
    first = min(row.id for row in cluster.gold)
    return hashlib.sha256(f"{seed}:{first}".encode()).hexdigest()


def keys(row: Example) -> list[tuple[str, str]]:
    """By what a row is joined to others: its text but for numbers, and its group."""
    text = [("text", template(row.text))]
    return text if row.group is None else [*text, ("group", row.group)]


def _first_choice(row: Example) -> str:
    return next((label for label in row.labels.values() if isinstance(label, str)), "")


def _label_counts(rows: Iterable[Example]) -> Counter[tuple[str, str]]:
    """(head, label) -> rows that have it."""
    return Counter(
        (head, label)
        for row in rows
        for head, said in row.labels.items()
        for label in ((said,) if isinstance(said, str) else said)
    )


def _check_sides(splits: Splits) -> None:
    seen: dict[tuple[str, str], str] = {}
    for name, rows in splits.parts().items():
        for row in rows:
            for kind, value in keys(row):
                before = seen.setdefault((kind, value), name)
                if _SIDES[before] != _SIDES[name]:
                    raise DataError(
                        f"the {kind} {value[:60]!r} is in {before} and in {name}",
                        mend="split again: what is known in training cannot be measured fairly",
                    )


def _check_filled(parts: Mapping[str, Sequence[Example]]) -> None:
    for name, rows in parts.items():
        if not rows and name != "unlabelled":
            raise DataError(
                f"no labelled row is left for {name}",
                mend="add labelled rows, raise its share in data.split, or, where a few groups "
                "hold all rows, name a finer data.group_column",
            )

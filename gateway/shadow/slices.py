"""Where a candidate differs: counts by label, by length, by hour, and by fields of the request.

Nothing is proved of a slice. It says where to look, and a small one says little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Self, TypedDict

from gateway.shadow.account import MISSING, NONE, OTHER
from gateway.shadow.pairing import labels_of
from gateway.types import Comparison

_VALUES = 64  # of one kind that are told apart, the first that come: memory is bounded
_LONGEST = 64  # characters of a value; a longer one is no name of a slice
_LENGTHS = (64, 256, 1024)  # characters: a line, a paragraph, a page
_LONGER = "longer"


@dataclass(slots=True)
class Counts:
    """Requests of a slice: all, those with a teacher's view, and of each the pairs with who serves.

    A request that a canary answered is no pair: who serves did not speak.
    """

    compared: int = 0
    other_than_serving: int = 0
    with_teacher: int = 0
    other_than_teacher: int = 0
    serving_other_than_teacher: int = 0
    escalated: int = 0  # the candidate would have
    paired: int = 0
    paired_with_teacher: int = 0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(*(getattr(self, each.name) + getattr(other, each.name) for each in _COUNTS))


_COUNTS = fields(Counts)


class Kept(TypedDict):
    """The state of slices as plain numbers: each list has those of `Counts`, in their order."""

    whole: list[int]
    heads: dict[str, list[int]]
    parts: dict[str, dict[str, list[int]]]


class Slices:
    """The counts of one candidate, by kind and value. `names` are the fields that are told apart.

    A kind is `length`, `hour`, `label.<head>` or `field.<name>`.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.whole = Counts()
        self.heads: dict[str, Counts] = {}
        self._names = tuple(names)
        self._parts: dict[str, dict[str, Counts]] = {}

    def anew(self) -> Slices:
        """Empty ones, which tell the same fields apart."""
        return Slices(self._names)

    @property
    def parts(self) -> Mapping[str, Mapping[str, Counts]]:
        """Kind -> value -> its counts."""
        return self._parts

    def add(self, comparison: Comparison) -> None:
        """Count a request."""
        paired = comparison.serving_policy is not None
        said, serving, teacher = (
            labels_of(each)
            for each in (
                comparison.prediction,
                comparison.answer.student if paired else None,
                comparison.teacher,
            )
        )
        seen = Counts(
            compared=1,
            other_than_serving=int(serving is not None and said != serving),
            with_teacher=int(teacher is not None),
            other_than_teacher=int(teacher is not None and said != teacher),
            serving_other_than_teacher=int(
                serving is not None and teacher is not None and serving != teacher
            ),
            escalated=int(comparison.escalates),
            paired=int(serving is not None),
            paired_with_teacher=int(serving is not None and teacher is not None),
        )
        self.whole = self.whole.plus(seen)
        for kind, value in self._places(comparison):
            values = self._parts.setdefault(kind, {})
            name = value if value in values or len(values) < _VALUES else OTHER
            values[name] = values.get(name, Counts()).plus(seen)
        for head in set(said or ()) | set(serving or ()):
            ours, theirs, right = (
                None if each is None else each.get(head) for each in (said, serving, teacher)
            )
            known = right is not None
            of_head = Counts(
                compared=1,
                other_than_serving=int(theirs is not None and ours != theirs),
                with_teacher=int(known),
                other_than_teacher=int(known and ours != right),
                serving_other_than_teacher=int(theirs is not None and known and theirs != right),
                escalated=int(comparison.escalates),
                paired=int(theirs is not None),
                paired_with_teacher=int(theirs is not None and known),
            )
            self.heads[head] = self.heads.get(head, Counts()).plus(of_head)

    def saved(self) -> Kept:
        """The state as plain numbers."""
        return Kept(
            whole=_plain(self.whole),
            heads={head: _plain(each) for head, each in self.heads.items()},
            parts={
                kind: {value: _plain(each) for value, each in values.items()}
                for kind, values in self._parts.items()
            },
        )

    def absorb(self, other: Slices) -> Self:
        """Add what others counted."""
        self.whole = self.whole.plus(other.whole)
        for head, counts in other.heads.items():
            self.heads[head] = self.heads.get(head, Counts()).plus(counts)
        for kind, values in other.parts.items():
            ours = self._parts.setdefault(kind, {})
            for value, counts in values.items():
                name = value if value in ours or len(ours) < _VALUES else OTHER
                ours[name] = ours.get(name, Counts()).plus(counts)
        return self

    @classmethod
    def restored(cls, saved: Kept) -> Slices:
        """The slices that were saved. Raises KeyError or TypeError where they are none."""
        slices = cls()
        slices.whole = _counts(saved["whole"])
        slices.heads = {head: _counts(each) for head, each in saved["heads"].items()}
        for kind, values in saved["parts"].items():
            slices._parts[kind] = {value: _counts(each) for value, each in values.items()}
        return slices

    def _places(self, comparison: Comparison) -> Iterator[tuple[str, str]]:
        answer = comparison.answer
        characters = len(answer.instance.text)
        bound = next((each for each in _LENGTHS if characters <= each), None)
        yield "length", _LONGER if bound is None else f"up to {bound}"
        yield "hour", f"{datetime.fromtimestamp(answer.at, UTC):%H}"
        truth = comparison.teacher or answer.student
        for head in truth.heads if truth else ():
            for label in head.labels or (NONE,):
                yield f"label.{head.head}", label
        for name in self._names:
            value = answer.instance.fields.get(name)
            said = MISSING if value is None else str(value)
            yield f"field.{name}", said if len(said) <= _LONGEST else OTHER


def _plain(counts: Counts) -> list[int]:
    return [getattr(counts, each.name) for each in _COUNTS]


def _counts(saved: Sequence[int]) -> Counts:
    """Those that an earlier version did not count are 0."""
    if not 0 < len(saved) <= len(_COUNTS):
        raise TypeError(f"a slice has {len(_COUNTS)} counts, not {len(saved)}")
    return Counts(*map(int, saved))

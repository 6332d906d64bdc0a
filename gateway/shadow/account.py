"""What is counted of one task: a rate for all, for each head, each label and each slice.

Which answers count, and as what, is decided here; served.py says why, and who may ask when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.shadow.rate import Held, Measured, Rate, Series, rates, share
from gateway.types import Answer, FieldValue, HeadPrediction, Prediction, Route

OTHER = "other"  # a value that came when a slice had all that it takes, or that is not named
MISSING = "missing"  # a request without that field
NONE = "none"  # a head that said no label

_VALUES = 64  # of one field or head that are told apart, the first that come: memory is bounded
_LONGEST = 64  # characters of a value; a longer one is no name of a slice


@dataclass(frozen=True, slots=True)
class Audited:
    """What is audited of a task.

    `any`: a coin may fall. `fields` are those whose values are slices, each with the values that
    are told apart; none: the first that come.
    """

    any: bool = False
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """The served error of a task.

    `whole`: any head is wrong; `heads`: that head is. `labels`: head -> what was said -> that head
    is wrong. `fields`: field -> its value -> any head is. `void` rows waited for an audit that was
    skipped, `unmeasured` ones could not be audited; neither is in any rate. `since`: when the first
    answer came, in seconds since the epoch; None: none has.
    """

    whole: Rate
    heads: Mapping[str, Rate]
    labels: Mapping[str, Mapping[str, Rate]]
    fields: Mapping[str, Mapping[str, Rate]]
    void: int
    unmeasured: int
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A rate by names that the settings or the bundle give: of a head, or of a field's value.

    Neither of them: all heads, all requests.
    """

    task: str
    rate: Rate
    head: str | None = None
    field: str | None = None
    value: str | None = None


class Account:
    """The series of one task. Its owner holds the lock."""

    def __init__(self, heads: Sequence[str], audited: Audited) -> None:
        self._audited = audited
        self._whole = Series()
        self._unmeasured = 0
        self._since: float | None = None
        self._heads = {head: Series() for head in heads}
        self._labels = {head: _Slices() for head in heads}
        self._fields = {name: _Slices(named) for name, named in audited.fields.items()}
        self._waiting: dict[str, list[_Waiting]] = {}  # by the id of the answer that was drawn

    def anew(self) -> Account:
        """An empty one of the same task."""
        return Account(tuple(self._heads), self._audited)

    def follow(self, audited: Audited) -> None:
        """From now on, that is what is audited. Slices that stay as they are go on."""
        before, self._audited = self._audited, audited
        self._fields = {
            name: self._fields[name] if before.fields.get(name) == named else _Slices(named)
            for name, named in audited.fields.items()
        }

    def absorb(self, past: Account) -> None:
        """Add what was counted before the first answer of this one; `past` is of no use then."""
        self._whole.absorb(past._whole)
        self._unmeasured += past._unmeasured
        self._since = past._since if past._since is not None else self._since
        for head, series in past._heads.items():
            self._heads[head].absorb(series)
            self._labels[head].absorb(past._labels[head])
        for name, slices in past._fields.items():
            if past._audited.fields[name] == self._audited.fields.get(name):
                self._fields[name].absorb(slices)

    def answered(self, answer: Answer, *, fields: bool = True) -> None:
        """Count an answer; `fields`: those of its instance are known."""
        said = answer.prediction
        if said is None:
            return  # nothing was served
        if self._since is None:
            self._since = answer.at
        if answer.route is Route.TEACHER:
            if answer.auditable:  # else its rows would stand alone, and for all
                self._taught(answer, said, fields=fields)
            elif self._audited.any:
                self._unmeasured += 1
            return
        if not answer.audit_propensity:
            self._unmeasured += 1
            return
        members = list(self._members(answer, said, fields=fields))
        for series, _, guess in members:
            series.guessed(guess, answer.audit_uniform)
        if answer.coin is not None:
            coin = answer.coin
            self._waiting[answer.id] = [
                _Waiting(series, head, series.close(coin, guess)) for series, head, guess in members
            ]

    def judged(self, answer: Answer, teacher: Prediction | None) -> None:
        """What the teacher says of an answer that was drawn; None: nothing."""
        waiting = self._waiting.pop(answer.id, ())
        if not waiting:
            return
        said = answer.prediction
        wrong = _wrong(said.heads, teacher.heads) if said and teacher else {}
        whole = any(wrong.values()) if wrong else None
        for each in waiting:
            told = whole if each.head is None else wrong.get(each.head)
            each.series.judge(each.held, answer, wrong=told)

    def taken(self) -> Taken:
        """All that is shown, as it is now."""
        series: dict[_Place, Series] = {_Place(): self._whole}
        series |= {_Place(head=head): each for head, each in self._heads.items()}
        for head, slices in self._labels.items():
            series |= {_Place(head, value=each): one for each, one in slices.series.items()}
        for name, slices in self._fields.items():
            series |= {_Place(None, name, each): one for each, one in slices.series.items()}
        return Taken(
            measured={place: each.measured() for place, each in series.items()},
            heads=tuple(self._heads),
            fields={name: slices.named for name, slices in self._fields.items()},
            unmeasured=self._unmeasured,
            since=self._since,
        )

    def _taught(self, answer: Answer, said: Prediction, *, fields: bool) -> None:
        """The teacher answered: nothing is wrong there, and the student's word may differ."""
        student = answer.student
        differ = _wrong(student.heads, said.heads) if student else {}
        whole = any(differ.values()) if differ else None
        for series, head, _ in self._members(answer, said, fields=fields):
            series.known(differs=whole if head is None else differ.get(head))

    def _members(
        self, answer: Answer, said: Prediction, *, fields: bool
    ) -> Iterator[tuple[Series, str | None, float]]:
        """All series that an answer belongs to, the head that is judged there, and the guess."""
        guess = share(1.0 - said.score)
        yield self._whole, None, guess
        if fields:
            for name, slices in self._fields.items():
                yield slices.of(_name(answer.instance.fields.get(name))), None, guess
        for each in said.heads:
            if each.head in self._heads:
                guess = share(1.0 - each.confidence)
                yield self._heads[each.head], each.head, guess
                slices = self._labels[each.head]
                for series in dict.fromkeys(map(slices.of, each.labels or (NONE,))):
                    yield series, each.head, guess


@dataclass(frozen=True, slots=True)
class Taken:
    """An account at a moment. Its bounds are found while others are counted."""

    measured: Mapping[_Place, Measured]
    heads: tuple[str, ...]
    fields: Mapping[str, frozenset[str]]
    unmeasured: int
    since: float | None

    def served(self) -> Served:
        """All of it."""
        found = dict(zip(self.measured, rates(list(self.measured.values())), strict=True))
        labels: dict[str, dict[str, Rate]] = {head: {} for head in self.heads}
        fields: dict[str, dict[str, Rate]] = {name: {} for name in self.fields}
        for place, rate in found.items():
            if place.field is not None and place.value is not None:
                fields[place.field][place.value] = rate
            elif place.head is not None and place.value is not None:
                labels[place.head][place.value] = rate
        return Served(
            whole=found[_Place()],
            heads={head: found[_Place(head)] for head in self.heads},
            labels=labels,
            fields=fields,
            void=found[_Place()].void,
            unmeasured=self.unmeasured,
            since=self.since,
        )

    def parts(self, task: str) -> list[Part]:
        """What has a name that no request gave."""
        shown = {place: each for place, each in self.measured.items() if self._is_named(place)}
        return [
            Part(task, rate, place.head, place.field, place.value)
            for place, rate in zip(shown, rates(list(shown.values())), strict=True)
        ]

    def _is_named(self, place: _Place) -> bool:
        if place.field is None:
            return place.value is None  # labels are many; /v1/stats has them
        named = self.fields[place.field]
        return bool(named) and (place.value in named or place.value == OTHER)


class _Place(NamedTuple):
    """What a rate is of: a head, a label that was served for it, or a field's value."""

    head: str | None = None
    field: str | None = None
    value: str | None = None


class _Slices:
    """A series for each value that has come: of those that are named, else of the first."""

    __slots__ = ("named", "series")

    def __init__(self, named: tuple[str, ...] = ()) -> None:
        self.named = frozenset(named)
        self.series: dict[str, Series] = {value: Series() for value in named}

    def of(self, value: str) -> Series:
        """The series of that value, or of all others."""
        found = self.series.get(value)
        if found is None:
            if self.named or len(self.series) >= _VALUES or len(value) > _LONGEST:
                value = OTHER
            found = self.series.setdefault(value, Series())
        return found

    def absorb(self, past: _Slices) -> None:
        """Add what was measured before."""
        for value, series in past.series.items():
            self.of(value).absorb(series)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Rows of a series that wait for the audit of the last of them."""

    series: Series
    head: str | None  # whose label is judged; None: all of them
    held: Held


def _wrong(ours: Sequence[HeadPrediction], theirs: Sequence[HeadPrediction]) -> dict[str, bool]:
    """Which heads differ. Empty where the teacher has not spoken on all of them."""
    said = {each.head: each.labels for each in theirs}
    if any(each.head not in said for each in ours):
        return {}
    return {each.head: each.labels != said[each.head] for each in ours}


def _name(value: FieldValue) -> str:
    return MISSING if value is None else str(value)

"""How often the answer that was served is not what the teacher says: the served error.

Measured on all that was served and could be looked at: what the teacher answered is right here by
definition, and a confident answer of the student is looked at when a coin of known probability fell
(gateway/shadow/coins.py). What nobody could look at (an answer that a caller wished from the
student, a fallback, an answer while audits are off or the teacher has no room for one) is counted
apart, and never as right. Whether there is room is known before the coin falls.

The estimate is AIPW, mean[m + A / pi (e - m)]: m = 1 - score is a guess for every row, and the
other term corrects it where the teacher looked. It is unbiased whatever the score is worth (Robins,
Rotnitzky and Zhao 1994; Zrnic and Candes 2024, arXiv 2403.03208).

The bounds use the uniform coin alone, without the score: x = A e, whose mean is the share times e.
Nothing is assumed of traffic; they bound the error of the very rows that are counted, at all times
at once (gateway/shadow/sequential.py), because the coins are ours.

A drawn answer stands for the rows since the one before it, and they wait for its audit together. If
the audit is skipped they are void together: to leave out the drawn one alone would count the others
as if they had been looked at. That keeps both unbiased as long as a skip depends neither on what
the text says nor on how long ago the draw before was. A teacher that fails on certain texts hides
its errors on them here, and the count of void rows shows how many that may be.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.contract.manifest import Task
from gateway.shadow.sequential import Bounds, ConfidenceSequence, bounds
from gateway.types import Answer, Audit, Coin, FieldValue, HeadPrediction, Prediction, Route

CONFIDENCE = 0.95  # with which each bound holds, at all times together
OTHER = "other"  # a value that came when a slice had all that it takes
MISSING = "missing"  # a request without that field
NONE = "none"  # a head that said no label

_VALUES = 64  # of one field or head that are told apart, the first that come: memory is bounded
_LONGEST = 64  # characters of a value; a longer one is no name of a slice


@dataclass(frozen=True, slots=True)
class Audited:
    """What is audited of a task: by the uniform coin, by any; `fields` whose values are slices."""

    uniform: bool = False
    any: bool = False
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rate:
    """The share of wrong answers in `rows`, as far as `audits` tell; None: not known yet.

    While audits are few the estimate may lie outside of [0, 1]; `shown` is cut to it, which makes
    it a little too high on average.
    """

    rows: int
    audits: int
    estimate: float | None
    lower: float | None
    upper: float | None

    @property
    def shown(self) -> float | None:
        """The estimate as a share."""
        return None if self.estimate is None else _share(self.estimate)


@dataclass(frozen=True, slots=True)
class Served:
    """The served error of a task, since the start.

    `whole`: any head is wrong; `heads`: that head is. `labels`: head -> what was said -> that head
    is wrong. `fields`: field -> its value -> any head is. `void` rows waited for an audit that was
    skipped, `unmeasured` ones could not be audited; neither is in any rate.
    """

    whole: Rate
    heads: Mapping[str, Rate]
    labels: Mapping[str, Mapping[str, Rate]]
    fields: Mapping[str, Mapping[str, Rate]]
    void: int
    unmeasured: int


class ServedQuality:
    """An observer that measures. May be used from several threads.

    The auditor tells `skipped` of the answers that were drawn in vain.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._lock = threading.Lock()
        self._tasks = {task.name: _Measured([head.name for head in task.heads]) for task in tasks}

    def follow(self, task: str, audited: Audited) -> None:
        """From now on, that is what is audited of the task."""
        with self._lock:
            self._tasks[task].follow(audited)

    def answered(self, answer: Answer) -> None:
        """Count an answer that was served."""
        with self._lock:
            if answer.task in self._tasks:
                self._tasks[answer.task].answered(answer)

    def audited(self, audit: Audit) -> None:
        """The teacher has looked at an answer."""
        with self._lock:
            if audit.answer.task in self._tasks:
                self._tasks[audit.answer.task].judged(audit.answer, audit.teacher)

    def skipped(self, answer: Answer) -> None:
        """The teacher will not look at this answer, although it was drawn."""
        with self._lock:
            if answer.task in self._tasks:
                self._tasks[answer.task].judged(answer, None)

    def served(self, task: str) -> Served | None:
        """What is known of a task; None: it is not one of ours."""
        with self._lock:
            return self._tasks[task].served() if task in self._tasks else None

    def rates(self) -> dict[str, Rate]:
        """The rate of each task that has had an audit."""
        with self._lock:
            return {
                name: _rates([task.whole])[0]
                for name, task in self._tasks.items()
                if task.whole.audits
            }


class _Series:
    """One rate as it is measured. Rows since the last drawn one are open: nobody waits for them."""

    __slots__ = (
        "_floor", "_guesses", "_open", "_open_guesses", "_open_uniform", "_rows",
        "audits", "sequence", "void",
    )  # fmt: skip

    def __init__(self) -> None:
        self.audits = 0
        self.void = 0
        self.sequence = ConfidenceSequence()  # of x floor / share, so that x is never above 1
        self._floor = 0.0  # the smallest uniform share since its first observation
        self._rows = 0
        self._guesses = 0.0  # of these rows, corrected where the teacher looked
        self._open = 0
        self._open_guesses = 0.0
        self._open_uniform = 0  # of the rows since the uniform coin fell last

    def row(self, guess: float, *, uniform: bool) -> None:
        """A row; `uniform`: the uniform coin could fall for it, or it needs none."""
        self._open += 1
        self._open_guesses += guess
        self._open_uniform += uniform

    def close(self, coin: Coin) -> tuple[int, float, int]:
        """The last row was drawn: it and those that are open wait for its audit from now on."""
        held = self._open, self._open_guesses, 0
        self._open, self._open_guesses = 0, 0.0
        if coin is Coin.UNIFORM:
            held = *held[:2], self._open_uniform
            self._open_uniform = 0
        return held

    def judge(self, held: _Held, answer: Answer, *, wrong: bool | None) -> None:
        """What the teacher says of the row that was drawn; None: it does not."""
        if wrong is None:
            self.void += held.rows
            return
        self.audits += 1
        self._rows += held.rows
        self._guesses += held.guesses + (wrong - held.guess) / answer.audit_propensity
        if answer.coin is Coin.UNIFORM:
            self._observe(held.uniform, answer.audit_uniform, wrong=wrong)

    def _observe(self, rows: int, share: float, *, wrong: bool) -> None:
        if share < self._floor or not self.sequence.count:
            self.sequence, self._floor = ConfidenceSequence(), share  # a lower share: begin again
        if rows > 1:
            self.sequence.add(0.0, times=rows - 1)
        self.sequence.add(self._floor / share if wrong else 0.0)

    def rate(self, found: Bounds) -> Rate:
        """The rate, with the bounds of its sequence."""
        rows, known = self._rows + self._open, bool(self.sequence.count)
        return Rate(
            rows=rows,
            audits=self.audits,
            estimate=(self._guesses + self._open_guesses) / rows if self.audits else None,
            lower=_share(found.lower / self._floor) if known else None,
            upper=_share(found.upper / self._floor) if known else None,
        )


class _Slices:
    """A series for each value that has come, up to a bound."""

    __slots__ = ("series",)

    def __init__(self) -> None:
        self.series: dict[str, _Series] = {}

    def of(self, value: str) -> _Series:
        """The series of that value, or of all others."""
        found = self.series.get(value)
        if found is None:
            if len(self.series) >= _VALUES or len(value) > _LONGEST:
                value = OTHER
            found = self.series.setdefault(value, _Series())
        return found


@dataclass(frozen=True, slots=True)
class _Held:
    """Rows of a series that wait for the audit of the last of them; `guess` is that one's."""

    series: _Series
    head: str | None  # whose label is judged; None: all of them
    guess: float
    rows: int
    guesses: float
    uniform: int


class _Measured:
    """The series of one task. Its owner holds the lock."""

    def __init__(self, heads: Sequence[str]) -> None:
        self._audited = Audited()
        self.whole = _Series()
        self._unmeasured = 0
        self._heads = {head: _Series() for head in heads}
        self._labels = {head: _Slices() for head in heads}
        self._fields: dict[str, _Slices] = {}
        self._waiting: dict[str, list[_Held]] = {}  # by the id of the answer that was drawn

    def follow(self, audited: Audited) -> None:
        self._audited = audited
        self._fields = {name: self._fields.get(name, _Slices()) for name in audited.fields}

    def answered(self, answer: Answer) -> None:
        said = answer.prediction
        if said is None:
            return  # nothing was served
        if answer.route is Route.TEACHER:
            if answer.auditable:  # else its rows would stand alone, and for all
                for series, _, _ in self._members(answer, said):
                    series.row(0.0, uniform=self._audited.uniform)
            elif self._audited.any:
                self._unmeasured += 1
            return
        if not answer.audit_propensity:
            self._unmeasured += 1
            return
        members = list(self._members(answer, said))
        for series, _, guess in members:
            series.row(guess, uniform=answer.audit_uniform > 0.0)
        if answer.coin is not None:
            coin = answer.coin
            self._waiting[answer.id] = [
                _Held(series, head, guess, *series.close(coin)) for series, head, guess in members
            ]

    def judged(self, answer: Answer, teacher: Prediction | None) -> None:
        """What the teacher says of an answer that was drawn; None: nothing."""
        said = answer.prediction
        wrong = _wrong(said.heads, teacher.heads) if said and teacher else {}
        whole = any(wrong.values()) if wrong else None
        for held in self._waiting.pop(answer.id, ()):
            held.series.judge(
                held, answer, wrong=whole if held.head is None else wrong.get(held.head)
            )

    def served(self) -> Served:
        heads, labels, fields = self._heads, self._labels, self._fields
        several = {**{("label", name): each for name, each in labels.items()},
                   **{("field", name): each for name, each in fields.items()}}  # fmt: skip
        series = [self.whole, *heads.values()]
        series += [each for slices in several.values() for each in slices.series.values()]
        rates = iter(_rates(series))
        whole = next(rates)
        of_heads = {head: next(rates) for head in heads}
        of_slices = {
            key: {value: next(rates) for value in slices.series} for key, slices in several.items()
        }
        return Served(
            whole=whole,
            heads=of_heads,
            labels={name: of_slices["label", name] for name in labels},
            fields={name: of_slices["field", name] for name in fields},
            void=self.whole.void,
            unmeasured=self._unmeasured,
        )

    def _members(
        self, answer: Answer, said: Prediction
    ) -> Iterator[tuple[_Series, str | None, float]]:
        """All series that an answer belongs to, the head that is judged there, and the guess."""
        guess = _share(1.0 - said.score)
        yield self.whole, None, guess
        for field, slices in self._fields.items():
            yield slices.of(_name(answer.instance.fields.get(field))), None, guess
        for each in said.heads:
            if each.head in self._heads:
                guess = _share(1.0 - each.confidence)
                yield self._heads[each.head], each.head, guess
                slices = self._labels[each.head]
                for series in dict.fromkeys(map(slices.of, each.labels or (NONE,))):
                    yield series, each.head, guess


def _wrong(ours: Sequence[HeadPrediction], theirs: Sequence[HeadPrediction]) -> dict[str, bool]:
    """Which heads differ. Empty where the teacher has not spoken on all of them."""
    said = {each.head: each.labels for each in theirs}
    if any(each.head not in said for each in ours):
        return {}
    return {each.head: each.labels != said[each.head] for each in ours}


def _rates(series: Sequence[_Series]) -> list[Rate]:
    found = bounds([each.sequence for each in series], 1.0 - CONFIDENCE)
    return [each.rate(bound) for each, bound in zip(series, found, strict=True)]


def _name(value: FieldValue) -> str:
    return MISSING if value is None else str(value)


def _share(value: float) -> float:
    """What is no share is cut to one; what is no number is 0."""
    return min(1.0, max(0.0, value))

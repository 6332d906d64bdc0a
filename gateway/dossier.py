"""What was counted of one task's candidates, by this process and by all others, now and before.

Each process counts in segments (gateway/store/trials.py): one ends when what it rests on changes,
when its candidate leaves, and after a day. Nothing that was counted is ever counted again or
forgotten, so that a candidate that comes back goes on with its old evidence. Without a database the
segments last as long as the process.

It decides nothing: it adds up. A database that is in trouble is asked again, and the log says so
when the trouble begins and when it is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import structlog

from gateway import identity
from gateway.errors import DataError, RecordsUnavailable
from gateway.shadow.pairing import Measure
from gateway.shadow.promotion import Footing, Gate, Saved, Terms, Trial
from gateway.shadow.shadow import Candidate
from gateway.shadow.slices import Slices
from gateway.store import comparisons, trials
from gateway.store.comparisons import Compared
from gateway.store.database import Database
from gateway.store.trials import DAY_S, Counted, Header

_FOLD_S = 600.0  # between two foldings; a test that runs for weeks is a few dozen rows
_BEFORE_S = 600.0  # a verdict may be noted so long before its comparison is stored

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a candidate on one footing.

    `anew`: in words why gates began anew, and which. `rivals` were under test at the same time at
    any time, with itself; `place` is its own among all that ever were, by when they came.
    """

    trial: Trial
    slices: Slices
    anew: Mapping[str, tuple[Gate, ...]]
    rivals: int
    place: int


@dataclass(frozen=True, slots=True)
class Live:
    """A candidate under test as of a moment: what its own segment has counted by now."""

    name: str
    saved: Saved
    slices: Slices


class Dossier:
    """The segments of a task's candidates. `clock` gives seconds since the epoch."""

    def __init__(self, task: str, database: Database | None, clock: Callable[[], float]) -> None:
        self._task = task
        self._database = database
        self._clock = clock
        self._open: dict[str, str] = {}  # by candidate: the segment that goes on
        self._ended: dict[str, Counted] = {}  # by segment: what is not stored yet
        self._stored: dict[str, int] = {}  # by segment: requests compared when it was stored
        self._headers: dict[str, Header] = {}  # of all that is stored, as last seen
        self._known: dict[str, Counted] = {}  # of the candidates under test, by segment
        self._heard: dict[str, float] = {}  # by candidate: when verdicts were last looked for
        self._folded = clock()
        self._troubles: set[str] = set()

    def begin(self, candidate: Candidate, terms: Terms, footing: Footing) -> None:
        """From now on the candidate is counted in a new segment; the one before has ended."""
        self.end(candidate)
        self._open[candidate.name] = identity.answer_id()
        candidate.begin(terms, footing, now=self._clock())

    def end(self, candidate: Candidate) -> None:
        """Nothing more is counted in the candidate's segment; what was, is kept."""
        segment = self._open.pop(candidate.name, None)
        if segment is not None and candidate.slices.whole.compared:
            self._keep(replace(_segment(segment, candidate), ended=True))
        self._heard.pop(candidate.name, None)

    async def save(self, candidates: Sequence[Candidate]) -> None:
        """Store what is new; a segment that has lasted for a day ends, and another begins."""
        for each in candidates:
            if self._clock() - each.trial.began >= DAY_S:
                self.begin(each, each.trial.terms, each.trial.footing)
        if self._database is None:
            return
        going = {self._open[each.name]: each for each in candidates}
        counts = {segment: each.slices.whole.compared for segment, each in going.items()}
        new = {
            segment: _segment(segment, each)
            for segment, each in going.items()
            if counts[segment] != self._stored.get(segment, 0)
        }
        ended = dict(self._ended)
        rows, known = [*ended.values(), *new.values()], frozenset(self._stored)
        if not rows:
            return
        with self._troubled("save"):
            gone = await asyncio.to_thread(
                trials.save, self._database, self._task, rows, known=known
            )
            for segment, last in ended.items():
                del self._ended[segment]
                self._stored.pop(segment, None)
                if segment not in gone:
                    self._known[segment] = last
                    self._headers[segment] = last.header
            for segment in new:
                self._stored[segment] = counts[segment]
            for segment in gone & going.keys():  # it was silent for so long that it seemed dead
                _log.warning("a segment was folded while it went on", bundle=going[segment].name)
                self._stored.pop(segment, None)
                candidate = going[segment]
                if self._open.get(candidate.name) == segment:
                    self._open[candidate.name] = identity.answer_id()
                    trial = candidate.trial
                    candidate.begin(trial.terms, trial.footing, now=self._clock())

    async def look(self, names: Sequence[str]) -> None:
        """See what others have counted of these; what cannot be read now is as it was."""
        if self._database is None:
            return
        with self._troubled("look"):
            headers = await asyncio.to_thread(trials.headers, self._database, self._task)
            there = {each.segment: each for each in headers}
            wanted = {name: each for name, each in there.items() if each.candidate in names}
            new = [
                name
                for name, each in wanted.items()
                if name not in self._known or self._known[name].header != each
            ]
            found = await asyncio.to_thread(trials.counted, self._database, new)
            kept = {name: each for name, each in self._known.items() if name in wanted}
            self._known = kept | {each.segment: each for each in found}
            self._headers = there

    async def hear(self, names: Sequence[str], terms: Terms, measure: Measure) -> None:
        """Count what people have said of answers with which candidates were compared."""
        limit = terms.limits.get(Gate.LOSSES)
        if self._database is None or limit is None:
            return
        count = partial(_judged, terms=Terms(limits={Gate.LOSSES: limit}), measure=measure)
        for name in names:
            now = self._clock()
            with self._troubled("hear"):
                await asyncio.to_thread(
                    comparisons.judge,
                    self._database,
                    self._task,
                    name,
                    partial(count, name),
                    since=self._heard.get(name),
                )
                self._heard[name] = now - _BEFORE_S

    async def fold(self) -> None:
        """Now and then, let segments that have ended be one."""
        if self._database is None or self._clock() - self._folded < _FOLD_S:
            return
        self._folded = self._clock()
        with self._troubled("fold"):
            await asyncio.to_thread(
                trials.fold, self._database, self._task, now=self._clock(), total=total
            )

    def live(self, candidate: Candidate) -> Live:
        """The candidate as of now, to be judged elsewhere."""
        slices = Slices.restored(candidate.slices.saved())
        return Live(candidate.name, candidate.trial.saved(), slices)

    def known(self, lives: Sequence[Live], terms: Terms) -> dict[str, Known]:
        """What is known of each of these, by its name. Blocks for some milliseconds."""
        found, now = {}, self._clock()
        open_now = frozenset(self._open.values())
        segments = {**self._known, **self._ended}
        headers = self._headers | {name: each.header for name, each in segments.items()}
        past = [each for name, each in headers.items() if name not in open_now]
        times = _times(past, {each.name: (each.saved["began"], now) for each in lives})
        order = sorted(times, key=lambda name: min(times[name]))
        for live in lives:
            others = [
                each
                for name, each in segments.items()
                if name not in open_now and each.candidate == live.name
            ]
            trial = Trial(terms, began=now, footing=Footing(**live.saved["footing"]))
            trial.absorb(live.saved)
            slices = live.slices
            for other in others:
                _absorb(trial, slices, other)
            found[live.name] = Known(
                trial,
                slices,
                _anew(trial, others),
                rivals=_rivals(live.name, times),
                place=1 + order.index(live.name),
            )
        return found

    def worst(self, name: str, limit: int) -> tuple[comparisons.Disagreement, ...]:
        """The candidate's surest disagreements, where these are stored. Blocks."""
        if self._database is None or not limit:
            return ()
        with self._troubled("worst"):
            return tuple(comparisons.worst(self._database, self._task, name, limit=limit))
        return ()

    def _keep(self, ended: Counted) -> None:
        """What has ended waits to be stored; where nothing is stored, it is one with its like."""
        if self._database is None:
            like = [
                each
                for each in self._ended.values()
                if (each.candidate, each.about) == (ended.candidate, ended.about)
            ]
            for each in like:
                del self._ended[each.segment]
            ended = total([*like, ended])
        self._ended[ended.segment] = ended

    @contextmanager
    def _troubled(self, what: str) -> Iterator[None]:
        """Trouble with the database costs nobody anything but time; it is told once."""
        try:
            yield
        except RecordsUnavailable as error:
            if what not in self._troubles:
                self._troubles.add(what)
                _log.warning("the evidence waits", task=self._task, error=error.message)
        else:
            if what in self._troubles:
                self._troubles.discard(what)
                _log.info("the evidence goes on", task=self._task, after=what)


def total(parts: Sequence[Counted]) -> Counted:
    """The sum of segments of one candidate on one footing. Raises DataError."""
    first = parts[0]
    limits = {Gate(gate): limit for gate, limit in first.state["limits"].items()}
    trial = Trial.restored(first.state, Terms(limits=limits))
    for each in parts[1:]:
        trial.absorb(each.state)
    kept = [Slices.restored(each.slices) for each in parts if each.slices is not None]
    slices = Slices()
    for some in kept:
        slices.absorb(some)
    return Counted(
        segment=identity.answer_id(),
        candidate=first.candidate,
        began=min(each.began for each in parts),
        until=max(each.until for each in parts),
        state=trial.saved(),
        slices=slices.saved() if kept else None,
        ended=True,
    )


def _segment(segment: str, candidate: Candidate) -> Counted:
    trial = candidate.trial
    return Counted(
        segment,
        candidate.name,
        trial.began,
        trial.until,
        trial.saved(),
        candidate.slices.saved(),
    )


def _judged(
    name: str, found: Sequence[Compared], *, terms: Terms, measure: Measure
) -> list[Counted]:
    """Segments, one of each footing, in which nothing counts but what people say."""
    parts: dict[Footing, list[Compared]] = {}
    for each in found:
        parts.setdefault(measure.footing(each.sight), []).append(each)
    segments = []
    for footing, rows in parts.items():
        times = [each.at for each in rows]
        trial = Trial(terms, began=min(times), footing=footing)
        for each in rows:
            trial.add(measure.judged(each.sight))
        if trial.rows:
            segments.append(
                Counted(
                    identity.answer_id(),
                    name,
                    min(times),
                    max(times),
                    trial.saved(),
                    slices=None,
                    ended=True,
                )
            )
    return segments


def _absorb(trial: Trial, slices: Slices, other: Counted) -> None:
    """Add a segment, as far as it says something here; one that cannot be read is left out."""
    try:
        its = None if other.slices is None else Slices.restored(other.slices)
        trial.absorb(other.state)
        if its is not None and other.state["footing"]["policy"] == trial.footing.policy:
            slices.absorb(its)
    except (DataError, KeyError, TypeError, ValueError) as error:
        _log.warning("a count is not read", candidate=other.candidate, error=str(error))


def _anew(trial: Trial, others: Iterable[Counted]) -> dict[str, tuple[Gate, ...]]:
    """Why gates began anew: by reason, those for which older segments say nothing here."""
    found: dict[Gate, str] = {}
    for other in sorted(others, key=lambda each: each.began):
        try:
            moved = trial.moved(other.state)
        except (KeyError, TypeError):
            continue  # it is not read, and that was said
        for gate, why in moved.items():
            if other.began < trial.since(gate):
                found[gate] = "; ".join(why)
    reasons = dict.fromkeys(found.values())
    return {why: tuple(gate for gate in found if found[gate] == why) for why in reasons}


_Times = Mapping[str, Sequence[tuple[float, float]]]


def _times(past: Iterable[Header], now: Mapping[str, tuple[float, float]]) -> _Times:
    """By candidate, when it was under test."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, time in chain(((each.candidate, (each.began, each.until)) for each in past),
                            now.items()):  # fmt: skip
        found.setdefault(name, []).append(time)
    return found


def _rivals(name: str, times: _Times) -> int:
    """How many were under test while it was, with itself."""
    return sum(
        any(began <= end and start <= until for began, until in times[name] for start, end in its)
        for its in times.values()
    )

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
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import NamedTuple

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
    any time, with itself; `place` is that of its test among all that ever were, by when they began:
    on another footing, or under another limit, the same candidate is tried once more. `read`:
    whether what was counted before, and elsewhere, is in it; until it is, nothing is proved.
    """

    trial: Trial
    slices: Slices
    anew: Mapping[str, tuple[Gate, ...]]
    rivals: int
    place: int
    read: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """All that is held of the candidates under test, as of one moment: it is judged elsewhere.

    `going`: by candidate that is asked about, the segment that goes on here. `past`: all other
    segments of theirs, each once. `headers`: those of all segments of all candidates. `read`:
    candidates of whom the past is known. Times are in seconds since the epoch.
    """

    going: Mapping[str, Counted]
    past: Sequence[Counted]
    headers: Sequence[Header]
    read: frozenset[str]
    now: float

    def known(self, name: str, terms: Terms) -> Known:
        """What is known of that candidate. Blocks for some milliseconds. Raises KeyError."""
        going = self.going[name]
        others = [each for each in self.past if each.candidate == name]
        trial = Trial(terms, began=self.now, footing=Footing(**going.state["footing"]))
        slices = Slices()
        whole = [_absorb(trial, slices, part) for part in (going, *others)]
        return Known(
            trial,
            slices,
            _anew(trial, others),
            rivals=rivals(name, self.headers),
            place=place_of(name, trial.footing, terms, self.headers),
            read=name in self.read and all(whole),
        )


class _Open(NamedTuple):
    """A candidate under test, and its segment that goes on."""

    segment: str
    candidate: Candidate

    @property
    def compared(self) -> int:
        """How many requests it has by now."""
        return self.candidate.slices.whole.compared

    def header(self, now: float) -> Header:
        """That of the segment as of now."""
        trial, name = self.candidate.trial, self.candidate.name
        what = _about(trial.footing, trial.terms)
        return Header(self.segment, name, trial.began, now, True, *what)

    def counted(self) -> Counted:
        """The segment as of now."""
        trial = self.candidate.trial
        return Counted(
            self.segment,
            self.candidate.name,
            trial.began,
            trial.until,
            trial.saved(),
            self.candidate.slices.saved(),
        )


class Dossier:
    """The segments of a task's candidates. `clock` gives seconds since the epoch."""

    def __init__(self, task: str, database: Database | None, clock: Callable[[], float]) -> None:
        self._task = task
        self._database = database
        self._clock = clock
        self._open: dict[str, _Open] = {}  # by candidate under test
        self._ended: dict[str, Counted] = {}  # by segment: what is not stored yet
        self._stored: dict[str, Counted] = {}  # by segment that goes on: as it was last stored
        self._headers: dict[str, Header] = {}  # of all that is stored, as last seen
        self._known: dict[str, Counted] = {}  # of the candidates under test, by segment
        self._read: frozenset[str] = frozenset()  # candidates whose segments are in there
        self._asking = asyncio.Lock()  # what was read first must not be taken for the newest
        self._heard: dict[str, float] = {}  # by candidate: when verdicts were last looked for
        self._folded = clock()
        self._troubles: set[str] = set()

    def begin(self, candidate: Candidate, terms: Terms, footing: Footing) -> None:
        """From now on the candidate is counted in a new segment; the one before has ended."""
        self.end(candidate)
        self._open[candidate.name] = _Open(identity.answer_id(), candidate)
        candidate.begin(terms, footing, now=self._clock())

    def end(self, candidate: Candidate) -> None:
        """Nothing more is counted in the candidate's segment; what was, is kept."""
        over = self._open.pop(candidate.name, None)
        if over is not None and candidate.slices.whole.compared:
            self._keep(replace(over.counted(), ended=True))
        self._heard.pop(candidate.name, None)

    async def save(self) -> None:
        """Store what is new; a segment that has lasted for a day ends, and another begins."""
        async with self._asking:
            for _, each in list(self._open.values()):
                if self._clock() - each.trial.began >= DAY_S:
                    self.begin(each, each.trial.terms, each.trial.footing)
            if self._database is not None:
                with self._troubled("save"):
                    await self._save(self._database)

    async def _save(self, database: Database) -> None:
        new = {
            each.segment: each.counted()
            for each in self._open.values()
            if each.compared != _compared(self._stored.get(each.segment))
        }
        ended = dict(self._ended)
        rows = [*ended.values(), *new.values()]
        if not rows:
            return
        gone = await asyncio.to_thread(
            trials.save, database, self._task, rows, known=frozenset(self._stored)
        )
        for segment in gone:  # it was silent for so long that it seemed dead, and is in a sum now
            if segment in new and segment not in self._ended:  # nor has it ended meanwhile
                _, candidate = self._open[new[segment].candidate]
                self.begin(candidate, candidate.trial.terms, candidate.trial.footing)
            last = self._ended.pop(segment)
            self._keep(_since(self._stored.pop(segment), last))
            _log.warning("a segment was folded while it went on", bundle=last.candidate)
        for segment in ended.keys() - gone:
            self._known[segment] = self._ended.pop(segment)
            self._headers[segment] = self._known[segment].header
            self._stored.pop(segment, None)
        for segment in new.keys() - gone:
            self._stored[segment] = new[segment]
        if gone:
            await self._look(database)

    async def look(self) -> None:
        """See what others have counted of the candidates; what cannot be read now is as it was."""
        if self._database is None:
            return
        async with self._asking:
            with self._troubled("look"):
                await self._look(self._database)

    async def _look(self, database: Database) -> None:
        names = frozenset(self._open)
        found = await asyncio.to_thread(_gathered, database, self._task, names, self._known)
        self._headers, self._known = found
        self._read = names

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

    def moment(self, names: Iterable[str]) -> Moment:
        """What is held of these now, to be judged elsewhere. No segment is in it twice."""
        going = {each.segment for each in self._open.values()}
        parts = {**self._known, **self._ended}
        now = self._clock()
        headers = self._headers | {segment: each.header for segment, each in parts.items()}
        headers |= {each.segment: each.header(now) for each in self._open.values()}
        return Moment(
            going={name: self._open[name].counted() for name in names},
            past=[each for segment, each in parts.items() if segment not in going],
            headers=list(headers.values()),
            read=frozenset(self._open) if self._database is None else self._read,
            now=now,
        )

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


def _gathered(
    database: Database, task: str, names: Collection[str], known: Mapping[str, Counted]
) -> tuple[dict[str, Header], dict[str, Counted]]:
    """The headers of all that is stored, and the segments of these names, by segment.

    Those that are known already are not read again. Raises RecordsUnavailable.
    """
    while True:
        there = {each.segment: each for each in trials.headers(database, task)}
        wanted = {segment: each for segment, each in there.items() if each.candidate in names}
        kept = {
            segment: each
            for segment, each in known.items()
            if segment in wanted and each.header == wanted[segment]
        }
        new = wanted.keys() - kept.keys()
        found = {each.segment: each for each in trials.counted(database, new)}
        if found.keys() == new:
            return there, kept | found
        # Somebody has folded some of them between the two readings: look again, for their sum.


def _compared(found: Counted | None) -> int:
    """How many requests were compared in it."""
    return 0 if found is None or found.slices is None else found.slices["whole"][0]


def _since(before: Counted, now: Counted) -> Counted:
    """What a segment has counted since; slices are of a whole one, and are left out."""
    counts = {
        gate: [late - early for late, early in zip(each, before.state["counts"][gate], strict=True)]
        for gate, each in now.state["counts"].items()
    }
    compared = {
        gate: rows - before.state.get("compared", {}).get(gate, 0)
        for gate, rows in now.state.get("compared", {}).items()
    }
    state = Saved(**{**now.state, "counts": counts, "compared": compared})
    return replace(now, segment=identity.answer_id(), state=state, slices=None, ended=True)


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
            trial.add(measure.judged(each.sight), at=each.at, again=True)
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


def _absorb(trial: Trial, slices: Slices, other: Counted) -> bool:
    """Add a segment, as far as it says something here; False: what it proves cannot be read."""
    try:
        trial.absorb(other.state)
    except (DataError, KeyError, TypeError, ValueError) as error:
        _log.warning("evidence is not read", candidate=other.candidate, error=str(error))
        return False
    try:
        if other.slices is not None and other.state["footing"]["policy"] == trial.footing.policy:
            slices.absorb(Slices.restored(other.slices))
    except (KeyError, TypeError, ValueError) as error:
        _log.warning("slices are not read", candidate=other.candidate, error=str(error))
    return True


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


def _about(footing: Footing, terms: Terms) -> tuple[bytes, frozenset[tuple[str, float]]]:
    limits = {gate.value: limit for gate, limit in terms.limits.items()}
    return trials.about(asdict(footing), limits)


def rivals(name: str, headers: Sequence[Header]) -> int:
    """How many were under test while that candidate was, with itself."""
    mine = [each for each in headers if each.candidate == name]
    return len({
        each.candidate
        for each in headers
        if any(own.began <= each.until and each.began <= own.until for own in mine)
    })  # fmt: skip


# A candidate, its footing, and the limits by gate: what one test is of.
_Test = tuple[str, bytes, frozenset[tuple[str, float]]]


def _is_part(test: _Test, other: _Test) -> bool:
    return test[:2] == other[:2] and test[2] <= other[2]


def place_of(name: str, footing: Footing, terms: Terms, headers: Iterable[Header]) -> int:
    """Which of all tests that ever were is the candidate's on that footing: 1, 2, 3, ...

    They are numbered as they began; one that has not begun is the next. One of fewer gates, with
    the same limits, is a part of the other: what people say is counted so.
    """
    began: dict[_Test, float] = {}
    for each in headers:
        test = each.candidate, each.footing, each.limits
        began[test] = min(each.began, began.get(test, each.began))
    own = name, *_about(footing, terms)
    began.setdefault(own, math.inf)
    whole = {
        test: min(at for part, at in began.items() if _is_part(part, test))
        for test in began
        if not any(test != other and _is_part(test, other) for other in began)
    }
    mine = min((test for test in whole if _is_part(own, test)), key=lambda test: whole[test])
    return 1 + sum((at, *test[:2]) < (whole[mine], *mine[:2]) for test, at in whole.items())

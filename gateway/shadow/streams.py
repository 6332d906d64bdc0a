"""What is watched of a student that serves: five streams, each with its alarm.

    error          confident answers that the teacher would not have given, of those that the
                   uniform coin drew for an audit
    critical       of audits where a critical label is so: the answer misses it
    failures       the student raised, or gave numbers that are not finite
    latency        its answers took longer than they may
    disagreement   student and teacher differ, whoever of them answered

A row of the first two is an audit. Of the last it is a request too: of what was escalated the same
share is taken as of what was not, so that the rows are a fair sample of all requests. What happens
to many requests at one moment (a worker dies, the machine is busy) is one event and no proof, so
that of failures and of latency all requests of a second are one row: the share of them.

This room counts and rings. It knows no settings file and no other student, and does nothing about
what it hears.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self, TypedDict

import orjson

from gateway.errors import DataError
from gateway.routing.severity import Critical
from gateway.shadow.alarm import Alarm, Kept, Level
from gateway.shadow.evidence import Kind
from gateway.types import Answer, Coin, Prediction, Reason, Route


class Stream(StrEnum):
    """What of a student is watched."""

    ERROR = "error"
    CRITICAL = "critical"
    FAILURES = "failures"
    LATENCY = "latency"
    DISAGREEMENT = "disagreement"


@dataclass(frozen=True, slots=True)
class Terms:
    """When each stream rings. One that `limits` does not name is not watched.

    `limits` are shares in (0, 1); `apart` is the mean number of rows between two false alarms of
    all streams together. `latency_s`: what an answer of the student may take, in seconds.
    `policy`: a fingerprint of what decides which of its answers go out.
    """

    limits: Mapping[Stream, float]
    apart: float = 20_000.0
    latency_s: float | None = None
    critical: Critical | None = None
    policy: str = ""

    def measured(self, stream: Stream) -> str:
        """In short what the rows of a stream are of: under other words they are of another thing.

        Failures, and disagreement whoever answered, are the same under all terms.
        """
        match stream:
            case Stream.ERROR:
                return self.policy
            case Stream.CRITICAL:
                heads = self.critical.heads if self.critical else ()
                said = {head.name: sorted(head.labels) for head in heads}
                return orjson.dumps([self.policy, said]).decode()
            case Stream.LATENCY:
                return str(self.latency_s)
            case _:
                return ""

    def watches(self, stream: Stream) -> bool:
        """Whether there is a limit, and something to hold against it."""
        if stream is Stream.CRITICAL and self.critical is None:
            return False
        if stream is Stream.LATENCY and self.latency_s is None:
            return False
        return stream in self.limits


@dataclass(frozen=True, slots=True)
class Reading:
    """How loud a stream is. It warns at the square root of the bar, and rings at the bar."""

    stream: Stream
    level: Level
    limit: float
    statistic: float
    bar: float
    rows: int  # since it began
    high: float  # of the rows: what was too much, summed; with `rows` the mean

    @property
    def mean(self) -> float | None:
        """The share that was seen; None before the first row."""
        return self.high / self.rows if self.rows else None


class KeptStream(TypedDict):
    """The state of a stream as plain numbers, and `of` what it is, see `Terms.measured`."""

    of: str
    alarm: Kept
    high: float


class Streams:
    """The streams of one student. Its owner tells it what concerns that student, and no other."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        watched = [stream for stream in Stream if terms.watches(stream)]
        self._alarms = {
            stream: Alarm(Kind.RATE, terms.limits[stream], apart=terms.apart, streams=len(watched))
            for stream in watched
        }
        self._high = dict.fromkeys(watched, 0.0)
        self._second = _Second()
        self.loudest = Level.CALM  # the level of the loudest of them

    def answered(self, answer: Answer, *, sampled: bool) -> None:
        """Count an answer.

        `sampled`: of what is escalated it was taken with the probability of the uniform coin.
        """
        second = int(answer.at)
        if second != self._second.at:
            self._close(second)
        self._second.requests += 1
        self._second.failures += Reason.STUDENT_FAILED in answer.decision.reasons
        if answer.route is Route.STUDENT:
            self._second.answers += 1
            budget = self.terms.latency_s
            self._second.late += budget is not None and answer.stages.total > budget
        if sampled and answer.student is not None and answer.teacher is not None:
            self._add(Stream.DISAGREEMENT, not answer.student.agrees(answer.teacher))

    def audited(self, answer: Answer, teacher: Prediction) -> None:
        """Count what the teacher says of an answer that it was shown after the reply."""
        said = answer.prediction
        if answer.coin is not Coin.UNIFORM or said is None:
            return  # what another coin drew is no fair sample
        wrong = not said.agrees(teacher)
        self._add(Stream.ERROR, wrong)
        self._add(Stream.DISAGREEMENT, wrong)
        if self.terms.critical is not None:
            truth = {each.head: each.labels for each in teacher.heads}
            if self.terms.critical.concerns(truth):
                self._add(Stream.CRITICAL, self.terms.critical.missed(said, truth))

    def readings(self) -> tuple[Reading, ...]:
        """All that are watched, as they are now."""
        return tuple(
            Reading(
                stream=stream,
                level=alarm.level,
                limit=alarm.limit,
                statistic=alarm.statistic,
                bar=alarm.bar,
                rows=alarm.rows,
                high=self._high[stream],
            )
            for stream, alarm in self._alarms.items()
        )

    def ringing(self) -> Reading | None:
        """The first that rings; None: none does."""
        if self.loudest is not Level.ALARM:
            return None
        return next(each for each in self.readings() if each.level is Level.ALARM)

    def reset(self) -> None:
        """Begin anew: somebody has looked."""
        for stream, alarm in self._alarms.items():
            alarm.reset()
            self._high[stream] = 0.0
        self._second = _Second()
        self._listen()

    def saved(self) -> dict[str, KeptStream]:
        """The state of all, by name. The second that runs is not in it."""
        return {
            stream.value: KeptStream(
                of=self.terms.measured(stream), alarm=alarm.saved(), high=self._high[stream]
            )
            for stream, alarm in self._alarms.items()
        }

    def restore(self, kept: Mapping[str, KeptStream]) -> Self:
        """Go on from what was saved; one that is new, or of another limit or thing, begins anew.

        Raises DataError where what was kept is no state of a stream.
        """
        for stream, alarm in self._alarms.items():
            found = kept.get(stream.value)
            try:
                if found is None or found["alarm"]["limit"] != alarm.limit:
                    continue
                if found["of"] != self.terms.measured(stream):
                    continue
                high = float(found["high"])
                alarm.restore(found["alarm"])
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"saved alarm of {stream}: {error!r}",
                    mend="leave the saved state out: the alarm begins anew",
                ) from error
            self._high[stream] = high
        self._listen()
        return self

    def _close(self, second: int) -> None:
        """The second before is whole: a row of failures, and one of latency."""
        past, self._second = self._second, _Second(second)
        if past.requests:
            self._add(Stream.FAILURES, past.failures / past.requests)
        if past.answers:
            self._add(Stream.LATENCY, past.late / past.answers)

    def _add(self, stream: Stream, value: float) -> None:
        alarm = self._alarms.get(stream)
        if alarm is not None and alarm.raised is None:
            alarm.add(float(value))
            self._high[stream] += value
            self._listen()

    def _listen(self) -> None:
        levels = {alarm.level for alarm in self._alarms.values()}
        loud = (each for each in (Level.ALARM, Level.WARN) if each in levels)
        self.loudest = next(loud, Level.CALM)


@dataclass(slots=True)
class _Second:
    """The requests of one second of the clock."""

    at: int | None = None
    requests: int = 0
    failures: int = 0
    answers: int = 0
    late: int = 0

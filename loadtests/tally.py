"""What a run counts, and what it comes to: tallies of processes in, one Result out.

Percentiles are nearest-rank over all values, never of buckets or of percentiles. A Result that must
not be believed carries no latency at all, so that nobody can read it by mistake.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import orjson

from loadtests.wire import Reply

_MS = 1000.0  # milliseconds in a second
_MICRO = 1_000_000  # microseconds in a second
_BUSY = 0.95  # above it a generator has no time left in which it could have been late


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something took, in milliseconds."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self | None:
        """From values in seconds, in any order; None of none."""
        if not seconds:
            return None
        ordered = sorted(seconds)
        return cls(
            count=len(ordered),
            mean=round(math.fsum(ordered) / len(ordered) * _MS, 4),
            p50=_ms(percentile(ordered, 50)),
            p95=_ms(percentile(ordered, 95)),
            p99=_ms(percentile(ordered, 99)),
            max=_ms(ordered[-1]),
        )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many per cent do not exceed (nearest rank)."""
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1]


@dataclass(frozen=True, slots=True)
class Punctuality:
    """How well an open loop kept its schedule.

    A send is late when it is behind the schedule although a connection was free. One that waited
    for a connection is `starved`: the server's doing, and part of the latency.
    """

    intended_per_s: float
    behind: Latency | None
    limit_ms: float
    late_share: float  # of the sends: later than the limit
    allowed_share: float
    starved: int
    busiest: float  # share of its time that the busiest generator process was at work

    @classmethod
    def of(cls, tally: Tally, *, rate: float, limit_ms: float, allowed_share: float) -> Self:
        """What a tally says about it."""
        late = sum(value * _MS > limit_ms for value in tally.late)
        return cls(
            intended_per_s=rate,
            behind=Latency.of(tally.late),
            limit_ms=limit_ms,
            late_share=round(late / max(1, tally.sent), 5),
            allowed_share=allowed_share,
            starved=tally.starved,
            busiest=round(tally.busiest, 3),
        )

    @property
    def refusal(self) -> str:
        """Why the run proves nothing; empty: it stands."""
        if self.late_share > self.allowed_share:
            return (
                f"the generator could not hold {self.intended_per_s:g} requests/s: "
                f"{self.late_share:.1%} of its sends were more than {self.limit_ms:g} ms behind "
                f"schedule, {self.allowed_share:.1%} are allowed"
            )
        if self.busiest > _BUSY:
            return (
                f"a generator process was at work {self.busiest:.0%} of the time, so that it is "
                "its own speed that was measured; send from more processes"
            )
        return ""


@dataclass(frozen=True, slots=True)
class Overhead:
    """What one answer cost beside the student, as replies say in Server-Timing.

    `inside` is the gateway's own time without queue, student and teacher. `outside` is what the
    client saw, from sending to receiving, without those three: the wire and this generator count.
    """

    inside: Latency
    outside: Latency


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run. Latencies are in milliseconds, rates per second.

    `latency` is that of the 2xx replies and `by_status` that of each status, both None or empty
    where `refusal` says why the run proves nothing. `since_sent` counts from when a request left
    and not from when it was due: how fast a server replies to a generator that is itself behind.
    """

    loop: str  # "open" or "closed"
    url: str
    connections: int
    processes: int
    seconds: float  # from the start to the last reply
    requests: int  # those that were to be sent; in a closed loop, those that were
    sent: int
    succeeded: int  # 2xx replies
    succeeded_per_s: float
    sent_per_s: float
    statuses: Mapping[int, int]
    codes: Mapping[str, int]  # of problem documents
    failures: Mapping[str, int]  # no reply: closed, connect, timeout, not HTTP, unsent, ...
    wrong: int  # 2xx replies that the check turned down
    latency: Latency | None
    by_status: Mapping[int, Latency]
    since_sent: Mapping[int, Latency]  # by status
    overhead: Overhead | None
    punctuality: Punctuality | None  # open loop only
    generator_us: float  # processor time of the generator for one request, in microseconds
    refusal: str = ""

    @property
    def errors(self) -> int:
        """Requests without a right 2xx reply."""
        return self.requests - self.succeeded + self.wrong

    def to_json(self) -> bytes:
        """One JSON object."""
        content: dict[str, Any] = asdict(self) | {"errors": self.errors}
        return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_INDENT_2)


@dataclass(slots=True)
class Tally:
    """What one process has counted. Times are in seconds."""

    latencies: dict[int, array[float]] = field(default_factory=dict)  # by status
    since_sent: dict[int, array[float]] = field(default_factory=dict)  # the same, from the send
    codes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    sent: int = 0
    planned: int = 0
    late: array[float] = field(default_factory=lambda: array("d"))
    starved: int = 0
    inside: array[float] = field(default_factory=lambda: array("d"))
    outside: array[float] = field(default_factory=lambda: array("d"))
    last_send: float = 0.0  # since the start
    ended: float = 0.0  # the last reply, since the start
    busy: float = 0.0  # processor time
    busiest: float = 0.0  # of all processes: the largest share of its time at work

    def worked(self, busy: float, elapsed: float) -> None:
        """Note the processor time of the whole run."""
        self.busy = busy
        self.busiest = busy / elapsed

    def replied(self, reply: Reply, seconds: float, since_sent: float) -> None:
        """Count a reply and how long it took, from when it was due and from its send."""
        status = reply.status
        try:
            self.latencies[status].append(seconds)
            self.since_sent[status].append(since_sent)
        except KeyError:
            self.latencies[status] = array("d", (seconds,))
            self.since_sent[status] = array("d", (since_sent,))
        if status >= 400:
            self.codes[_code(reply.body)] += 1

    def add(self, other: Tally) -> None:
        """Take in what another process has counted."""
        for status, values in other.latencies.items():
            self.latencies.setdefault(status, array("d")).extend(values)
        for status, values in other.since_sent.items():
            self.since_sent.setdefault(status, array("d")).extend(values)
        self.codes += other.codes
        self.failures += other.failures
        self.wrong += other.wrong
        self.sent += other.sent
        self.planned += other.planned
        self.late.extend(other.late)
        self.starved += other.starved
        self.inside.extend(other.inside)
        self.outside.extend(other.outside)
        self.last_send = max(self.last_send, other.last_send)
        self.ended = max(self.ended, other.ended)
        self.busy += other.busy
        self.busiest = max(self.busiest, other.busiest)

    def statuses(self) -> dict[int, int]:
        """How many replies had each status."""
        return {status: len(self.latencies[status]) for status in sorted(self.latencies)}

    def succeeded(self) -> array[float]:
        """The latencies of the 2xx replies."""
        good = array("d")
        for status, values in self.latencies.items():
            if 200 <= status < 300:
                good.extend(values)
        return good

    def overhead(self) -> Overhead | None:
        """What the gateway added, if replies said so."""
        inside, outside = Latency.of(self.inside), Latency.of(self.outside)
        return Overhead(inside, outside) if inside and outside else None


def result(
    tally: Tally,
    *,
    url: str,
    connections: int,
    processes: int,
    punctuality: Punctuality | None = None,
) -> Result:
    """What a tally comes to; with a punctuality it is that of an open loop, and may be refused."""
    refusal = punctuality.refusal if punctuality else ""
    succeeded = tally.succeeded()
    ended = max(tally.ended, tally.last_send)
    return Result(
        loop="open" if punctuality else "closed",
        url=url,
        connections=connections,
        processes=processes,
        seconds=round(ended, 3),
        requests=tally.planned,
        sent=tally.sent,
        succeeded=len(succeeded),
        succeeded_per_s=_rate(len(succeeded), ended),
        sent_per_s=_rate(tally.sent, tally.last_send),
        statuses=tally.statuses(),
        codes=dict(tally.codes),
        failures=dict(tally.failures),
        wrong=tally.wrong,
        latency=None if refusal else Latency.of(succeeded),
        by_status={} if refusal else _by_status(tally.latencies),
        since_sent={} if refusal else _by_status(tally.since_sent),
        overhead=None if refusal else tally.overhead(),
        punctuality=punctuality,
        generator_us=round(tally.busy / max(1, tally.sent) * _MICRO, 1),
        refusal=refusal,
    )


def _by_status(times: Mapping[int, Sequence[float]]) -> dict[int, Latency]:
    found = {status: Latency.of(times[status]) for status in sorted(times)}
    return {status: latency for status, latency in found.items() if latency}


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds > 0 else 0.0


def _code(body: bytes) -> str:
    """The code of a problem document; what is none has no code."""
    try:
        return str(orjson.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return "no problem document"


def _ms(seconds: float) -> float:
    return round(seconds * _MS, 4)

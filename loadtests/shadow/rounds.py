"""All gateways in turn, round by round: in each, every one has a short turn of each loop.

The order of a round is shuffled, so that what drifts on a shared host falls on all alike. Before
its turn a gateway has the machine to itself: what the one before left over is waited for.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway import cores
from loadtests import bodies, closed_loop, open_loop
from loadtests.shadow.figures import PERCENTS, Candidate, Found, Row, of, ratio
from loadtests.shadow.stage import Stage, Variant, stage
from loadtests.tally import Result

Loop = Literal["open", "closed"]
Tell = Callable[[str], None]

_LOAD = 0.4  # of what the busy connections get: well under it, so that a latency is no queue
_FINDING_S = 2.0  # to find out what that is
_REPLY_S = 60.0  # only a hang takes so long
_MICRO = 1e6  # microseconds in a second
# A sender that the candidate keeps from its processor is a cost of the shadow, and counts as one.
_LATE_SHARE = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how hard: turns of `seconds`, `rounds` of them; a rate of 0 is found.

    After `within` seconds from the start no further round begins.
    `connections` are few: with many, and the batches that only queues make, a machine does more.
    """

    seconds: float
    rounds: int
    rate: float
    connections: int
    seed: int
    within: float = math.inf


@dataclass(frozen=True, slots=True)
class _Turn:
    round: int
    loop: Loop
    result: Result
    cpu_s: float


def measured(
    bundle: Path,
    texts: Sequence[str],
    variants: Sequence[Variant],
    pace: Pace,
    *,
    drag: float,
    tell: Tell = lambda _line: None,
) -> Found:
    """Measure all variants against the first. `tell` hears what is going on. Raises StageFailed."""
    sent, began, done = bodies.of_texts(texts), time.monotonic(), 0
    with ExitStack() as stack:
        stages = []
        for variant in variants:
            tell(f"starting: {variant.name}")
            stages.append(stack.enter_context(stage(variant, bundle, sent)))
        rate = pace.rate or _LOAD * _most(stages[0], sent, pace.connections)
        tell(f"{pace.rounds} rounds, {rate:.0f} requests a second")
        turns: dict[str, list[_Turn]] = {each.variant.name: [] for each in stages}
        source = random.Random(pace.seed)
        for number in range(pace.rounds):
            tell(f"round {number + 1}")
            for each in source.sample(stages, len(stages)):
                turns[each.variant.name] += _turns(each, sent, pace, rate, number)
            done = number + 1
            if time.monotonic() - began > pace.within:
                break
        candidates = [_candidate(each) for each in stages]
    return Found(
        bundle=str(bundle),
        cores=cores.available(),
        rate=round(rate, 1),
        connections=pace.connections,
        seconds=pace.seconds,
        rounds=done,
        drag=round(drag, 1),
        rows=[
            _row(each.name, loop, turns[each.name], turns[variants[0].name])
            for loop in ("open", "closed")
            for each in variants
        ],
        candidates=candidates,
    )


def _most(first: Stage, sent: Sequence[bytes], connections: int) -> float:
    """Requests a second that so many connections get, which are always busy."""
    result = closed_loop.run(
        first.url, sent, connections=connections, seconds=_FINDING_S, timeout_s=_REPLY_S
    )
    return result.succeeded_per_s


def _turns(
    each: Stage, sent: Sequence[bytes], pace: Pace, rate: float, number: int
) -> Iterator[_Turn]:
    loops: dict[Loop, Callable[[], Result]] = {
        "open": lambda: open_loop.run(
            each.url, sent, rate=rate, seconds=pace.seconds, seed=pace.seed + number,
            late_share=_LATE_SHARE, timeout_s=_REPLY_S,
        ),
        "closed": lambda: closed_loop.run(
            each.url, sent, connections=pace.connections, seconds=pace.seconds, timeout_s=_REPLY_S
        ),
    }  # fmt: skip
    for loop, drive in loops.items():
        each.settle()
        before = each.cpu_s()
        with each.turn():
            result = drive()
        yield _Turn(number, loop, result, each.cpu_s() - before)


def _row(variant: str, loop: Loop, ours: Sequence[_Turn], plain: Sequence[_Turn]) -> Row:
    turns = [each for each in ours if each.loop == loop]
    base = {each.round: each.result.latency for each in plain if each.loop == loop}
    pairs = [
        (each.result.latency, other)
        for each in turns
        if each.result.latency and (other := base.get(each.round))
    ]
    requests = sum(each.result.requests for each in turns)
    known = [each.result.latency for each in turns if each.result.latency]
    return Row(
        variant=variant,
        loop=loop,
        requests=requests,
        failed=sum(each.result.errors for each in turns),
        per_s=round(statistics.fmean(each.result.succeeded_per_s for each in turns), 1),
        cpu_us=round(sum(each.cpu_s for each in turns) / max(1, requests) * _MICRO, 1),
        latencies={
            percent: round(statistics.median(of(each, percent) for each in known), 3)
            for percent in PERCENTS
            if known
        },
        ratios={
            percent: ratio(
                [of(one, percent) for one, _ in pairs], [of(other, percent) for _, other in pairs]
            )
            for percent in PERCENTS
            if pairs
        },
    )


def _candidate(each: Stage) -> Candidate:
    each.settle()
    before, after = each.memory()
    return Candidate(each.variant.name, each.shown(), before, after)

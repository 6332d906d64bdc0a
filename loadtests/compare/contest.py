"""Everybody in turn on the same machine: the ceiling, ours, the ceiling, a peer, the ceiling, ...

Each system has the machine to itself but for the generator, is warmed up, checked on a sample, and
loaded for the same time. A peer that cannot be installed or does not serve is a line in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from gateway import cores
from gateway.errors import StageFailed
from loadtests import closed_loop, open_loop
from loadtests.bodies import groups
from loadtests.compare.ceiling import BATCH, Bench, Ceiling
from loadtests.compare.contestants import Contestant, Labels
from loadtests.compare.figures import Agreement, Comparison, Load, Steady, System
from loadtests.compare.serving import Serving, serving
from loadtests.tally import Result

CONNECTIONS = (1, 16, 64)  # one caller, a few, saturation
RATE = 1000.0  # requests/s of the open loop

_MANY_CONNECTIONS = 4  # with requests of BATCH texts: enough for two batches on each of two cores
_WARM_CONNECTIONS = 16
_CHECK_S = 600.0  # the count ends a check; only a hang lasts so long
_WARM_S = 1.0  # at most
_REPLY_S = 60.0  # a server on a busy machine may stand still for seconds; only a hang takes so long
_SAMPLE = 320  # replies that are checked, ten requests of BATCH texts
_CEILING_SHARE = 0.25  # of the time of a load: two of them around each system
_MICRO = 1_000_000  # microseconds in a second

Tell = Callable[[str], None]


def compare(
    bundle: Path,
    texts: Sequence[str],
    contestants: Sequence[Contestant],
    *,
    seconds: float,
    rate: float = RATE,
    tell: Tell = lambda _line: None,
) -> Comparison:
    """Measure all of them, each load for so many seconds. `tell` hears what is going on."""
    workers = cores.available()
    bench = Bench(bundle, texts, threads=workers)
    labels = bench.labels()
    tell("ceiling")
    ceilings = [bench.ceiling(seconds * _CEILING_SHARE)]
    systems = []
    for contestant in contestants:
        tell(contestant.name)
        try:
            with serving(contestant, bundle, workers) as server:
                round_ = _Round(server, bench.texts, labels, seconds)
                system = round_.measure(contestant, rate)
        except StageFailed as error:
            systems.append(System(contestant.name, contestant.setup, failure=str(error)))
            continue
        tell("ceiling")
        ceilings.append(bench.ceiling(seconds * _CEILING_SHARE))
        systems.append(_against(system, ceilings[-2], ceilings[-1]))
    return Comparison(
        bundle=str(bundle),
        cores=workers,
        texts=len(bench.texts),
        left_out=bench.left_out,
        seconds=seconds,
        ceilings=ceilings,
        systems=systems,
    )


class _Round:
    """The measurements of one server that runs."""

    def __init__(
        self, server: Serving, texts: Sequence[str], labels: Sequence[Labels], seconds: float
    ) -> None:
        self._server = server
        self._seconds = seconds
        dialect = server.dialect
        self._single = [dialect.body([text]) for text in texts]
        self._many = [dialect.body(group) for group in groups(texts, BATCH)]
        self._single_labels = [[each] for each in labels]
        self._many_labels = groups(labels, BATCH)

    def measure(self, contestant: Contestant, rate: float) -> System:
        """Warm up, check, load; the open loops for ours alone."""
        self._closed(self._single, _WARM_CONNECTIONS, min(_WARM_S, self._seconds))
        agreement = (
            self._agreement(self._single, self._single_labels, _SAMPLE),
            self._agreement(self._many, self._many_labels, _SAMPLE // BATCH),
        )
        loads = [self._load(connections) for connections in CONNECTIONS]
        system = System(
            contestant.name,
            contestant.setup,
            ready_s=round(self._server.ready_s, 2),
            agreement=agreement,
            loads=loads,
            many=self._load(_MANY_CONNECTIONS, rows=BATCH),
            pss_mb=round(self._server.tree.pss_mb(), 1),
        )
        if not contestant.ours:
            return system
        half = max(1.0, loads[-1].texts_per_s / 2)
        return replace(system, steady=[self._steady(half), self._steady(rate)])

    def _load(self, connections: int, *, rows: int = 1) -> Load:
        bodies = self._single if rows == 1 else self._many
        before = self._server.tree.cpu_s()
        result = self._closed(bodies, connections, self._seconds)
        busy = self._server.tree.cpu_s() - before
        return Load(
            connections=connections,
            rows=rows,
            texts_per_s=round(result.succeeded_per_s * rows, 1),
            ratio=0.0,
            latency=result.latency,
            cpu_us=round(busy / max(1, result.requests) * _MICRO, 1),
            requests=result.requests,
            errors=result.errors,
        )

    def _agreement(
        self, bodies: Sequence[bytes], labels: Sequence[Sequence[Labels]], count: int
    ) -> Agreement:
        """Ask side by side, so that what batching changes is seen."""
        said: list[bool] = []
        read = self._server.dialect.labels

        def check(number: int, body: bytes) -> bool:
            right = _labels(read, body) == list(labels[number])
            said.append(right)
            return right

        closed_loop.run(
            self._server.url,
            bodies,
            connections=_MANY_CONNECTIONS,
            seconds=_CHECK_S,
            count=count,
            headers=self._server.headers,
            check=check,
            timeout_s=_REPLY_S,
        )
        return Agreement(asked=count, answered=len(said), equal=sum(said))

    def _steady(self, rate: float) -> Steady:
        result = open_loop.run(
            self._server.url,
            self._single,
            rate=rate,
            seconds=self._seconds,
            headers=self._server.headers,
            timing=True,
            timeout_s=_REPLY_S,
        )
        return Steady(
            per_s=round(rate, 1),
            latency=result.latency,
            errors=result.errors,
            overhead=result.overhead,
            late_share=result.punctuality.late_share if result.punctuality else 0.0,
            refusal=result.refusal,
        )

    def _closed(self, bodies: Sequence[bytes], connections: int, seconds: float) -> Result:
        server = self._server
        return closed_loop.run(
            server.url,
            bodies,
            connections=connections,
            seconds=seconds,
            headers=server.headers,
            timeout_s=_REPLY_S,
        )


def _labels(read: Callable[[Any], list[Labels]], body: bytes) -> list[Labels] | None:
    """The labels of a reply; None where it has not the expected shape."""
    try:
        return read(orjson.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _against(system: System, before: Ceiling, after: Ceiling) -> System:
    """The system with each throughput as a share of the ceiling around it."""
    ceiling = Ceiling(
        single=round((before.single + after.single) / 2, 1),
        batched=round((before.batched + after.batched) / 2, 1),
    )

    def share(load: Load) -> Load:
        return replace(load, ratio=round(load.texts_per_s / ceiling.best, 3))

    return replace(
        system,
        ceiling=ceiling,
        loads=[share(load) for load in system.loads],
        many=system.many and share(system.many),
    )

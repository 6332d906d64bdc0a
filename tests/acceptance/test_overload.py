"""More than can be served: what is let in is served, the rest is refused quickly."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import orjson
import pytest

from loadtests import closed_loop, open_loop
from loadtests.compare.tree import Tree
from loadtests.tally import Latency
from tests.acceptance.conftest import Served
from tests.acceptance.process import TIMEOUT_S, Process
from tests.patience import until

pytestmark = pytest.mark.acceptance

_PROBE_S = 0.1  # between two looks at liveness
_SHED = 'understudy_shed_total{reason="overloaded"}'


def test_what_finds_no_room_is_told_so_and_the_gateway_stays_alive(served: Served) -> None:
    process = served.start(student={"queue": 256, "workers": 1, "max_wait_ms": 1})
    bodies = [orjson.dumps({"inputs": [served.texts[0]] * 64})]
    # The student has 64 texts at most, four more requests wait, and 19 of the clients are refused.
    with probed(process) as seconds, halted(process):
        result = closed_loop.run(
            f"{process.url}/v1/predict",
            bodies,
            connections=24,
            seconds=TIMEOUT_S,
            count=400,
            timeout_s=TIMEOUT_S,
        )
    assert set(result.statuses) == {200, 429}
    assert result.codes == {"overloaded": result.statuses[429]}
    assert result.failures == {}
    assert seconds
    assert process.metric(_SHED) == result.statuses[429]
    assert process.post({"input": served.texts[0]}).status_code == 200


@pytest.mark.soak
def test_three_times_saturation_for_a_minute(served: Served) -> None:
    # The default of the gateway, which is to be seen here: other tests let requests wait.
    student = {"max_wait_ms": 500}
    process = served.start(student=student, audit={"share": 0.0}, policy={"threshold": 0.0})
    url = f"{process.url}/v1/predict"
    bodies = [orjson.dumps({"input": text}) for text in served.texts]
    tree = Tree(process.pid)
    closed_loop.run(url, bodies, connections=64, seconds=3, processes=1)  # warm
    full = closed_loop.run(url, bodies, connections=64, seconds=10, processes=1)
    before_mb = tree.pss_mb()
    normal = open_loop.run(url, bodies, rate=full.succeeded_per_s * 0.3, seconds=5)
    with probed(process) as seconds:
        over = open_loop.run(
            url,
            bodies,
            rate=3 * full.succeeded_per_s,
            seconds=60,
            connections=1000,  # with the probe below the bound of one address
            processes=1,  # as few as can: they take the cores that the gateway needs
            late_ms=1000.0,  # the generator shares the cores; what counts is what was offered
            late_share=1.0,
        )
    grown_mb = tree.pss_mb() - before_mb
    time.sleep(5)
    after = open_loop.run(url, bodies, rate=full.succeeded_per_s * 0.3, seconds=5)
    refused = over.since_sent[429]  # a generator on the same cores runs behind its own schedule
    probes = Latency.of(seconds)
    assert normal.latency
    assert after.latency
    assert probes
    print(f"saturation {full.succeeded_per_s:.0f}/s, offered {over.sent_per_s:.0f}/s")  # noqa: T201
    print(f"goodput {over.succeeded_per_s / full.succeeded_per_s:.1%} of it")  # noqa: T201
    print(f"refusals p95 {refused.p95} ms, liveness p99 {probes.p99} ms")  # noqa: T201
    print(f"memory {before_mb:.0f} MB, {grown_mb:+.1f}")  # noqa: T201
    print(f"p95 before {normal.latency.p95} ms, after {after.latency.p95} ms")  # noqa: T201
    assert set(over.statuses) <= {200, 429}
    assert over.succeeded_per_s >= 0.85 * full.succeeded_per_s
    assert refused.p95 <= 25
    assert grown_mb <= 0.2 * before_mb
    assert probes.p99 <= 200
    assert after.errors == 0
    assert after.latency.p95 <= 2 * normal.latency.p95


@contextmanager
def halted(process: Process) -> Iterator[None]:
    """The student stands still until somebody is refused."""
    (student,) = Tree(process.pid).running("gateway.students.process")
    os.kill(student, signal.SIGSTOP)

    def release() -> None:
        try:
            until(lambda: over.is_set() or process.metric(_SHED) > 0)
        finally:
            os.kill(student, signal.SIGCONT)

    over = threading.Event()
    thread = threading.Thread(target=release)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def probed(process: Process) -> Iterator[list[float]]:
    """Ask for liveness all the while, on a connection of its own; gives the seconds it took."""
    seconds: list[float] = []
    over = threading.Event()

    def probe() -> None:
        with httpx2.Client(timeout=TIMEOUT_S) as client:
            while not over.wait(_PROBE_S) or not seconds:
                started = time.monotonic()
                assert client.get(f"{process.url}/livez").status_code == 200
                seconds.append(time.monotonic() - started)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield seconds
    finally:
        over.set()
        thread.join()

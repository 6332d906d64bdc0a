"""What a gateway holds and does when it has run for long, and when nobody asks."""

from __future__ import annotations

import time
from itertools import cycle, islice

import orjson
import pytest

from loadtests import closed_loop
from loadtests.compare.tree import Tree
from tests.acceptance.conftest import Served

pytestmark = pytest.mark.acceptance

WINDOWS = 20  # of which one finds nothing left to do: the first, if the machine is not busy


def test_nobody_asks_and_nothing_is_done(served: Served) -> None:
    # What starting left to do comes to an end, on however slow a core; what is done again and again
    # would not.
    tree = Tree(served.start().pid)
    shares = (idle_share(tree, seconds=4.0) for _ in range(WINDOWS))
    assert any(share < 0.05 for share in shares)


@pytest.mark.soak
def test_an_idle_gateway_uses_no_processor(served: Served) -> None:
    share = idle_share(Tree(served.start().pid), seconds=30.0)
    print(f"idle: {share:.2%} of a core")  # noqa: T201
    assert share < 0.01


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_three_hundred_thousand_requests_leave_memory_as_it_was(served: Served) -> None:
    process = served.start(audit={"share": 0.0}, policy={"threshold": 0.0})
    lengths = (1, 3, 8, 20)  # sentences in a text, by turns
    bodies = [
        orjson.dumps({"input": " ".join(islice(cycle(served.texts), place, place + length))})
        for place, length in zip(range(len(served.texts)), cycle(lengths), strict=False)
    ]
    url = f"{process.url}/v1/predict"
    for connections in (1, 64, 16):  # to warm up: every length, and every size of a batch
        closed_loop.run(url, bodies, connections=connections, seconds=60, count=10_000)
    tree = Tree(process.pid)  # the students run in processes of their own
    before = tree.pss_mb()
    result = closed_loop.run(url, bodies, connections=32, seconds=1500, count=300_000)
    grown = tree.pss_mb() - before
    print(f"{result.succeeded} requests: {before:.1f} MB, {grown:+.1f} MB")  # noqa: T201
    assert result.statuses == {200: 300_000}
    assert grown <= 5.0


def idle_share(tree: Tree, *, seconds: float) -> float:
    """The share of a core that is used while nothing is asked."""
    time.sleep(0.5)  # what starting left to do
    before = tree.cpu_s()
    time.sleep(seconds)
    return (tree.cpu_s() - before) / seconds

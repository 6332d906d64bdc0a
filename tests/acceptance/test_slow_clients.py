"""Clients that hold connections and send nothing more: others do not notice them."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from loadtests import open_loop
from loadtests.tally import Result
from tests.acceptance.conftest import Starter
from tests.acceptance.process import TIMEOUT_S, Process
from tests.factories import CONFIDENT
from tests.patience import until

pytestmark = pytest.mark.acceptance

HALVES = (
    b"POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-",
    b'POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-length: 30\r\n\r\n{"input": "pl',
)
BODY = b'{"input": "%s"}' % CONFIDENT.encode()
# For a request to be whole: above what a machine that is busy takes from who means to be fast, and
# above what a gateway gives by default.
RECEIPT_S = 20.0
SLOW = 60  # clients


class SlowClients:
    """So many connections, each with half a request; a thread notes how each one ends."""

    def __init__(self, url: str, count: int) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []  # from before connecting to being closed, by connection
        self._began: dict[socket.socket, float] = {}
        for number in range(count):
            began = time.monotonic()
            client = socket.create_connection((host, int(port)))
            self._began[client] = began
            client.sendall(HALVES[number % len(HALVES)])
        self._watch = threading.Thread(target=self._note_ends)
        self._watch.start()

    def ended(self) -> None:
        """Wait until every one is closed."""
        self._watch.join()

    def _note_ends(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in self._began:
                selector.register(each, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(TIMEOUT_S):
                    client = key.fileobj
                    assert isinstance(client, socket.socket)
                    said = client.recv(4096)
                    if said:
                        self.statuses[said.split(maxsplit=2)[1].decode()] += 1
                        continue
                    self.seconds.append(time.monotonic() - self._began[client])
                    selector.unregister(client)
                    client.close()


@pytest.fixture
def normal(start: Starter) -> Process:
    """A gateway that is patient for as long as it is by default."""
    return start()


def test_slow_clients_are_told_and_closed_and_others_are_answered(start: Starter) -> None:
    process = start(server={"receipt_s": RECEIPT_S})
    files = _open_files(process)
    slow = SlowClients(process.url, SLOW)
    for _ in range(20):  # each on a connection of its own
        assert process.ask(CONFIDENT)["route"] == "student"
    slow.ended()
    assert slow.statuses == {"408": SLOW}
    assert min(slow.seconds) > RECEIPT_S - 0.1  # a gateway's clock ticks in milliseconds
    assert process.metric('understudy_connections_cut_total{cause="receipt"}') == SLOW
    # All of them are gone; some file of its own the gateway may have opened since.
    until(lambda: _open_files(process) < files + SLOW / 2)


@pytest.mark.soak
def test_five_hundred_slow_clients_do_not_slow_the_others(normal: Process) -> None:
    alone = _load(normal, rate=200, seconds=6)
    slow = SlowClients(normal.url, 500)
    beside = _load(normal, rate=200, seconds=12)  # all of their time, and their end
    slow.ended()
    assert alone.latency is not None, alone.refusal
    assert beside.latency is not None, beside.refusal
    print(f"p95 alone {alone.latency.p95} ms, beside {beside.latency.p95} ms,")  # noqa: T201
    print(f"the last one closed after {max(slow.seconds):.2f} s")  # noqa: T201
    assert beside.statuses == {200: 2400}
    assert slow.statuses == {"408": 500}
    assert max(slow.seconds) <= 11
    assert beside.latency.p95 <= 2 * alone.latency.p95


def _load(process: Process, *, rate: float, seconds: float) -> Result:
    return open_loop.run(
        f"{process.url}/v1/predict",
        [BODY],
        rate=rate,
        seconds=seconds,
        connections=16,
        arrivals=open_loop.Arrivals.CONSTANT,
        late_share=1.0,  # other tests may hold the machine; what counts is who was answered
    )


def _open_files(process: Process) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))

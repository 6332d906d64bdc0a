"""What tests with several processes share: waiting for the other one, and ports for it."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

_LOOK_S = 0.02  # between two looks: a core is not spent on waiting for another process
# Below those that Linux gives to whoever connects (ip_local_port_range): one of these may be gone
# before a test has used it.
_PORTS = range(10_000, 30_000, 2)
_chance = random.SystemRandom()  # processes of tests that start at once are to choose differently


def until(happened: Callable[[], bool]) -> None:
    """Wait for what another process does in its own time; a test's time limit ends it."""
    while not happened():
        time.sleep(_LOOK_S)


def two_free_ports() -> int:
    """The first of two neighbouring ports that are free."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            port = _chance.choice(_PORTS)
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port

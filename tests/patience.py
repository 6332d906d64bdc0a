"""What tests with several processes share: waiting for the other one, and ports for it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

_LOOK_S = 0.02  # between two looks: a core is not spent on waiting for another process


def until(happened: Callable[[], bool]) -> None:
    """Wait for what another process does in its own time; a test's time limit ends it."""
    while not happened():
        time.sleep(_LOOK_S)


def two_free_ports() -> int:
    """The first of two neighbouring ports that are free."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port

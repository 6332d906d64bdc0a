"""What tests share that wait for another process, thread or task: patience, and free ports."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable

# Far above what anything takes, and below a test's own time limit (pyproject.toml): that one cannot
# end a wait in another thread, and of an event loop it may end no more than a task beside the wait.
LIMIT_S = 400.0
_LOOK_S = 0.02  # between two looks: a core is not spent on waiting for another process
# Below those that Linux gives to whoever connects (ip_local_port_range): one of these may be gone
# before a test has used it.
_PORTS = range(10_000, 30_000, 2)
_chance = random.SystemRandom()  # processes of tests that start at once are to choose differently


def until(happened: Callable[[], bool]) -> None:
    """Wait for what another process does in its own time, for LIMIT_S at most."""
    end = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < end, f"it has not happened in {LIMIT_S:g} s"
        time.sleep(_LOOK_S)


async def eventually(happened: Callable[[], bool], *, look_s: float = 0.0) -> None:
    """Let the event loop go on until then, for LIMIT_S at most; a look every `look_s`."""
    async with asyncio.timeout(LIMIT_S):
        while not happened():  # noqa: ASYNC110  what is looked at sets no event
            await asyncio.sleep(look_s)


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

"""Runs the app in this process: binds, opens the gateway, serves, drains, leaves.

On SIGTERM or SIGINT the gateway says that it is not ready, goes on serving for `drain_delay_s`,
then stops accepting, finishes what is in flight, stores its records and ends with status 0. A
second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn
import uvloop

from gateway.app import build_app
from gateway.assembly import Gateway, open_gateway
from gateway.errors import SettingsError
from gateway.settings import ServerSettings, Settings
from gateway.telemetry import logs

_KEEP_ALIVE_S = 30  # an idle connection of a client pool outlives the pauses between its requests
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(settings: Settings, *, on_ready: Callable[[str], None] | None = None) -> int:
    """Serve until a signal; returns the exit status. `on_ready` is given the URL.

    Raises SettingsError when the address cannot be bound, and what opening the gateway raises.
    """
    logging = settings.logging
    as_json = logging.format == "json" or (logging.format == "auto" and not sys.stderr.isatty())
    logs.configure(logging.level, json=as_json)
    listener = bind(settings.server)
    with contextlib.closing(listener):
        uvloop.run(_serve(settings, listener, on_ready or (lambda _url: None)))
    return 0


def bind(server: ServerSettings) -> socket.socket:
    """Take the address, without listening yet. Raises SettingsError."""
    host, port = server.host, server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unusable(server, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _unusable(server, error) from error
    return listener


async def _serve(
    settings: Settings, listener: socket.socket, on_ready: Callable[[str], None]
) -> None:
    async with open_gateway(settings) as gateway:
        url = _url(listener)

        def ready() -> None:
            sys.stdout.write(f"understudy: ready on {url} (tasks: {', '.join(gateway.tasks)})\n")
            sys.stdout.flush()
            on_ready(url)

        server = _Server(gateway, ready)
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, server.leave, number)
        await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, with our own manner of leaving: its own would end in the signal's exit status."""

    def __init__(self, gateway: Gateway, ready: Callable[[], None]) -> None:
        settings = gateway.settings.server
        super().__init__(
            uvicorn.Config(
                build_app(gateway),
                http="httptools",
                ws="none",
                lifespan="off",  # the gateway is open before and after
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
            )
        )
        self._gateway = gateway
        self._ready = ready
        self._drain_delay = settings.drain_delay_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then say so. Raises SettingsError."""
        try:
            await super().startup(sockets)
        except OSError as error:  # two that start at once both bind, and only one may listen
            raise _unusable(self._gateway.settings.server, error) from error
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The event loop takes the signals."""
        yield

    def leave(self, number: int) -> None:
        """The first signal starts the drain, the second ends the process."""
        if self._gateway.draining:
            os._exit(128 + number)  # what a shell calls "ended by this signal"
        self._gateway.draining = True
        asyncio.get_running_loop().call_later(self._drain_delay, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _unusable(server: ServerSettings, error: OSError) -> SettingsError:
    return SettingsError(
        f"server.host {server.host!r}, server.port {server.port}: {error.strerror}",
        mend="stop what listens there, or choose another with --port; 0 takes a free one",
    )

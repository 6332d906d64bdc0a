"""Runs the app in this process: binds, opens the gateway, serves, drains, leaves.

On SIGTERM or SIGINT the gateway says that it is not ready and makes each reply the last one of its
connection, goes on serving for `drain_delay_s`, then stops accepting, finishes what is in flight,
stores its records and ends with status 0. A second signal ends the process at once.

On SIGHUP the gateway reads its settings again.

A replica that can no longer answer leaves by itself, with status 1: its listener would go on being
given its share of the connections. Whoever started it starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import structlog
import uvicorn
import uvloop

from gateway.address import BACKLOG, bind, listen, unusable, url_of
from gateway.api.receipt import Connection, Door
from gateway.app import Shell, build_admin, build_app
from gateway.assembly import Gateway, Read, open_gateway
from gateway.process import configure_logs, ease_interpreter, raise_file_limit, say_ready
from gateway.reload import Hangup
from gateway.settings import Settings

_KEEP_ALIVE_S = 30  # an idle connection of a client pool outlives the pauses between its requests
_TICKS = 10  # of uvicorn, between two looks at the workers: a second
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger(__name__)


def serve(
    settings: Settings,
    *,
    read: Read | None = None,
    replica: int | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """Serve until a signal; returns the exit status. `on_ready` is given the URL.

    `read` gives the settings again, for a reload. `replica` numbers a process that shares its
    address with others, from 0. Raises SettingsError when an address cannot be bound, and what
    opening the gateway raises.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing to reload yet; it would end the process
    configure_logs(settings)
    raise_file_limit()
    ease_interpreter()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(settings.server, shared=replica is not None))
        place = settings.admin_of(replica or 0)
        admin = stack.enter_context(listen(place, name="admin")) if place else None
        told = on_ready or (lambda _url: None)
        return uvloop.run(_serve(settings, listener, told, admin, read=read, replica=replica))


async def _serve(
    settings: Settings,
    listener: socket.socket,
    on_ready: Callable[[str], None],
    admin: socket.socket | None = None,
    *,
    read: Read | None = None,
    replica: int | None = None,
) -> int:
    """Serve in this event loop; returns the exit status."""
    opened = open_gateway(settings, read=read, replica=replica)
    async with opened as gateway, _administered(gateway, admin):
        url = url_of(listener)

        def ready() -> None:
            say_ready(url, ", ".join(gateway.tasks))
            on_ready(url)

        server = _Server(gateway, build_app(gateway), ready, one_of_many=replica is not None)
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, server.leave, number)
        loop.add_signal_handler(signal.SIGHUP, Hangup(gateway))
        await server.serve(sockets=[listener])
        return server.status


@contextlib.asynccontextmanager
async def _administered(gateway: Gateway, listener: socket.socket | None) -> AsyncIterator[None]:
    """Serve metrics and administration at an address of their own, until all else has ended."""
    if listener is None:
        yield
        return
    server = _Server(gateway, build_admin(gateway))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    _log.info("metrics and administration are apart", url=url_of(listener))
    try:
        yield
    finally:
        server.stop()
        await serving


class _Server(uvicorn.Server):
    """uvicorn, with our own manner of leaving: its own would end in the signal's exit status."""

    def __init__(
        self,
        gateway: Gateway,
        app: Shell,
        ready: Callable[[], None] = lambda: None,
        *,
        one_of_many: bool = False,
    ) -> None:
        self.status = 0  # with which the process is to end
        self._one_of_many = one_of_many
        settings = gateway.settings.server
        self._door = Door(settings, gateway.metrics.cut, app.refuse)
        super().__init__(
            uvicorn.Config(
                app,
                http=self._door.connect,  # type: ignore[arg-type]  # it is only ever called
                ws="none",
                lifespan="off",  # the gateway is open before and after
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
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
            raise unusable(self._gateway.settings.server, "server", error) from error
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """What uvicorn does ten times a second. A replica looks whether it can still answer."""
        looks = self._one_of_many and counter % _TICKS == 0 and not self.should_exit
        if looks and not self._gateway.alive:
            _log.error("a worker has ended, and this replica leaves")
            self.status = 1
            self.stop()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in who has connected already, then close the door and finish."""
        for listener in sockets or ():
            await self._take_waiting(listener)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The event loop takes the signals."""
        yield

    def leave(self, number: int) -> None:
        """The first signal starts the drain, the second ends the process."""
        if self._gateway.draining:
            os._exit(128 + number)  # what a shell calls "ended by this signal"
        self._gateway.draining = True
        self._door.drain()
        asyncio.get_running_loop().call_later(self._drain_delay, self.stop)

    def stop(self) -> None:
        """Stop accepting, and finish what is in flight."""
        self._door.drain()
        self.should_exit = True

    async def _take_waiting(self, listener: socket.socket) -> None:
        """Accept every connection that the kernel has made for us: closing would reset them.

        It ends without giving way to the event loop, so that between the last look and the closing
        there are only microseconds.
        """
        loop = asyncio.get_running_loop()
        for _ in range(BACKLOG):  # those that may wait; more come only as fast as these are taken
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return  # nobody waits
            except OSError:
                continue  # one of them has gone; the others still wait
            connection.setblocking(False)
            await loop.connect_accepted_socket(self._connect, connection)

    def _connect(self) -> Connection:
        return self._door.connect(self.config, self.server_state, self.lifespan.state)

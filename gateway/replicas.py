"""Several gateways at one address: a parent that starts them, watches them and leaves with them.

Each replica is `understudy serve --replica NUMBER` in a process of its own and listens at the same
address, between whose listeners the kernel shares connections out. The parent holds the address,
passes signals on, starts again what has died, and answers nothing itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

import structlog
import uvloop

from gateway.address import bind, listen, url_of
from gateway.process import configure_logs, raise_file_limit, say_ready
from gateway.settings import ServerSettings, Settings

_LEAVE = (signal.SIGTERM, signal.SIGINT)
# Exit statuses of who is ended by these; a command line makes the latter of Ctrl+C (bash(1)).
_LEFT_EARLY = {*(-number for number in _LEAVE), *(128 + number for number in _LEAVE)}
_FIRST_PAUSE_S = 0.5  # before a dead replica is started again: most deaths do not repeat
_LONGEST_PAUSE_S = 30.0  # a replica that cannot live costs a start this often
_SOUND_S = 60.0  # one that lived so long starts with the first pause again
_NOT_STARTED = 1  # the exit status of a process that could not be started
_TASKS = re.compile(r"understudy: ready on \S+ \(tasks: (.+)\)\n")
_PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent dies

_log = structlog.get_logger(__name__)


def serve(settings: Settings, command: Sequence[str]) -> int:
    """Serve with several replicas until a signal; returns the exit status.

    `command` starts a gateway with the same settings; options are added to it. Raises SettingsError
    when the address cannot be taken.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is somebody to pass it on to
    configure_logs(settings)
    raise_file_limit()
    with contextlib.closing(_hold(settings.server)) as held:
        address = ("--port", str(held.getsockname()[1]))
        replicas = [
            _Replica(number, [*command, *address, "--replica", str(number)])
            for number in range(settings.server.replicas)
        ]
        return uvloop.run(_Parent(replicas, url_of(held)).serve())


def _hold(server: ServerSettings) -> socket.socket:
    """Take the address for those who will listen there. Raises SettingsError.

    Who asks to share an address gets it from every other that shares it, also from another
    gateway: so it is first taken alone. A free port is one that nobody shares, and between two
    takings it could go to somebody else.
    """
    if server.port:
        listen(server, name="server").close()
    return bind(server, shared=True)


class _Replica:
    """One process that serves, and its successors."""

    def __init__(self, number: int, command: Sequence[str]) -> None:
        self.number = number
        self.tasks = ""  # as its ready line names them
        self.ready = asyncio.Event()  # once, for its first process
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._hears = False  # its process is ready, so that a hang-up means a reload to it
        self._behind = False  # it has missed a reload while it started

    async def keep(self, leaving: asyncio.Event) -> int:
        """Run it until the parent leaves; returns its last exit status.

        One that was never ready is not started again: what is wrong with it is wrong with all.
        """
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE_S
        while True:
            started = loop.time()
            status = await self._run(leaving)
            if leaving.is_set() or not self.ready.is_set():
                return status
            if loop.time() - started > _SOUND_S:
                pause = _FIRST_PAUSE_S
            _log.error("a replica has ended", replica=self.number, status=status, pause_s=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(leaving.wait(), pause)
                return 0  # nothing runs, so nothing is lost by leaving
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def tell(self, number: int) -> None:
        """Pass a signal on."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    def reload(self) -> None:
        """Have it read its settings again, once it is ready: before, a hang-up would end it."""
        self._behind = not self._hears
        if self._hears:
            self.tell(signal.SIGHUP)

    async def _run(self, leaving: asyncio.Event) -> int:
        """One process, from its start to its end."""
        self._behind = False
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # a terminal's Ctrl+C reaches the parent alone, once
                preexec_fn=_end_with_parent,
            )
        except (OSError, subprocess.SubprocessError) as error:  # no memory, no room for a process
            _log.error("a replica cannot be started", replica=self.number, error=str(error))
            return _NOT_STARTED
        if leaving.is_set():  # the signal came while it was being started
            self.tell(signal.SIGTERM)
        assert process.stdout is not None  # noqa: S101  it was asked for
        said = _TASKS.fullmatch((await process.stdout.readline()).decode())
        if said is not None:
            self.tasks = said[1]
            self.ready.set()
            _log.info("a replica is ready", replica=self.number, pid=process.pid)
            self._hears = True
            if self._behind:
                self.reload()
        await process.communicate()
        self._hears = False
        status = process.returncode or 0
        if said is None and leaving.is_set() and status in _LEFT_EARLY:
            return 0  # it was told to leave before it could hear of it: it answered nobody
        return status


class _Parent:
    """Starts the replicas, waits, and gives the exit status of all of them."""

    def __init__(self, replicas: Sequence[_Replica], url: str) -> None:
        self._replicas = replicas
        self._url = url
        self._leaving = asyncio.Event()

    async def serve(self) -> int:
        """Run until all have ended."""
        loop = asyncio.get_running_loop()
        for number in _LEAVE:
            loop.add_signal_handler(number, self._leave, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        # The first one alone: it may have to migrate the database, and a mistake is told once.
        kept = await self._start(self._replicas[:1])
        if not self._leaving.is_set():
            kept += await self._start(self._replicas[1:])
        if not self._leaving.is_set():
            say_ready(self._url, self._replicas[0].tasks)
        statuses = await asyncio.gather(*kept)
        return next((_exit_status(each) for each in statuses if each), 0)

    async def _start(self, replicas: Sequence[_Replica]) -> list[asyncio.Task[int]]:
        """Start them, and wait until all are ready; if one never will be, all leave."""
        kept = [asyncio.create_task(each.keep(self._leaving)) for each in replicas]
        ready = asyncio.create_task(_all(replicas))
        await asyncio.wait([ready, *kept], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            self._leaving.set()
            self._pass_on(signal.SIGTERM)
        return kept

    def _leave(self, number: int) -> None:
        """The first signal drains every replica, the second ends all at once."""
        self._pass_on(number)
        if self._leaving.is_set():
            os._exit(128 + number)
        self._leaving.set()

    def _reload(self) -> None:
        for replica in self._replicas:
            replica.reload()

    def _pass_on(self, number: int) -> None:
        for replica in self._replicas:
            replica.tell(number)


async def _all(replicas: Sequence[_Replica]) -> None:
    for each in replicas:
        await each.ready.wait()


def _exit_status(status: int) -> int:
    """As a shell has it: what a signal ended has 128 and the signal's number."""
    return 128 - status if status < 0 else status


def _end_with_parent() -> None:
    """In the child, before its program: drain when the parent has died, however it died."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

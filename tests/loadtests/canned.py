"""A server that says what a test tells it to, byte by byte: for replies no real server would give.

One thread serves all connections, so that a reply which takes its time keeps everybody waiting.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

OK = b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"labels": 1}'

Say = Callable[[int], "Said"]  # number of the request, from 0 on -> what to do about it


@dataclass(frozen=True, slots=True)
class Said:
    """Pieces that are sent one by one, after a stall in seconds; then the connection may close."""

    pieces: Sequence[bytes] = (OK,)
    stall_s: float = 0.0
    close: bool = False


@contextmanager
def canned(say: Say) -> Iterator[str]:
    """Serve on a free port; yields the URL."""
    started = threading.Event()
    loop = asyncio.new_event_loop()
    server = _Canned(say)

    def run() -> None:
        loop.run_until_complete(server.listen())
        started.set()
        loop.run_forever()
        loop.run_until_complete(server.leave())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{server.port}/v1/predict"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


class _Canned:
    def __init__(self, say: Say) -> None:
        self._say = say
        self._count = 0
        self.port = 0

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def leave(self) -> None:
        self._server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._asked(reader):
                said = self._say(self._count)
                self._count += 1
                time.sleep(said.stall_s)  # noqa: ASYNC251  it is meant to stop everything
                for piece in said.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)  # so that pieces may leave one by one
                if said.close:
                    break
        writer.close()

    async def _asked(self, reader: asyncio.StreamReader) -> bool:
        """Read one request; False at the end of the connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        return True

"""A server that sends just the bytes that a test wants, however wrong, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Act = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Raw:
    """What the server has seen: the head and the body of each request, and its connections."""

    url: str
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # a client has left


def reply(
    body: bytes, *headers: str, status: str = "200 OK", kind: str = "application/json"
) -> bytes:
    """A well-formed HTTP response."""
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def says(*replies: bytes, close: bool = False) -> Act:
    """Send these bytes, the first to the first request; the last also to all that follow."""
    waiting: list[bytes] = list(replies)

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(waiting.pop(0) if len(waiting) > 1 else waiting[0])
        await writer.drain()
        if close:
            writer.close()

    return act


async def hangs(writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
    """Never answer."""
    await asyncio.Event().wait()


def repeats(head: bytes, part: bytes) -> Act:
    """Send a head, and then a part again and again until the client has gone."""

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(part)
            await writer.drain()

    return act


@asynccontextmanager
async def serving(
    act: Act, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Raw]:
    """A server that does this for each request, on a free port."""
    raw = Raw("")
    connected: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw.connections += 1
        task = asyncio.current_task()
        assert task is not None
        connected[task] = writer
        left = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*left):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                raw.heads.append(head)
                raw.bodies.append(await reader.readexactly(_length(head.splitlines())))
                await act(writer)
        raw.gone.set()
        writer.close()

    server = await asyncio.start_server(connection, host, 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    scheme = "https" if tls else "http"
    raw.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        yield raw
    finally:
        server.close()
        for task, writer in connected.items():
            task.cancel()
            writer.transport.abort()
        leaving = [writer.wait_closed() for writer in connected.values()]
        await asyncio.gather(*connected, *leaving, return_exceptions=True)


def _length(lines: Sequence[str]) -> int:
    (value,) = [line.split(":")[1] for line in lines if line.lower().startswith("content-length")]
    return int(value)

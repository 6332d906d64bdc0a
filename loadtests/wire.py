"""HTTP/1.1 as a load generator needs it: prebuilt requests out, replies in, over epoll.

One process on one of the server's own cores must cost as little as it can, so there is no client
library and no event loop here: plain sockets, one request in flight on each, and only those parts
of a reply read that are counted. It knows no TLS, no redirects, no pipelining, and runs on Linux.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from gateway.errors import UsageError

_RECEIVE = 65_536  # bytes: one call takes a whole reply of 64 answers
_CONNECT_S = 10.0  # a busy machine takes seconds over a handshake; nobody is to hang in one
_IDLE_S = 4.0  # below the 5 s after which common servers close an idle connection
_LARGEST = 64 * 1024 * 1024  # bytes of one reply; more is a server gone wrong
_SLACK_NS = "1000"  # wake 1 microsecond late at most, and not the kernel's usual 50

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\n[Cc]onnection: *[Cc]lose")
_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """`http://host:port/path`. Raises UsageError for anything else."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or 80
        except ValueError as error:
            raise _not_an_address(url) from error
        if parts.scheme != "http" or not host:
            raise _not_an_address(url)
        query = f"?{parts.query}" if parts.query else ""
        return cls(host, port, (parts.path or "/") + query)

    def request(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        """The bytes of one POST request."""
        lines = [f"POST {self.path} HTTP/1.1", f"host: {self.host}:{self.port}"]
        given = {"content-type": "application/json"} | {
            name.lower(): value for name, value in headers.items()
        }
        lines += [f"{name}: {value}" for name, value in given.items()]
        lines.append(f"content-length: {len(body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


class Reply(NamedTuple):
    """One reply: its status, everything before the body, the body."""

    status: int
    head: bytes
    body: bytes


class WireError(Exception):
    """The connection failed; `cause` is one word that is counted."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Line:
    """One keep-alive connection, and the one request that may be in flight on it.

    `number`, `due` and `sent` belong to that request: which body, when it was meant to leave, when
    it left (both in seconds of time.monotonic). A line that was closed opens itself again with the
    next request; so does one on which nothing went on since `idle_since` for so long that its
    server may be closing it.
    """

    __slots__ = ("_lines", "_partial", "_rest", "_socket", "due", "idle_since", "number", "sent")

    def __init__(self, lines: Lines) -> None:
        """Connect. Raises WireError."""
        self._lines = lines
        self._partial = b""
        self._rest = memoryview(b"")
        self.number = -1
        self.due = self.sent = 0.0
        self._socket = self._connect()
        self.idle_since = time.monotonic()

    def leave_if_idle(self, now: float) -> None:
        """Close a connection on which nothing went on for long."""
        if now - self.idle_since > _IDLE_S:
            self.close()

    def send(self, request: bytes) -> None:
        """Put a request on the wire; what does not fit goes out in `flush`. Raises WireError."""
        try:
            gone = self._socket.send(request)
        except BlockingIOError:
            gone = 0
        except OSError:  # closed, by us or by the server while idle: nothing of it was answered
            gone = self._send_anew(request)
        if gone < len(request):
            self._rest = memoryview(request)[gone:]
            self._lines.watch(self._socket, select.EPOLLIN | select.EPOLLOUT)

    def flush(self) -> None:
        """Send on, now that there is room. Raises WireError."""
        if not self._rest:
            return
        try:
            self._rest = self._rest[self._socket.send(self._rest) :]
        except BlockingIOError:
            return
        except OSError as error:
            raise WireError("closed") from error
        if not self._rest:
            self._lines.watch(self._socket, select.EPOLLIN)

    def receive(self) -> Reply | None:
        """The reply, once all of it is here. Raises WireError: closed, not HTTP, or too large."""
        try:
            data = self._socket.recv(_RECEIVE)
        except BlockingIOError:
            return None
        except OSError as error:
            raise WireError("closed") from error
        if not data:
            raise WireError("closed")
        if self._partial:
            data = self._partial + data
        reply = _parse(data)
        if reply is None:
            self._partial = data
            return None
        self._partial = b""
        if self._rest or _CLOSE.search(reply.head):
            self.close()
        return reply

    def close(self) -> None:
        """Give up the connection and whatever is in flight on it; twice does nothing more."""
        self._partial, self._rest = b"", memoryview(b"")
        self._lines.forget(self._socket)

    def _send_anew(self, request: bytes) -> int:
        self.close()
        self._socket = self._connect()
        try:
            return self._socket.send(request)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise WireError("closed") from error

    def _connect(self) -> socket.socket:
        target = self._lines.target
        try:
            found = socket.create_connection((target.host, target.port), _CONNECT_S)
        except OSError as error:
            raise WireError("connect") from error
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setblocking(False)
        self._lines.follow(found, self)
        return found


class Lines:
    """All connections of one process, and the wait for any of them."""

    def __init__(self, target: Target, count: int) -> None:
        """Open them. Raises UsageError when nothing listens there."""
        self.target = target
        self.by_number: dict[int, Line] = {}  # by file descriptor
        self._epoll = select.epoll(count)
        self.all: list[Line] = []
        try:
            for _ in range(count):
                self.all.append(Line(self))
        except WireError as error:
            self.close()
            raise UsageError(
                f"http://{target.host}:{target.port}: nothing answers there",
                mend="start the gateway, and name its address",
            ) from error

    def wait(self, seconds: float) -> Sequence[tuple[int, int]]:
        """(file descriptor, epoll events) of what is ready; waits at most so long, to the ms."""
        return self._epoll.poll(seconds)

    def wait_precisely(self, seconds: float) -> Sequence[tuple[int, int]]:
        """The same to the microsecond, which epoll cannot: select waits for the epoll set itself.

        Seconds of 0 or less: only what is ready now.
        """
        if seconds > 0:
            select.select((self._epoll,), (), (), seconds)
        return self._epoll.poll(0)

    def follow(self, connection: socket.socket, line: Line) -> None:
        """Wait for what comes on a new connection of that line."""
        self.by_number[connection.fileno()] = line
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def watch(self, connection: socket.socket, events: int) -> None:
        """Wait for other events on a connection."""
        self._epoll.modify(connection.fileno(), events)

    def forget(self, connection: socket.socket) -> None:
        """Close a connection, if it is open; that also takes it out of the epoll set."""
        self.by_number.pop(connection.fileno(), None)
        connection.close()

    def close(self) -> None:
        """Close every connection."""
        for line in self.all:
            line.close()
        self._epoll.close()


@contextmanager
def connected(target: Target, count: int) -> Iterator[Lines]:
    """So many open connections, with a clock that wakes on time."""
    with suppress(OSError):  # a kernel without it wakes up to 50 microseconds late
        Path("/proc/self/timerslack_ns").write_text(_SLACK_NS, encoding="ascii")
    lines = Lines(target, count)
    try:
        yield lines
    finally:
        lines.close()


def _parse(data: bytes) -> Reply | None:
    """A reply from its first bytes on; None: more is to come. Raises WireError."""
    end = data.find(_END)
    if end < 0:
        if len(data) > _RECEIVE or not data.startswith(b"HTTP/1."[: len(data)]):
            raise WireError("not HTTP")
        return None
    try:
        status = int(data[9:12])
    except ValueError as error:
        raise WireError("not HTTP") from error
    start = end + 4
    found = _LENGTH.search(data, 0, end)
    if found is None:
        return _unsized(status, data, end)
    length = int(found[1])
    if length > _LARGEST:
        raise WireError("too large")
    if len(data) < start + length:
        return None
    return Reply(status, data[:end], data[start : start + length])


def _unsized(status: int, data: bytes, end: int) -> Reply | None:
    """A reply without a content-length: chunked, or without a body."""
    head = data[:end]
    if not _CHUNKED.search(head):
        if status in {204, 304}:
            return Reply(status, head, b"")
        raise WireError("no length")
    if len(data) > _LARGEST:
        raise WireError("too large")
    body, place = b"", end + 4
    while True:
        line = data.find(b"\r\n", place)
        if line < 0:
            return None
        try:
            size = int(data[place:line].partition(b";")[0], 16)
        except ValueError as error:
            raise WireError("not HTTP") from error
        place = line + 2 + size + 2  # the chunk and its line end
        if len(data) < place:
            return None
        if size == 0:
            return Reply(status, head, body)
        body += data[line + 2 : place - 2]


def _not_an_address(url: str) -> UsageError:
    return UsageError(
        f"{url}: not an address that can be loaded", mend="name one as http://host:port/path"
    )

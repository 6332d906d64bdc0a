"""How a request arrives and its reply is taken: bounds on the connection, below the app.

uvicorn and httptools have none. A client may send a byte a minute, headers without end, or never
read its reply, and hold its place for ever, where no middleware sees it. Here a request has one
deadline from its first byte to its last, its head is bounded, and so is the time that a reply may
wait to be taken. What a request says, and how large its body is, is not decided here.

A route that takes long uploads may set PATIENCE in its request's state.

The deadlines of all connections are looked at together, a few times a second, so a request costs no
timer of its own.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

import httptools
import structlog
from starlette.responses import Response
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from gateway.api.problems import HeadTooLarge, TooSlow
from gateway.errors import Malformed, RequestError, TooLarge
from gateway.settings import ServerSettings

PATIENCE = "receipt_s"  # in a scope's state: seconds that a route gives its request to arrive

ABANDON = "abandon"  # there: what is called when the client has gone before its reply

_LOOK_S = 0.25  # between two looks at the deadlines: a cut comes so much late, at most
_LINGER_S = 1.0  # a client that is still sending has this long to read why it was refused
_FIRST_WORD_S = 1.0  # on the way out: for the request of a connection accepted a moment ago
_PIPELINED = 16  # requests that may wait on one connection: each holds its scope, headers and event
_FRAMING = 16  # bytes around a chunk of a body: its length in hexadecimal, two line ends
_END = b"\r\n"  # of a header, and of the head
_FRAMING_HEADERS = frozenset({b"connection", b"transfer-encoding"})
_SEPARATORS = 4  # bytes of ": " and the line's end, beside a header's name and value

Refuse = Callable[[RequestError, Scope], Response]

_log = structlog.get_logger(__name__)

# Where a connection is. Plain numbers: an Enum's members cost a tenth of a microsecond each time.
_FRESH = 0  # accepted, nothing has come
_HEAD = 1  # a request has begun
_BODY = 2  # its headers are complete
_WHOLE = 3  # it has arrived, and is being answered
_IDLE = 4  # it was answered, and nothing else has come


class Cut(StrEnum):
    """Why a connection was closed without its client's wish."""

    SILENT = "silent"  # it never sent anything
    RECEIPT = "receipt"  # its request was not whole in time
    HEAD = "head"  # its request's head was above a limit
    SEND = "send"  # it did not take its reply in time
    ADDRESS = "address"  # its address had as many connections as it may
    PIPELINE = "pipeline"  # it sent requests without waiting for the replies


class Door:
    """What the connections of one listener share: limits, counts by address, one timer.

    `count` is told of every cut. `refuse` gives the reply to a request that never got to the app,
    or not whole; the scope that it reads has a path, headers and state, as far as they had come.
    """

    def __init__(
        self, limits: ServerSettings, count: Callable[[str], None], refuse: Refuse
    ) -> None:
        self.limits = limits
        self.count = count
        self.refuse = refuse
        self.draining = False
        self._connections: set[Connection] = set()
        self._addresses: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def connect(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        """The protocol of a new connection, as uvicorn asks for it."""
        return Connection(self, config, server_state, app_state, _loop)

    def enter(self, connection: Connection) -> bool:
        """Note a connection; whether its address may have it."""
        self._connections.add(connection)
        self._addresses[connection.address] += 1
        if self._timer is None:
            self._timer = connection.loop.call_later(_LOOK_S, self._look, connection.loop)
        most = self.limits.max_connections_per_address
        return not most or not connection.address or self._addresses[connection.address] <= most

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self._addresses[connection.address] -= 1
        if not self._addresses[connection.address]:
            del self._addresses[connection.address]

    def drain(self) -> None:
        """From now on every reply is its connection's last, and says so."""
        self.draining = True
        for connection in self._connections:
            connection.last()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            for connection in tuple(self._connections):
                _look_at(connection, loop.time())
        finally:  # without the next look no deadline would hold any more
            again = bool(self._connections)
            self._timer = loop.call_later(_LOOK_S, self._look, loop) if again else None


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with deadlines and a bounded head."""

    def __init__(
        self,
        door: Door,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.address = ""  # of the client; empty for a socket file
        self.headers = []
        self._door = door
        self._receipt_s = door.limits.receipt_s
        self._max_head = door.limits.max_header_bytes
        self._max_headers = door.limits.max_headers
        self._phase = _FRESH
        self._due = math.inf  # as the loop's clock goes: when patience ends with what is sent
        self._send_due = math.inf  # and with a reply that is not taken
        self._piece = 0  # bytes of the piece that is being parsed, until a request ends in it
        self._head = 0  # bytes since the last request that are no body, as far as is known
        self._refused = False
        self._running: RequestResponseCycle | None = None  # what the app has; others wait behind it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the first deadline, or close at once."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        if self._door.enter(self):
            self._due = self.loop.time() + self._receipt_s
        else:
            self._door.count(Cut.ADDRESS)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and what waits on it; tell the app that nobody takes its reply."""
        self._door.leave(self)
        self.pipeline.clear()
        super().connection_lost(exc)
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
            if abandon := running.scope["state"].get(ABANDON):
                abandon()

    def data_received(self, data: bytes) -> None:
        """Parse a piece; refuse what is no HTTP, and a head without end."""
        if self._refused:
            return  # read and forgotten, so that the client gets to read its reply
        self._piece = len(data)
        self._head += self._piece
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._refuse(_reason(error))
        else:
            if self._head > self._max_head:
                self._check_unfinished_head()
            elif len(self.headers) > self._max_headers:
                self._refuse(self._too_many())

    def on_message_begin(self) -> None:
        """The first byte of a request: its deadline starts."""
        super().on_message_begin()
        self._phase = _HEAD
        self._due = self.loop.time() + self._receipt_s
        self._head = self._piece

    def on_headers_complete(self) -> None:
        """The head is here. Raises RequestError, which the parser hands to `data_received`."""
        if len(self.headers) > self._max_headers:
            raise self._too_many()
        # Only a large piece, or the rest of one that held another request, needs the exact count.
        if (self._head > self._max_head or not self._piece) and (
            self._head_bytes() > self._max_head
        ):
            raise self._too_long()
        if self.parser.should_upgrade() and _has_body(self.headers):
            raise Malformed(
                "the request asks for another protocol, or a tunnel, and has a body",
                mend="send the body without asking to upgrade or connect",
            )
        if len(self.pipeline) >= _PIPELINED:
            raise TooLarge(
                f"more than {_PIPELINED} requests wait on this connection",
                mend="wait for replies, or open more connections",
            )
        super().on_headers_complete()
        self.cycle.__class__ = _Exchange
        if self.pipeline and len(self.pipeline) < _PIPELINED:
            self.flow.resume_reading()  # who does not read does not see that a client has gone
        self._phase = _BODY
        self._head = 0
        self.headers = []  # of trailers: they never join the headers that the app reads
        if self._door.draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        super().on_body(body)
        if self._head:
            self._head = max(0, self._head - len(body) - _FRAMING)

    def on_message_complete(self) -> None:
        """The request has arrived."""
        super().on_message_complete()
        self._piece = self._head = 0
        if self.cycle.response_complete:  # refused for its head: the reply did not wait for more
            self._rest()
        else:
            self._phase = _WHOLE
            self._due = math.inf

    def on_response_complete(self) -> None:
        """A reply is written: go on with the next request, or wait for one.

        As in uvicorn, without its timer for each reply.
        """
        self.server_state.total_requests += 1
        self._send_due = math.inf
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refused:
            self.transport.close()
        elif self._phase == _WHOLE:
            self._rest()

    def last(self) -> None:
        """The reply that is being made is the last one here."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """The listener is closed: finish what has begun, and close."""
        if self._phase == _IDLE:
            self.transport.close()
        elif self._phase == _FRESH:
            self._due = min(self._due, self.loop.time() + _FIRST_WORD_S)
        else:
            self.last()

    def look(self, now: float) -> None:
        """Close what is overdue."""
        if not self.transport.get_write_buffer_size():
            self._send_due = math.inf
        elif self._send_due == math.inf:
            self._send_due = now + self._door.limits.send_s
        elif now >= self._send_due:
            self._send_due = math.inf
            self._door.count(Cut.SEND)
            self.transport.abort()
            return
        if now >= self._due:
            self._overdue(now)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _parse(self, data: bytes) -> None:
        """Parse all of a piece.

        The parser stops behind a request that asks to upgrade. Nothing is offered: the request is
        answered as it stands, and what follows is HTTP as before.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                data = data[stop.args[0] :]
            else:
                return

    def _rest(self) -> None:
        self._phase = _IDLE
        self._due = self.loop.time() + self.timeout_keep_alive

    def _overdue(self, now: float) -> None:
        self._due = math.inf
        if self._refused:
            self.transport.abort()
        elif self._phase == _IDLE:
            self.transport.close()
        elif self._phase == _FRESH:
            # No 408: a client that connects ahead of need would read it as a later request's reply.
            self._door.count(Cut.SILENT)
            self.transport.close()
        elif self.flow.read_paused or self.pipeline:
            self._due = now + self._receipt_s  # the delay is ours: we have not read
        elif self._phase == _BODY and (given := self.scope["state"].pop(PATIENCE, None)):
            self._due = now + given - self._receipt_s
        else:
            seconds = self._receipt_s
            self._refuse(
                TooSlow(
                    f"the request was not whole after {seconds:g} s",
                    mend="send it at once, or raise server.receipt_s",
                )
            )

    def _check_unfinished_head(self) -> None:
        """A head, trailers or a chunk's extensions, longer than a head may be and not complete.

        The first piece of a head may begin with something else, so only what is parsed counts.
        """
        if self._phase == _HEAD and self._head == self._piece:
            self._head = self._head_bytes()
        if self._head > self._max_head:
            self._refuse(self._too_long())

    def _head_bytes(self) -> int:
        sizes = (len(name) + len(value) + _SEPARATORS for name, value in self.headers)
        return len(self.url) + sum(sizes)

    def _too_long(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"the request line and headers are above {self._max_head} bytes",
            mend="send shorter ones, or raise server.max_header_bytes",
        )

    def _too_many(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"the request has more than {self._max_headers} headers",
            mend="send fewer, or raise server.max_headers",
        )

    def _refuse(self, error: RequestError) -> None:
        """Say why where a reply can still be said, and close."""
        if cause := _CAUSES.get(type(error)):
            self._door.count(cause)
        self._refused = True
        if self._phase != _BODY:
            if self._answering():
                self.last()  # of an earlier request: its reply is the last
            else:
                self._reply(error)
        elif self.pipeline:
            self.pipeline.popleft()  # it waits for an earlier one, and will never be whole
        elif not self._answering():
            self.transport.close()  # it has its reply already
        elif self.cycle.response_started:
            self.transport.abort()
        else:
            self._reply(error)
            self.scope["state"]["refused"] = error  # what the app is told, in place of the rest
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _answering(self) -> bool:
        if self.cycle is None:  # uvicorn's type does not say so: no request has come
            return False
        return not self.cycle.response_complete

    def _reply(self, error: RequestError) -> None:
        response = self._door.refuse(error, self._described())
        headers = [
            *self.server_state.default_headers,
            *response.raw_headers,
            (b"connection", b"close"),
        ]
        lines = [STATUS_LINE[response.status_code], *(b"%b: %b\r\n" % pair for pair in headers)]
        self.transport.write(b"".join([*lines, _END, response.body]))
        if isinstance(error, TooSlow):
            self.transport.close()
        else:  # to close with bytes unread would reset the connection, and lose the reply
            self.transport.write_eof()
            self._due = self.loop.time() + _LINGER_S

    def _described(self) -> Scope:
        """What is known of the request that is refused, though its head may not be whole."""
        if self._phase not in {_HEAD, _BODY}:
            return {"path": "", "headers": [], "state": {}}
        path = self.url.partition(b"?")[0].decode("latin-1")
        return {"path": path, **self.scope}


class _Exchange(RequestResponseCycle):
    """uvicorn's request and reply; a reply that is whole goes out as one write.

    uvicorn writes head and body one after the other: two system calls, two packets, and a client
    that wakes up twice. Whatever is not plain and whole is left to uvicorn.
    """

    _start: Any = None  # the head, until its body comes

    async def send(self, message: Any) -> None:
        """Keep the head for its body; send both, or hand both on."""
        if message["type"] == "http.response.start" and self._start is None:
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            if reply := self._whole(start, message):
                self.transport.write(reply)
                self.response_started = self.response_complete = True
                self.message_event.set()
                self.on_response()
                return
            await super().send(start)
        await super().send(message)

    def _whole(self, start: Any, message: Any) -> bytes | None:
        """The reply as it is on the wire; None: let uvicorn see to it."""
        body = message.get("body", b"")
        if (
            message.get("more_body")
            or self.response_started
            or self.disconnected
            or self.flow.write_paused
            or not self.keep_alive
            or self.scope["method"] == "HEAD"
        ):
            return None
        headers = [*self.default_headers, *start["headers"]]
        lines = [STATUS_LINE[start["status"]]]
        length = None
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name in _FRAMING_HEADERS:
                return None
            lines += (name, b": ", value, _END)
        lines.append(_END)
        head = b"".join(lines)
        # A line end inside a header would begin another one, or the body.
        ends = len(headers) + 2
        plain = head.count(b"\n") == ends and head.count(b"\r") == ends
        return head + body if plain and length == len(body) else None


_CAUSES: dict[type[RequestError], Cut] = {
    TooSlow: Cut.RECEIPT,
    HeadTooLarge: Cut.HEAD,
    TooLarge: Cut.PIPELINE,
}


def _reason(error: httptools.HttpParserError) -> RequestError:
    """Why the parser stopped: a bound of ours, or bytes that are no HTTP."""
    if isinstance(error.__context__, RequestError):
        return error.__context__
    return Malformed("the request is not HTTP/1.1", mend="send it with an HTTP client")


def _has_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a head announces a body; the parser has seen that its length is a number."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and bool(value.strip(b"0")))
        for name, value in headers
    )


def _look_at(connection: Connection, now: float) -> None:
    try:
        connection.look(now)
    except Exception:  # noqa: BLE001  one connection's mistake is not the others'
        _log.exception("a connection could not be looked at, and is closed")
        connection.transport.abort()

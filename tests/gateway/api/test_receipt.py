"""Connections: slow, silent, endless and greedy clients, and those who do nothing wrong."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from gateway.api import problems
from gateway.api.limits import read_body
from gateway.api.problems import TooSlow
from gateway.api.receipt import ABANDON, PATIENCE, Connection, Door
from gateway.errors import Malformed
from gateway.settings import ServerSettings

SOON = 120  # seconds; only a hang reaches it
LIMIT = 10.0  # seconds of each deadline, as the place's clock goes
KEEP_ALIVE_S = 1  # likewise
LOOK_S = 0.001  # of real time between two looks of the door: it looks as often as it can
LARGE = 16 << 20  # bytes: more than the kernel keeps for a reader that does not read
POST = b"POST /echo HTTP/1.1\r\nhost: a\r\n"
HELLO = POST + b"content-length: 5\r\n\r\nhello"


class Clock:
    """The event loop, but its time stands still until a test moves it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._now = 0.0
        self._looks = 0

    def time(self) -> float:
        """The time that was set, in seconds."""
        return self._now

    def call_later(self, _delay: float, look: Callable[..., None], *given: Any) -> Any:
        """Look soon, whatever the time is."""
        return self._loop.call_later(LOOK_S, self._look, look, given)

    async def passes(self, seconds: float) -> None:
        """Move the time on, and see that the door has looked at its connections since."""
        self._now += seconds
        before = self._looks
        await until(lambda: self._looks > before)

    def _look(self, look: Callable[..., None], given: tuple[Any, ...]) -> None:
        look(*given)
        self._looks += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


@dataclass(slots=True)
class Place:
    """A listener with its door, and what its app has seen."""

    port: int
    clock: Clock
    door: Door
    state: ServerState
    cuts: Counter[str]
    cut: asyncio.Event
    may_answer: asyncio.Event
    patient: bool = False  # the app has given a request more time
    read: int = 0  # bytes that have come, on all connections
    errors: list[Exception] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    told: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def has_read(self, size: int) -> None:
        """Wait until so many bytes have come."""
        await until(lambda: self.read >= size)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the body; /large with much, /slow when told.

        /rude answers before the body is in, /eager begins to; /upload takes its time.
        """
        path, body = scope["path"], b""
        if path == "/slow":
            scope["state"][ABANDON] = lambda: self.abandoned.append(path)
            await self.may_answer.wait()
        if path == "/upload":
            scope["state"][PATIENCE] = 6 * LIMIT
            self.patient = True
        if path == "/eager":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"so far", "more_body": True})
        try:
            if path != "/rude":
                body = await read_body(scope, receive, limit=1000)
        except (TooSlow, Malformed) as error:
            self.errors.append(error)
            return
        self.headers[:] = scope["headers"]
        if path == "/large":
            body = bytes(LARGE)
        headers = [(b"content-length", b"%d" % len(body))]
        if path == "/told":
            headers, body = self.told
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Visit:
    """A client's side of one connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, data: bytes) -> None:
        """Send."""
        self._writer.write(data)

    def leave(self) -> None:
        """Close, whatever is still to come."""
        self._writer.transport.abort()

    async def hear(self) -> tuple[int, dict[str, str], bytes]:
        """One reply: status, headers, body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await self._reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, body

    async def until(self, end: bytes) -> bytes:
        """What comes, up to and with that."""
        return await self._reader.readuntil(end)

    async def rest(self) -> bytes:
        """All that comes until the other side closes."""
        try:
            return await self._reader.read()
        except ConnectionResetError:
            return b""


class Counted(Connection):
    """A connection of which the place knows how much it has read."""

    place: Place

    def data_received(self, data: bytes) -> None:
        """Read it, and count it."""
        super().data_received(data)
        self.place.read += len(data)


class Recorder:
    """A transport that notes what is written."""

    def __init__(self, transport: asyncio.Transport, written: list[bytes]) -> None:
        self._transport = transport
        self._written = written

    def write(self, data: bytes) -> None:
        """Note it, and write it."""
        self._written.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@asynccontextmanager
async def listening(*, real_time: bool = False, **limits: float) -> AsyncIterator[Place]:
    """A listener with these limits, on a free port; its deadlines are LIMIT where none is named."""
    limits = {"receipt_s": LIMIT, "send_s": LIMIT} | limits
    loop = asyncio.get_running_loop()
    clock = Clock(loop)
    cuts: Counter[str] = Counter()
    cut = asyncio.Event()

    def count(cause: str) -> None:
        cuts[cause] += 1
        cut.set()

    state = ServerState()
    door = Door(
        ServerSettings.model_validate(limits),
        count,
        lambda error, scope: problems.response(error, scope["path"]),
    )
    place = Place(0, clock, door, state, cuts, cut, asyncio.Event())
    config = uvicorn.Config(
        place.app,
        interface="asgi3",
        ws="none",
        proxy_headers=False,
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    config.load()

    def accepted() -> Connection:
        connection = door.connect(config, state, {}, None if real_time else cast("Any", clock))
        connection.__class__ = Counted
        cast("Counted", connection).place = place
        return connection

    server = await loop.create_server(accepted, "127.0.0.1", 0)
    place.port = server.sockets[0].getsockname()[1]
    try:
        yield place
    finally:
        server.close()
        for connection in tuple(state.connections):
            connection.transport.abort()


@asynccontextmanager
async def visiting(place: Place) -> AsyncIterator[Visit]:
    """A new connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    try:
        yield Visit(reader, writer)
    finally:
        writer.transport.abort()


async def until(happened: Callable[[], bool]) -> None:
    """Let the event loop go on until something has happened there."""
    while not happened():  # noqa: ASYNC110  what is looked at sets no event
        await asyncio.sleep(0)


def run(
    scene: Callable[[Place, Visit], Awaitable[None]], *, real_time: bool = False, **limits: float
) -> Place:
    """Play a scene with one visitor; returns the place."""

    async def play() -> Place:
        here = listening(real_time=real_time, **limits)
        async with asyncio.timeout(SOON), here as place, visiting(place) as visit:
            await scene(place, visit)
            return place

    return uvloop.run(play())


def padded(size: int) -> bytes:
    """A request whose request target and headers count `size` bytes."""
    known = len("/echo") + len("host") + len("a") + 4 + len("x-pad") + 4
    return POST + b"x-pad: " + b"p" * (size - known) + b"\r\n\r\n"


@pytest.mark.parametrize("begun", [b"P", POST, POST + b"x-half: "])
def test_a_head_that_stops_half_way_is_told_and_closed(begun: bytes) -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(begun)
        await place.has_read(len(begun))
        await place.clock.passes(LIMIT)
        status, headers, body = await visit.hear()
        assert (status, headers["connection"]) == (408, "close")
        assert headers["content-type"] == "application/problem+json"
        problem = json.loads(body)
        assert (problem["code"], problem["status"]) == ("too_slow", 408)
        assert "server.receipt_s" in problem["mend"]
        assert await visit.rest() == b""

    assert run(scene).cuts == {"receipt": 1}


def test_a_byte_now_and_then_does_not_move_the_deadline() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(POST)
        for count in range(1, 11):
            visit.say(b"x")
            await place.has_read(len(POST) + count)
            assert place.cuts == {}
            await place.clock.passes(LIMIT / 10)
        assert (await visit.hear())[0] == 408

    assert run(scene).cuts == {"receipt": 1}


def test_a_body_that_stops_half_way_is_told_to_client_and_app() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO[:-1])
        await place.has_read(len(HELLO) - 1)
        await place.clock.passes(LIMIT)
        assert (await visit.hear())[0] == 408
        assert await visit.rest() == b""
        await until(lambda: bool(place.errors))

    place = run(scene)
    assert [type(error) for error in place.errors] == [TooSlow]
    assert place.cuts == {"receipt": 1}


def test_a_route_may_give_its_request_more_time() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        upload = HELLO.replace(b"/echo", b"/upload")
        visit.say(upload[:-1])
        await until(lambda: place.patient)
        await place.clock.passes(LIMIT)
        await place.clock.passes(LIMIT)
        visit.say(upload[-1:])
        assert (await visit.hear())[2] == b"hello"
        visit.say(HELLO[:-1])  # the next request has no more than any other
        await place.has_read(len(upload + HELLO) - 1)
        await place.clock.passes(LIMIT)
        assert (await visit.hear())[0] == 408
        assert place.cuts == {"receipt": 1}

    run(scene)


def test_a_client_that_leaves_half_way_is_no_slow_one() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO)
        await visit.hear()
        async with visiting(place) as other:
            other.say(HELLO[:-1])
            await until(lambda: bool(place.state.tasks))
        await until(lambda: not place.state.tasks)

    place = run(scene)
    assert [type(error) for error in place.errors] == [Malformed]
    assert place.cuts == {}


@pytest.mark.parametrize("real_time", [False, True])
def test_a_connection_that_never_sends_is_closed_without_a_word(*, real_time: bool) -> None:
    async def scene(place: Place, visit: Visit) -> None:
        if not real_time:
            await until(lambda: bool(place.state.connections))
            await place.clock.passes(LIMIT)
        assert await visit.rest() == b""

    limits = {"receipt_s": 0.1} if real_time else {}
    assert run(scene, real_time=real_time, **limits).cuts == {"silent": 1}


def test_each_request_has_a_deadline_of_its_own() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        for number in range(4):
            visit.say(HELLO[:20])
            await place.has_read(number * len(HELLO) + 20)
            await place.clock.passes(LIMIT / 2)
            visit.say(HELLO[20:])
            assert (await visit.hear())[2] == b"hello"

    assert run(scene).cuts == {}


def test_pipelined_requests_are_answered_in_order() -> None:
    async def scene(_place: Place, visit: Visit) -> None:
        visit.say(HELLO + HELLO.replace(b"hello", b"world") + HELLO[:30])
        assert [(await visit.hear())[2] for _ in range(2)] == [b"hello", b"world"]
        visit.say(HELLO[30:])
        assert (await visit.hear())[2] == b"hello"

    assert run(scene).state.total_requests == 3


def test_a_deadline_does_not_run_while_the_gateway_does_not_read() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO.replace(b"/echo", b"/slow") + HELLO[:-1])
        await place.has_read(2 * len(HELLO) - 1)
        for _ in range(3):
            await place.clock.passes(LIMIT)
        place.may_answer.set()
        assert (await visit.hear())[0] == 200
        visit.say(HELLO[-1:])
        assert (await visit.hear())[2] == b"hello"

    assert run(scene).cuts == {}


def test_a_slow_answer_is_no_slow_request() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO.replace(b"/echo", b"/slow"))
        await place.has_read(len(HELLO))
        for _ in range(3):
            await place.clock.passes(LIMIT)
        place.may_answer.set()
        assert (await visit.hear())[2] == b"hello"

    assert run(scene).cuts == {}


def test_a_client_that_leaves_before_its_reply_is_told_to_the_app() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        await until(lambda: bool(place.state.tasks))
        visit.leave()
        await until(lambda: bool(place.abandoned))
        place.may_answer.set()

    assert run(scene).abandoned == ["/slow"]


def test_a_client_that_leaves_after_its_reply_has_not_gone_too_soon() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        place.may_answer.set()
        visit.say(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        await visit.hear()
        visit.leave()
        await until(lambda: not place.state.connections)

    assert run(scene).abandoned == []


def test_a_request_behind_one_that_is_being_answered_is_cut_after_its_reply() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO.replace(b"/echo", b"/slow") + b"no HTTP at all\r\n\r\n")
        await until(lambda: bool(place.state.tasks))
        place.may_answer.set()
        assert (await visit.hear())[1]["connection"] == "close"
        assert await visit.rest() == b""

    run(scene)


def test_a_late_request_behind_one_that_is_being_answered_ends_the_connection() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO.replace(b"/echo", b"/slow") + POST)
        await place.has_read(len(HELLO + POST))
        await place.clock.passes(LIMIT)
        await place.cut.wait()
        place.may_answer.set()
        assert (await visit.hear())[1]["connection"] == "close"
        assert await visit.rest() == b""

    assert run(scene).cuts == {"receipt": 1}


def test_a_broken_body_behind_a_request_that_is_being_answered_is_never_begun() -> None:
    broken = POST + b"transfer-encoding: chunked\r\n\r\nno length\r\n"

    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO.replace(b"/echo", b"/slow") + broken)
        await until(lambda: bool(place.state.tasks))
        place.may_answer.set()
        assert (await visit.hear())[2] == b"hello"
        assert await visit.rest() == b""

    assert run(scene).errors == []


def test_a_reply_before_the_body_is_in_leaves_the_connection_whole() -> None:
    async def scene(_place: Place, visit: Visit) -> None:
        visit.say(HELLO[:-1].replace(b"/echo", b"/rude"))
        assert (await visit.hear())[2] == b""
        visit.say(HELLO[-1:] + HELLO)
        assert (await visit.hear())[2] == b"hello"

    assert run(scene).cuts == {}


def test_a_body_that_never_follows_its_reply_is_cut_without_a_second_one() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO[:-1].replace(b"/echo", b"/rude"))
        assert (await visit.hear())[2] == b""
        await place.clock.passes(LIMIT)
        assert await visit.rest() == b""

    assert run(scene).cuts == {"receipt": 1}


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(padded(2049), id="a byte above the limit"),
        pytest.param(POST + b"x-pad: " + b"p" * 300_000, id="a header without end"),
        pytest.param(b"GET /" + b"p" * 300_000, id="a target without end"),
        pytest.param(POST + b"a: b\r\n" * 100 + b"\r\n", id="a header above the count"),
        pytest.param(POST + b"a: b\r\n" * 101, id="headers without end"),
    ],
)
def test_a_head_above_a_limit_is_refused_and_closed(head: bytes) -> None:
    async def scene(_place: Place, visit: Visit) -> None:
        visit.say(head)
        status, headers, body = await visit.hear()
        assert (status, headers["connection"]) == (431, "close")
        problem = json.loads(body)
        assert problem["code"] == "head_too_large"
        assert "server.max_header" in problem["mend"]

    assert run(scene, max_header_bytes=2048).cuts == {"head": 1}


def test_a_head_at_its_limits_is_read() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(padded(2048))
        assert (await visit.hear())[0] == 200
        visit.say(POST + b"a: b\r\n" * 99 + b"\r\n")
        assert (await visit.hear())[0] == 200
        before = place.read
        last = POST + b"content-length: 3000\r\n\r\n" + b"b" * 900
        visit.say(last)
        visit.say(b"b" * 2100)
        await place.has_read(before + len(last) + 2100)

    assert run(scene, max_header_bytes=2048).cuts == {}


def test_a_large_body_in_one_piece_with_its_head_is_no_large_head() -> None:
    async def scene(_place: Place, visit: Visit) -> None:
        visit.say(POST + b"content-length: 1000\r\n\r\n" + b"b" * 1000)
        assert len((await visit.hear())[2]) == 1000
        for size in (990, 10):
            visit.say(HELLO * 15 + POST + b"content-length: %d\r\n\r\n" % size + b"b" * size)
            for _ in range(15):
                assert (await visit.hear())[2] == b"hello"
            assert len((await visit.hear())[2]) == size

    assert run(scene, max_header_bytes=1024).cuts == {}


def test_a_large_head_behind_another_request_is_refused_after_that_ones_reply() -> None:
    async def scene(_place: Place, visit: Visit) -> None:
        visit.say(HELLO + padded(1025))
        assert (await visit.hear())[2] == b"hello"
        assert await visit.rest() == b""

    assert run(scene, max_header_bytes=1024).cuts == {"head": 1}


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param(b"5;" + b"x" * 10_000, id="a chunk's extension"),
        pytest.param(b"0\r\nx-trailer: " + b"x" * 10_000, id="a trailer"),
        pytest.param(b"0\r\n" + b"a: b\r\n" * 200, id="trailers"),
    ],
)
def test_what_hides_in_a_body_is_bounded_like_a_head(endless: bytes) -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(POST + b"transfer-encoding: chunked\r\n\r\n")
        await until(lambda: bool(place.state.tasks))
        visit.say(b"5\r\nhello\r\n" + endless)
        assert (await visit.hear())[0] == 431

    assert run(scene, max_header_bytes=4096).cuts == {"head": 1}


def test_a_body_in_many_small_chunks_is_no_large_head() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(POST + b"transfer-encoding: chunked\r\n\r\n")
        await until(lambda: bool(place.state.tasks))
        visit.say(b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")
        assert (await visit.hear())[2] == b"x" * 1000

    assert run(scene, max_header_bytes=1024).cuts == {}


def test_trailers_never_join_the_headers_that_the_app_reads() -> None:
    async def scene(_place: Place, visit: Visit) -> None:
        visit.say(POST + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-admin: 1\r\n\r\n")
        assert (await visit.hear())[2] == b"hello"

    assert [name for name, _ in run(scene).headers] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    "sent",
    [
        b"no HTTP at all\r\n\r\n",
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"bad header\r\n\r\n",
        b"POST http://[ HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
)
def test_what_is_no_http_is_told_as_a_problem_and_closed(sent: bytes) -> None:
    async def scene(_place: Place, visit: Visit) -> None:
        visit.say(sent)
        status, headers, body = await visit.hear()
        assert (status, headers["connection"]) == (400, "close")
        assert json.loads(body)["code"] == "malformed"
        visit.say(HELLO)  # nothing behind it is answered
        assert await visit.rest() == b""

    assert run(scene).cuts == {}


def test_an_upgrade_that_is_not_offered_is_answered_as_it_stands() -> None:
    async def scene(_place: Place, visit: Visit) -> None:
        visit.say(b"GET /echo HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        assert (await visit.hear())[0] == 200

    run(scene)


@pytest.mark.parametrize(
    "asks",
    [
        b"content-length: 47\r\n",
        b"content-length: 047\r\n",
        b"transfer-encoding: chunked\r\n",
    ],
)
@pytest.mark.parametrize("begin", [b"POST /echo", b"CONNECT a:443"])
def test_a_body_behind_an_upgrade_is_never_read_as_a_request(begin: bytes, asks: bytes) -> None:
    async def scene(_place: Place, visit: Visit) -> None:
        upgrade = b"host: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n"
        visit.say(begin + b" HTTP/1.1\r\n" + upgrade + asks + b"\r\n")
        status, headers, body = await visit.hear()
        assert (status, headers["connection"]) == (400, "close")
        assert json.loads(body)["code"] == "malformed"
        visit.say(b"GET /admin HTTP/1.1\r\nhost: a\r\nx-admin: yes\r\n\r\n")
        assert await visit.rest() == b""

    assert run(scene).headers == []


def test_a_body_behind_a_mere_upgrade_header_is_a_body() -> None:
    async def scene(_place: Place, visit: Visit) -> None:
        visit.say(POST + b"upgrade: h2c\r\ncontent-length: 5\r\n\r\nhello" + HELLO)
        assert [(await visit.hear())[2] for _ in range(2)] == [b"hello", b"hello"]

    run(scene)


def test_requests_behind_an_upgrade_in_the_same_piece_are_answered() -> None:
    upgrade = POST + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 0\r\n\r\n"

    async def scene(_place: Place, visit: Visit) -> None:
        visit.say(upgrade + HELLO + upgrade + HELLO[:-1])
        assert [(await visit.hear())[2] for _ in range(3)] == [b"", b"hello", b""]
        visit.say(HELLO[-1:])
        assert (await visit.hear())[2] == b"hello"

    run(scene)


def test_no_more_than_sixteen_requests_wait_on_a_connection() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO.replace(b"/echo", b"/slow") + HELLO * 2000)
        await place.cut.wait()
        (connection,) = place.state.connections
        assert isinstance(connection, Connection)
        assert len(connection.pipeline) == 16
        place.may_answer.set()
        replies = [await visit.hear() for _ in range(17)]
        assert [body for _, _, body in replies] == [b"hello"] * 17
        assert replies[-1][1]["connection"] == "close"
        assert await visit.rest() == b""

    assert run(scene).cuts == {"pipeline": 1}


def test_a_client_that_leaves_with_requests_waiting_is_told_to_the_one_that_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO.replace(b"/echo", b"/slow") * 3)
        await until(lambda: bool(place.state.tasks))
        visit.leave()
        await until(lambda: bool(place.abandoned))
        place.may_answer.set()
        await until(lambda: not place.state.tasks)

    with caplog.at_level(logging.WARNING):
        place = run(scene)
    assert place.abandoned == ["/slow"]
    assert [type(error) for error in place.errors] == [Malformed]  # told that nobody is there
    assert place.state.total_requests == 0  # and those behind it were never begun
    assert caplog.records == []


def test_a_connection_that_cannot_be_looked_at_is_closed_and_the_others_keep_their_deadlines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_now: float) -> None:
        raise ZeroDivisionError

    async def scene(place: Place, visit: Visit) -> None:
        await until(lambda: bool(place.state.connections))
        (connection,) = place.state.connections
        monkeypatch.setattr(connection, "look", fails)
        async with visiting(place) as other:
            other.say(POST)
            assert await visit.rest() == b""
            await place.has_read(len(POST))
            await place.clock.passes(LIMIT)
            assert (await other.hear())[0] == 408

    assert run(scene).cuts == {"receipt": 1}


def test_a_reader_that_does_not_take_its_reply_is_cut() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit._reader._transport.pause_reading()  # type: ignore[attr-defined]
        visit.say(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
        await until(lambda: bool(place.headers))
        await place.clock.passes(0.0)  # it is seen that something waits to be taken
        await place.clock.passes(LIMIT)
        await place.cut.wait()
        visit._reader._transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await visit.rest()) < LARGE

    assert run(scene).cuts == {"send": 1}


def test_a_reader_that_takes_its_reply_gets_all_of_it() -> None:
    async def scene(_place: Place, visit: Visit) -> None:
        visit.say(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
        assert len((await visit.hear())[2]) == LARGE

    assert run(scene).cuts == {}


def test_an_address_has_no_more_connections_than_it_may() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO)
        await visit.hear()
        async with visiting(place) as second:
            second.say(HELLO)
            await second.hear()
            async with visiting(place) as third:
                assert await third.rest() == b""
        await until(lambda: len(place.state.connections) == 1)
        async with visiting(place) as fourth:  # the second has gone, so there is room again
            fourth.say(HELLO)
            await fourth.hear()

    assert run(scene, max_connections_per_address=2).cuts == {"address": 1}


def test_zero_lets_an_address_have_any_number_of_connections() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        async with visiting(place) as second:
            for each in (visit, second):
                each.say(HELLO)
                assert (await each.hear())[0] == 200

    assert run(scene, max_connections_per_address=0).cuts == {}


def test_on_the_way_out_every_reply_is_its_connections_last() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO.replace(b"/echo", b"/slow"))
        async with visiting(place) as other:
            other.say(HELLO)
            assert "connection" not in (await other.hear())[1]
            place.door.drain()
            place.may_answer.set()
            other.say(HELLO)
            for each in (visit, other):
                assert (await each.hear())[1]["connection"] == "close"
                assert await each.rest() == b""

    run(scene)


def test_at_the_end_what_has_begun_is_answered_and_what_is_idle_is_closed() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO)
        await visit.hear()
        async with visiting(place) as begun, visiting(place) as fresh, visiting(place) as asked:
            begun.say(POST)
            asked.say(HELLO.replace(b"/echo", b"/slow"))
            await until(lambda: len(place.state.connections) == 4)
            await place.has_read(2 * len(HELLO) + len(POST))
            place.door.drain()
            for connection in tuple(place.state.connections):
                connection.shutdown()
            assert await visit.rest() == b""
            await place.clock.passes(0.5)
            begun.say(b"\r\n")
            fresh.say(HELLO)
            place.may_answer.set()
            for each in (begun, fresh, asked):
                assert (await each.hear())[1]["connection"] == "close"
                assert await each.rest() == b""

    assert run(scene).cuts == {}


def test_an_idle_connection_is_closed_and_not_counted_as_cut() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO)
        await visit.hear()
        await place.clock.passes(KEEP_ALIVE_S)
        assert await visit.rest() == b""

    assert run(scene).cuts == {}


def test_who_does_not_leave_after_a_refusal_is_cut_in_the_end() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(b"no HTTP at all\r\n\r\n")
        assert (await visit.hear())[0] == 400
        assert place.state.connections
        await place.clock.passes(1.0)
        await until(lambda: not place.state.connections)

    run(scene)


def test_a_reply_that_has_begun_is_broken_off_when_its_request_never_ends() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO[:-1].replace(b"/echo", b"/eager"))
        assert b"200 OK" in await visit.until(b"so far")
        await place.clock.passes(LIMIT)
        assert b"408" not in await visit.rest()

    assert run(scene).cuts == {"receipt": 1}


def test_a_whole_reply_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    async def scene(place: Place, visit: Visit) -> None:
        await until(lambda: bool(place.state.connections))  # the client may know of it before
        (connection,) = place.state.connections
        assert isinstance(connection, Connection)
        transport = connection.transport
        monkeypatch.setattr(connection, "transport", Recorder(transport, written))
        visit.say(HELLO)
        assert (await visit.hear())[2] == b"hello"

    run(scene)
    assert len(written) == 1
    assert written[0].endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([(b"content-length", b"4")], b"hello"),  # not what it says
        ([(b"content-length", b"5"), (b"x", b"a\r\nset-cookie: b")], b"hello"),
        ([(b"content-length", b"5"), (b"x", b"a\nb")], b"hello"),
    ],
)
def test_a_reply_that_is_not_sound_is_never_written_as_it_is(
    headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    async def scene(place: Place, visit: Visit) -> None:
        place.told = (headers, body)
        visit.say(POST.replace(b"/echo", b"/told") + b"content-length: 0\r\n\r\n")
        said = await visit.rest()
        assert b"set-cookie" not in said
        assert b"a\nb" not in said

    run(scene)


def test_no_timer_is_left_when_everybody_has_gone() -> None:
    async def scene(place: Place, visit: Visit) -> None:
        visit.say(HELLO)
        await visit.hear()
        visit._writer.close()
        await until(lambda: place.door._timer is None)
        assert place.door._addresses == {}

    run(scene)

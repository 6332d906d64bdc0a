"""A chat server that fails as it is told, so that an outage can be rehearsed before it comes.

It speaks OpenAI's `/v1/chat/completions` and `/v1/models`, on a free port of this machine alone. A
plan says what becomes of each call: a good answer, a delay, a reset, a status, or one of the
replies of `garbage`. Nothing listens until a server is entered with `async with`; no setting names
one, and the gateway does not import this module: drills and tests start it.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from itertools import pairwise
from typing import Any, Self

import orjson

from gateway.errors import DataError

JSON = "application/json"
MODEL = "understudy-fault"

_HOST = "127.0.0.1"
_BACKLOG = 1024  # connections that may wait: a burst of calls is no fault of the server's
_HEAD_BYTES = 65_536  # of a request; a client of ours sends less than one
_BODY_BYTES = 16 << 20  # of a request: above what any prompt of ours holds
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER, on and 0 s: closing sends RST in place of FIN

Choose = Callable[[int], "Fault"]  # what becomes of a call, by its number in the phase, from 0
Say = Callable[[str], Mapping[str, Any]]  # text -> what a good answer says for each head


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of one call. Ends with the connection usable, or closes it.

    `good`: an answer that may be taken for one comes of it, sooner or later.
    """

    name: str
    reply: Callable[[Call], Awaitable[None]]
    good: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """What becomes of calls for so many seconds; None: until told otherwise.

    Without `choose` the port is closed: connections are refused, and those that were are reset.
    """

    choose: Choose | None
    seconds: float | None = None


class Call:
    """One request, and the connection that waits for its reply.

    `said` is what a good answer says: head -> label, or labels.
    """

    def __init__(
        self,
        body: Mapping[str, Any],
        said: Mapping[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.body = body
        self.said = said
        self.closed = False
        self._reader = reader
        self._writer = writer

    def completion(
        self,
        content: str | None = None,
        *,
        finish: str = "stop",
        message: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A chat completion of these words, by default good ones; `message` adds to the message."""
        words = orjson.dumps(self.said).decode() if content is None else content
        whole = {"role": "assistant", "content": words, "refusal": None, **(message or {})}
        choice = {"index": 0, "message": whole, "logprobs": None, "finish_reason": finish}
        count = self.body.get("n")
        number = count if isinstance(count, int) else 1
        prompt, tokens = len(str(self.body.get("messages"))) // 4, len(words) // 4 + 1
        return {
            "id": "chatcmpl-drill",
            "object": "chat.completion",
            "created": 0,
            "model": self.body.get("model") or MODEL,
            "choices": [choice | {"index": index} for index in range(number)],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": tokens * number,
                "total_tokens": prompt + tokens * number,
            },
        }

    async def respond(
        self,
        content: bytes,
        *,
        status: int = 200,
        kind: str = JSON,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Send a whole, well-formed HTTP response."""
        length = ("content-length", str(len(content)))
        await self.send(head(status, ("content-type", kind), length, *headers) + content)

    async def send(self, data: bytes) -> None:
        """Send bytes as they are. Raises ConnectionError when the client has gone."""
        self._writer.write(data)
        await self._writer.drain()

    async def until_left(self) -> None:
        """Wait for the client to go."""
        while await self._reader.read(_HEAD_BYTES):
            continue
        self.closed = True

    def close(self) -> None:
        """End the connection in order: what was sent still arrives."""
        self.closed = True
        self._writer.close()

    def reset(self) -> None:
        """End the connection with RST: what was sent may be lost."""
        self.closed = True
        _abort(self._writer)


def head(status: int, *headers: tuple[str, str]) -> bytes:
    """The head of an HTTP/1.1 response."""
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(": ".join(each) for each in headers)]
    return "\r\n".join([*lines, "", ""]).encode()


def slow(seconds: float) -> Fault:
    """A good answer, so much later."""

    async def reply(call: Call) -> None:
        await asyncio.sleep(seconds)
        await _answer(call)

    return Fault("slow", reply, good=True)


def trickle(pause_s: float = 1.0) -> Fault:
    """A good answer, byte by byte: each read gets something, and the whole never comes in time."""

    async def reply(call: Call) -> None:
        content = orjson.dumps(call.completion())
        await call.send(head(200, ("content-type", JSON), ("content-length", str(len(content)))))
        for byte in content:
            await call.send(bytes([byte]))
            await asyncio.sleep(pause_s)

    return Fault("trickle", reply, good=True)


def http(status: int) -> Fault:
    """An error of that status, in OpenAI's shape."""

    async def reply(call: Call) -> None:
        await call.respond(_error("server_error", _phrase(status)), status=status)

    return Fault(f"http-{status}", reply)


def limited(seconds: float, *, in_ms: bool = False) -> Fault:
    """429: come back in so many seconds, said by Retry-After, or by retry-after-ms."""
    header = ("retry-after-ms", str(math.ceil(seconds * 1000)))
    if not in_ms:
        header = ("retry-after", str(math.ceil(seconds)))

    async def reply(call: Call) -> None:
        content = _error("rate_limit_exceeded", "Rate limit reached")
        await call.respond(content, status=429, headers=[header])

    return Fault("limited-ms" if in_ms else "limited", reply)


async def _answer(call: Call) -> None:
    await call.respond(orjson.dumps(call.completion()))


async def _hang(call: Call) -> None:
    await call.until_left()


async def _reset(call: Call) -> None:
    call.reset()


async def _close(call: Call) -> None:
    call.close()


async def _quota(call: Call) -> None:
    content = _error("insufficient_quota", "You exceeded your current quota")
    await call.respond(content, status=429)


OK = Fault("ok", _answer, good=True)
HANG = Fault("hang", _hang)  # takes the request and never replies
RESET = Fault("reset", _reset)  # RST in place of a reply
CLOSE = Fault("close", _close)  # FIN in place of a reply
QUOTA = Fault("quota", _quota)  # 429 that no waiting ends: the account is empty


def turns(*faults: Fault) -> Choose:
    """Each call takes the next of these; after the last comes the first again."""
    if not faults:
        raise DataError("a plan of no faults", mend="name one at least; OK is one")
    return lambda number: faults[number % len(faults)]


def flaky(share: float, *faults: Fault, seed: int = 0) -> Choose:
    """A share of the calls, drawn at random, takes the next of these faults; the rest is fine."""
    failing, draw = turns(*faults), random.Random(seed)  # noqa: S311  a rehearsal is repeatable

    def choose(number: int) -> Fault:
        return failing(number) if draw.random() < share else OK

    return choose


class FaultServer:
    """An OpenAI-compatible server that does what its plan says; `async with` starts and ends it.

    A good answer follows the JSON schema that the request asks for: of each closed set one label,
    chosen by the text's hash, so that the same text gets the same answer. `say` gives other ones.
    `calls` counts the chat calls by the name of what became of them; `answered` are the questions,
    as the last message of the user has them, that a good answer was given to.
    """

    def __init__(self, choose: Choose | None = None, *, say: Say | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.answered: set[str] = set()
        self.most_at_once = 0
        self._say = say
        self._choose = choose or turns(OK)
        self._number = 0
        self._running = 0
        self._holder: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._walk: asyncio.Task[None] | None = None
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """The base URL, as an OpenAI client wants it."""
        return f"http://{_HOST}:{self.port}/v1"

    @property
    def port(self) -> int:
        """The port, which stays ours while it is closed. Raises DataError before the start."""
        if self._holder is None:
            raise DataError("the fault server has not been started", mend="enter it: async with")
        port: int = self._holder.getsockname()[1]
        return port

    @property
    def asked(self) -> int:
        """How many chat calls have come in."""
        return self.calls.total()

    async def __aenter__(self) -> Self:
        """Take a free port and listen on it."""
        # Bound and not listening: the port refuses, and no other process can take it meanwhile.
        self._holder = _bound(0)
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, whatever hangs."""
        await self._stand_still()
        await self._shut()
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    async def follow(self, *phases: Phase) -> None:
        """Go through these phases from now on. The first holds when this returns, the last stays.

        Calls that are being replied to go on as they began, unless the port closes.
        """
        for phase in phases[:-1]:
            if phase.seconds is None:
                raise DataError("a phase without an end, and one after it", mend="give it seconds")
        await self._stand_still()
        await self._enter(phases[0])
        self._walk = asyncio.create_task(self._go_on(phases))

    async def _go_on(self, phases: Sequence[Phase]) -> None:
        for before, phase in pairwise(phases):
            await asyncio.sleep(before.seconds or 0.0)
            await self._enter(phase)

    async def _stand_still(self) -> None:
        if self._walk is not None:
            self._walk.cancel()
            with suppress(asyncio.CancelledError):
                await self._walk
            self._walk = None

    async def _enter(self, phase: Phase) -> None:
        self._number = 0
        if phase.choose is None:
            await self._shut()
        else:
            self._choose = phase.choose
            await self._listen()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._serve, sock=_bound(self.port), backlog=_BACKLOG, limit=_HEAD_BYTES
            )

    async def _shut(self) -> None:
        """Close the port and reset every connection."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        clients = dict(self._clients)
        for serving, writer in clients.items():
            _abort(writer)
            serving.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request by request, until either side ends it."""
        serving = asyncio.current_task()
        assert serving is not None  # noqa: S101  asyncio runs this as a task
        self._clients[serving] = writer
        try:
            while await self._turn(reader, writer):
                continue
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client has gone, or sends what is no request, or the port is closed
        finally:
            del self._clients[serving]
            writer.close()

    async def _turn(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; returns whether the connection may have another."""
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (each.partition(":") for each in lines)
        }
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _BODY_BYTES:
            return False
        body = _read(await reader.readexactly(int(length)))
        call = Call(body, self._said(body), reader, writer)
        method, path = [*line.split(" "), "", ""][:2]
        if (method, path) == ("POST", "/v1/chat/completions"):
            await self._asked(call)
        elif (method, path) == ("GET", "/v1/models"):
            await call.respond(_MODELS)
        else:
            await call.respond(_error("not_found", f"no {method} {path} here"), status=404)
        return not call.closed

    async def _asked(self, call: Call) -> None:
        fault = self._choose(self._number)
        self._number += 1
        self.calls[fault.name] += 1
        if fault.good:
            self.answered.add(_text_of(call.body))
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            await fault.reply(call)
        finally:
            self._running -= 1

    def _said(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a good answer to this request says."""
        text = _text_of(body)
        if self._say is not None:
            return self._say(text)
        said = _value(_schema_of(body), text)
        return said if isinstance(said, dict) else {}


def _bound(port: int) -> socket.socket:
    """A socket at that port of this machine, which others of ours may have too."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((_HOST, port))
    made.setblocking(False)
    return made


def _abort(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError):  # it is closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase


def _error(code: str, message: str) -> bytes:
    """An error in OpenAI's shape."""
    return orjson.dumps({"error": {"message": message, "type": code, "param": None, "code": code}})


_MODELS = orjson.dumps(
    {
        "object": "list",
        "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "understudy"}],
    }
)


def _read(content: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def _text_of(body: Mapping[str, Any]) -> str:
    """The last message of the user."""
    messages = body.get("messages")
    found = ""
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "user":
            found = str(message.get("content"))
    return found


def _schema_of(body: Mapping[str, Any]) -> Any:
    """The JSON schema that the answer is to follow; None where the request names none."""
    wanted = body.get("response_format")
    for step in ("json_schema", "schema"):
        wanted = wanted.get(step) if isinstance(wanted, dict) else None
    return wanted


def _value(schema: Any, text: str) -> Any:
    """A value of that schema, the same one for the same text."""
    match schema:
        case {"const": value}:
            return value
        case {"enum": [*labels]} if labels:
            return labels[_drawn(text, len(labels))]
        case {"type": "array", "items": {"enum": [*labels]}}:
            return [label for label in labels if _drawn(f"{label} {text}", 2)]
        case {"properties": {**parts}}:
            return {name: _value(part, text) for name, part in parts.items()}
        case _:
            return None


def _drawn(text: str, most: int) -> int:
    """A number below `most` that the text decides, on every machine alike."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:8]) % most

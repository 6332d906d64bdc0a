"""The way out: one POST to the server of a teacher, and its reply as bytes that are JSON.

The only HTTP client of the gateway. It goes to the one place that the settings name: no redirect,
no proxy of the environment, and each connection goes to the very address that was checked. It reads
no more than it may, and whatever the server does becomes one of the errors of a teacher. It does
not try again: that is the guard's.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import h11
import httpcore2
import orjson

from gateway.errors import (
    SettingsError,
    TeacherGarbled,
    TeacherLimited,
    TeacherRefused,
    TeacherTimeout,
    TeacherUnavailable,
)
from gateway.teachers.destination import destination, refusal

MAX_BYTES = 4 * 2**20  # of a reply: the answers of one request are a few KiB

_CONNECTIONS = 64  # as many calls as a teacher's settings allow at once, by default
_CONNECT_S = 3.0  # to one address; then the next is tried, within the whole call's time
_IDLE_S = 4.0  # below the 5 s after which common servers close an idle connection
_WORDS_BYTES = 64 * 2**10  # of an error's body: more is no message
_WORDS_S = 1.0  # to wait for it: the status is known already
_WORDS = 200  # characters of a server's words that are shown
_ECHO = 8  # characters in a row that are the request's own and not the server's words
_KEY_ECHO = 4  # the same of a header: servers like to show the ends of a key
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~$!&'()*+,;=:@-]+)+", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)
_LATER = frozenset({408, 409, 425})  # what may pass by itself, beside 5xx
_SHUT = frozenset({401, 403, 404, 429})  # no such key or model, no money: nothing is worked on


class Upstream:
    """One server. `url` is checked as `destination` says; `headers` go with every request.

    `timeout_s` is for a whole call, from the wait for a connection to the last byte. `connections`
    bounds those that are open. `clock` is the wall clock, in seconds, for Retry-After as a date.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        max_bytes: int = MAX_BYTES,
        connections: int = _CONNECTIONS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        try:
            self._place = destination(url)
        except ValueError as error:
            raise SettingsError(f"the teacher's url: {error}", mend="write its address") from error
        for name, value in headers.items():
            if not _HEADER.fullmatch(name) or not _PRINTABLE.fullmatch(value):
                raise SettingsError(
                    f"the header {name[:60]!a} for {self._place} has characters that none may have",
                    mend="write printable ASCII; a key must not end in a line break",
                )
        self._secrets = tuple(headers.values())
        self._headers = [
            ("Host", self._place.authority),
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),  # a small reply may unpack to a huge one
            ("User-Agent", "understudy"),
            *headers.items(),
        ]
        self._timeout = timeout_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=connections,
            keepalive_expiry=_IDLE_S,
            network_backend=_Pinned(),
        )

    async def post(self, path: str, content: bytes) -> bytes:
        """The body of the 2xx reply to a JSON body: JSON in UTF-8, of any shape.

        `path` is put behind the URL's. Raises TeacherUnavailable (down, or 5xx), TeacherTimeout,
        TeacherGarbled (no JSON, cut, or too large), TeacherRefused (another try is no use) or
        TeacherLimited (429). What certainly was not worked on cost 0.
        """
        if not _PATH.fullmatch(path):
            raise ValueError(f"not a plain path: {path!a}")
        request = httpcore2.Request(
            "POST",
            httpcore2.URL(
                scheme=self._place.scheme,
                host=self._place.host,
                port=self._place.port,
                target=self._place.path + path,
            ),
            headers=[*self._headers, ("Content-Length", str(len(content)))],
            content=content,
            extensions={"timeout": {"connect": _CONNECT_S}},
        )
        try:
            async with asyncio.timeout(self._timeout):
                return await self._reply(request, content)
        except TimeoutError as error:
            raise TeacherTimeout(
                f"{self._place} did not answer in {self._timeout:.3g} s"
            ) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def _reply(self, request: httpcore2.Request, content: bytes) -> bytes:
        with self._named():
            response = await self._pool.handle_async_request(request)
        try:
            headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in response.headers
            }
            if not 200 <= response.status < 300:
                await self._fail(response, headers, content)
            self._check(headers)
            with self._named(reading=True):
                body = await self._body(response)
        finally:
            await response.aclose()
        return self._json(body)

    @contextlib.contextmanager
    def _named(self, *, reading: bool = False) -> Iterator[None]:
        """Errors of the connection as those of a teacher; `reading`: the reply has begun."""
        try:
            yield
        except httpcore2.RemoteProtocolError as error:
            # Without h11's word behind it the server closed an unused connection: it is only gone.
            if reading or isinstance(next(iter(error.args), None), h11.RemoteProtocolError):
                raise TeacherGarbled(
                    f"{self._place} sent a reply that is cut or no HTTP"
                ) from error
            raise TeacherUnavailable(f"{self._place} closed the connection") from error
        except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
            unsent = isinstance(error, httpcore2.ConnectError | httpcore2.ConnectTimeout)
            raise TeacherUnavailable(
                f"{self._place} cannot be reached: {type(error).__name__}",
                mend="is the server up, and its certificate one that this host trusts?",
                cost=0 if unsent else None,
            ) from error

    def _check(self, headers: Mapping[str, str]) -> None:
        """Whether a body is worth reading."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise self._garbled(f"content of type {kind[:60]!a}, not JSON")
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise self._garbled("packed content, which was not asked for")
        length = headers.get("content-length", "0")  # h11 has seen that it is a number
        if int(length) > self._max_bytes:
            raise self._garbled(f"{length[:20]} bytes, more than {self._max_bytes}")

    async def _body(self, response: httpcore2.Response) -> bytes:
        body = bytearray()
        async for part in response.aiter_stream():
            body += part
            if len(body) > self._max_bytes:
                raise self._garbled(f"more than {self._max_bytes} bytes")
        return bytes(body)

    def _json(self, body: bytes) -> bytes:
        try:
            orjson.loads(body)  # strict: UTF-8, no NaN, no deep nesting
        except orjson.JSONDecodeError as error:
            raise self._garbled("a body that is not JSON") from error
        return body

    def _garbled(self, what: str) -> TeacherGarbled:
        return TeacherGarbled(f"{self._place} sent {what}")

    async def _fail(
        self, response: httpcore2.Response, headers: Mapping[str, str], content: bytes
    ) -> NoReturn:
        status = response.status
        problem = await _problem(response)
        words = _own_words(problem, content, self._secrets)
        said = f"{self._place} answered {status}" + (f": {words}" if words else "")
        if status == 429 and not _out_of_quota(problem):
            raise TeacherLimited(said, cost=0, retry_after=_retry_after(headers, self._clock()))
        if status in _LATER or 500 <= status < 600:
            raise TeacherUnavailable(said)
        if 300 <= status < 400:
            raise TeacherRefused(
                f"{said}, which leads elsewhere",
                mend="write the address itself in the settings: no redirect is followed",
            )
        if 400 <= status < 500:
            shut = status in _SHUT
            raise TeacherRefused(
                said,
                mend="check the teacher's url, model and key",
                cost=0 if shut else None,
                status=status,
                lasting=shut,
            )
        raise TeacherGarbled(said)


class _Pinned(httpcore2.AsyncNetworkBackend):
    """Connects to addresses only, and only after each that the name has was checked."""

    def __init__(self) -> None:
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the library's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Try each address in turn. The name stays what TLS and the header Host are about."""
        addresses = await _resolve(host, port)
        for address in addresses:
            if reason := refusal(address):
                raise TeacherRefused(
                    f"{host} is at {address}, where no teacher is asked: {reason}",
                    mend="write the address of the teacher's server in the settings",
                )
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._backend.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


async def _resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, the likeliest first, each once."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(f"{host} has no address") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _problem(response: httpcore2.Response) -> Mapping[str, Any]:
    """What the body of an error says, as far as it comes and is a JSON object."""
    body = bytearray()
    with contextlib.suppress(TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
        async with asyncio.timeout(_WORDS_S):
            async for part in response.aiter_stream():
                body += part
                if len(body) > _WORDS_BYTES:
                    return {}
    with contextlib.suppress(orjson.JSONDecodeError):
        content = orjson.loads(bytes(body))
        if isinstance(content, dict):
            inner = content.get("error")
            return inner if isinstance(inner, dict) else content
    return {}


def _out_of_quota(problem: Mapping[str, Any]) -> bool:
    """Whether a 429 is about money and not about time, as OpenAI says it."""
    return "insufficient_quota" in (problem.get("code"), problem.get("type"))


def _own_words(problem: Mapping[str, Any], content: bytes, secrets: Iterable[str]) -> str:
    """The server's message, without what it repeats of the request or of the key."""
    found = (problem.get(name) for name in ("message", "error", "detail", "title"))
    words = next((each for each in found if isinstance(each, str)), "")[: _WORDS + _ECHO]
    shown = [True] * len(words)
    for text, length in (*((each, _KEY_ECHO) for each in secrets), *_sent(content)):
        for place in range(len(words) - length + 1):
            if words[place : place + length] in text:
                shown[place : place + length] = [False] * length
    plain = "".join(
        (letter if letter.isprintable() else " ") if seen else "\0"
        for letter, seen in zip(words, shown, strict=True)
    )
    return re.sub("\0+", "...", plain)[:_WORDS].strip()


def _sent(content: bytes) -> Iterator[tuple[str, int]]:
    """The texts of a request's body, and how many characters in a row are an echo of each."""
    try:
        waiting = [orjson.loads(content)]
    except orjson.JSONDecodeError:
        waiting = [content.decode(errors="replace")]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each, _ECHO
            if 1 < len(each) < _ECHO:
                yield each, len(each)
        elif isinstance(each, dict):
            waiting += [value for name, value in each.items() if name != "model"]
        elif isinstance(each, list):
            waiting += each


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, if the server says so: RFC 9110 10.2.3, or milliseconds as OpenAI says."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "").strip()
    seconds = _number(value)
    if seconds is not None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> float | None:
    """A plain number that is not negative."""
    return float(text) if _NUMBER.fullmatch(text.strip()) else None

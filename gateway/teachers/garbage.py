"""What an upstream may send in place of an answer: each case has a name and is of no use.

None of them holds an answer that could be taken for one: whoever says a label from these replies
has made it up. They come from what servers, proxies and models were seen to do, and from what one
that means harm could do. Nothing here is sent unless a plan of `faults` asks for it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from gateway.teachers.faults import JSON, Call, Fault, head

_GB = 10**9  # bytes
_BLOCK = b" " * 65_536  # white space: a JSON reader that is not bounded takes it for ever
_DEEP = 100_000  # brackets: far more than a recursive reader has stack for
_LONG = 1_000_000  # characters of one label, or of one header
_BREATH_S = 0.01  # between two pieces of what never ends: it is to be endless, not fast
_NO_LABEL = "no-such-label"
_PAGE = b"<!doctype html><title>502 Bad Gateway</title><h1>502 Bad Gateway</h1>"
_BAD_UTF8 = b"\xff\xfe\xc0"
_PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(64)
_CHUNKED = ("transfer-encoding", "chunked")
_TYPE = ("content-type", JSON)


def _body(name: str, make: Callable[[Call], bytes], *, kind: str = JSON) -> Fault:
    """A well-formed HTTP response with another body."""

    async def reply(call: Call) -> None:
        await call.respond(make(call), kind=kind)

    return Fault(name, reply)


def _words(
    name: str,
    make: Callable[[Mapping[str, Any]], str],
    *,
    finish: str = "stop",
    message: Mapping[str, Any] | None = None,
) -> Fault:
    """A chat completion with other words; `make` is given what a good answer says."""
    return _body(
        name,
        lambda call: orjson.dumps(
            call.completion(make(call.said), finish=finish, message=message),
        ),
    )


def _labels(name: str, make: Callable[[str], Any]) -> Fault:
    """An answer in which every label is another; `make` is given the good one."""

    def other(value: Any) -> Any:
        if isinstance(value, list):
            return [make(str(each)) for each in value or [_NO_LABEL]]
        return make(str(value))

    return _words(name, lambda said: _text({head: other(value) for head, value in said.items()}))


def _choices(name: str, **changed: Any) -> Fault:
    """A chat completion with other members than it should have; None as value takes one away."""

    def make(call: Call) -> bytes:
        whole = call.completion() | changed
        return orjson.dumps({key: value for key, value in whole.items() if value is not None})

    return _body(name, make)


def _message(name: str, **changed: Any) -> Fault:
    """A chat completion with another message."""
    return _body(name, lambda call: orjson.dumps(call.completion(message=changed)))


def _raw(name: str, make: Callable[[bytes], bytes]) -> Fault:
    """Bytes in place of a response, then the end; `make` is given the body of a good one."""

    async def reply(call: Call) -> None:
        await call.send(make(orjson.dumps(call.completion())))
        call.close()

    return Fault(name, reply)


def _endless(name: str, start: bytes, piece: bytes, *, pause_s: float = 0.0) -> Fault:
    """Bytes that do not end before the client goes."""

    async def reply(call: Call) -> None:
        await call.send(start)
        while True:
            await call.send(piece)
            await asyncio.sleep(pause_s)

    return Fault(name, reply)


def _text(content: Any) -> str:
    return orjson.dumps(content).decode()


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _sized(content: bytes, length: object) -> bytes:
    """A response whose length is said to be that."""
    return head(200, _TYPE, _length(length)) + content


def _length(length: object) -> tuple[str, str]:
    return "content-length", str(length)


def _chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def _missing(said: Mapping[str, Any]) -> str:
    return _text(dict(list(said.items())[1:]))


def _bomb() -> bytes:
    """Gzip of a gigabyte of white space, in a megabyte. Blocks ended by a full flush repeat."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: with gzip's header
    size = 2**20
    first = packer.compress(b" " * size) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b" " * size) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * (_GB // size)


async def _unpacks_to_a_gigabyte(call: Call) -> None:
    await call.respond(_bomb(), headers=[("content-encoding", "gzip")])


async def _says_gzip(call: Call) -> None:
    content = orjson.dumps(call.completion())
    await call.respond(_half(content), headers=[("content-encoding", "gzip")])


async def _unknown_coding(call: Call) -> None:
    await call.respond(_PICTURE, headers=[("content-encoding", "zz-unknown")])


async def _elsewhere(call: Call) -> None:
    target = ("location", "http://169.254.169.254/latest/meta-data/")
    await call.respond(b"", status=302, headers=[target])


async def _nothing(call: Call) -> None:
    await call.send(head(204))


# A well-formed response whose body is not a chat completion.
_BODIES = (
    _body("html", lambda _: _PAGE, kind="text/html"),
    _body("html-as-json", lambda _: _PAGE),
    _body("picture", lambda _: _PICTURE, kind="image/png"),
    _body("empty-body", lambda _: b""),
    _body("cut-json", lambda call: _half(orjson.dumps(call.completion()))),
    _body("json-null", lambda _: b"null"),
    _body("json-list", lambda call: orjson.dumps([call.completion()])),
    _body("json-string", lambda _: b'"fine"'),
    _body("json-object", lambda _: b"{}"),
    _body("two-documents", lambda call: orjson.dumps(call.completion()) * 2),
    _body("deep-nesting", lambda _: b"[" * _DEEP + b"]" * _DEEP),
    _body("bad-utf8", lambda call: _BAD_UTF8 + orjson.dumps(call.completion())),
    _body("utf16", lambda call: _text(call.completion()).encode("utf-16")),
    _body("event-stream", lambda _: b"data: [DONE]\n\n", kind="text/event-stream"),
    _body("error-with-200", lambda _: b'{"error": {"message": "overloaded", "code": 529}}'),
    _body("echo", lambda call: orjson.dumps(call.body)),
)
# A chat completion without words, or with words that are none.
_COMPLETIONS = (
    _choices("empty-choices", choices=[]),
    _choices("no-choices", choices=None),
    _choices("choices-no-list", choices="none"),
    _choices("choices-of-null", choices=[None]),
    _choices("no-message", choices=[{"index": 0, "finish_reason": "stop"}]),
    _message("null-content", content=None),
    _message("number-content", content=42),
    _message("content-parts", content=[{"type": "image_url", "image_url": {"url": "x"}}]),
    _message("refusal", content=None, refusal="I cannot help with that."),
    _message("tool-call", content=None, tool_calls=[{"id": "1", "type": "function"}]),
)
# Words that are not the answer which was asked for.
_ANSWERS = (
    _words("empty-content", lambda _: ""),
    _words("prose", lambda said: f"I would say {' and '.join(map(str, said.values()))}."),
    _words("single-quotes", lambda said: str(dict(said) or {"": ""})),
    _words("commented", lambda said: _text(said)[:-1] + " // surely\n}"),
    _words("answer-list", lambda said: _text([said])),
    _words("cut-answer", lambda said: _text(said)[:-1]),
    _words("answer-twice", lambda said: _text(said) * 2),
    _words("deep-answer", lambda _: '{"a":' * _DEEP + "0" + "}" * _DEEP),
    _words("missing-head", _missing),
    _words("extra-head", lambda said: _text({**said, "no-such-head": "yes"})),
    _words("no-number", lambda said: "{" + ", ".join(f'"{head}": NaN' for head in said) + "}"),
    _words("lone-surrogate", lambda said: "{" + ", ".join(f'"{h}": "\\ud800"' for h in said) + "}"),
    _words("out-of-tokens", lambda said: _text(said)[:-2], finish="length"),
    _words("filtered", lambda _: "", finish="content_filter"),
    _labels("wrong-label", lambda _: _NO_LABEL),
    _labels("near-label", lambda label: f" {label}."),
    _labels("null-label", lambda _: None),
    _labels("number-label", lambda _: 0),
    _labels("nested-label", lambda label: {"label": label}),
    _labels("nul-in-label", lambda label: f"{label}\0"),
    _labels("long-label", lambda label: label + "x" * _LONG),
)
# Bytes that are no HTTP response, or not the whole of one.
_RESPONSES = (
    _raw("not-http", lambda _: b"SSH-2.0-OpenSSH_9.6\r\n"),
    _raw("status-no-number", lambda body: b"HTTP/1.1 fine OK\r\n\r\n" + _half(body)),
    _raw("early-close", lambda body: _sized(_half(body), len(body))),
    _raw("length-too-small", lambda body: _sized(body, len(body) // 2)),
    _raw("length-no-number", lambda body: _sized(_half(body), "many")),
    _raw("negative-length", lambda body: _sized(_half(body), -1)),
    _raw("two-lengths", lambda body: head(200, _TYPE, _length(2), _length(3)) + body),
    _raw("bad-chunk", lambda body: head(200, _TYPE, _CHUNKED) + b"zz\r\n" + body),
    _raw("cut-chunks", lambda body: head(200, _TYPE, _CHUNKED) + _chunk(_half(body))),
    _raw("cut-head", lambda _: b"HTTP/1.1 200 OK\r\ncontent-ty"),
    _raw("long-header", lambda body: head(200, _TYPE, ("x-long", "x" * _LONG)) + _half(body)),
    Fault("redirect", _elsewhere),
    Fault("no-content", _nothing),
    Fault("bad-gzip", _says_gzip),
    Fault("unknown-coding", _unknown_coding),
)
# More than anybody can hold.
_FLOODS = (
    Fault("gzip-bomb", _unpacks_to_a_gigabyte),
    _endless("endless-body", head(200, _TYPE, _CHUNKED), _chunk(_BLOCK)),
    _endless("huge-body", head(200, _TYPE, _length(_GB)), _BLOCK),
    _endless("unsized-body", head(200, _TYPE, ("connection", "close")), _BLOCK),
    _endless("endless-head", b"HTTP/1.1 200 OK\r\n", b"x-more: and more\r\n", pause_s=_BREATH_S),
    _endless("endless-continue", b"", head(100), pause_s=_BREATH_S),
)

GARBAGE = (*_BODIES, *_COMPLETIONS, *_ANSWERS, *_RESPONSES, *_FLOODS)

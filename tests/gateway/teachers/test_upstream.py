"""The way out: whatever a server does becomes the right error, and nothing else gets in."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import shutil
import socket
import ssl
import subprocess
import tracemalloc
from collections.abc import Coroutine
from email.utils import formatdate
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gateway.errors import (
    SettingsError,
    TeacherError,
    TeacherGarbled,
    TeacherLimited,
    TeacherRefused,
    TeacherTimeout,
    TeacherUnavailable,
)
from gateway.teachers import upstream as ways
from gateway.teachers.upstream import MAX_BYTES, Upstream
from tests.gateway.teachers.raw import Act, Raw, hangs, repeats, reply, says, serving

T = TypeVar("T")

SOON = 120.0  # seconds; far beyond what any call here takes
NOW = 1_800_000_000.0  # seconds since the epoch
GOOD = reply(b'{"ok": true}')
KEY = "sk-0123456789abcdef"
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_CHUNKED = _JSON + b"transfer-encoding: chunked\r\n\r\n"
TEXT = "my card 4111 1111 1111 1111 is gone"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it, with a bound on hanging."""
    return asyncio.run(asyncio.wait_for(work, SOON))


def upstream(url: str, **more: Any) -> Upstream:
    """An upstream with a key, at a fixed time."""
    given: dict[str, Any] = {
        "headers": {"Authorization": f"Bearer {KEY}"},
        "timeout_s": SOON,
        "clock": lambda: NOW,
    }
    return Upstream(url, **(given | more))


async def ask(act: Act, content: bytes = b"{}", **more: Any) -> tuple[bytes, Raw]:
    """One call to a server that does that."""
    async with serving(act) as raw:
        way = upstream(f"{raw.url}/v1", **more)
        try:
            return await way.post("/x", content), raw
        finally:
            await way.close()


def error_of(act: Act, content: bytes = b"{}", **more: Any) -> TeacherError:
    """The error of that call."""
    with pytest.raises(TeacherError) as raised:
        run(ask(act, content, **more))
    return raised.value


def test_a_reply_comes_back_as_it_is_and_the_request_says_what_it_must() -> None:
    body, raw = run(ask(says(GOOD), b'{"a":1}'))
    assert body == b'{"ok": true}'
    assert raw.bodies == [b'{"a":1}']
    (head,) = raw.heads
    lines = head.split("\r\n")
    assert lines[0] == "POST /v1/x HTTP/1.1"
    assert f"Host: {raw.url.removeprefix('http://')}" in lines
    assert "Accept-Encoding: identity" in lines
    assert f"Authorization: Bearer {KEY}" in lines
    assert "Content-Length: 7" in lines


def test_a_reply_may_come_in_pieces_and_end_with_the_connection() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    chunks = head + b"transfer-encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"
    assert run(ask(says(chunks)))[0] == b"[1,2]"
    assert run(ask(says(head + b"\r\n[3]", close=True)))[0] == b"[3]"
    assert run(ask(says(b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD)))[0] == b'{"ok": true}'
    problem = reply(b"[4]", kind="application/vnd.api+json; charset=utf-8")
    assert run(ask(says(problem)))[0] == b"[4]"


def _garbage() -> dict[str, bytes]:
    packed = gzip.compress(b'{"ok": true}')
    return {
        "no http": b"hello\r\n\r\n",
        "binary": bytes(range(256)) + b"\r\n\r\n",
        "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "no status": b"HTTP/1.1\r\n\r\n",
        "status of words": b"HTTP/1.1 OK OK\r\n\r\n",
        "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
        "status 999": b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n",
        "another protocol from here": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n",
        "header without a colon": b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n{}",
        "header with a NUL": _JSON + b"x: \x00\r\n\r\n{}",
        "endless header": _JSON + b"x: " + b"a" * 200_000,
        "two lengths": _JSON + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
        "length of words": _JSON + b"content-length: two\r\n\r\n{}",
        "negative length": _JSON + b"content-length: -1\r\n\r\n{}",
        "html": reply(b"<html>", kind="text/html"),
        "html that says it is json": reply(b"<html><body>Bad gateway</body></html>"),
        "text": reply(b"{}", kind="text/plain"),
        "json lines": reply(b"{}\n{}"),
        "events": reply(b"data: {}\n\n", kind="text/event-stream"),
        "no type": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "almost json": reply(b"{}", kind="application/jsonp"),
        "nothing": reply(b""),
        "no content": b"HTTP/1.1 204 No Content\r\ncontent-type: application/json\r\n\r\n",
        "cut json": reply(b'{"ok": tr'),
        "json and more": reply(b'{"ok": true} extra'),
        "not a number": reply(b'{"a": NaN}'),
        "single quotes": reply(b"{'a': 1}"),
        "latin-1": reply('{"a": "é"}'.encode("latin-1")),
        "utf-16": reply('{"a": 1}'.encode("utf-16")),
        "overlong utf-8": reply(b'{"a": "\xc0\xaf"}'),
        "half a surrogate": reply(b'{"a": "\xed\xa0\x80"}'),
        "deep": reply(b"[" * 5000 + b"]" * 5000),
        "packed": reply(packed, "content-encoding: gzip"),
        "packed twice": reply(gzip.compress(packed), "content-encoding: gzip, gzip"),
        "unknown packing": reply(b"{}", "content-encoding: br"),
        "packed in transfer": _JSON + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "cut body": _JSON + b"content-length: 100\r\n\r\n{}",
        "cut chunk": _JSON + b"transfer-encoding: chunked\r\n\r\nff\r\n{}",
        "bad chunk length": _JSON + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        "declared too large": _JSON + b"content-length: 4194305\r\n\r\n",
        "declared as huge": _JSON + b"content-length: 99999999999999999999\r\n\r\n",
    }


@pytest.mark.parametrize("name", list(_garbage()))
def test_garbage_is_an_error_of_its_own(name: str) -> None:
    assert len(_garbage()) >= 30
    error = error_of(says(_garbage()[name], close=True))
    assert type(error) is TeacherGarbled
    assert KEY not in str(error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (300, TeacherRefused),
        (301, TeacherRefused),
        (302, TeacherRefused),
        (307, TeacherRefused),
        (400, TeacherRefused),
        (401, TeacherRefused),
        (402, TeacherRefused),
        (403, TeacherRefused),
        (404, TeacherRefused),
        (405, TeacherRefused),
        (408, TeacherUnavailable),
        (409, TeacherUnavailable),
        (413, TeacherRefused),
        (422, TeacherRefused),
        (425, TeacherUnavailable),
        (429, TeacherLimited),
        (500, TeacherUnavailable),
        (502, TeacherUnavailable),
        (503, TeacherUnavailable),
        (504, TeacherUnavailable),
        (529, TeacherUnavailable),
    ],
)
def test_a_status_says_whether_another_try_is_of_use(status: int, kind: type[TeacherError]) -> None:
    sent = reply(b"{}", "location: http://127.0.0.1:1/", status=f"{status} Status")
    error = error_of(says(sent))
    assert type(error) is kind
    assert f"answered {status}" in error.message
    shut = status in {401, 403, 404}
    assert error.cost == (0 if shut or status == 429 else None)
    assert getattr(error, "lasting", False) is shut


def test_no_redirect_is_followed() -> None:
    async def scene() -> tuple[int, int]:
        async with serving(says(GOOD)) as other:
            away = reply(b"", f"location: {other.url}/", status="307 Elsewhere")
            async with serving(says(away)) as first:
                way = upstream(first.url)
                with pytest.raises(TeacherRefused, match="leads elsewhere"):
                    await way.post("/x", b"{}")
                await way.close()
                return len(first.heads), len(other.heads)

    assert run(scene()) == (1, 0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["retry-after: 7"], 7.0),
        (["Retry-After: 0"], 0.0),
        (["retry-after: 1.5"], 1.5),
        ([f"retry-after: {formatdate(NOW + 90, usegmt=True)}"], 90.0),
        ([f"retry-after: {formatdate(NOW - 90, usegmt=True)}"], 0.0),
        (["retry-after: soon"], None),
        (["retry-after: -3"], None),
        (["retry-after: 1e999"], None),
        (["retry-after: 9999999999999999"], None),
        (["retry-after: Mon, 99 Foo 2026 00:00:00 GMT"], None),
        (["retry-after-ms: 250"], 0.25),
        (["retry-after-ms: 250", "retry-after: 9"], 0.25),
        (["retry-after-ms: later", "retry-after: 9"], 9.0),
    ],
)
def test_a_limit_says_how_long_to_wait(headers: list[str], seconds: float | None) -> None:
    error = error_of(says(reply(b"{}", *headers, status="429 Too Many")))
    assert isinstance(error, TeacherLimited)
    assert error.retry_after == seconds


@pytest.mark.parametrize("name", ["code", "type"])
def test_a_limit_of_money_is_a_refusal(name: str) -> None:
    body = b'{"error": {"message": "pay first", "%s": "insufficient_quota"}}' % name.encode()
    error = error_of(says(reply(body, "retry-after: 1", status="429 Too Many")))
    assert isinstance(error, TeacherRefused)
    assert error.message.endswith("answered 429: pay first")
    assert (error.lasting, error.cost) == (True, 0)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": "no such model"}',
        b'{"error": {"message": "no such model"}}',
        b'{"message": "no such model"}',
        b'{"detail": "no such model"}',
        b'{"title": "no such model", "status": 404}',
        b'{"error": {"message": "no\\nsuch\\u0007model"}}',
    ],
)
def test_the_words_of_the_server_are_shown(body: bytes) -> None:
    error = error_of(says(reply(body, status="404 Not Found")))
    assert error.message.endswith("/v1 answered 404: no such model")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error": 5}', b'{"error": {}}', b"{", b"\xff" * 10]
)
def test_a_status_is_enough_where_there_are_no_words(body: bytes) -> None:
    assert error_of(says(reply(body, status="404 Not Found"))).message.endswith("answered 404")


def test_no_more_than_two_hundred_characters_are_shown() -> None:
    body = b'{"error": "%s"}' % (b"x y z " * 1000)
    message = error_of(says(reply(body, status="400 Bad"))).message
    assert 190 <= len(message.partition("answered 400: ")[2]) <= 200


def test_words_that_repeat_the_text_or_the_key_are_shown_without_them() -> None:
    echo = f"Incorrect key {KEY[:7]}...{KEY[-4:]} ({KEY}) for {TEXT!r}, near 4111 1111 1111"
    body = b'{"error": {"message": "%s"}}' % echo.encode()
    sent = b'{"model": "gpt", "messages": [{"role": "user", "content": "Text: %s"}]}'
    message = error_of(says(reply(body, status="401 No")), sent % TEXT.encode()).message
    message = message.partition("answered 401: ")[2]  # a port may have the digits of a card
    assert "Incorrect" in message
    for secret in (KEY, KEY[:7], KEY[-4:], "4111", "my card", "is gone"):
        assert secret not in message


def test_a_short_text_is_not_repeated_either_and_the_model_is() -> None:
    body = b'{"error": "the model tiny-model-1 cannot read ab12"}'
    sent = b'{"model": "tiny-model-1", "input": "ab12"}'
    message = error_of(says(reply(body, status="400 Bad")), sent).message
    assert message.endswith("answered 400: the model tiny-model-1 cannot read ...")


def test_a_body_that_is_no_json_is_not_repeated_either() -> None:
    message = error_of(says(reply(b'{"error": "saw 0123456789"}', status="400 Bad")), b"0123456789")
    assert message.message.endswith("answered 400: saw ...")


def test_an_error_whose_words_never_end_is_told_by_its_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ways, "_WORDS_S", 0.05)
    head = b"HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\n\r\n"
    assert error_of(repeats(head, b" " * 10_000)).message.endswith("answered 503")
    assert error_of(says(head + b'{"error"')).message.endswith("answered 503")  # and then hangs


def test_what_never_answers_is_a_timeout() -> None:
    error = error_of(hangs, timeout_s=0.05)
    assert type(error) is TeacherTimeout
    assert error.message.endswith("/v1 did not answer in 0.05 s")


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        (_JSON + b"\r\n[", b"1,"),
        (_CHUNKED, b"10000\r\n" + b" " * 65_536 + b"\r\n"),
        (_CHUNKED + b"1\r\n1\r\n0\r\n", b"trailer: x\r\n"),
    ],
    ids=["informational", "headers", "body", "chunks", "trailers"],
)
def test_what_never_ends_is_cut_and_takes_no_memory(head: bytes, part: bytes) -> None:
    block = part * max(1, 60_000 // len(part))

    async def scene() -> None:
        with pytest.raises((TeacherGarbled, TeacherTimeout)):
            await ask(repeats(head, block), timeout_s=1.0, max_bytes=200_000)

    gc.collect()
    tracemalloc.start()
    run(scene())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_a_reply_may_have_just_as_many_bytes_as_are_allowed() -> None:
    body = b'"' + b"a" * 98 + b'"'
    assert run(ask(says(reply(body)), max_bytes=100))[0] == body
    assert type(error_of(says(reply(body)), max_bytes=99)) is TeacherGarbled
    assert MAX_BYTES == 4 * 1024 * 1024


def test_a_small_reply_that_unpacks_to_a_huge_one_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    tracemalloc.start()
    error = error_of(says(reply(bomb, "content-encoding: gzip")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "packed content" in error.message
    assert peak < 4 * 2**20


def test_a_port_where_nobody_listens_is_a_teacher_that_is_down() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"

        async def scene() -> None:
            way = upstream(url)
            with pytest.raises(TeacherUnavailable, match="cannot be reached") as raised:
                await way.post("/x", b"{}")
            assert (raised.value.asked, raised.value.cost) == (True, 0)
            await way.close()

        run(scene())


def test_a_server_that_hangs_up_is_a_teacher_that_is_down() -> None:
    error = error_of(says(b"", close=True))
    assert type(error) is TeacherUnavailable
    assert error.message.endswith("closed the connection")
    assert error.cost is None  # it may have read the request


def test_a_reset_is_a_teacher_that_is_down() -> None:
    async def reset(writer: asyncio.StreamWriter) -> None:
        transport: Any = writer.transport
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # on, 0 s: closing sends RST
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()

    assert type(error_of(reset)) is TeacherUnavailable


def test_connections_are_kept_and_a_closed_one_is_replaced() -> None:
    async def scene() -> tuple[int, int]:
        async with serving(says(GOOD)) as raw:
            way = upstream(raw.url)
            for _ in range(3):
                await way.post("/x", b"{}")
            kept = raw.connections
            await way.close()
            await raw.gone.wait()
            await way.post("/x", b"{}")
            await way.close()
            return kept, raw.connections

    assert run(scene()) == (1, 2)


def test_no_more_connections_are_open_than_allowed() -> None:
    async def scene() -> int:
        async with serving(says(GOOD)) as raw:
            way = upstream(raw.url, connections=2)
            await asyncio.gather(*(way.post("/x", b"{}") for _ in range(20)))
            await way.close()
            return raw.connections

    assert run(scene()) <= 2


def test_a_call_that_is_cancelled_gives_its_connection_back() -> None:
    async def scene() -> None:
        come = asyncio.Semaphore(0)

        async def tells(writer: asyncio.StreamWriter) -> None:
            come.release()
            await hangs(writer)

        async with serving(tells) as raw:
            way = upstream(raw.url, connections=1)
            for _ in range(3):
                call = asyncio.create_task(way.post("/x", b"{}"))
                await come.acquire()
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            assert len(raw.heads) == 3
            await way.close()

    run(scene())


def _resolve_by(resolver: Any) -> None:
    """Let the running loop look names up there."""
    asyncio.get_running_loop().getaddrinfo = resolver  # type: ignore[method-assign]


def _at(*addresses: str) -> Any:
    """A resolver that knows these addresses for every name."""

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:  # noqa: ARG001
        return [(0, 1, 6, "", (each, port)) for each in addresses]

    return resolve


@pytest.mark.parametrize(
    "addresses",
    [
        ["169.254.169.254"],
        ["127.0.0.1", "169.254.169.254"],
        ["::ffff:169.254.169.254"],
        ["fd00:ec2::254"],
        ["0.0.0.0"],  # noqa: S104
    ],
)
def test_a_name_that_leads_to_metadata_is_never_connected_to(addresses: list[str]) -> None:
    async def scene() -> int:
        async with serving(says(GOOD)) as raw:
            _resolve_by(_at(*addresses))
            way = upstream(raw.url.replace("127.0.0.1", "metadata.internal"))
            with pytest.raises(TeacherRefused, match=r"metadata\.internal is at .* no teacher"):
                await way.post("/x", b"{}")
            await way.close()
            return raw.connections

    assert run(scene()) == 0


def test_the_address_that_was_checked_is_the_one_that_is_connected_to() -> None:
    """A name that changes its address between the check and the call is asked once only."""
    asked: list[str] = []

    async def scene() -> str:
        async with serving(says(GOOD)) as raw:
            first, then = _at("127.0.0.1"), _at("169.254.169.254")

            async def resolve(host: str, port: int, **_: Any) -> Any:
                asked.append(host)
                return await (first if len(asked) == 1 else then)(host, port)

            _resolve_by(resolve)
            way = upstream(raw.url.replace("127.0.0.1", "teacher.internal"))
            await way.post("/x", b"{}")
            await way.close()
            return raw.heads[0]

    head = run(scene())
    assert asked[0] == "teacher.internal"
    assert "Host: teacher.internal:" in head


def test_the_next_address_is_tried_where_one_refuses() -> None:
    async def scene() -> bytes:
        async with serving(says(GOOD)) as raw:
            resolve = _at("::1", "127.0.0.1")
            _resolve_by(resolve)
            way = upstream(raw.url.replace("127.0.0.1", "teacher.internal"))
            body = await way.post("/x", b"{}")
            await way.close()
            return body

    assert run(scene()) == b'{"ok": true}'


def test_a_name_that_nobody_knows_is_a_teacher_that_is_down() -> None:
    async def scene(resolve: Any) -> None:
        _resolve_by(resolve)
        way = upstream("http://teacher.internal")
        with pytest.raises(TeacherUnavailable, match="cannot be reached") as raised:
            await way.post("/x", b"{}")
        assert raised.value.cost == 0
        await way.close()

    async def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    run(scene(unknown))
    run(scene(_at()))


def test_the_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert run(ask(says(GOOD)))[0] == b'{"ok": true}'


def _certificate(folder: Path, name: str) -> Path:
    """A key and a certificate for a name, in one file."""
    place = folder / "certificate.pem"
    made = folder / "made.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", str(place), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    place.write_text(place.read_text() + made.read_text())
    return place


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_the_certificate_must_be_trusted_and_for_the_name_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = _certificate(tmp_path, "teacher.internal")
    spoken = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    spoken.load_cert_chain(place)

    async def scene(name: str) -> bytes:
        async with serving(says(GOOD), tls=spoken) as raw:
            _resolve_by(_at("127.0.0.1"))
            way = upstream(raw.url.replace("127.0.0.1", name))
            try:
                return await way.post("/x", b"{}")
            finally:
                await way.close()

    with pytest.raises(TeacherUnavailable, match="cannot be reached"):
        run(scene("teacher.internal"))  # nobody has said that it is to be trusted
    monkeypatch.setenv("SSL_CERT_FILE", str(place))
    assert run(scene("teacher.internal")) == b'{"ok": true}'
    with pytest.raises(TeacherUnavailable, match="cannot be reached"):
        run(scene("other.internal"))


def test_ipv6_is_spoken() -> None:
    async def scene() -> bytes:
        async with serving(says(GOOD), host="::1") as raw:
            way = upstream(raw.url)
            body = await way.post("/x", b"{}")
            await way.close()
            return body

    assert run(scene()) == b'{"ok": true}'


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer abc\n"}, {"X\r\n": "a"}, {"": "a"}, {"X-Key": "schlüssel"}],
)
def test_a_header_that_none_may_have_is_a_mistake_of_the_settings(headers: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="characters that none may have") as raised:
        Upstream("http://host", headers=headers, timeout_s=1.0)
    assert "abc" not in str(raised.value)


def test_a_url_that_is_not_plain_is_a_mistake_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="the teacher's url: a URL holds no user"):
        Upstream("http://user:pass@host", headers={}, timeout_s=1.0)


@pytest.mark.parametrize("path", ["", "x", "/", "/a//b", "/a?b", "/a b", "/a\r\nX: y", "//host"])
def test_a_path_that_is_not_plain_is_a_mistake_of_the_caller(path: str) -> None:
    with pytest.raises(ValueError, match="not a plain path"):
        run(upstream("http://host").post(path, b"{}"))


def test_nothing_of_the_key_or_the_text_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    run(ask(says(GOOD), b'"%s"' % TEXT.encode()))
    assert KEY not in caplog.text
    assert TEXT not in caplog.text

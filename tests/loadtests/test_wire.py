"""Requests and replies on the wire, as servers may split, chunk and break them."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from gateway.errors import UsageError
from loadtests import closed_loop
from loadtests.wire import Reply, Target, WireError, _parse
from tests.loadtests.canned import OK, Said, canned
from tests.loadtests.test_loops import one_line

_HEAD = b"HTTP/1.1 200 OK\r\n"
# Far above what a busy machine takes: the count ends these.
_closed = partial(closed_loop.run, seconds=120.0, timeout_s=60.0)


def test_a_request_names_its_host_and_the_length_of_its_body() -> None:
    target = Target.parse("http://example:81/v1/predict?x=1")
    assert target.request(b"{}", {"Authorization": "Bearer k"}) == (
        b"POST /v1/predict?x=1 HTTP/1.1\r\nhost: example:81\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer k\r\ncontent-length: 2\r\n\r\n{}"
    )


def test_an_address_without_port_and_path_means_80_and_the_root() -> None:
    assert Target.parse("http://example") == Target("example", 80, "/")


@pytest.mark.parametrize("url", ["https://example", "example:80", "http://", "http://x:port/"])
def test_an_address_that_cannot_be_loaded_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not an address"):
        Target.parse(url)


@pytest.mark.parametrize("end", range(1, len(OK)))
def test_a_reply_is_there_when_its_last_byte_is(end: int) -> None:
    assert _parse(OK[:end]) is None


def test_a_reply_with_a_length_is_read() -> None:
    head = b"HTTP/1.1 429 Too Many\r\nContent-Length: 2"
    assert _parse(head + b"\r\n\r\nno") == Reply(429, head, b"no")


def test_a_chunked_reply_is_put_together() -> None:
    head = _HEAD + b"transfer-encoding: chunked"
    whole = head + b'\r\n\r\n3\r\n{"a\r\nA;x=y\r\n": 1234567\r\n1\r\n}\r\n0\r\n\r\n'
    assert _parse(whole) == Reply(200, head, b'{"a": 1234567}')
    for end in range(len(head) + 4, len(whole)):
        assert _parse(whole[:end]) is None


def test_a_reply_that_has_no_body_is_read() -> None:
    assert _parse(b"HTTP/1.1 204 No Content\r\n\r\n") == Reply(204, b"HTTP/1.1 204 No Content", b"")


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", "not HTTP"),
        (_HEAD + b"\r\n", "no length"),
        (_HEAD + b"content-length: 99999999999\r\n\r\n", "too large"),
        (_HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\n", "not HTTP"),
    ],
)
def test_what_is_no_reply_has_a_cause(data: bytes, cause: str) -> None:
    with pytest.raises(WireError) as caught:
        _parse(data)
    assert caught.value.cause == cause


def test_a_reply_in_pieces_is_one_reply() -> None:
    with canned(lambda _: Said([OK[:5], OK[5:40], OK[40:]])) as url:
        result = _closed(url, [b"{}"], connections=2, count=6)
    assert (result.succeeded, result.errors) == (6, 0)


def test_a_line_that_the_server_closes_after_a_reply_is_opened_again() -> None:
    last = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    with canned(lambda _: Said([last], close=True)) as url:
        result = _closed(url, [b"{}"], connections=1, count=5)
    assert (result.succeeded, result.failures) == (5, {})


def test_a_request_that_is_answered_by_the_end_of_the_connection_has_failed() -> None:
    with canned(lambda number: Said([OK[:20]] if number == 2 else [OK], close=number == 2)) as url:
        result = _closed(url, [b"{}"], connections=1, count=5)
    assert (result.succeeded, result.failures, result.errors) == (4, {"closed": 1}, 1)


def test_a_large_request_leaves_in_several_parts() -> None:
    with canned(lambda _: Said()) as url:
        result = _closed(url, [b"x" * 20_000_000], connections=1, count=2)
    assert (result.succeeded, result.errors) == (2, 0)


def test_a_reply_that_never_comes_has_timed_out_and_the_next_request_leaves() -> None:
    with canned(lambda _: Said([])) as url:
        result = _closed(url, [b"{}"], connections=1, count=3, timeout_s=0.2)
    assert (result.sent, result.succeeded, result.failures) == (3, 0, {"timeout": 3})


def test_after_a_reply_that_never_comes_the_next_ones_are_taken_in() -> None:
    asked = threading.Event()

    def reply(number: int) -> Said:
        asked.set()
        return Said([OK] if number else [])

    with canned(reply) as url, one_line(url) as (exchange, lines):
        (line,) = lines.all
        assert exchange.send(line, 0, 0.0)
        asked.wait()
        assert exchange.collect([], time.monotonic() + 61) == [line]  # beyond its limit
        for number in (1, 2):
            assert exchange.send(line, number, 0.0)
            while exchange.in_flight:
                exchange.collect(lines.wait(1.0), time.monotonic())
    assert (exchange.tally.statuses(), exchange.tally.failures) == ({200: 2}, {"timeout": 1})


def test_a_server_that_is_not_there_is_a_mistake_in_what_was_asked() -> None:
    with pytest.raises(UsageError, match="nothing answers there"):
        closed_loop.run("http://127.0.0.1:9/", [b"{}"], connections=1, count=1)

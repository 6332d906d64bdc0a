"""Each reply of the garbage table, as a client gets it: no reader can take it for an answer."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import httpx2
import orjson
import pytest

from gateway.teachers.faults import OK, Fault, FaultServer, turns
from gateway.teachers.garbage import GARBAGE
from tests.gateway.teachers.test_faults import FLAGS, INTENTS, bare, request

PATIENCE_S = 30.0
MOST = 1 << 20  # bytes that this reader takes; what is longer is no answer
NAMES = [fault.name for fault in GARBAGE]


async def read(fault: Fault) -> tuple[int, str, bytes]:
    """Status, content type and body of a reply. Raises what httpx2 does, or ValueError."""
    async with (
        FaultServer(turns(fault)) as server,
        httpx2.AsyncClient(timeout=PATIENCE_S) as client,
        asyncio.timeout(0.5 if fault.name.startswith("endless") else PATIENCE_S),
        client.stream("POST", f"{server.url}/chat/completions", json=request()) as reply,
    ):
        content = b""
        async for piece in reply.aiter_bytes():
            content += piece
            if len(content) > MOST:
                raise ValueError("too long")
        return reply.status_code, reply.headers.get("content-type", ""), content


def answer(fault: Fault) -> dict[str, Any]:
    """The answer that a strict reader finds. Raises for what is none."""
    status, kind, content = asyncio.run(read(fault))
    if (status, kind) != (200, "application/json"):
        raise ValueError(status, kind)
    choice = orjson.loads(content)["choices"][0]
    if choice["finish_reason"] != "stop":
        raise ValueError(choice["finish_reason"])
    said = orjson.loads(choice["message"]["content"])
    if set(said) != {"intent", "flags"}:
        raise KeyError
    if said["intent"] not in INTENTS or not {*said["flags"]} <= {*FLAGS}:
        raise ValueError(said)
    found: dict[str, Any] = said
    return found


def test_the_reader_of_these_tests_understands_a_good_answer() -> None:
    assert answer(OK)["intent"] in INTENTS


@pytest.mark.parametrize("fault", GARBAGE, ids=NAMES)
def test_no_reader_finds_an_answer_in_it(fault: Fault) -> None:
    with pytest.raises(
        (ValueError, LookupError, TypeError, AttributeError, TimeoutError, httpx2.RequestError)
    ):
        answer(fault)


def test_there_are_more_than_thirty_cases_and_each_has_a_name_of_its_own() -> None:
    assert len(NAMES) >= 30
    assert len(set(NAMES)) == len(NAMES)


def raw(name: str) -> bytes:
    """Every byte of that reply."""

    async def run() -> bytes:
        async with FaultServer(turns(GARBAGE[NAMES.index(name)])) as server:
            return await bare(server)

    return asyncio.run(run())


def started(name: str, number: int) -> bytes:
    """The first bytes of a reply that does not end."""

    async def run() -> bytes:
        async with FaultServer(turns(GARBAGE[NAMES.index(name)])) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                writer.write(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
                )
                return await reader.readexactly(number)
            finally:
                writer.close()

    return asyncio.run(run())


def test_the_gzip_bomb_is_a_megabyte_that_becomes_a_gigabyte() -> None:
    whole = started("gzip-bomb", 900_000)
    head, _, packed = whole.partition(b"\r\n\r\n")
    assert b"content-encoding: gzip" in head
    length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
    unpacker, unpacked, whole_size = zlib.decompressobj(31), 0, len(packed)
    for _ in range(16):
        unpacked += len(unpacker.decompress(packed, 1 << 22))
        packed = unpacker.unconsumed_tail
    assert unpacked == 16 << 22
    assert length < 2 << 20
    assert length > 14 * (whole_size - len(packed))  # 14 times 64 MiB, and there is more


def test_floods_go_on_for_as_long_as_the_client_reads() -> None:
    assert len(started("endless-body", 8 << 20)) == 8 << 20
    assert b"content-length: 1000000000\r\n" in started("huge-body", 200)
    assert b"content-length" not in started("unsized-body", 8 << 20)[:200]
    assert started("endless-head", 190).count(b"x-more") > 5
    assert started("endless-continue", 100).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100")


def test_broken_responses_are_broken_as_their_names_say() -> None:
    assert raw("not-http").startswith(b"SSH-2.0")
    assert raw("two-lengths").count(b"content-length") == 2
    assert b"\r\n\r\nzz\r\n" in raw("bad-chunk")
    assert b"\r\n\r\n" not in raw("cut-head")
    head, _, body = raw("early-close").partition(b"\r\n\r\n")
    assert int(head.rpartition(b"content-length: ")[2]) > len(body)
    head, _, body = raw("length-too-small").partition(b"\r\n\r\n")
    assert int(head.rpartition(b"content-length: ")[2]) < len(body)

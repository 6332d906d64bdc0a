"""The fault server, seen from outside: by OpenAI's own client, by httpx2 and by bare sockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest

from gateway.errors import DataError
from gateway.teachers import faults
from gateway.teachers.faults import (
    CLOSE,
    HANG,
    OK,
    QUOTA,
    RESET,
    Call,
    Fault,
    FaultServer,
    Phase,
    flaky,
    http,
    limited,
    slow,
    trickle,
    turns,
)

PATIENCE_S = 120.0  # only a hang reaches it
INTENTS = ["refund", "fraud", "other"]
FLAGS = ["urgent", "legal"]
SCHEMA = {
    "type": "object",
    "properties": {
        "intent": {"type": "string", "enum": INTENTS},
        "flags": {"type": "array", "items": {"type": "string", "enum": FLAGS}},
    },
    "required": ["intent", "flags"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}


def request(text: str = "my card is gone", **more: Any) -> dict[str, Any]:
    """The body of a chat call that asks for the labels of a text."""
    messages = [{"role": "system", "content": "choose"}, {"role": "user", "content": text}]
    return {"model": "any", "messages": messages, "response_format": FORMAT, **more}


async def post(server: FaultServer, text: str = "my card is gone", **more: Any) -> httpx2.Response:
    """What a call of a client of its own gets."""
    async with httpx2.AsyncClient(timeout=PATIENCE_S) as client:
        return await client.post(f"{server.url}/chat/completions", json=request(text, **more))


def served(fault: Fault, act: Callable[[FaultServer], Awaitable[Any]]) -> Any:
    """What `act` gives while each call meets that fault."""

    async def run() -> Any:
        async with FaultServer(turns(fault)) as server:
            return await act(server)

    return asyncio.run(run())


async def bare(server: FaultServer) -> bytes:
    """Every byte that a call gets, over a socket of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
        )
        return await reader.read()
    finally:
        writer.close()


def test_a_good_answer_follows_the_schema_and_satisfies_the_official_client() -> None:
    async def act(server: FaultServer) -> Any:
        async with openai.AsyncOpenAI(
            base_url=server.url,
            api_key="none",
            max_retries=0,
            timeout=PATIENCE_S,
            _strict_response_validation=True,
        ) as client:
            models = [model.id async for model in client.models.list()]
            return models, await client.chat.completions.create(**request(n=2))

    models, reply = served(OK, act)
    assert models == ["understudy-fault"]
    assert len(reply.choices) == 2
    said = httpx2.Response(200, content=reply.choices[0].message.content).json()
    assert list(said) == ["intent", "flags"]
    assert said["intent"] in INTENTS
    assert set(said["flags"]) <= set(FLAGS)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_the_same_text_gets_the_same_label_and_others_get_others() -> None:
    async def act(server: FaultServer) -> list[str]:
        texts = ["a", "a", *map(str, range(12))]
        replies = [(await post(server, text)).json() for text in texts]
        return [each["choices"][0]["message"]["content"] for each in replies]

    first, again, *others = served(OK, act)
    assert first == again
    assert len(set(others)) > 1


def test_a_script_says_what_it_is_told() -> None:
    async def act() -> Any:
        async with FaultServer(say=lambda text: {"intent": text.upper()}) as server:
            return (await post(server, "fraud")).json()

    assert asyncio.run(act())["choices"][0]["message"]["content"] == '{"intent":"FRAUD"}'


def test_a_slow_answer_is_good_and_comes_after_a_client_of_little_patience_has_gone() -> None:
    async def act(server: FaultServer) -> httpx2.Response:
        with pytest.raises(httpx2.ReadTimeout):
            await post_briefly(server)
        await server.follow(Phase(turns(slow(0.001))))
        return await post(server)

    assert served(slow(3600.0), act).json()["choices"]


async def post_briefly(server: FaultServer) -> httpx2.Response:
    """A call of a client that waits for 50 ms, once it has asked."""
    async with httpx2.AsyncClient(timeout=httpx2.Timeout(PATIENCE_S, read=0.05)) as client:
        return await client.post(f"{server.url}/chat/completions", json=request())


class Arrivals:
    """A fault that hangs, and tells of each call that has come and of a client that has left."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self._come: asyncio.Queue[None] = asyncio.Queue()
        self.fault = Fault("hang", self._reply)

    async def _reply(self, call: Call) -> None:
        self._come.put_nowait(None)
        await HANG.reply(call)
        self.left.set()

    async def number(self, count: int) -> None:
        """Wait for so many calls."""
        for _ in range(count):
            await self._come.get()


def test_a_server_that_hangs_takes_the_call_and_lets_go_of_a_client_that_leaves() -> None:
    async def run() -> tuple[int, int]:
        arrivals = Arrivals()
        async with FaultServer(turns(arrivals.fault)) as server:
            call = asyncio.create_task(post(server))
            await arrivals.number(1)
            call.cancel()
            await arrivals.left.wait()
            await server.follow(Phase(turns(OK)))
            return server.calls["hang"], (await post(server)).status_code

    assert asyncio.run(run()) == (1, 200)


def test_calls_at_the_same_time_are_counted_and_a_server_that_hangs_can_be_stopped() -> None:
    async def run() -> tuple[int, set[type]]:
        arrivals = Arrivals()
        async with FaultServer(turns(arrivals.fault)) as server:
            calls = [asyncio.create_task(post(server)) for _ in range(3)]
            await arrivals.number(3)
        ended = await asyncio.gather(*calls, return_exceptions=True)
        return server.most_at_once, {type(each) for each in ended}

    most, ended = asyncio.run(run())
    assert most == 3
    assert ended == {httpx2.ReadError}


def test_a_reset_is_a_reset_and_a_close_an_end_without_a_word() -> None:
    with pytest.raises(ConnectionResetError):
        served(RESET, bare)
    assert served(CLOSE, bare) == b""


class Pauses:
    """In place of the fault server's sleep: each pause ends when a test says so."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[float] = asyncio.Queue()  # how long each was to be, in seconds
        self._over = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        """Wait to be told."""
        self.begun.put_nowait(seconds)
        await self._over.acquire()

    def end(self) -> None:
        """End the pause that was begun first."""
        self._over.release()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    told = Pauses()
    sleepless = SimpleNamespace(**{**vars(asyncio), "sleep": told})
    monkeypatch.setattr(faults, "asyncio", sleepless)
    return told


def test_a_trickle_comes_byte_by_byte(pauses: Pauses) -> None:
    async def act(server: FaultServer) -> list[int]:
        sizes = []
        async with (
            httpx2.AsyncClient(timeout=PATIENCE_S) as client,
            client.stream("POST", f"{server.url}/chat/completions", json=request()) as reply,
        ):
            async for piece in reply.aiter_raw():
                sizes.append(len(piece))
                assert await pauses.begun.get() == 7.0
                pauses.end()
        return sizes

    sizes = served(trickle(7.0), act)
    assert len(sizes) > 20
    assert set(sizes) == {1}


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_error_has_its_status_and_the_shape_of_openais_errors(status: int) -> None:
    reply = served(http(status), post)
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == "server_error"


def test_a_limit_says_when_to_come_back() -> None:
    by_seconds, by_ms = served(limited(1.5), post), served(limited(1.5, in_ms=True), post)
    assert (by_seconds.status_code, by_ms.status_code) == (429, 429)
    assert by_seconds.headers["retry-after"] == "2"
    assert "retry-after-ms" not in by_seconds.headers
    assert by_ms.headers["retry-after-ms"] == "1500"
    assert "retry-after" not in by_ms.headers


def test_an_empty_account_is_told_from_a_limit_by_its_code() -> None:
    reply = served(QUOTA, post)
    assert reply.status_code == 429
    assert reply.json()["error"]["code"] == "insufficient_quota"
    assert "retry-after" not in reply.headers


def test_a_closed_port_refuses_resets_who_was_there_and_opens_again_at_the_same_place() -> None:
    async def act(server: FaultServer) -> tuple[int, int, int]:
        before = server.port
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as kept:
            first = await kept.get(f"{server.url}/models")
            await server.follow(Phase(None))
            with pytest.raises((httpx2.ConnectError, httpx2.ReadError)):
                await kept.get(f"{server.url}/models")
            with pytest.raises(ConnectionRefusedError):
                await bare(server)
            await server.follow(Phase(turns(OK)))
            again = await kept.get(f"{server.url}/models")
        assert server.port == before
        return first.status_code, again.status_code, server.asked

    assert served(OK, act) == (200, 200, 0)


def test_phases_follow_each_other_by_time(pauses: Pauses) -> None:
    async def act(server: FaultServer) -> None:
        await server.follow(
            Phase(turns(http(503)), 5.0), Phase(None, 7.0), Phase(turns(OK, http(500)))
        )
        assert await pauses.begun.get() == 5.0
        assert [(await post(server)).status_code for _ in range(2)] == [503, 503]
        pauses.end()
        assert await pauses.begun.get() == 7.0
        with pytest.raises(httpx2.ConnectError):
            await post(server)
        pauses.end()
        assert server._walk is not None
        await server._walk
        assert [(await post(server)).status_code for _ in range(3)] == [200, 500, 200]

    served(OK, act)


def test_a_phase_without_an_end_is_the_last() -> None:
    async def act(server: FaultServer) -> None:
        await server.follow(Phase(None), Phase(turns(OK)))

    with pytest.raises(DataError, match="without an end"):
        served(OK, act)


def test_turns_come_one_after_the_other_and_are_counted_by_name() -> None:
    async def act() -> tuple[list[int], dict[str, int]]:
        async with FaultServer(turns(OK, http(500), limited(1))) as server:
            asked = [await post(server, f"question {number}") for number in range(5)]
            assert server.answered == {"question 0", "question 3"}
            return [reply.status_code for reply in asked], dict(server.calls)

    statuses, calls = asyncio.run(act())
    assert statuses == [200, 500, 429, 200, 500]
    assert calls == {"ok": 2, "http-500": 2, "limited": 1}
    with pytest.raises(DataError, match="no faults"):
        turns()


def test_a_flaky_server_fails_a_share_of_the_calls_and_the_same_ones_each_time() -> None:
    def drawn(seed: int) -> list[str]:
        choose = flaky(0.3, RESET, seed=seed)
        return [choose(number).name for number in range(1000)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 250 < drawn(1).count("reset") < 350
    assert set(drawn(1)) == {"reset", "ok"}


def test_another_path_is_not_found() -> None:
    async def act(server: FaultServer) -> int:
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as client:
            return (await client.get(f"{server.url}/files")).status_code

    assert served(OK, act) == 404


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n",
        b"x" * 200_000,
    ],
    ids=["length-no-number", "too-long", "no-request"],
)
def test_what_is_no_request_ends_the_connection_and_not_the_server(sent: bytes) -> None:
    async def act(server: FaultServer) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        with suppress(ConnectionResetError):  # it closed with our bytes unread
            assert await reader.read() == b""
        writer.close()
        return (await post(server)).status_code

    assert served(OK, act) == 200


def test_a_body_that_asks_for_nothing_gets_an_answer_that_says_nothing() -> None:
    assert b'"content":"{}"' in served(http(500), answered_bare)


async def answered_bare(server: FaultServer) -> bytes:
    """The reply to a body that is no JSON."""
    await server.follow(Phase(turns(OK)))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 1\r\n\r\n{")
    writer.write_eof()
    found = await reader.read()
    writer.close()
    return found


def test_a_server_that_was_not_started_has_no_address() -> None:
    with pytest.raises(DataError, match="not been started"):
        _ = FaultServer().url


def test_neither_a_gateway_nor_the_command_line_loads_it() -> None:
    program = (
        "import sys, gateway.server, gateway.cli; print('gateway.teachers.faults' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"

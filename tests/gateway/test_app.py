"""The shell around every request: its id, the way to the hot route, and the last border."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.dialect import Dialects
from gateway.api.receipt import ABANDON
from gateway.app import Shell, build_app
from gateway.errors import Overloaded
from tests.conftest import Client
from tests.patience import eventually


@pytest.mark.parametrize("path", ["/v1/stats", "/livez", "/no/such/path"])
def test_every_reply_carries_the_clients_request_id(client: Client, path: str) -> None:
    reply = client.get(path, headers={"x-request-id": "order-17.a_b"})
    assert reply.headers["x-request-id"] == "order-17.a_b"


@pytest.mark.parametrize("bad", ["", "a b", "a" * 129, 'x"y', "é".encode().decode("latin-1")])
def test_an_id_that_is_not_plain_is_replaced(client: Client, bad: str) -> None:
    reply = client.post(
        "/v1/predict", json={"input": "a"}, headers={b"x-request-id": bad.encode("latin-1")}
    )
    assert len(reply.headers["x-request-id"]) == 32
    assert reply.headers["x-request-id"].isalnum()


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/chat/completions", "/predict", "/livez"])
def test_a_path_with_a_control_character_is_not_there(client: Client, path: str) -> None:
    for place in (f"{path}%0A", f"{path}%00", f"%7F{path}"):
        assert client.post(place, json={"input": "a", "inputs": "a"}).status_code == 404


def test_what_the_shell_has_not_chosen_is_run_by_nobody(client: Client) -> None:
    """The router reads a path otherwise than the shell where it ends with a line break."""
    pages = build_app(client.gateway)._pages
    inner = Client(with_state(pages))
    body = {"input": "a", "inputs": "a"}
    for path in ("/v1/predict", "/predict", "/v2/repository/models/tickets/load"):
        for place in (path, f"{path}%0A"):
            reply = inner.post(place, json=body)
            assert (reply.status_code, "no such path" in reply.text) == (404, True)


def with_state(app: ASGIApp) -> ASGIApp:
    """The pages without their shell, and with the name that it gives a request."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {"request_id": "1"}}, receive, send)

    return called


def test_two_requests_without_an_id_get_two(client: Client) -> None:
    first, second = (client.get("/livez").headers["x-request-id"] for _ in range(2))
    assert first != second


def test_an_error_after_the_reply_has_started_is_logged_and_not_sent_again(client: Client) -> None:
    async def broken(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("half-way")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    shell = Shell(client.gateway, broken, broken, Dialects([]))
    scope = {"type": "http", "path": "/v1/predict", "method": "POST", "headers": []}
    asyncio.run(shell(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_that_is_over_leaves_nothing_for_the_garbage_collector(
    client: Client, *, fails: bool
) -> None:
    async def hot(_scope: Scope, _receive: Receive, send: Send) -> None:
        if fails:
            raise Overloaded("no room", retry_after=1.0)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def left_by(requests: int) -> int:
        shell = Shell(client.gateway, hot, hot, Dialects([]))
        gc.collect()
        gc.disable()
        try:
            for _ in range(requests):
                scope = {"type": "http", "path": "/v1/predict", "method": "POST", "headers": []}
                await asyncio.create_task(shell(scope, nobody, nobody))
            del scope
            return gc.collect()
        finally:
            gc.enable()

    # Other threads of the gateway may leave some too, however long this takes; a request none.
    assert asyncio.run(left_by(2000)) < 2000


def test_the_shell_hands_what_is_no_request_to_the_pages(client: Client) -> None:
    seen: list[str] = []

    async def pages(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    async def nothing() -> Message:
        return {"type": "lifespan.startup"}

    async def send(_message: Message) -> None:
        """Nobody listens."""

    shell = Shell(client.gateway, pages, pages, Dialects([]))
    asyncio.run(shell({"type": "lifespan"}, nothing, send))
    assert seen == ["lifespan"]


def test_what_waits_for_a_client_that_has_gone_is_given_up_and_counted(client: Client) -> None:
    sent: list[Message] = []

    async def forever(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        sent.append(message)

    async def work() -> None:
        shell = Shell(client.gateway, forever, forever, Dialects([]))
        state: dict[str, Any] = {}
        scope = {"type": "http", "path": "/v1/predict", "method": "POST", "headers": []}
        task = asyncio.create_task(shell(scope | {"state": state}, nobody, send))
        await eventually(lambda: ABANDON in state)
        state[ABANDON]()
        await task

    asyncio.run(work())
    assert sent == []
    counted = b'understudy_requests_total{code="499",route="none",task="other"} 1.0'
    assert counted in client.gateway.metrics.render()


def test_a_drain_that_has_lasted_too_long_still_ends_what_runs(client: Client) -> None:
    async def forever(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    async def work() -> None:
        shell = Shell(client.gateway, forever, forever, Dialects([]))
        scope = {"type": "http", "path": "/v1/predict", "method": "POST", "headers": []}
        task = asyncio.create_task(shell(scope, nobody, nobody))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())


async def nobody(*_message: Any) -> Any:
    """Neither sends nor reads."""

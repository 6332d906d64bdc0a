"""Those who ask the gateway of a drill: requests by the clock, and a look at its breaker."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import httpcore2
import orjson

from gateway.drills.findings import ERROR, LOST, Figures
from gateway.errors import DataError, ServingError
from gateway.teachers.breaker import State
from gateway.teachers.faults import FaultServer
from gateway.types import Route, Wish

NUMBER = "drill"  # the field that says which request of a drill it is

_LOOK_S = 0.2  # between two looks at /metrics
_TAIL_RATE = 10.0  # requests a second while the breaker is waited for
_TAIL = 20  # requests after it has closed: the teacher answers again
_CONNECTIONS = 512  # to the gateway: a request that waits for the teacher holds one
_CONNECTION_ERRORS = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
)
_P95 = 0.95
_HTTP_OK = 200
_SERIES = re.compile(
    r"^understudy_(breaker_state|teacher_attempts_total)\{.*\} (\S+)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Request:
    """A text, and whether it is to go to the teacher."""

    text: str
    escalates: bool
    wish: Wish = Wish.AUTO


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request: a route, `error` or `lost`."""

    request: Request
    outcome: str
    seconds: float


async def mixed(client: Client, texts: Sequence[str]) -> Iterator[Request]:
    """Requests for ever, by turns one that the student is sure of and one for the teacher.

    Where the student is sure of all texts, they go to the teacher because the caller says so.
    """
    tried = [await client.ask(Request(text, escalates=False)) for text in texts]
    sure = [each.request.text for each in tried if each.outcome == Route.STUDENT]
    unsure = [each.request.text for each in tried if each.outcome != Route.STUDENT]
    if not sure:
        raise DataError(
            f"none of the {len(tried)} texts is answered by the student alone",
            mend="give --texts FILE with texts like those that are served; where everything is "
            "escalated, an outage of the teacher is one of the task",
        )
    escalated = [Request(text, escalates=True) for text in unsure] or [
        Request(text, escalates=True, wish=Wish.TEACHER) for text in sure
    ]
    pairs = zip(
        itertools.cycle(Request(text, escalates=False) for text in sure),
        itertools.cycle(escalated),
    )  # never ends, so that neither is longer
    return itertools.chain.from_iterable(pairs)


class Crowd:
    """Sends requests by the clock, whatever becomes of those before."""

    def __init__(
        self, client: Client, server: FaultServer, watch: Watch, requests: Iterator[Request]
    ) -> None:
        self._client = client
        self._server = server
        self._watch = watch
        self._requests = requests

    async def phase(self, count: int, rate: float, *, until_closed_s: float = 0.0) -> Figures:
        """Send so many, at so many a second, and wait for the replies.

        Then, for at most `until_closed_s` from the begin on, more until the breaker is closed, and
        some after that.
        """
        began = time.monotonic()
        calls, attempts = self._server.calls.copy(), await self._watch.look()
        replies = await self._send(count, rate)
        while self._watch.state is not State.CLOSED and time.monotonic() - began < until_closed_s:
            replies += await self._send(2, _TAIL_RATE)
            await self._watch.look()
        if until_closed_s:
            replies += await self._send(_TAIL, rate)
        seconds = time.monotonic() - began
        reached = self._server.calls - calls
        begun = await self._watch.look() - attempts
        return _figures(replies, calls=reached, begun=begun, seconds=seconds)

    async def _send(self, count: int, rate: float) -> list[Reply]:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            sent = []
            for number in range(count):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                sent.append(group.create_task(self._client.ask(next(self._requests))))
            await asyncio.sleep(max(0.0, began + count / rate - time.monotonic()))
        return [each.result() for each in sent]


def _figures(
    replies: Sequence[Reply], *, calls: Counter[str], begun: int, seconds: float
) -> Figures:
    confident = [each for each in replies if not each.request.escalates]
    answered = [each.seconds for each in confident if each.outcome == Route.STUDENT]
    return Figures(
        confident_ok=len(answered),
        confident_failed=len(confident) - len(answered),
        p95_ms=_p95(answered) * 1000 if answered else None,
        outcomes=Counter(each.outcome for each in replies if each.request.escalates),
        # A closed port is seen by the gateway alone.
        upstream_calls=max(begun, calls.total()),
        calls=calls,
        seconds=seconds,
    )


def _p95(values: Sequence[float]) -> float:
    """The smallest of the values that 95 % of them do not exceed."""
    return sorted(values)[math.ceil(_P95 * len(values)) - 1]


class Client:
    """Asks the gateway, over connections that are kept.

    `taught` are the requests that the teacher answered, as the gateway says.
    """

    def __init__(self, url: str, *, patience_s: float) -> None:
        self._url = url
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS
        )
        steps = ("connect", "read", "write", "pool")
        self._extensions = {"timeout": dict.fromkeys(steps, patience_s)}
        self._number = itertools.count()
        self.taught: set[int] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def ask(self, request: Request) -> Reply:
        """Send a request and say what became of it."""
        # No two requests are the same, so that each escalation is a call of its own.
        number = next(self._number)
        body = {"input": request.text, "route": request.wish, "fields": {NUMBER: number}}
        began = time.perf_counter()
        outcome = LOST
        with suppress(*_CONNECTION_ERRORS):
            status, content = await self._exchange("POST", "/v1/predict", orjson.dumps(body))
            outcome = str(orjson.loads(content)["route"]) if status == _HTTP_OK else ERROR
        if outcome == Route.TEACHER:
            self.taught.add(number)
        return Reply(request, outcome, time.perf_counter() - began)

    async def metrics(self) -> str:
        """The text of /metrics. Raises ServingError when the gateway does not answer."""
        try:
            _, content = await self._exchange("GET", "/metrics", None)
        except _CONNECTION_ERRORS as error:
            raise ServingError(
                f"the gateway of the drill does not answer: {type(error).__name__}",
                mend="look at the log of `understudy serve` with the same settings",
            ) from error
        return content.decode()

    async def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        reply = await self._pool.request(
            method,
            self._url + path,
            headers=[("content-type", "application/json")],
            content=body,
            extensions=self._extensions,
        )
        return reply.status, reply.content


class Watch:
    """Looks at the gateway's breaker until it is left."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen: list[tuple[float, State]] = []
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.look()
        self._looking = asyncio.create_task(self._look_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    @property
    def state(self) -> State:
        """The breaker's, as it was last seen."""
        return self._seen[-1][1]

    def since(self, began: float, *states: State, until: float = math.inf) -> float | None:
        """Seconds from `began` until the breaker was seen in one of the states; None: it was not.

        Both as time.monotonic gives them.
        """
        seen = (at for at, each in self._seen if began <= at < until and each in states)
        first = next(seen, None)
        return None if first is None else first - began

    async def look(self) -> int:
        """Look now; returns how many attempts the gateway has made to ask its teacher."""
        found = _SERIES.findall(await self._client.metrics())
        states = [int(float(value)) for name, value in found if name == "breaker_state"]
        self._seen.append((time.monotonic(), State(max(states, default=State.CLOSED))))
        return sum(int(float(value)) for name, value in found if name != "breaker_state")

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(ServingError):  # the next phase says so
                await self.look()

"""The protocols that clients already speak: whose a path is, what answers it, how an error is said.

The shell calls an endpoint directly, after it has checked the key; FastAPI only shows it in
/openapi.json. What a request means, and what a reply holds, is the business of each protocol's own
room.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

import orjson
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.api import problems
from gateway.api.problems import Problem
from gateway.telemetry.metrics import Metrics

JSON = b"application/json"
Headers = tuple[tuple[bytes, bytes], ...]


class Access(Enum):
    """Whose key a request must carry, where keys are configured."""

    OPEN = auto()  # nobody's: for probes
    CLIENT = auto()
    ADMIN = auto()


@dataclass(frozen=True, slots=True)
class Body:
    """What an endpoint replies with, with status 200. `kind` is empty where there is no content."""

    content: bytes
    kind: bytes = JSON
    headers: Headers = ()

    @classmethod
    def of(cls, content: object, headers: Headers = ()) -> Body:
        """The JSON of that."""
        return cls(orjson.dumps(content), headers=headers)


@dataclass(frozen=True, slots=True)
class Shown:
    """How /openapi.json shows an endpoint.

    `signature` is a function whose parameters are those of the path and the body, and whose
    docstring is the description; nobody calls it. `also` is laid over the whole operation.
    """

    summary: str
    signature: Callable[..., Awaitable[None]]
    reply: Any  # a pydantic model, or a type made of models
    statuses: tuple[int, ...]
    also: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. It raises; the shell around it replies to errors.

    A `{name}` in the path stands for one step, which is handed on in scope["path_params"].
    """

    method: str
    path: str
    answer: Callable[[Scope, Receive], Awaitable[Body]]
    shown: Shown
    metrics: Metrics | None = None  # where it answers texts: its requests are counted there
    access: Access = Access.CLIENT

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self.metrics is None:
            await _send(await self.answer(scope, receive), send)
            return
        self.metrics.entered()
        try:
            await _send(await self.answer(scope, receive), send)
        finally:
            self.metrics.left()


@dataclass(frozen=True, slots=True)
class Dialect:
    """A protocol. Errors on all paths that it owns are said as it says them, its own 404 too."""

    name: str
    owns: re.Pattern[str]
    refuse: Callable[[Exception], Response]
    error: type[BaseModel]  # the shape of what `refuse` says
    endpoints: tuple[Endpoint, ...]

    def routes(self) -> list[APIRoute]:
        """The endpoints as FastAPI shows them."""
        return [_Route(self, endpoint) for endpoint in self.endpoints]


class Dialects:
    """All protocols of a gateway besides its own."""

    def __init__(self, dialects: Iterable[Dialect]) -> None:
        self._dialects = tuple(dialects)
        every = [each for dialect in self._dialects for each in dialect.endpoints]
        self._plain = {(each.method, each.path): each for each in every if "{" not in each.path}
        self._patterns = [(_pattern(each.path), each) for each in every if "{" in each.path]

    def routes(self) -> list[APIRoute]:
        """All endpoints as FastAPI shows them."""
        return [route for dialect in self._dialects for route in dialect.routes()]

    def find(self, scope: Scope) -> Endpoint | None:
        """The endpoint that answers a request, if one does; the path's steps go into the scope."""
        method, path = scope["method"], scope["path"]
        plain = self._plain.get((method, path))
        if plain is not None or self._of(path) is None:
            return plain
        for pattern, endpoint in self._patterns:
            if endpoint.method == method and (found := pattern.fullmatch(path)):
                scope["path_params"] = found.groupdict()
                return endpoint
        return None

    def refuse(self, error: Exception, path: str, request_id: str) -> Response:
        """The response that an error becomes, in the shape of the protocol whose path it is."""
        dialect = self._of(path)
        return dialect.refuse(error) if dialect else problems.response(error, request_id)

    async def answer(self, request: Request, error: Exception) -> Response:
        """What the web framework calls on an error."""
        return self.refuse(error, request.url.path, request.state.request_id)

    def _of(self, path: str) -> Dialect | None:
        return next((each for each in self._dialects if each.owns.match(path)), None)


class _Route(APIRoute):
    """An endpoint as /openapi.json shows it; the shell runs it, and nobody else does."""

    def __init__(self, dialect: Dialect, endpoint: Endpoint) -> None:
        shown = endpoint.shown
        super().__init__(
            endpoint.path,
            shown.signature,
            methods=[endpoint.method],
            name=f"{dialect.name}_{shown.signature.__name__.strip('_')}",
            tags=[dialect.name],
            summary=shown.summary,
            response_model=shown.reply,
            response_class=JSONResponse if shown.reply else Response,
            responses={
                status: {"description": "refused", "model": dialect.error}
                for status in shown.statuses
            },
            openapi_extra=dict(shown.also),
        )
        self.app = unchosen


async def unchosen(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """What runs where the web framework finds a route that the shell did not: nothing.

    Their readings of a path must not differ, since the shell chose by its own which key is wanted.
    """
    raise HTTPException(HTTPStatus.NOT_FOUND)


def told(problem: Problem) -> str:
    """A problem in one sentence, for protocols that have room for one: what, and how to mend it."""
    return f"{problem.detail}; {problem.mend}" if problem.mend else problem.detail


def json_response(content: object, status: int, headers: Mapping[str, str]) -> Response:
    """A response with a status of its own."""
    return Response(
        orjson.dumps(content),
        status_code=status,
        headers=dict(headers),
        media_type=JSON.decode(),
    )


async def _send(body: Body, send: Send) -> None:
    headers = [(b"content-length", b"%d" % len(body.content)), *body.headers]
    if body.kind:
        headers.append((b"content-type", body.kind))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body.content})


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path))

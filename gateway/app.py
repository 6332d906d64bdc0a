"""The HTTP shell around a running gateway: names each request, checks its key, replies to errors.

The hot route goes straight to its ASGI callable, and so do the endpoints of other protocols, whose
errors are said as each protocol says them; everything else goes through FastAPI. No page here loads
anything from another site.
"""

from __future__ import annotations

import asyncio
import functools
import re
from http import HTTPStatus

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import __version__, identity
from gateway.api import admin, feedback, oip, openai, ops, origin, predict, problems, stats, tei
from gateway.api.auth import Keyring
from gateway.api.dialect import Access, Dialects, Endpoint
from gateway.api.receipt import ABANDON
from gateway.assembly import Gateway
from gateway.errors import UnderstudyError

_REQUEST_ID = b"x-request-id"
_CLIENT_GONE = 499  # no status of HTTP: what proxies count where the client did not wait
_GONE = "gone"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ID = re.compile(rb"[A-Za-z0-9._\-]{1,128}")  # nothing that could forge a log line or a header

_log = structlog.get_logger(__name__)


def build_app(gateway: Gateway) -> Shell:
    """The ASGI app of a gateway that is open."""
    hot = predict.Predict(gateway)
    spoken = [oip.dialect(gateway), openai.dialect(gateway), tei.dialect(gateway)]
    if gateway.settings.admin_of(0) is None:
        spoken.insert(0, oip.repository(gateway))
    dialects = Dialects(spoken)
    pages = _pages(dialects)
    pages.router.routes.append(predict.PredictRoute())
    pages.include_router(feedback.router(gateway))
    pages.include_router(stats.router(gateway))
    pages.include_router(ops.probes(gateway))
    if gateway.settings.admin_of(0) is None:
        pages.include_router(ops.metrics(gateway))
        pages.include_router(admin.router(gateway))
    pages.router.routes.extend(dialects.routes())
    return Shell(gateway, hot, pages, dialects)


def build_admin(gateway: Gateway) -> Shell:
    """The ASGI app of the administration's own address: it answers no text."""
    dialects = Dialects([oip.repository(gateway)])
    pages = _pages(dialects)
    pages.include_router(stats.router(gateway))
    pages.include_router(ops.probes(gateway))
    pages.include_router(ops.metrics(gateway))
    pages.include_router(admin.router(gateway))
    pages.router.routes.extend(dialects.routes())
    return Shell(gateway, pages, pages, dialects)


def _pages(dialects: Dialects) -> FastAPI:
    return FastAPI(
        title="Understudy",
        version=__version__,
        description="Student-first inference: a small model answers what it is sure of.",
        docs_url=None,  # the pages of FastAPI load scripts from another site
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HTTPException: dialects.answer,
            UnderstudyError: dialects.answer,
            Exception: dialects.answer,
        },
    )


class Shell:
    """What every request passes through, in one ASGI callable."""

    def __init__(self, gateway: Gateway, hot: ASGIApp, pages: ASGIApp, dialects: Dialects) -> None:
        self._metrics = gateway.metrics
        self._keyring = Keyring(lambda: gateway.settings.keys)
        self._hot = hot
        self._pages = pages
        self._dialects = dialects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, whatever happens."""
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
            return
        name = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = name.decode()
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (_REQUEST_ID, name)]
            await send(message)

        path = scope["path"]
        hot = path == predict.PATH and scope["method"] == "POST"
        endpoint = None if hot else self._dialects.find(scope)
        if hot or (endpoint and endpoint.metrics):  # a change, once begun, is not given up
            scope["state"][ABANDON] = functools.partial(_abandon, scope, asyncio.current_task())
        try:
            self._admit(scope, endpoint)
            await (self._hot if hot else endpoint or self._pages)(scope, receive, named)
        except asyncio.CancelledError:
            if _GONE not in scope["state"]:
                raise
            self._metrics.refused(_CLIENT_GONE, scope["state"].get("task", ""), _GONE)
        except Exception as error:  # noqa: BLE001  the last border: a client always gets a reply
            response = self._dialects.refuse(error, path, name.decode())
            self._note(error, scope, endpoint, response.status_code)
            if not started:
                await response(scope, receive, named)
        finally:
            scope["state"].pop(ABANDON, None)  # it holds the scope: a ring that lives until a gc

    def refuse(self, error: Exception, scope: Scope) -> Response:
        """The reply to what a connection refuses, in the shape of the protocol whose path it is."""
        name = scope["state"].get("request_id") or _request_id(scope).decode()
        response = self._dialects.refuse(error, scope["path"], name)
        response.headers[_REQUEST_ID.decode()] = name
        return response

    def _admit(self, scope: Scope, endpoint: Endpoint | None) -> None:
        """Let a request through to what answers it.

        Raises HTTPException, Unauthorized or Forbidden.
        """
        path, headers = scope["path"], scope["headers"]
        if _CONTROL.search(path):  # the web framework reads such a path otherwise than we do
            raise HTTPException(HTTPStatus.NOT_FOUND)
        access = Access.CLIENT if endpoint is None else endpoint.access
        if path in ops.OPEN or access is Access.OPEN:
            return
        powerful = path.startswith(admin.PREFIX) or access is Access.ADMIN
        key = scope["state"]["key"] = self._keyring.check(headers, admin=powerful)
        if powerful:
            origin.check(headers, keyless=not key)

    def _note(self, error: Exception, scope: Scope, endpoint: Endpoint | None, status: int) -> None:
        """Count what was refused where texts are answered; log what nobody raised on purpose."""
        problem = problems.problem_of(error)
        if scope["path"] == predict.PATH or (endpoint and endpoint.metrics):
            task = scope["state"].get("task", "")
            self._metrics.refused(status, task, problem.code)
        if problem.status == 500:
            _log.error(
                "a request failed",
                request_id=scope["state"]["request_id"],
                path=scope["path"],
                exc_info=error,
            )


def _abandon(scope: Scope, task: asyncio.Task[None] | None) -> None:
    """The client has gone: what still waits for it is dropped."""
    scope["state"][_GONE] = True
    if task is not None:
        task.cancel()


def _request_id(scope: Scope) -> bytes:
    """The client's own id where it is a plain one, else a new one."""
    for name, value in scope["headers"]:
        if name == _REQUEST_ID and _ID.fullmatch(value):
            return bytes(value)
    return identity.request_id().encode()

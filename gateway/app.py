"""The HTTP shell around a running gateway: names each request, checks its key, replies to errors.

The hot route goes straight to its ASGI callable; everything else goes through FastAPI. No page here
loads anything from another site.
"""

from __future__ import annotations

import re
import uuid

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import __version__
from gateway.api import ops, predict, problems, stats
from gateway.api.auth import Keyring
from gateway.assembly import Gateway
from gateway.errors import UnderstudyError

_REQUEST_ID = b"x-request-id"
_ID = re.compile(rb"[A-Za-z0-9._\-]{1,128}")  # nothing that could forge a log line or a header

_log = structlog.get_logger(__name__)


def build_app(gateway: Gateway) -> ASGIApp:
    """The ASGI app of a gateway that is open."""
    hot = predict.Predict(gateway)
    pages = FastAPI(
        title="Understudy",
        version=__version__,
        description="Student-first inference: a small model answers what it is sure of.",
        docs_url=None,  # the pages of FastAPI load scripts from another site
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HTTPException: problems.answer,
            UnderstudyError: problems.answer,
            Exception: problems.answer,
        },
    )
    pages.router.routes.append(predict.PredictRoute(hot))
    pages.include_router(stats.router(gateway))
    pages.include_router(ops.router(gateway))
    return Shell(gateway, hot, pages)


class Shell:
    """What every request passes through, in one ASGI callable."""

    def __init__(self, gateway: Gateway, hot: ASGIApp, pages: ASGIApp) -> None:
        self._metrics = gateway.metrics
        self._keyring = Keyring(gateway.settings.keys)
        self._hot = hot
        self._pages = pages

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

        try:
            if scope["path"] not in ops.OPEN:
                self._keyring.check(scope["headers"])
            hot = scope["path"] == predict.PATH and scope["method"] == "POST"
            await (self._hot if hot else self._pages)(scope, receive, named)
        except Exception as error:  # noqa: BLE001  the last border: a client always gets a reply
            self._note(error, scope)
            if not started:
                await problems.response(error, name.decode())(scope, receive, named)

    def _note(self, error: Exception, scope: Scope) -> None:
        """Count what was refused on the hot route, and log what nobody raised on purpose."""
        problem = problems.problem_of(error)
        if scope["path"] == predict.PATH:
            task = scope["state"].get("task", "")
            self._metrics.refused(problem.status, task, problem.code)
        if problem.status == 500:
            _log.error(
                "a request failed",
                request_id=scope["state"]["request_id"],
                path=scope["path"],
                exc_info=error,
            )


def _request_id(scope: Scope) -> bytes:
    """The client's own id where it is a plain one, else a new one."""
    for name, value in scope["headers"]:
        if name == _REQUEST_ID and _ID.fullmatch(value):
            return bytes(value)
    return uuid.uuid4().hex.encode()

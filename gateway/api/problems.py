"""Errors -> RFC 9457 problem documents.

The only file that knows which HTTP status an error becomes. A body names the error's code, what
happened and how to mend it. An error that nobody raised on purpose becomes a bare 500: what it says
is for the log, never for the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import (
    Draining,
    Invalid,
    Malformed,
    Overloaded,
    RequestError,
    ServingError,
    StudentFailed,
    TeacherError,
    TooLarge,
    Unauthorized,
    UnderstudyError,
    UnknownTask,
)

CONTENT_TYPE = "application/problem+json"

_URN = "urn:understudy:"


class UnsupportedMedia(RequestError):
    """The body is not plain JSON."""

    code = "unsupported_media"


class TooSlow(RequestError):
    """The body did not come in time."""

    code = "too_slow"


# The nearest class of an error's ancestry decides.
_TABLE: Mapping[type[Exception], tuple[int, str]] = {
    Malformed: (400, "The body is not JSON, or JSON that is refused"),
    Invalid: (422, "The body has the wrong shape, or a value is out of its limits"),
    TooLarge: (413, "The body or a list is above its limit"),
    TooSlow: (408, "The body did not come in time"),
    UnsupportedMedia: (415, "The body is not plain JSON"),
    Unauthorized: (401, "No key, or one that is not known"),
    UnknownTask: (404, "No task of that name"),
    RequestError: (400, "The request cannot be answered"),
    Overloaded: (429, "The queue is full"),
    Draining: (503, "The gateway is shutting down"),
    StudentFailed: (503, "The student failed"),
    ServingError: (503, "The gateway cannot answer now"),
    TeacherError: (503, "The teacher cannot answer now"),
    Exception: (500, "The gateway made a mistake"),
}
# Seconds. A full queue and a restart are both over within about one.
_RETRY = {"retry-after": "1"}
_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"www-authenticate": "Bearer"},
    429: _RETRY,
    503: _RETRY,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What a client is told about an error."""

    status: int
    code: str
    title: str
    detail: str
    mend: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, request_id: str) -> bytes:
        """The problem document; `instance` is the id of the request."""
        return orjson.dumps(
            {
                "type": _URN + self.code,
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
                "code": self.code,
                "mend": self.mend,
                "instance": request_id,
            }
        )


def problem_of(error: Exception) -> Problem:
    """The problem that an error becomes."""
    if isinstance(error, HTTPException):
        return _of_routing(error)
    status, title = next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR or not isinstance(error, UnderstudyError):
        return Problem(
            status=500,
            code="internal",
            title=title,
            detail="something failed that should not; the log says what, under this request id",
            mend="send the request again, and report it if it fails again",
        )
    return Problem(status, error.code, title, error.message, error.mend, _HEADERS.get(status, {}))


def response(error: Exception, request_id: str) -> Response:
    """The HTTP response that an error becomes."""
    problem = problem_of(error)
    return Response(
        problem.body(request_id),
        status_code=problem.status,
        headers=dict(problem.headers),
        media_type=CONTENT_TYPE,
    )


async def answer(request: Request, error: Exception) -> Response:
    """What the web framework calls on an error."""
    return response(error, request.state.request_id)


def _of_routing(error: HTTPException) -> Problem:
    """The router's own errors: a path or a method that is not there."""
    phrase = HTTPStatus(error.status_code).phrase
    return Problem(
        status=error.status_code,
        code=phrase.lower().replace(" ", "_"),
        title=phrase,
        detail="there is no such path, or it has no such method",
        mend="see /openapi.json for the paths and their methods",
        headers=error.headers or {},
    )

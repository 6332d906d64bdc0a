"""Errors -> RFC 9457 problem documents.

The only file that knows which HTTP status an error becomes. A body names the error's code, what
happened and how to mend it. An error that nobody raised on purpose becomes a bare 500: what it says
is for the log, never for the client.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.errors import (
    BundleError,
    BundleMissing,
    Conflict,
    DeadlinePassed,
    Draining,
    Forbidden,
    Invalid,
    Malformed,
    NotProved,
    Overloaded,
    PromotionFrozen,
    RecordsUnavailable,
    RequestError,
    ServingError,
    SettingsError,
    StudentFailed,
    TeacherError,
    TooLarge,
    Unauthorized,
    UnderstudyError,
    UnknownRecord,
    UnknownTask,
)

CONTENT_TYPE = "application/problem+json"

_URN = "urn:understudy:"


class UnsupportedMedia(RequestError):
    """The body is not plain JSON."""

    code = "unsupported_media"


class TooSlow(RequestError):
    """The request did not come in time."""

    code = "too_slow"


class HeadTooLarge(RequestError):
    """The request line and headers are above a limit."""

    code = "head_too_large"


# The nearest class of an error's ancestry decides.
_TABLE: Mapping[type[Exception], tuple[int, str]] = {
    Malformed: (400, "The body is not JSON, or JSON that is refused"),
    Invalid: (422, "The body has the wrong shape, or a value is out of its limits"),
    TooLarge: (413, "The body or a list is above its limit"),
    TooSlow: (408, "The request did not come in time"),
    HeadTooLarge: (431, "The request line and headers are above a limit"),
    UnsupportedMedia: (415, "The body is not plain JSON"),
    Unauthorized: (401, "No key, or one that is not known"),
    Forbidden: (403, "The key may not do this"),
    Conflict: (409, "Another change is under way"),
    NotProved: (409, "The candidate has not shown that it may serve"),
    PromotionFrozen: (409, "Nobody is promoted until somebody has looked"),
    UnknownTask: (404, "No task of that name"),
    UnknownRecord: (404, "No stored answer of that id"),
    RequestError: (400, "The request cannot be answered"),
    BundleMissing: (404, "No bundle of that name"),
    BundleError: (422, "The bundle is refused"),
    SettingsError: (422, "The settings file is refused"),
    Overloaded: (429, "There is no room for the request now"),
    DeadlinePassed: (504, "The deadline passed before there was an answer"),
    Draining: (503, "The gateway is shutting down"),
    StudentFailed: (503, "The student failed"),
    RecordsUnavailable: (503, "The record of the answer is not committed"),
    ServingError: (503, "The gateway cannot answer now"),
    TeacherError: (503, "The teacher cannot answer now"),
    Exception: (500, "The gateway made a mistake"),
}
# Seconds. A restart is over within about one; an overload says how long it will take.
_RETRY = {"retry-after": "1"}
_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"www-authenticate": "Bearer"},
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
    headers = _HEADERS.get(status, {})
    if isinstance(error, Overloaded):
        headers = {"retry-after": str(max(1, math.ceil(error.retry_after)))}
    return Problem(status, error.code, title, error.message, error.mend, headers)


def response(error: Exception, request_id: str) -> Response:
    """The HTTP response that an error becomes."""
    problem = problem_of(error)
    return Response(
        problem.body(request_id),
        status_code=problem.status,
        headers=dict(problem.headers),
        media_type=CONTENT_TYPE,
    )


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

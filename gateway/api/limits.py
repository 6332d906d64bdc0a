"""The body of a request, read within its bounds: kind and size. Refuses before it reads.

How long it may take is the connection's business, see `receipt`.
"""

from __future__ import annotations

from starlette.types import Receive, Scope

from gateway.api.problems import UnsupportedMedia
from gateway.errors import Malformed, RequestError, TooLarge


async def read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """The whole body, at most `limit` bytes, whether its length was declared or not.

    Raises UnsupportedMedia, TooLarge, what the connection refused the request with, or Malformed
    when the client leaves half-way.
    """
    _check_headers(scope, limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _interrupted(scope)
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _check_headers(scope: Scope, limit: int) -> None:
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:  # the server checked the digits
            raise _too_large(limit)
        if name == b"content-type" and value.split(b";")[0].strip().lower() != b"application/json":
            raise UnsupportedMedia(
                f"the body is of type {_shown(value)}", mend="send content-type: application/json"
            )
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise UnsupportedMedia(
                f"the body is encoded as {_shown(value)}", mend="send the body as it is"
            )


def _interrupted(scope: Scope) -> RequestError:
    """Why there is no more of the body: the connection refused the request, or the client left."""
    refused = scope.get("state", {}).get("refused")
    if isinstance(refused, RequestError):
        return refused
    return Malformed("the client left before its body was complete")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the body is above {limit} bytes",
        mend="send fewer or shorter texts in one request, or raise server.max_body_bytes",
    )


def _shown(value: bytes) -> str:
    """A header's value as it may stand in a message: short, printable."""
    return ascii(value[:60].decode("latin-1"))

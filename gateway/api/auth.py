"""Who may ask: API keys. The gateway stores only their hashes; a key is shown once, when made.

With no keys configured everybody may ask, and settings see to it that only this machine can.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence

from gateway.errors import Unauthorized
from gateway.settings import KeySettings

_SECRET_BYTES = 32  # 256 bits: nobody guesses it, so one round of SHA-256 is enough
_BEARER = b"bearer "


class Keyring:
    """The keys that are known here."""

    def __init__(self, keys: Sequence[KeySettings]) -> None:
        self._digests = tuple(bytes.fromhex(key.sha256) for key in keys)

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Let the request through, or raise Unauthorized."""
        if not self._digests:
            return
        digest = hashlib.sha256(_presented(headers)).digest()
        known = False
        for each in self._digests:  # all of them, so that time does not tell which one was near
            known |= hmac.compare_digest(each, digest)
        if not known:
            raise Unauthorized(
                "the request carries no key that is known here",
                mend="send `Authorization: Bearer KEY`, or `x-api-key: KEY`",
            )


def new_key(name: str) -> tuple[str, str]:
    """A new key of that name, and its SHA-256 in hexadecimal."""
    key = f"us_{name}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return key, hashlib.sha256(key.encode()).hexdigest()


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key that the client shows; empty if none."""
    for name, value in headers:
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            return value[len(_BEARER) :].strip()
        if name == b"x-api-key":
            return value.strip()
    return b""

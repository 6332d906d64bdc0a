"""Who may ask, and who may change what serves: API keys.

The gateway stores only their hashes; a key is shown once, when made. With no keys configured
everybody may do everything, and settings see to it that only this machine can.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Sequence

from gateway.errors import Forbidden, Unauthorized
from gateway.settings import KeySettings

_SECRET_BYTES = 32  # 256 bits: nobody guesses it, so one round of SHA-256 is enough
_BEARER = b"bearer "


class Keyring:
    """The keys that are known here. `keys` gives them as they are configured at the moment."""

    def __init__(self, keys: Callable[[], Sequence[KeySettings]]) -> None:
        self._keys = keys
        self._seen: Sequence[KeySettings] = ()
        self._digests: tuple[tuple[bytes, KeySettings], ...] = ()

    def check(self, headers: Iterable[tuple[bytes, bytes]], *, admin: bool = False) -> str:
        """Let the request through, and say whose key it carries; empty where there are no keys.

        With `admin` only an admin's key will do. Raises Unauthorized or Forbidden.
        """
        keys = self._keys()
        if keys is not self._seen:  # a reload has replaced them
            self._seen = keys
            self._digests = tuple((bytes.fromhex(key.sha256), key) for key in keys)
        if not keys:
            return ""
        digest = hashlib.sha256(_presented(headers)).digest()
        known: KeySettings | None = None
        for each, key in self._digests:  # all of them, so that time tells not which one was near
            if hmac.compare_digest(each, digest):
                known = key
        if known is None:
            raise Unauthorized(
                "the request carries no key that is known here",
                mend="send `Authorization: Bearer KEY`, or `x-api-key: KEY`",
            )
        if admin and known.role != "admin":
            raise Forbidden(
                f"the key {known.name} may ask, and change nothing",
                mend="use a key of the role admin: `understudy key NAME --role admin`",
            )
        return known.name


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

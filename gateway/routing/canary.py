"""The canary: a student that answers a share of the requests before it may serve them all.

Who it answers is no coin: a hash of the request's key decides, so that the same user, ticket or
text meets the same student each time, on every replica and after a restart, and those who have met
the canary stay with it while its share grows. Another canary meets others: the hash is its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from gateway.routing.rung import Rung
from gateway.types import Instance

_BYTES = 8  # of a hash: far finer than any share


def place(instance: Instance, *, key: str | None, salt: str) -> float:
    """Where an instance lies in [0, 1): evenly, and always at the same place.

    It is decided by the field `key`; where that is null, absent or not named, by the text.
    """
    value = None if key is None else instance.fields.get(key)
    said = f"text:{instance.text}" if value is None else f"field:{value}"
    content = f"{salt}\0{said}".encode(errors="surrogatepass")
    digest = hashlib.blake2b(content, digest_size=_BYTES).digest()
    return int.from_bytes(digest, "big") / (1 << 8 * _BYTES)


@dataclass(frozen=True, slots=True)
class Canary:
    """A rung beside the one that serves. `share` of all keys is its own; see `place` for `key`."""

    rung: Rung
    share: float
    key: str | None = None

    def takes(self, instance: Instance) -> bool:
        """Whether it answers this instance."""
        return place(instance, key=self.key, salt=self.rung.name) < self.share

"""A lot that is drawn by a hash: the same input has the same lot, whoever draws it and when.

Inputs that differ have lots as independent as SHA-256 makes them, and so have two purposes. Which
answers a candidate was shown can be told again from their ids and the settings, on every replica.
"""

from __future__ import annotations

import hashlib
from typing import Final

import orjson

_BYTES: Final = 8  # of a digest: 64 bits, of which a float keeps 53
_WHOLE: Final = float(1 << 8 * _BYTES)


def lot(*of: str) -> float:
    """A number from [0, 1), uniform over all that may be drawn for."""
    digest = hashlib.sha256(orjson.dumps(of)).digest()
    return int.from_bytes(digest[:_BYTES]) / _WHOLE

"""A lot that is drawn by a hash: the same input has the same lot, whoever draws it and when.

Inputs that differ have lots as independent as SHA-256 makes them, and so have two purposes. Which
requests a candidate is shown can be told again from the settings alone, on every replica.
"""

from __future__ import annotations

import hashlib
from typing import Final

import orjson

from gateway.types import Instance

_BYTES: Final = 8  # of a digest: 64 bits, of which a float keeps 53
_WHOLE: Final = float(1 << 8 * _BYTES)


def lot(*of: str) -> float:
    """A number from [0, 1), uniform over all that may be drawn for."""
    digest = hashlib.sha256(orjson.dumps(of)).digest()
    return int.from_bytes(digest[:_BYTES]) / _WHOLE


def lot_of(instance: Instance, *of: str) -> float:
    """The lot of a request, by its text and its fields, for that purpose."""
    fields = orjson.dumps(dict(instance.fields), option=orjson.OPT_SORT_KEYS).decode()
    return lot(*of, instance.text, fields)

"""The answers that a teacher gave lately, for the same input again.

Only answers are kept, never failures. What is kept of an input is its SHA-256, never its text.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.types import Instance, Prediction


def digest(instance: Instance, *of: str) -> bytes:
    """SHA-256 of an input: its text, its fields in the order of their names, and what it is `of`.

    Two inputs share it when they are the same to the last character; 1, 1.0 and true are three.
    """
    content = [*of, instance.text, sorted(instance.fields.items())]
    return hashlib.sha256(json.dumps(content).encode()).digest()


class AnswerCache:
    """At most `answers` answers, none older than `ttl_s` seconds; the least asked for goes first.

    `clock` gives seconds and never goes back.
    """

    def __init__(
        self, *, answers: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = answers
        self._ttl = ttl_s
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, Prediction]] = OrderedDict()

    def find(self, key: bytes) -> Prediction | None:
        """The answer to that input, if it is still there."""
        found = self._kept.get(key)
        if found is None:
            return None
        until, prediction = found
        if self._clock() >= until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return prediction

    def keep(self, key: bytes, prediction: Prediction) -> None:
        """Remember the answer to that input."""
        self._kept[key] = (self._clock() + self._ttl, prediction)
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

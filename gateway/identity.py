"""Names for requests and answers: unique, and for answers in the order of time.

From a generator that the system seeds once, not from the system each time: a call into it can cost
more than all else that is done for a request. Nothing secret hangs on these names.
"""

from __future__ import annotations

import os
import random
import time

_random = random.Random(os.urandom(32))  # noqa: S311  no secrets; each process seeds its own
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def request_id() -> str:
    """32 hexadecimal digits."""
    return f"{_random.getrandbits(128):032x}"


def answer_id() -> str:
    """A UUID of version 7 (RFC 9562): sorts by time, so that inserts stay at the index's end."""
    milliseconds = time.time_ns() // 1_000_000
    bits = _random.getrandbits(74)
    digits = f"{milliseconds:012x}7{bits & 0xFFF:03x}{0b10 << 62 | bits >> 12:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

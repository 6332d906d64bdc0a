"""What a process of a gateway does to its interpreter."""

from __future__ import annotations

import gc
import sys

from gateway.process import ease_interpreter


def test_garbage_is_looked_for_rarely_and_not_among_what_was_imported() -> None:
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    try:
        ease_interpreter()
        assert gc.get_freeze_count() > 10_000  # the modules of this test are more
        assert gc.isenabled()
        assert gc.get_threshold()[0] > threshold[0]
        assert sys.getswitchinterval() < interval
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)

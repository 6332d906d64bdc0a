"""An event loop whose time a test moves on, so that what is an hour away is over at once.

Only waits of the loop are: a deadline that is compared with time.perf_counter is not reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.patience import eventually

_T = TypeVar("_T")
_LOOK_S = 0.001  # between two looks: another thread may be what is waited for


class TimeLapse(asyncio.SelectorEventLoop):
    """A loop that may skip time, once something has happened."""

    def __init__(self) -> None:
        super().__init__()
        self._skipped = 0.0

    def time(self) -> float:
        """Seconds, as of any loop, and those that were skipped."""
        return super().time() + self._skipped

    async def skip(self, seconds: float, *, after: Callable[[], bool]) -> None:
        """Wait until `after` is true; then that much time has passed at once."""
        await eventually(after, look_s=_LOOK_S)
        self._skipped += seconds


def played(scene: Callable[[TimeLapse], Coroutine[Any, Any, _T]]) -> _T:
    """Run a scene in a loop of its own."""
    loop = TimeLapse()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(scene(loop))

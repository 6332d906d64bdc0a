"""A vacancy: what stands in a student's place where a task has none.

It is asked as a student is and says nothing of any text, so that whoever asks needs no second way.
It holds nothing, and so has nothing to start or to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.types import Reason, Terms

NO_STUDENT = Reason.NO_STUDENT.value  # its name, where students have those of their bundles

_PLAIN = Terms()


class Vacancy:
    """No student. It is always ready, and never busy."""

    student: Final = None
    alive: Final = True
    depth: Final = 0  # texts that wait

    async def submit(self, texts: Sequence[str], terms: Terms = _PLAIN) -> list[None]:  # noqa: ARG002
        """Nothing on each text."""
        return [None] * len(texts)

    async def close(self) -> None:
        """Nothing to end."""

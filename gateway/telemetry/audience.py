"""Many observers as one. What one of them raises is logged, and reaches nobody else."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from gateway.types import Answer, Audit, Observer

_LOG = structlog.get_logger(__name__)


class Audience:
    """Tells each observer in turn. An answer is never lost to the one who watches it."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def answered(self, answer: Answer) -> None:
        """An answer was given."""
        for observer in self._observers:
            try:
                observer.answered(answer)
            except Exception:  # noqa: BLE001  a watcher must not cost anybody the answer
                _LOG.exception("observer_failed", observer=type(observer).__name__, id=answer.id)

    def audited(self, audit: Audit) -> None:
        """The teacher's view of a confident answer has come."""
        for observer in self._observers:
            try:
                observer.audited(audit)
            except Exception:  # noqa: BLE001  as above
                _LOG.exception(
                    "observer_failed", observer=type(observer).__name__, id=audit.answer.id
                )

"""The minutes of one task: each wish to change it is counted and logged, fulfilled or refused.

They are for operators, and may be lost; what must not be is in the log of changes (entries.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from gateway.errors import Conflict, UnderstudyError
from gateway.students.registry import Roles
from gateway.succession.change import Change
from gateway.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)


class Minutes:
    """Counts and logs what comes of wishes."""

    def __init__(self, task: str, metrics: Metrics) -> None:
        self._task = task
        self._metrics = metrics

    def unchanged(self, roles: Roles) -> Change:
        """What comes of a wish that is fulfilled already."""
        self._metrics.changed(self._task, "unchanged")
        return Change(self._task, roles, changed=False)

    def done(self, roles: Roles, result: str, *, by: str) -> Change:
        """What came of a wish that was fulfilled: it is counted under `result`, and logged."""
        self._metrics.changed(self._task, result)
        canary = roles.canary and roles.canary.bundle
        _log.info(
            f"student {result.replace('_', ' ')}",
            task=self._task,
            by=by,
            serving=roles.serving,
            previous=roles.previous,
            canary=canary,
        )
        return Change(self._task, roles, changed=True)

    @contextmanager
    def refusals(self, *, by: str) -> Iterator[None]:
        """Count and log what keeps a change from taking place."""
        try:
            yield
        except Conflict:
            self._metrics.changed(self._task, "conflict")
            raise
        except UnderstudyError as error:
            self._metrics.changed(self._task, "refused")
            self.refused(error, by=by)
            raise

    def refused(self, error: Exception, *, by: str) -> None:
        """Log what is wrong with a student."""
        code, said = UnderstudyError.code, repr(error)
        if isinstance(error, UnderstudyError):
            code, said = error.code, error.message
        _log.warning("student refused", task=self._task, by=by, code=code, error=said)

"""The lookout of a canary: how many texts it has answered, and whether it is worse than it may be.

It looks at what the canary answers itself: texts that it fails on, and disagreement with the
teacher where the uniform coin of an audit fell. Each is watched by an alarm that rings soon after
its rate has risen (gateway/shadow/alarm.py). The lookout rings; what then happens others decide.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.routing.canary import Canary
from gateway.shadow.alarm import Alarm, Level
from gateway.shadow.evidence import Kind
from gateway.types import Answer, Audit, Coin


@dataclass(frozen=True, slots=True)
class Limits:
    """Shares above which a canary is too bad; None: that is not watched.

    `apart` is how many rows there shall be between two false alarms, in the mean.
    """

    disagreement: float | None
    failures: float | None
    apart: float


class Lookout:
    """An observer that counts what the canary answers. Used on the event loop alone."""

    def __init__(self) -> None:
        self.rows = 0  # texts that the canary has answered since its step began
        self._canary: Canary | None = None
        self._disagreement: Alarm | None = None
        self._failures: Alarm | None = None

    def follow(self, canary: Canary | None, limits: Limits) -> None:
        """Look at this canary from now on. A step is a new count, another student a new watch."""
        before, self._canary = self._canary, canary
        if canary is None or before is None or before.share != canary.share:
            self.rows = 0
        if canary is None or before is None or before.rung.name != canary.rung.name:
            self.rows = 0
            self._disagreement = _alarm(limits.disagreement, limits)
            self._failures = _alarm(limits.failures, limits)

    @property
    def why(self) -> str | None:
        """What rings, in words; None: nothing does."""
        for alarm, what in (
            (self._disagreement, "disagrees with the teacher in more than"),
            (self._failures, "fails on more than"),
        ):
            if self._canary is not None and alarm is not None and alarm.level is Level.ALARM:
                return (
                    f"{self._canary.rung.name} {what} {alarm.limit:.1%} of its texts: "
                    f"an alarm after {alarm.raised} rows"
                )
        return None

    def answered(self, answer: Answer) -> None:
        """Count an answer, if it is the canary's."""
        if not self._takes(answer):
            return
        failed = answer.student is None
        self.rows += not failed
        if self._failures is not None:
            self._failures.add(float(failed))

    def audited(self, audit: Audit) -> None:
        """Hear what the teacher says of an answer, if it is the canary's."""
        student = audit.answer.student
        drawn = audit.answer.coin is Coin.UNIFORM
        if student and drawn and self._disagreement is not None and self._takes(audit.answer):
            self._disagreement.add(float(not student.agrees(audit.teacher)))

    def _takes(self, answer: Answer) -> bool:
        """Whether the canary answered; who failed left no name, but the hash knows who it was."""
        if self._canary is None or not self._canary.takes(answer.instance):
            return False
        bundle, student = self._canary.rung.bundle, answer.student
        return student is None or (bundle is not None and student.bundle == bundle.id)


def _alarm(limit: float | None, limits: Limits) -> Alarm | None:
    watched = sum(each is not None for each in (limits.disagreement, limits.failures))
    if limit is None:
        return None
    return Alarm(Kind.RATE, limit, apart=limits.apart, streams=watched)

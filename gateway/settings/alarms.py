"""What rings while a student serves, and what traffic that has changed means."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.routing.severity import Critical
from gateway.settings.part import Part
from gateway.shadow.streams import Stream, Terms

_Limit = Annotated[float, Field(gt=0.0, lt=1.0)]


class AlarmSettings(Part):
    """The limits of the streams that are watched; null: that one is not.

    A limit belongs above what is normal: a rate that stays at it rings now and then.
    """

    action: Literal["rollback", "freeze", "none"] = Field(
        default="rollback",
        description="rollback: another serves at once; freeze: nobody is promoted; none: it is "
        "only shown",
    )
    error: _Limit | None = Field(
        default=0.1, description="of audited answers that the teacher would not have given"
    )
    critical: _Limit | None = Field(
        default=0.1, description="of audits with a critical label: it was missed"
    )
    failures: _Limit | None = Field(
        default=0.05, description="of the requests of a second: the student failed"
    )
    latency: _Limit | None = Field(
        default=0.05, description="of the student's answers of a second: above latency_ms"
    )
    latency_ms: float | None = Field(default=None, gt=0.0)
    disagreement: _Limit | None = Field(
        default=None, description="of all requests: student and teacher differ"
    )
    apart: float = Field(
        default=20_000.0, ge=100.0, description="mean rows between two false alarms of a student"
    )

    def terms(self, critical: Critical | None) -> Terms:
        """As those who watch want it, of a policy with these critical labels."""
        limits = {stream: getattr(self, stream.value) for stream in Stream}
        return Terms(
            limits={stream: limit for stream, limit in limits.items() if limit is not None},
            apart=self.apart,
            latency_s=None if self.latency_ms is None else self.latency_ms / 1000.0,
            critical=critical,
        )


class DriftSettings(Part):
    """What it means that traffic is no longer what it was when the student was certified."""

    enabled: bool = True
    certificate: Literal["warn", "strict", "escalate"] = Field(
        default="strict",
        description="one that is stale, beside doubled audits: strict: each answer of the student "
        "needs a score of 1 - alpha; escalate: it is void; warn: it holds as it did",
    )
    # The rhythm of a day moves a share of 15 % by 2 points to either side and less than this; what
    # strange texts do to a score passes it.
    least: Annotated[float, Field(ge=0.0, lt=2.0)] = Field(
        default=0.15,
        description="how far a signal has to move, in its own standard deviations: a share of 15 % "
        "by 5 points, one of 5 % by 3",
    )

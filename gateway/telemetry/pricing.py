"""What a call of the teacher and a second of the student cost. Pure.

An unknown price stays unknown: every method then returns None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from functools import cached_property

_MICRO = Decimal(1_000_000)  # micro-USD in a USD
_HOUR = Decimal(3600)  # seconds


@dataclass(frozen=True)
class Prices:
    """The two prices of a task, in USD; None: not known."""

    teacher_usd_per_1000: Decimal | None = None
    instance_usd_per_hour: Decimal | None = None

    @cached_property
    def teacher_call(self) -> int | None:
        """One call of the teacher, in micro-USD."""
        if self.teacher_usd_per_1000 is None:
            return None
        return micro_usd(self.teacher_usd_per_1000 / 1000)

    def student_time(self, seconds: float) -> int | None:
        """Busy seconds of the student, in micro-USD.

        One answer's share is mostly below half a micro-USD and then rounds to 0, so answers are
        never added up: sums of busy time are priced by `student_usd`.
        """
        rate = self._micro_usd_per_second
        return None if rate is None else round(seconds * rate)

    def student_usd(self, seconds: float) -> Decimal | None:
        """Busy seconds of the student, in USD and not rounded."""
        if self.instance_usd_per_hour is None:
            return None
        return self.instance_usd_per_hour * Decimal(seconds) / _HOUR

    @cached_property
    def _micro_usd_per_second(self) -> float | None:
        usd = self.student_usd(1.0)
        return None if usd is None else float(usd * _MICRO)


def micro_usd(usd: Decimal, *, up: bool = False) -> int:
    """USD -> integer micro-USD; half rounds to even, so that sums do not drift.

    `up`: what is begun counts as whole, for the most that something may cost.
    """
    rounding = ROUND_CEILING if up else ROUND_HALF_EVEN
    return int((usd * _MICRO).to_integral_value(rounding))

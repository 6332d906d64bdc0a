"""What things cost, and what the teacher may cost."""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field

from gateway.routing.budget import Limits, Window
from gateway.settings.part import Part
from gateway.telemetry.pricing import Prices, micro_usd


class PriceSettings(Part):
    """Money. Null is unknown, and is shown as unknown."""

    teacher_usd_per_1000: Decimal | None = Field(default=None, ge=0)
    instance_usd_per_hour: Decimal | None = Field(default=None, ge=0)

    def prices(self) -> Prices:
        """As the pricing room wants them."""
        return Prices(
            teacher_usd_per_1000=self.teacher_usd_per_1000,
            instance_usd_per_hour=self.instance_usd_per_hour,
        )


class BudgetSettings(Part):
    """What the teacher may cost, by live calls and audits together. Null: no limit.

    It is kept in the records' database, which replicas share.
    """

    usd_per_day: Decimal | None = Field(default=None, ge=0)
    usd_per_hour: Decimal | None = Field(default=None, ge=0)
    requests_per_second: float | None = Field(default=None, gt=0.0, le=1_000_000.0)
    usd_per_call: Decimal | None = Field(
        default=None, ge=0, description="the most that a call may cost; null: the task's price"
    )
    audit_reserve: float = Field(
        default=0.2, ge=0.0, le=1.0, description="the share of each limit that audits leave"
    )
    expiry_s: float = Field(
        default=120.0, gt=0.0, le=3600.0, description="of a reservation that nobody settles"
    )

    @property
    def in_usd(self) -> str | None:
        """A key that limits money; None: none does."""
        keys = ("usd_per_day", "usd_per_hour")
        return next((key for key in keys if getattr(self, key) is not None), None)

    def limits(self, prices: PriceSettings) -> Limits:
        """As the routing room wants them; money in micro-USD, what a call may cost rounded up."""
        usd = {Window.DAY: self.usd_per_day, Window.HOUR: self.usd_per_hour}
        call, thousand = self.usd_per_call, prices.teacher_usd_per_1000
        if call is None and thousand is not None:
            call = thousand / 1000
        return Limits(
            usd={window: micro_usd(limit) for window, limit in usd.items() if limit is not None},
            per_second=self.requests_per_second,
            call=None if call is None else micro_usd(call, up=True),
            audit_reserve=self.audit_reserve,
            expiry_s=self.expiry_s,
        )

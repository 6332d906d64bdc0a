"""The footing of a certificate: the traffic that it speaks of, and since when that is another.

Each student has one under each certificate: its own scores are its yardstick, and nobody else's.
Who comes back takes up his own again. That traffic has moved is true of the task, whoever serves:
what was proved before that is stale from the first request on. It says so, and does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from gateway.errors import DataError
from gateway.shadow.drift import Signal, Traffic
from gateway.shadow.window import State

# Rows that make a yardstick, and rows that have to be like it before they clear what others saw:
# a change of a signal by the default of `drift.least` is seen within some hundreds.
_ENOUGH = 1_000


class Footing:
    """Of the certificate `of`, a student and its certificate, under a `policy`, a fingerprint.

    `norm`: since when traffic was what it is where this began, as far as that is known; `least`:
    how far a signal has to move, see `Traffic`.
    """

    __slots__ = ("_left", "_policy", "norm", "of", "since", "traffic")

    def __init__(
        self, of: tuple[str, str], *, policy: str, least: float, norm: float | None = None
    ) -> None:
        self.of = of
        self.norm = norm
        self.since: float | None = None  # when traffic began to be another; None: it is the same
        self.traffic = Traffic(least)
        self._policy = policy
        # Rows to hear before its own windows may say that it is the same; None: they never may.
        self._left: int | None = 0

    @property
    def moved(self) -> float | None:
        """Since when traffic is what it is: what was proved before is of other traffic."""
        return self.norm if self.since is None else self.since

    def doubt(self, since: float) -> None:
        """Others have seen traffic move at that time, after this certificate was issued."""
        if self.since is None:
            self.since = since
            self._left = _ENOUGH if self.traffic.rows >= _ENOUGH else None
        self.since = max(self.since, since)

    def decides_by(self, policy: str) -> None:
        """That policy decides what is escalated: how much another one did is no yardstick.

        What only that had shown to be stale is stale still, with nothing left to say otherwise.
        """
        if policy == self._policy:
            return
        self._policy = policy
        self.traffic.forget(Signal.ESCALATED)
        if self.since is not None and self._left == 0 and self.traffic.state is State.STEADY:
            self._left = None

    def heard(self) -> None:
        """A row was told to `traffic`: see what it makes of it."""
        if self.traffic.state is State.DRIFTING:
            if self.since is None:
                self.since = self.traffic.since
            if self._left is not None:
                self._left = 0  # they have seen it themselves, and will see it come back
        elif self._left:
            self._left -= 1
        elif self._left == 0:
            self.since = None

    def saved(self) -> dict[str, Any]:
        """The state as plain numbers."""
        return {
            "of": self.of,
            "policy": self._policy,
            "norm": self.norm,
            "since": self.since,
            "left": self._left,
            "traffic": self.traffic.saved(),
        }

    def restore(self, kept: Mapping[str, Any]) -> Self:
        """Go on from what was saved of the same one. Raises DataError when that is no footing."""
        try:
            policy, traffic = str(kept["policy"]), kept["traffic"]
            norm, since, left = kept["norm"], kept["since"], kept["left"]
        except (KeyError, TypeError) as error:
            raise _unreadable(error) from error
        if not (_is_time(norm) and _is_time(since) and (left is None or _is_count(left))):
            raise _unreadable("numbers that no footing has")
        wanted, self._policy = self._policy, policy
        self.traffic.restore(traffic)
        self.norm, self.since, self._left = norm, since, left
        self.decides_by(wanted)
        return self


def _is_time(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _unreadable(cause: object) -> DataError:
    return DataError(
        f"saved footing of a certificate: {cause!r}",
        mend="leave the saved state out: it begins anew",
    )

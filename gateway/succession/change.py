"""A change of who serves: what it starts from, whom it names, who is ready for it, what came of it.

Values only: they decide nothing, and hold nothing open but the seats that are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gateway.routing.cascade import Cascade
from gateway.settings import TaskSettings
from gateway.students.registry import Roles
from gateway.succession.seat import Seat


@dataclass(frozen=True, slots=True)
class Change:
    """What came of a wish to change: who has which role now."""

    task: str
    roles: Roles
    changed: bool

    @property
    def serving(self) -> str:
        """The name of the bundle that serves."""
        return self.roles.serving

    @property
    def previous(self) -> str | None:
        """The name of the bundle that a rollback lets serve again."""
        return self.roles.previous


class Basis(NamedTuple):
    """What a change starts from: what roles.json says, if it is there, and the roles by that."""

    written: Roles | None
    roles: Roles


class Ready(NamedTuple):
    """Who answers under new roles, as the pointers stood after so many moves."""

    seat: Seat
    canary: Seat | None
    moves: int


class Wanted(NamedTuple):
    """Whom roles.json names: who serves, since when if that is new, and the canary."""

    serving: str
    launched: float | None
    canary: str | None

    @classmethod
    def by(cls, roles: Roles) -> Wanted:
        """Those whom these roles name."""
        return cls(roles.serving, roles.launched, roles.canary.bundle if roles.canary else None)


@dataclass(frozen=True, slots=True)
class Successor:
    """All that new settings want of a task, ready to hold from one moment to the next.

    `changed`: the roles are others than roles.json says.
    """

    settings: TaskSettings
    ready: Ready
    cascade: Cascade
    basis: Basis
    roles: Roles
    changed: bool

    @property
    def wanted(self) -> Roles | None:
        """What roles.json is to say; None: it is right."""
        return self.roles if self.changed else None

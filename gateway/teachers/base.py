"""What a teacher is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.contract.manifest import Task
from gateway.types import Instance, Prediction


@dataclass(frozen=True, slots=True)
class Said:
    """A teacher's answer, and what the call cost in micro-USD.

    None: the teacher does not know, and the task's price of a call holds. Not `asked`: no call was
    made for this answer, it was kept from an earlier one or is that of a call which somebody else
    has paid for. `unpriced`: further calls that were begun for it, of which no cost is known.
    """

    prediction: Prediction
    cost: int | None = None
    asked: bool = True
    unpriced: int = 0

    def bill(self, price: int | None) -> int | None:
        """What the answer cost in all, where a call of unknown cost has this price.

        None: a call was made of which neither is known.
        """
        if not self.asked:
            return 0
        unknown = self.unpriced + (self.cost is None)
        if unknown and price is None:
            return None
        return (self.cost or 0) + unknown * (price or 0)


class Teacher(Protocol):
    """A model that may be slow, dear, wrong or down."""

    @property
    def name(self) -> str:
        """How it is called in answers and logs: a bundle id, a model name."""

    @property
    def task(self) -> Task:
        """The heads that it answers."""

    async def answer(self, instance: Instance) -> Said:
        """Answer one instance. Raises TeacherError; cancelling ends the work."""

    async def close(self) -> None:
        """Give back what it holds."""

"""What a teacher is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.contract.manifest import Task
from gateway.types import Instance, Prediction


@dataclass(frozen=True, slots=True)
class Said:
    """A teacher's answer, and what the call cost in micro-USD.

    None: the teacher does not know, and the task's price of a call holds.
    """

    prediction: Prediction
    cost: int | None = None


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

"""What a teacher is."""

from __future__ import annotations

from typing import Protocol

from gateway.contract.manifest import Task
from gateway.types import Instance, Prediction


class Teacher(Protocol):
    """A model that may be slow, dear, wrong or down."""

    @property
    def name(self) -> str:
        """How it is called in answers and logs: a bundle id, a model name."""

    @property
    def task(self) -> Task:
        """The heads that it answers."""

    async def answer(self, instance: Instance) -> Prediction:
        """Answer one instance. Raises TeacherError; cancelling ends the work."""

    async def close(self) -> None:
        """Give back what it holds."""

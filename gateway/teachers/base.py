"""What a teacher is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from gateway.bill import Billed
from gateway.contract.manifest import Task
from gateway.types import Instance, Prediction


@dataclass(frozen=True, slots=True)
class Said(Billed):
    """A teacher's answer, and what the call cost in micro-USD.

    None: the teacher does not know, and the task's price of a call holds. Not `asked`: no call was
    made for this answer, it was kept from an earlier one or is that of a call which somebody else
    has paid for. `unpriced`: further calls that were begun for it, of which no cost is known.
    """

    prediction: Prediction
    cost: int | None = None
    asked: bool = True
    unpriced: int = 0


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


@dataclass(frozen=True, slots=True)
class Chosen:
    """Who is asked for a request: its name among the members, and how to ask it."""

    name: str
    answer: Callable[[Instance], Coroutine[Any, Any, Said]]


@runtime_checkable
class Chooser(Protocol):
    """A teacher that is several, of which one is asked for each request."""

    def choose(self, instance: Instance, hint: Prediction | None) -> Chosen:
        """Who is best at it; `hint` is what the student said, where it said anything."""

"""A rung of the cascade: a student that runs, and the policy under which it answers."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.contract.bundle import Bundle
from gateway.routing.policy import EscalationPolicy
from gateway.students.batching import Batcher
from gateway.students.vacancy import NO_STUDENT, Vacancy


@dataclass(frozen=True, slots=True)
class Rung:
    """A student and the policy that its certificate belongs to: they are only changed together.

    Where a task has no student, a vacancy stands in its place.
    """

    student: Batcher | Vacancy
    policy: EscalationPolicy

    @property
    def bundle(self) -> Bundle | None:
        """The student's bundle; None: there is no student."""
        student = self.student.student
        return None if student is None else student.bundle

    @property
    def name(self) -> str:
        """The name of the student's bundle, or `no_student`."""
        return NO_STUDENT if (bundle := self.bundle) is None else bundle.name

"""A seat: a student that is loaded and runs, under its policy, with a teacher behind it.

A task has one that serves and one that served before; gateway/succession.py says which. A seat is
complete or is not: whatever is wrong with a student is raised before anybody could ask it.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway.contract.bundle import Bundle, open_bundle
from gateway.errors import BundleMissing, StudentFailed
from gateway.routing.budget import Purse
from gateway.routing.cascade import Rung
from gateway.rungs import open_batcher, open_student, open_teacher, policy_of
from gateway.settings import TaskSettings
from gateway.students.registry import Registry, Roles
from gateway.students.student import Student
from gateway.teachers.guard import Guard
from gateway.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Seat:
    """A student that is loaded and warm, its policy, and the teacher that stands behind it."""

    rung: Rung
    teacher: Guard

    @property
    def bundle(self) -> Bundle:
        """The student's bundle."""
        return self.rung.student.student.bundle

    async def close(self, *, teacher: bool) -> None:
        """Finish what waits and end the threads; those of the teacher too, where it is told."""
        if teacher:
            await self.teacher.close()
        await self.rung.student.close()


def first_student(settings: TaskSettings, registry: Registry, *, aside: bool) -> Student:
    """The student that serves when the process starts.

    It is the one that served last, unless the settings name another bundle than they did then:
    they win, and it is written down, but not `aside`. Raises a BundleError or SettingsError.
    """
    configured = settings.student.bundle.resolve()  # a link may mean another bundle later
    roles = registry.roles()
    if roles is None:
        return open_student(settings, open_bundle(configured))
    if roles.configured == configured.name:
        try:
            return open_student(settings, open_bundle(registry.find(roles.serving)))
        except BundleMissing as error:
            raise BundleMissing(
                f"{registry.task} is served by {roles.serving}, which is gone from the registry",
                mend="put it back, or remove roles.json: what the settings name serves then",
            ) from error
    student = open_student(settings, open_bundle(configured))
    if not aside:
        name = registry.keep(configured).name
        registry.remember(Roles(configured=name, serving=name, previous=roles.serving))
    return student


async def take_seat(
    task: str,
    settings: TaskSettings,
    student: Student,
    metrics: Metrics,
    *,
    teacher: Guard | None = None,
    purse: Purse | None = None,
) -> Seat:
    """Start a student's workers and let it answer once; without a `teacher` open its own.

    Its calls are paid for from the `purse`; None: nothing is limited.

    Raises SettingsError, BundleMismatch or StudentFailed. Whatever ends it, a cancellation too,
    leaves nothing open.
    """
    async with AsyncExitStack() as opened:
        if teacher is None:
            teacher = await open_teacher(
                settings.teacher, student.task, purse=purse, metrics=metrics
            )
            opened.push_async_callback(teacher.close)
        policy = policy_of(task, settings, student, teacher=teacher.name)
        batcher = await open_batcher(task, settings, student, metrics)
        opened.push_async_callback(batcher.close)
        await batcher.ready()
        (said,) = await batcher.submit(["warm up"])
        if isinstance(said, StudentFailed):
            raise said
        opened.pop_all()
    return Seat(Rung(batcher, policy), teacher)

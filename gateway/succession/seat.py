"""A seat: a student that is loaded and runs, under its policy, with a teacher behind it.

A task has one that serves and one that served before; line.py says which. A seat is complete or is
not: whatever is wrong with a student is raised before anybody could ask it. It may be vacant: then
the teacher alone answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.manifest import Head, HeadKind, Task
from gateway.errors import BundleMissing, SettingsError, StudentFailed
from gateway.routing.budget import Purse
from gateway.routing.policy import EscalationPolicy
from gateway.routing.rung import Rung
from gateway.settings import TaskSettings
from gateway.students.batching import Batcher
from gateway.students.registry import Registry, Roles
from gateway.students.student import Student
from gateway.students.vacancy import NO_STUDENT, Vacancy
from gateway.succession.policies import policy_of, policy_without_student, safety_net
from gateway.succession.roles import reconfigured
from gateway.succession.students import open_batcher, open_student
from gateway.succession.teachers import open_teacher
from gateway.teachers.guard import Guard
from gateway.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Seat:
    """A student that is loaded and warm, its policy, and the teacher that stands behind it."""

    rung: Rung
    teacher: Guard

    @property
    def bundle(self) -> Bundle | None:
        """The student's bundle; None: the seat is vacant."""
        return self.rung.bundle

    @property
    def name(self) -> str:
        """The name of the student's bundle, or `no_student`."""
        return self.rung.name

    async def close(self, *, teacher: bool) -> None:
        """Finish what waits and end the threads; those of the teacher too, where it is told."""
        if teacher:
            await self.teacher.close()
        await self.rung.student.close()


def configured(settings: TaskSettings) -> str:
    """The name of the bundle that the settings name, or `no_student`."""
    bundle = settings.student.bundle
    return NO_STUDENT if bundle is None else bundle.resolve().name  # a link may mean another later


@dataclass(frozen=True, slots=True)
class First:
    """Who serves when the process starts; no `student`: the teacher alone.

    `roles` are to be written down once all is open that the start needs; None: they stay.
    """

    student: Student | None
    roles: Roles | None


def first(settings: TaskSettings, registry: Registry, *, aside: bool) -> First:
    """Who serves when the process starts: who served last, unless the settings name another now.

    Then they win, and the roles change, but not `aside`. Raises a BundleError or SettingsError.
    """
    found, roles = first_bundle(settings, registry), registry.roles()
    student = None if found is None else open_student(settings, open_bundle(found))
    named = configured(settings)
    if aside or roles is None or roles.configured == named:
        return First(student, None)
    if settings.student.bundle is not None:
        registry.keep(settings.student.bundle)
    return First(student, reconfigured(roles, named))


def first_bundle(settings: TaskSettings, registry: Registry) -> Path | None:
    """The folder of the student that serves, or would after a start; None: there is none.

    Raises BundleMissing where the registry lacks it, or SettingsError.
    """
    roles = registry.roles()
    if roles is None or roles.configured != configured(settings):
        bundle = settings.student.bundle
        return None if bundle is None else bundle.resolve()
    if roles.serving == NO_STUDENT:
        return None
    try:
        return _place(roles.serving, settings, registry)
    except BundleMissing as error:
        raise BundleMissing(
            f"{registry.task} is served by {roles.serving}, which is gone from the registry",
            mend="put it back, or remove roles.json: what the settings name serves then",
        ) from error


def heads_served(task: str, settings: TaskSettings, registry: Registry) -> tuple[Head, ...]:
    """What a task decides by who serves it, or who did where nobody does now; else as `heads_of`.

    Raises as that, and BundleMissing.
    """
    found, roles = first_bundle(settings, registry), registry.roles()
    if found is None and roles is not None and roles.configured == configured(settings):
        found = next(
            (registry.find(each) for each in registry.names() if each == roles.previous), None
        )
    return heads_of(task, settings) if found is None else open_bundle(found).manifest.task.heads


def _place(name: str, settings: TaskSettings, registry: Registry) -> Path:
    """Where a bundle lies that serves: where the settings name it, it may be there alone."""
    bundle = settings.student.bundle
    if bundle is not None and name == configured(settings) and name not in registry.names():
        return bundle.resolve()
    return registry.find(name)


def heads_of(task: str, settings: TaskSettings) -> tuple[Head, ...]:
    """What a task decides, by its settings alone: their `heads`, or a bundle that they name.

    Raises SettingsError where nothing says it, or where a teacher's bundle and `heads` contradict
    each other, and a BundleError.
    """
    said = settings.decides()
    path = settings.student.bundle or settings.teacher.bundle
    if path is None:
        if said is None:
            raise SettingsError(
                f"tasks.{task}: there is no student, and nothing says what the task decides",
                mend=f"name a bundle under tasks.{task}.student.bundle, or the heads and their "
                f"labels under tasks.{task}.heads",
            )
        return said
    bundle = open_bundle(path)
    heads = bundle.manifest.task.heads
    _check_heads(task, settings, heads, of=bundle.name)
    return heads


def _check_heads(task: str, settings: TaskSettings, heads: Sequence[Head], *, of: str) -> None:
    """Hold the heads `of` somebody against those of the settings, if any. Raises SettingsError."""
    said = settings.decides()
    if said is not None and not same_heads(said, heads):
        raise SettingsError(
            f"tasks.{task}.heads: {of} answers other heads or labels",
            mend="name the same heads and labels, or leave `heads` out where a bundle is named; "
            "other heads are another task",
        )


def same_heads(these: Sequence[Head], those: Sequence[Head]) -> bool:
    """Whether both decide the same, in whatever order heads and labels stand."""
    return _decided(these) == _decided(those)


def _decided(heads: Sequence[Head]) -> Mapping[str, tuple[HeadKind, frozenset[str]]]:
    return {head.name: (head.kind, frozenset(head.labels)) for head in heads}


def seated(task: str, settings: TaskSettings, loaded: Batcher | Vacancy, teacher: Guard) -> Seat:
    """What runs already, under the policy of these settings. Raises SettingsError."""
    return Seat(Rung(loaded, _policy(task, settings, loaded.student, teacher)), teacher)


def reseated(
    task: str,
    settings: TaskSettings,
    seat: Seat,
    *,
    launched: float | None,
    clock: Callable[[], float],
) -> Seat:
    """A student that is loaded, under the policy of these settings. Raises SettingsError.

    One that was `launched` at some time has a safety net below it, where the settings want one.
    """
    seat = seated(task, settings, seat.rung.student, seat.teacher)
    net = safety_net(task, settings, seat.teacher.task, launched=launched, clock=clock)
    if net is None or seat.bundle is None:
        return seat
    policy = replace(seat.rung.policy, rules=(*seat.rung.policy.rules, net))
    return replace(seat, rung=replace(seat.rung, policy=policy))


def _policy(
    task: str, settings: TaskSettings, student: Student | None, teacher: Guard
) -> EscalationPolicy:
    """What the settings say of this student and teacher. Raises SettingsError."""
    if student is None:
        _check_heads(task, settings, teacher.task.heads, of=teacher.name)
        return policy_without_student(task, settings, teacher.task)
    _check_heads(task, settings, student.task.heads, of=student.bundle.name)
    return policy_of(task, settings, student, teacher=teacher.name)


async def take_seat(
    task: str,
    settings: TaskSettings,
    student: Student | None,
    metrics: Metrics,
    *,
    teacher: Guard | None = None,
    purse: Purse | None = None,
) -> Seat:
    """Start a student's workers and let it answer once; without a `teacher` open its own.

    Without a student the seat is vacant.

    Its calls are paid for from the `purse`; None: nothing is limited.

    Raises SettingsError, BundleMismatch or StudentFailed. Whatever ends it, a cancellation too,
    leaves nothing open.
    """
    async with AsyncExitStack() as opened:
        if teacher is None:
            asked = student.task if student else Task(name=task, heads=heads_of(task, settings))
            teacher = await open_teacher(settings.teacher, asked, purse=purse, metrics=metrics)
            opened.push_async_callback(teacher.close)
        if student is None:
            seat = seated(task, settings, Vacancy(), teacher)
            opened.pop_all()
            return seat
        policy = _policy(task, settings, student, teacher)
        batcher = await open_batcher(task, settings, student, metrics)
        opened.push_async_callback(batcher.close)
        await batcher.ready()
        (said,) = await batcher.submit(["warm up"])
        if isinstance(said, StudentFailed):
            raise said
        opened.pop_all()
    return Seat(Rung(batcher, policy), teacher)

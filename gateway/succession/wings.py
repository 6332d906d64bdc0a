"""The wings of one task: where a student is made ready, beside the one that serves.

It is verified, rehearsed in a process of its own, opened, warmed, and held against the settings and
against what is decided now; whatever is wrong with it is found here. Nothing here lets it serve.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.manifest import Head, Task
from gateway.errors import BundleMismatch
from gateway.routing.budget import Budget
from gateway.settings import TaskSettings
from gateway.students.registry import CanaryRole, Registry, Roles
from gateway.students.rehearsal import warm
from gateway.students.student import Student
from gateway.students.vacancy import NO_STUDENT, Vacancy
from gateway.succession.cast import Cast
from gateway.succession.change import Basis, Ready
from gateway.succession.seat import Seat, heads_of, reseated, same_heads, seated, take_seat
from gateway.succession.students import open_student
from gateway.telemetry.metrics import Metrics


class Wings:
    """Makes students ready for a task whose `cast` plays. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        task: str,
        cast: Cast,
        registry: Registry,
        *,
        metrics: Metrics,
        budget: Budget | None,
        clock: Callable[[], float],
    ) -> None:
        self._task = task
        self._cast = cast
        self._registry = registry
        self._metrics = metrics
        self._budget = budget
        self._clock = clock
        self._adding = asyncio.Lock()  # a rehearsal takes a core: one at a time

    async def receive(self, archive: Path, settings: TaskSettings) -> Bundle:
        """Take the bundle of an archive into the registry. Raises a BundleError."""
        async with self._adding:
            check = functools.partial(self._check, settings=settings)
            return await asyncio.to_thread(self._registry.receive, archive, check=check)

    async def check_vacancy(self, name: str, settings: TaskSettings) -> None:
        """Before nobody serves: a restart must find out what the task decides. Raises like it."""
        if name == NO_STUDENT:
            await asyncio.to_thread(heads_of, self._task, settings)

    async def ready_for(self, basis: Basis, roles: Roles, settings: TaskSettings) -> Ready:
        """Those who answer under new roles, loaded and warm.

        Only whom the change itself names is loaded: who is behind goes on with whom it has.
        """
        before, moves = basis.roles, self._cast.moves
        seat, canary = self._cast.serving, self._cast.canary
        if (roles.serving, roles.launched) != (before.serving, before.launched):
            seat = await self.ready(roles.serving, settings, roles.launched)
        role = roles.canary
        if role is None:
            return Ready(seat, None, moves)
        if canary is None or canary.name != role.bundle:
            canary = None
            if before.canary is None or before.canary.bundle != role.bundle:
                with self._cast.left_on_error(seat):
                    canary = await self.ready_beside(role, settings)
        return Ready(seat, canary, moves)

    async def ready_beside(self, role: CanaryRole, settings: TaskSettings) -> Seat:
        """A canary, loaded and warm: it has the teacher of the one that serves."""
        teacher = self._cast.serving.teacher
        path = self._registry.find(role.bundle)
        bundle = await asyncio.to_thread(open_bundle, path)
        if bundle.manifest.task.heads != teacher.task.heads:
            raise BundleMismatch(
                f"{bundle.name} cannot be a canary: its heads or labels are not those of the "
                "student that serves",
                mend=f"let it take over at once: understudy students swap {bundle.name}",
            )
        return await self.ready(role.bundle, settings, role.began)

    async def ready(self, name: str, settings: TaskSettings, launched: float | None) -> Seat:
        """The student of that name, loaded and warm: some are so already."""
        if (known := self._cast.named(name)) is not None:
            return self.under(known, settings, launched)
        if name == NO_STUDENT:
            return seated(self._task, settings, Vacancy(), self._cast.serving.teacher)
        student = await asyncio.to_thread(self._opened, name, settings)
        same = student.task.heads == self._cast.serving.teacher.task.heads
        teacher = self._cast.serving.teacher if same else None
        seat = await take_seat(
            self._task, settings, student, self._metrics, teacher=teacher, purse=self._budget
        )
        with self._cast.left_on_error(seat):
            return self.under(seat, settings, launched)

    def under(self, seat: Seat, settings: TaskSettings, launched: float | None) -> Seat:
        """A student that is loaded, under the policy of these settings. Raises SettingsError."""
        return reseated(self._task, settings, seat, launched=launched, clock=self._clock)

    def _opened(self, name: str, settings: TaskSettings) -> Student:
        bundle = open_bundle(self._registry.find(name))
        self._check(bundle, settings)
        self._registry.rehearse(bundle.path)
        student = open_student(settings, bundle)
        warm(student)
        return student

    def _check(self, bundle: Bundle, settings: TaskSettings) -> None:
        """Refuse a bundle that could not take the serving one's place, or the vacant one."""
        serving, decided = self._cast.serving.bundle, bundle.manifest.task
        if bundle.manifest.role != "student":
            raise BundleMismatch(
                f"{bundle.name} is a {bundle.manifest.role}, not a student",
                mend="name it under teacher.bundle in the settings",
            )
        wanted = settings.decides() or (None if serving else self._cast.serving.teacher.task.heads)
        if wanted is not None and not same_heads(wanted, decided.heads):
            raise BundleMismatch(
                f"{bundle.name} does not decide what the task {self._task} decides: the heads or "
                "their labels differ",
                mend=f"distil a student with these: {_in_words(wanted)}",
            )
        if serving is not None and _shape(decided) != _shape(serving.manifest.task):
            raise BundleMismatch(
                f"{bundle.name} does not decide what {serving.name} decides: "
                "the task or its heads differ in name or kind",
                mend="serve it as a task of its own",
            )


def _shape(task: Task) -> tuple[object, ...]:
    """What two students must have in common to take each other's place; labels may differ."""
    return (task.name, *((head.name, head.kind) for head in task.heads))


def _in_words(heads: Sequence[Head]) -> str:
    return "; ".join(f"{head.name} ({head.kind}: {', '.join(head.labels)})" for head in heads)

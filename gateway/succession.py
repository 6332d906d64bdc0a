"""Who serves one task: the student that does, the one that did before, and how one takes over.

A student takes over in two steps. It is made ready beside the one that serves: verified, rehearsed
in a process of its own, opened, warmed, held against the settings; whatever is wrong with it is
found there. Then roles.json is written, and one pointer moves: a request is answered by the rung
that it met, and what is in flight ends on the old one. The student that served before stays loaded,
so that going back takes no time.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.manifest import Head, Task
from gateway.errors import (
    BundleError,
    BundleMismatch,
    BundleMissing,
    Conflict,
    LogUnavailable,
    UnderstudyError,
)
from gateway.routing.budget import Budget
from gateway.routing.cascade import Cascade
from gateway.rungs import open_student
from gateway.seat import Seat, configured, heads_of, same_heads, seated, take_seat
from gateway.settings import TaskSettings
from gateway.shadow.audit import Auditor
from gateway.shadow.coins import Coins
from gateway.shadow.served import ServedQuality
from gateway.store.changes import Changes, Entry, What
from gateway.students.registry import Registry, Roles, remembered
from gateway.students.rehearsal import warm
from gateway.students.student import Student
from gateway.students.vacancy import NO_STUDENT, Vacancy
from gateway.telemetry.figures import Figures
from gateway.telemetry.metrics import Metrics
from gateway.types import Observer

_RESULTS = {What.SWAP: "swapped", What.ROLLBACK: "rolled_back"}  # as swaps_total has them

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """What came of a wish to change: the names of the bundles that have the roles now."""

    task: str
    serving: str
    previous: str | None
    changed: bool


@dataclass(frozen=True, slots=True)
class Successor:
    """All that new settings want of a task, ready to hold from one moment to the next."""

    settings: TaskSettings
    seat: Seat
    cascade: Cascade
    roles: Roles | None  # None: the roles stay as they are


class Succession:
    """The students of one task, of which that of `seat` serves. `cascade` answers.

    `roles` are those that the start brings; None: they are as they were written down.
    """

    def __init__(
        self,
        task: str,
        *,
        settings: TaskSettings,
        seat: Seat,
        registry: Registry,
        metrics: Metrics,
        figures: Figures,
        quality: ServedQuality,
        observers: Sequence[Observer],
        roles: Roles | None = None,
        budget: Budget | None = None,
        changes: Changes | None = None,
    ) -> None:
        self.task = task
        self.registry = registry
        self._random = random.Random()  # noqa: S311  coins
        self._quality = quality
        self.auditor = Auditor(
            teacher=seat.teacher,
            prices=settings.prices.prices(),
            observers=observers,
            skipped=quality.skipped,
        )
        quality.follow(task, settings.audit.audited())
        quality.serves(task, seat.bundle.id if seat.bundle else None)
        self._settings = settings
        self._seat = seat
        self._before: Seat | None = None  # the previous student, while it is loaded
        roles = roles or registry.roles()
        self._configured = configured(settings)
        self._previous = roles.previous if roles else None
        self._metrics = metrics
        self._figures = figures
        self._budget = budget
        self._changes = changes
        self._observers: Sequence[Observer] = (*observers, self.auditor)
        self._changing = False
        self._adding = asyncio.Lock()  # a rehearsal takes a core: one at a time
        self._leaving: set[asyncio.Task[None]] = set()
        self.cascade = self._cascade(seat, settings)
        metrics.follow_queue(task, lambda: self.cascade.rung.student.depth)
        self._show_roles()

    @property
    def roles(self) -> Roles:
        """Who has which role now."""
        return Roles(configured=self._configured, serving=self._seat.name, previous=self._previous)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """The right to change this task; one has it at a time. Raises Conflict."""
        if self._changing:
            raise Conflict(
                f"another change of {self.task} is under way", mend="look again when it is done"
            )
        self._changing = True
        try:
            yield
        finally:
            self._changing = False

    async def add(self, archive: Path, *, by: str) -> Bundle:
        """Take the bundle of an archive in as a candidate. Raises a BundleError."""
        try:
            async with self._adding:
                check = functools.partial(self._check, settings=self._settings)
                bundle = await asyncio.to_thread(self.registry.receive, archive, check=check)
        except BundleError as error:
            self._note_refusal(error, by=by)
            raise
        _log.info("student added", task=self.task, by=by, bundle=bundle.name)
        return bundle

    async def swap(self, name: str, *, by: str, why: str = "") -> Change:
        """Let the bundle of that name serve; the log gets `by`, who wishes it, and `why`.

        Raises BundleMissing, Conflict, LogUnavailable, or what is wrong with the bundle; the old
        one serves on.
        """
        with self._refusals(by=by), self.claim():
            if name == self._seat.name:
                self._metrics.changed(self.task, "unchanged")
                return self._outcome(changed=False)
            return await self._let_serve(name, What.SWAP, by=by, why=why)

    async def roll_back(self, *, by: str, why: str = "") -> Change:
        """Let the previous student serve again. Raises like `swap`, but never LogUnavailable."""
        with self._refusals(by=by), self.claim():
            if self._previous in {None, self._seat.name}:
                raise BundleMissing(
                    f"{self.task} has no previous bundle", mend="swap to a bundle by its name"
                )
            return await self._let_serve(self._previous, What.ROLLBACK, by=by, why=why)

    async def prepare(self, settings: TaskSettings) -> Successor:
        """Make ready what new settings want; who calls has the claim. Nothing changes yet.

        A bundle that the settings did not name before takes over; where they name none any more,
        the seat falls vacant.
        """
        name, bundle = configured(settings), settings.student.bundle
        if bundle is None:
            await asyncio.to_thread(heads_of, self.task, settings)  # a restart needs them
        if name in {self._configured, self._seat.name}:
            seat = seated(self.task, settings, self._seat.rung.student, self._seat.teacher)
            roles = self.roles.model_copy(update={"configured": name})
            changed = name != self._configured
        else:
            if bundle is not None:
                await asyncio.to_thread(self.registry.keep, bundle)
            seat = await self._ready(name, settings)
            with self._left_on_error(seat):
                previous = await asyncio.to_thread(self._kept)
            roles = Roles(configured=name, serving=name, previous=previous)
            changed = True
        cascade = self._cascade(seat, settings)
        return Successor(settings, seat, cascade, roles if changed else None)

    def install(self, successor: Successor) -> None:
        """From now on, what was made ready holds."""
        prices = successor.settings.prices.prices()
        self._settings = successor.settings
        self._metrics.price(self.task, prices)
        self._figures.price(self.task, prices)
        if self._budget is not None:
            self._budget.follow(successor.settings.limits)
        self._quality.follow(self.task, successor.settings.audit.audited())
        if successor.roles is not None:
            self._configured = successor.roles.configured
        self._move(successor.seat, successor.cascade)

    def dismiss(self, successor: Successor) -> None:
        """What was made ready is not wanted after all."""
        self._leave(successor.seat)

    async def close(self) -> None:
        """Finish what waits and end every thread: audits, teachers, students."""
        await self.auditor.close()
        for seat in (self._seat, self._before):
            if seat is not None:
                await seat.close(teacher=True)
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _let_serve(self, name: str, what: What, *, by: str, why: str) -> Change:
        old, result = self._seat.name, _RESULTS[what]
        if name == NO_STUDENT:
            await asyncio.to_thread(heads_of, self.task, self._settings)  # a restart needs them
        seat = await self._ready(name, self._settings)
        entry = Entry(
            what=what,
            who=by,
            task=self.task,
            old=old,
            new=name,
            why=why,
            evidence={"threshold": seat.rung.policy.threshold, "teacher": seat.teacher.name},
        )
        with self._left_on_error(seat):
            kept = await asyncio.to_thread(self._kept)
            roles = Roles(configured=self._configured, serving=name, previous=kept)
            if what is What.ROLLBACK:
                await asyncio.to_thread(self.registry.remember, roles)
            else:
                await asyncio.to_thread(self._commit, roles, entry)
        self._move(seat, self.cascade)
        if what is What.ROLLBACK:  # the way back waits for no database
            with suppress(LogUnavailable):
                await asyncio.to_thread(self._note, entry)
        self._metrics.changed(self.task, result)
        _log.info(f"student {result.replace('_', ' ')}", task=self.task, by=by, old=old, new=name)
        return self._outcome(changed=True)

    def _commit(self, roles: Roles, entry: Entry) -> None:
        """Write down who serves, and a row of the log of changes: both or neither."""
        with remembered([(self.registry, roles)]):
            self._note(entry)

    def _note(self, entry: Entry) -> None:
        """Commit a row of the log of changes. Raises LogUnavailable."""
        if self._changes is None:
            return
        try:
            self._changes.append(entry)
        except LogUnavailable as error:
            _log.warning("a change is not in the log", task=self.task, error=error.message)
            raise

    async def _ready(self, name: str, settings: TaskSettings) -> Seat:
        """The student of that name, loaded and warm: the previous one is so already."""
        before = self._before
        if before is not None and before.name == name:
            return seated(self.task, settings, before.rung.student, before.teacher)
        if name == NO_STUDENT:
            return seated(self.task, settings, Vacancy(), self._seat.teacher)
        student = await asyncio.to_thread(self._opened, name, settings)
        same = student.task.heads == self._seat.teacher.task.heads
        teacher = self._seat.teacher if same else None
        return await take_seat(
            self.task, settings, student, self._metrics, teacher=teacher, purse=self._budget
        )

    def _opened(self, name: str, settings: TaskSettings) -> Student:
        bundle = open_bundle(self.registry.find(name))
        self._check(bundle, settings)
        self.registry.rehearse(bundle.path)
        student = open_student(settings, bundle)
        warm(student)
        return student

    def _check(self, bundle: Bundle, settings: TaskSettings) -> None:
        """Refuse a bundle that could not take the serving one's place, or the vacant one."""
        serving, decided = self._seat.bundle, bundle.manifest.task
        if bundle.manifest.role != "student":
            raise BundleMismatch(
                f"{bundle.name} is a {bundle.manifest.role}, not a student",
                mend="name it under teacher.bundle in the settings",
            )
        wanted = settings.decides() or (None if serving else self._seat.teacher.task.heads)
        if wanted is not None and not same_heads(wanted, decided.heads):
            raise BundleMismatch(
                f"{bundle.name} does not decide what the task {self.task} decides: the heads or "
                "their labels differ",
                mend=f"distil a student with these: {_in_words(wanted)}",
            )
        if serving is not None and _shape(decided) != _shape(serving.manifest.task):
            raise BundleMismatch(
                f"{bundle.name} does not decide what {serving.name} decides: "
                "the task or its heads differ in name or kind",
                mend="serve it as a task of its own",
            )

    def _kept(self) -> str | None:
        """See to it that the serving bundle lies in the registry, to be found after a restart."""
        bundle = self._seat.bundle
        if bundle is None:
            return NO_STUDENT
        if bundle.name in self.registry.names():
            return bundle.name
        try:
            return self.registry.keep(bundle.path).name
        except BundleError as error:
            _log.warning("no way back after a restart", task=self.task, error=error.message)
            return None

    def _cascade(self, seat: Seat, settings: TaskSettings) -> Cascade:
        return Cascade(
            task=self.task,
            rung=seat.rung,
            teacher=seat.teacher,
            prices=settings.prices.prices(),
            observers=self._observers,
            unavailable=settings.policy.unavailable(),
            coins=Coins(
                settings.audit.share, settings.audit.targeted, self._random, self._may_audit
            ),
        )

    def _may_audit(self) -> bool:
        return self.auditor.ready

    def _move(self, seat: Seat, cascade: Cascade) -> None:
        """The pointer moves. Nothing here waits, so that no request sees half of it."""
        cascade.rung, cascade.teacher = seat.rung, seat.teacher
        self.cascade = cascade
        self.auditor.follow(seat.teacher, self._settings.prices.prices())
        old, self._seat = self._seat, seat
        if old.rung.student is not seat.rung.student:
            self._quality.serves(self.task, seat.bundle.id if seat.bundle else None)
            retired, self._before = self._before, old
            self._previous = old.name
            if retired is not None:
                self._leave(retired)
        self._show_roles()

    @contextmanager
    def _left_on_error(self, seat: Seat) -> Iterator[None]:
        """A seat that was made ready and then cannot be taken is closed."""
        try:
            yield
        except BaseException:
            self._leave(seat)
            raise

    def _leave(self, seat: Seat) -> None:
        """Close a seat that nobody needs any more, when its callers are done."""
        loaded = [each for each in (self._seat, self._before) if each is not None]
        if any(each.rung.student is seat.rung.student for each in loaded):
            return
        alone = all(each.teacher is not seat.teacher for each in loaded)
        leaving = asyncio.get_running_loop().create_task(_ended(seat, teacher=alone))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    def _show_roles(self) -> None:
        self._metrics.installed(self.task, "student", self._seat.name)
        self._metrics.installed(self.task, "teacher", self._seat.teacher.name)
        if self._previous is not None:
            self._metrics.installed(self.task, "previous", self._previous)

    def _outcome(self, *, changed: bool) -> Change:
        roles = self.roles
        return Change(self.task, roles.serving, roles.previous, changed)

    @contextmanager
    def _refusals(self, *, by: str) -> Iterator[None]:
        """Count and log what keeps a change from taking place."""
        try:
            yield
        except Conflict:
            self._metrics.changed(self.task, "conflict")
            raise
        except UnderstudyError as error:
            self._metrics.changed(self.task, "refused")
            self._note_refusal(error, by=by)
            raise

    def _note_refusal(self, error: UnderstudyError, *, by: str) -> None:
        _log.warning("student refused", task=self.task, by=by, code=error.code, error=error.message)


async def _ended(seat: Seat, *, teacher: bool) -> None:
    """Close a seat and give its memory back, which hangs on rings of references."""
    await seat.close(teacher=teacher)
    del seat
    gc.collect()  # left to itself the collector comes so rarely that many students would pile up


def _shape(task: Task) -> tuple[object, ...]:
    """What two students must have in common to take each other's place; labels may differ."""
    return (task.name, *((head.name, head.kind) for head in task.heads))


def _in_words(heads: Sequence[Head]) -> str:
    return "; ".join(f"{head.name} ({head.kind}: {', '.join(head.labels)})" for head in heads)

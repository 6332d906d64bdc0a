"""Who serves one task: the student that does, the one that did before, and how one takes over.

A student takes over in two steps. It is made ready beside the one that serves: verified, rehearsed
in a process of its own, opened, warmed, held against the settings; whatever is wrong with it is
found there. Then roles.json is written, and one pointer moves: a request is answered by the rung
that it met, and what is in flight ends on the old one. The student that served before stays loaded,
so that going back takes no time.

A canary is a third student, made ready likewise, which answers a share of the requests
(gateway/routing/canary.py). What roles.json says is what holds: replicas that share the registry
look there and do the same, and so does a restart.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from gateway.routing.canary import Canary
from gateway.routing.cascade import Cascade
from gateway.rungs import open_student, safety_net
from gateway.seat import Seat, configured, heads_of, same_heads, seated, take_seat
from gateway.settings import TaskSettings
from gateway.shadow.audit import Auditor
from gateway.shadow.coins import Coins
from gateway.shadow.lookout import Limits, Lookout
from gateway.shadow.served import ServedQuality
from gateway.shadow.streams import Reading
from gateway.store.changes import Changes, Entry, What
from gateway.students.registry import CanaryRole, Frozen, Registry, Roles
from gateway.students.rehearsal import warm
from gateway.students.student import Student
from gateway.students.vacancy import NO_STUDENT, Vacancy
from gateway.telemetry.figures import Figures
from gateway.telemetry.metrics import Metrics
from gateway.types import Instance, Observer
from gateway.watch import Duty, Watch, in_numbers

_ALARM = "alarm"  # who changes something where nobody wishes it
_AGAIN_S = 0.1  # before another try to send a student away, while somebody else changes the task
_LATER_S = 10.0  # the same where something is in the way that a person has to mend
_TRIES = 5  # of going back, where other replicas change the same task at the same time

_log = structlog.get_logger(__name__)


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


@dataclass(frozen=True, slots=True)
class Successor:
    """All that new settings want of a task, ready to hold from one moment to the next."""

    settings: TaskSettings
    seat: Seat
    canary: Seat | None
    cascade: Cascade
    roles: Roles | None  # None: the roles stay as they are


class Succession:
    """The students of one task, of which that of `seat` serves. `cascade` answers.

    `roles` are those that the start brings; None: they are as they were written down. `clock` gives
    seconds since the epoch. `watched` is the name of the file in the registry that keeps what the
    watch has seen; None: nothing is kept.
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
        watched: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.task = task
        self.registry = registry
        self.lookout = Lookout()
        self.clock = clock
        self._random = random.Random()  # noqa: S311  coins
        kept = None if watched is None else registry.folder / watched
        self.watch = Watch(task, ring=self._ring, file=kept, random=self._random)
        self._quality = quality
        self.auditor = Auditor(
            teacher=seat.teacher,
            prices=settings.prices.prices(),
            observers=(*observers, self.lookout, self.watch),
            skipped=quality.skipped,
        )
        quality.follow(task, settings.audit.audited())
        quality.serves(task, seat.bundle.id if seat.bundle else None)
        self._settings = settings
        # what roles.json said when somebody last looked, or will say when the start is done
        self._written = roles or registry.roles()
        self._roles = _present(self._written, settings, seat)
        self._seat = seat = self._under(seat, settings, self._roles.launched)
        self._before: Seat | None = None  # the previous student, while it is loaded
        self._canary: Seat | None = None
        self._metrics = metrics
        self._figures = figures
        self._budget = budget
        self._changes = changes
        self._observers: Sequence[Observer] = (
            *observers,
            self.lookout,
            self.watch,
            self.auditor,
        )
        self._changing = False
        self._own = asyncio.Lock()  # what is done by nobody's wish: others wait for it
        self._adding = asyncio.Lock()  # a rehearsal takes a core: one at a time
        self._leaving: set[asyncio.Task[None]] = set()
        self._rescuing: asyncio.Task[None] | None = None
        self.cascade = self._cascade(seat, settings)
        metrics.follow_queue(task, lambda: self.cascade.rung.student.depth)
        self._watch_over()
        self._show_roles()

    @property
    def roles(self) -> Roles:
        """Who has which role now."""
        return self._roles

    @property
    def settings(self) -> TaskSettings:
        """The settings of the task that hold now."""
        return self._settings

    @asynccontextmanager
    async def claim(self) -> AsyncIterator[None]:
        """The right to change this task; one has it at a time. Raises Conflict."""
        if self._changing:
            raise Conflict(
                f"another change of {self.task} is under way", mend="look again when it is done"
            )
        self._changing = True
        try:
            async with self._own:
                yield
        finally:
            self._changing = False

    @asynccontextmanager
    async def attempt(self, *, by: str) -> AsyncIterator[None]:
        """The same for a wish of somebody, who starts from what other replicas have done.

        Raises Conflict, and like `catch_up`. What keeps the change from taking place is counted
        and logged.
        """
        with self._refusals(by=by):
            async with self.claim():
                await self.catch_up()
                yield

    @asynccontextmanager
    async def by_itself(self) -> AsyncIterator[bool]:
        """The same for what nobody wishes: it gives way, and then has False."""
        if self._changing or self._own.locked():
            yield False
            return
        async with self._own:
            yield True

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
        """Let the bundle of that name serve at once; the log gets `by`, who wishes it, and `why`.

        A canary ends. Raises BundleMissing, Conflict, LogUnavailable, or what is wrong with the
        bundle; the old one serves on.
        """
        async with self.attempt(by=by):
            if name == self._seat.name:
                return self.unchanged()
            await self._check_vacancy(name)
            launched = None if name == NO_STUDENT else self.clock()
            roles = await self.succeeded_by(name, launched=launched)
            old = self._seat.name
            entry = Entry(what=What.SWAP, who=by, task=self.task, old=old, new=name, why=why)
            await self.become(roles, entry)
            return self.done("swapped", by=by)

    async def roll_back(self, *, by: str, why: str = "", leaving: str | None = None) -> Change:
        """End the canary, or where there is none let the previous student serve again.

        Nobody is promoted from then on, until somebody unfreezes it. With `leaving`, the bundle
        that is to go, nothing changes where another replica has seen to it. Raises like `swap`, but
        never LogUnavailable: the way back waits for no database.
        """
        async with self.attempt(by=by):
            for left in reversed(range(_TRIES)):
                roles = self._roles
                going = roles.canary.bundle if roles.canary else roles.serving
                if leaving not in (None, going):
                    return self.unchanged()
                try:
                    await self.go_back(by=by, why=why)
                    break
                except Conflict:
                    if not left:
                        raise
                    await self.catch_up()
            return self.done("rolled_back", by=by)

    async def go_back(self, *, by: str, why: str) -> None:
        """What `roll_back` does, for who has the right to change the task already."""
        roles, ended = self._roles, self._roles.canary
        going = ended.bundle if ended else roles.serving
        if ended is not None:
            back = roles.model_copy(update={"canary": None, "proposal": None})
        elif roles.previous not in (None, roles.serving):
            await self._check_vacancy(roles.previous)
            back = await self.succeeded_by(roles.previous, launched=None)
        else:
            raise BundleMissing(
                f"{self.task} has no previous bundle", mend="swap to a bundle by its name"
            )
        row = Entry(
            what=What.ROLLBACK, who=by, task=self.task, old=going, new=back.serving, why=why
        )
        entries = [row]
        if roles.frozen is None:
            frozen = Frozen(why=why or f"{going} was rolled back", at=self.clock(), student=going)
            back = back.model_copy(update={"frozen": frozen})
            entries.append(Entry(what=What.FREEZE, who=by, task=self.task, why=frozen.why))
        await self.become(back, *entries, urgent=True)

    async def send_away(
        self, name: str, *, by: str, why: str, evidence: Mapping[str, Any], freeze_only: bool
    ) -> Change:
        """Let another serve than that bundle, which does not do its work; a canary ends.

        It is the previous one, or where that was sent away itself the teacher alone. Nobody is
        promoted from then on; with `freeze_only` that is all. Nothing changes where the bundle
        serves no more. Raises like `roll_back`.
        """
        async with self.attempt(by=by):
            if self._roles.serving != name or (freeze_only and self._roles.frozen):
                return self.unchanged()
            frozen = Frozen(why=why, at=self.clock(), student=None if freeze_only else name)
            row = Entry(what=What.FREEZE, who=by, task=self.task, why=why, evidence=evidence)
            if freeze_only:
                await asyncio.to_thread(self._kept)  # what roles.json names is found there
                roles = self._roles.model_copy(update={"frozen": frozen})
                await self.become(roles, row, urgent=True)
                return self.done("frozen", by=by)
            for heir in self._heirs():
                back = await self.succeeded_by(heir, launched=None)
                gone = replace(row, what=What.ROLLBACK, old=name, new=heir)
                try:
                    roles = back.model_copy(update={"frozen": frozen})
                    await self.become(roles, gone, row, urgent=True)
                    break
                except BundleError as error:
                    self._note_refusal(error, by=by)
            return self.done("rolled_back", by=by)

    def _heirs(self) -> Iterator[str]:
        """Who may serve in place of the student that does, the best first."""
        roles = self._roles
        sent_away = roles.frozen.student if roles.frozen else None
        if roles.previous not in (None, NO_STUDENT, roles.serving, sent_away):
            yield roles.previous
        yield NO_STUDENT

    async def succeeded_by(self, name: str, *, launched: float | None) -> Roles:
        """The roles where that bundle serves at once; the one that does now is kept for a way back.

        `launched`: when it got its first requests; None: it is no new one.
        """
        ended = {"canary": None, "proposal": None}
        kept = await asyncio.to_thread(self._kept)
        taken = {"serving": name, "previous": kept, "launched": launched}
        return self._roles.model_copy(update=taken | ended)

    async def become(self, roles: Roles, *entries: Entry, urgent: bool = False) -> None:
        """Let these roles hold, here and in the registry; the log has the entries before.

        If it is `urgent`, it has them afterwards, as far as it can be written. Who calls has the
        right to change the task. Raises Conflict where another replica was faster, LogUnavailable,
        SettingsError, or what is wrong with a bundle; then nothing has changed.
        """
        seat, canary = await self._seats(roles)
        rows = [_evident(entry, seat, canary) for entry in entries]
        with self._left_on_error(seat), self._left_on_error(canary):
            first = functools.partial(self._note, [] if urgent else rows)
            await asyncio.to_thread(self.registry.replace, self._written, roles, first=first)
        self._written = roles
        self._hold(roles, seat, canary)
        if urgent:
            with suppress(LogUnavailable):
                await asyncio.to_thread(self._note, rows)

    async def behind(self) -> bool:
        """Whether roles.json says something that does not hold here. Raises SettingsError."""
        found = await asyncio.to_thread(self.registry.roles)
        return found is not None and not self._follows(found)

    async def catch_up(self) -> None:
        """Let hold what another replica has written down, or what held before a restart.

        It waits for the settings where they name another bundle there than here. Raises what is
        wrong with a bundle; then what holds here goes on.
        """
        found = await asyncio.to_thread(self.registry.roles)
        if found is None or self._follows(found):
            return
        if found.configured == self._roles.configured:
            if found.canary is not None and found.serving != self._seat.name:
                await self._follow(found.model_copy(update={"canary": None}))
            await self._follow(found)
            canary = found.canary and found.canary.bundle
            _log.info("roles followed", task=self.task, serving=found.serving, canary=canary)
        self._written = found

    def unchanged(self) -> Change:
        """What comes of a wish that is fulfilled already."""
        self._metrics.changed(self.task, "unchanged")
        return Change(self.task, self._roles, changed=False)

    def done(self, result: str, *, by: str) -> Change:
        """What came of a wish that was fulfilled: it is counted under `result`, and logged."""
        self._metrics.changed(self.task, result)
        roles = self._roles
        canary = roles.canary and roles.canary.bundle
        _log.info(
            f"student {result.replace('_', ' ')}",
            task=self.task,
            by=by,
            serving=roles.serving,
            previous=roles.previous,
            canary=canary,
        )
        return Change(self.task, roles, changed=True)

    async def prepare(self, settings: TaskSettings) -> Successor:
        """Make ready what new settings want; who calls has the claim. Nothing changes yet.

        A bundle that the settings did not name before takes over, and a canary ends; where they
        name none any more, the seat falls vacant.
        """
        name, bundle, held = configured(settings), settings.student.bundle, self._roles
        canary = None
        if bundle is None:
            await asyncio.to_thread(heads_of, self.task, settings)  # a restart needs them
        if name in {held.configured, self._seat.name}:
            seat = self._under(self._seat, settings, held.launched)
            if self._canary is not None and held.canary is not None:
                canary = self._under(self._canary, settings, held.canary.began)
            roles = held.model_copy(update={"configured": name})
            changed = name != held.configured
        else:
            if bundle is not None:
                await asyncio.to_thread(self.registry.keep, bundle)
            launched = None if bundle is None else self.clock()
            seat = await self._ready(name, settings, launched)
            with self._left_on_error(seat):
                roles = await self.succeeded_by(name, launched=launched)
            roles = roles.model_copy(update={"configured": name})
            changed = True
        cascade = self._cascade(seat, settings)
        return Successor(settings, seat, canary, cascade, roles if changed else None)

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
            self._written = successor.roles
        self.cascade = successor.cascade
        self._hold(successor.roles or self._roles, successor.seat, successor.canary)

    def dismiss(self, successor: Successor) -> None:
        """What was made ready is not wanted after all."""
        self._leave(successor.seat)

    async def close(self) -> None:
        """Finish what waits and end every thread: audits, teachers, students."""
        await self.auditor.close()
        if self._rescuing is not None:
            self._rescuing.cancel()
            await asyncio.wait({self._rescuing})
        await self.watch.close()
        for seat in (self._canary, self._seat, self._before):
            if seat is not None:
                await seat.close(teacher=seat is not self._canary)
        if self._leaving:
            await asyncio.wait(self._leaving)

    def _note(self, entries: Sequence[Entry]) -> None:
        """Commit rows of the log of changes. Raises LogUnavailable."""
        if self._changes is None or not entries:
            return
        try:
            self._changes.append(*entries)
        except LogUnavailable as error:
            _log.warning("a change is not in the log", task=self.task, error=error.message)
            raise

    def _follows(self, found: Roles) -> bool:
        """Whether what roles.json says is known here, and those whom it names are loaded."""
        if found != self._written:
            return False
        canary = None if self._canary is None else self._canary.name
        wanted = None if found.canary is None else found.canary.bundle
        elsewhere = found.configured != self._roles.configured
        return elsewhere or (found.serving, wanted) == (self._seat.name, canary)

    async def _follow(self, roles: Roles) -> None:
        seat, canary = await self._seats(roles)
        self._hold(roles, seat, canary)

    async def _seats(self, roles: Roles) -> tuple[Seat, Seat | None]:
        """Those who answer under these roles, loaded and warm."""
        seat, canary = self._seat, self._canary
        if (roles.serving, roles.launched) != (seat.name, self._roles.launched):
            seat = await self._ready(roles.serving, self._settings, roles.launched)
        if roles.canary is None:
            return seat, None
        if canary is None or canary.name != roles.canary.bundle:
            with self._left_on_error(seat):
                canary = await self._ready_beside(roles.canary)
        return seat, canary

    async def _check_vacancy(self, name: str) -> None:
        """Before nobody serves: a restart must find out what the task decides. Raises like it."""
        if name == NO_STUDENT:
            await asyncio.to_thread(heads_of, self.task, self._settings)

    async def _ready_beside(self, role: CanaryRole) -> Seat:
        """A canary, loaded and warm: it has the teacher of the one that serves."""
        teacher = self._seat.teacher
        path = self.registry.find(role.bundle)
        bundle = await asyncio.to_thread(open_bundle, path)
        if bundle.manifest.task.heads != teacher.task.heads:
            raise BundleMismatch(
                f"{bundle.name} cannot be a canary: its heads or labels are not those of the "
                "student that serves",
                mend=f"let it take over at once: understudy students swap {bundle.name}",
            )
        return await self._ready(role.bundle, self._settings, role.began)

    async def _ready(self, name: str, settings: TaskSettings, launched: float | None) -> Seat:
        """The student of that name, loaded and warm: some are so already."""
        for each in (self._seat, self._before, self._canary):
            if each is not None and each.name == name:
                return self._under(each, settings, launched)
        if name == NO_STUDENT:
            return seated(self.task, settings, Vacancy(), self._seat.teacher)
        student = await asyncio.to_thread(self._opened, name, settings)
        same = student.task.heads == self._seat.teacher.task.heads
        teacher = self._seat.teacher if same else None
        seat = await take_seat(
            self.task, settings, student, self._metrics, teacher=teacher, purse=self._budget
        )
        with self._left_on_error(seat):
            return self._under(seat, settings, launched)

    def _under(self, seat: Seat, settings: TaskSettings, launched: float | None) -> Seat:
        """A student that is loaded, under the policy of these settings. Raises SettingsError.

        One that was `launched` at some time has a safety net below it, where the settings want one.
        """
        seat = seated(self.task, settings, seat.rung.student, seat.teacher)
        net = safety_net(
            self.task, settings, seat.teacher.task, launched=launched, clock=self.clock
        )
        if net is None or seat.bundle is None:
            return seat
        policy = replace(seat.rung.policy, rules=(*seat.rung.policy.rules, net))
        return replace(seat, rung=replace(seat.rung, policy=policy))

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
                settings.audit.share,
                settings.audit.targeted,
                self._random,
                self._may_audit,
                self._look_closer,
            ),
            stale=self._is_void,
            clock=self.clock,
        )

    def _may_audit(self) -> bool:
        return self.auditor.ready

    def _look_closer(self) -> bool:
        return self.watch.alert

    def _is_void(self) -> bool:
        """Whether a certificate that is stale is void, and this one is."""
        return self.watch.stale and self._settings.drift.certificate == "escalate"

    def _watch_over(self) -> None:
        """Watch the student that serves now, on the terms that hold now."""
        rung, settings = self._seat.rung, self._settings
        warrant = rung.policy.warrant
        certificate = warrant.certificate if warrant else None
        self.watch.follow(
            Duty(
                student=rung.bundle.id if rung.bundle else None,
                terms=settings.alarms.terms(rung.policy.critical),
                certificate=str(certificate.issued_at) if certificate else "",
                drift=settings.drift.enabled,
                share=lambda: self.cascade.coins.share,
                elsewhere=self._of_the_canary,
            )
        )

    def _of_the_canary(self, instance: Instance) -> bool:
        canary = self.cascade.canary
        return canary is not None and canary.takes(instance)

    def _ring(self, student: str, reading: Reading) -> None:
        """The alarm of a student rings, which is named by its bundle's id."""
        action, bundle = self._settings.alarms.action, self._seat.bundle
        if action != "none" and bundle is not None and bundle.id == student:
            rescue = self._rescue(bundle.name, reading, freeze_only=action == "freeze")
            self._rescuing = asyncio.get_running_loop().create_task(rescue)

    async def _rescue(self, name: str, reading: Reading, *, freeze_only: bool) -> None:
        """Send a student away, however often somebody else changes the same task."""
        why = (
            f"{name}: {reading.stream} is above its limit of {reading.limit:g} "
            f"({reading.mean or 0.0:.1%} of {reading.rows} rows)"
        )
        evidence = in_numbers(reading)
        while self._seat.name == name:
            try:
                await self.send_away(
                    name, by=_ALARM, why=why, evidence=evidence, freeze_only=freeze_only
                )
            except UnderstudyError as error:
                await asyncio.sleep(_AGAIN_S if isinstance(error, Conflict) else _LATER_S)
            else:
                return

    def _hold(self, roles: Roles, seat: Seat, canary: Seat | None) -> None:
        """The pointers move. Nothing here waits, so that no request sees half of it."""
        cascade, settings = self.cascade, self._settings
        cascade.rung, cascade.teacher = seat.rung, seat.teacher
        cascade.canary = _canary(canary, roles.canary, settings)
        self.auditor.follow(seat.teacher, settings.prices.prices())
        self.lookout.follow(cascade.canary, _limits(settings))
        old, self._seat = self._seat, seat
        gone = [self._canary]
        self._canary = canary
        if old.rung.student is not seat.rung.student:
            self._quality.serves(self.task, seat.bundle.id if seat.bundle else None)
            gone.append(self._before)
            self._before = old
            if roles.previous is None:  # it could not be kept, and yet is loaded
                roles = roles.model_copy(update={"previous": old.name})
        self._roles = roles
        self._watch_over()
        for each in gone:
            if each is not None:
                self._leave(each)
        self._show_roles()

    @contextmanager
    def _left_on_error(self, seat: Seat | None) -> Iterator[None]:
        """A seat that was made ready and then cannot be taken is closed."""
        try:
            yield
        except BaseException:
            if seat is not None:
                self._leave(seat)
            raise

    def _leave(self, seat: Seat) -> None:
        """Close a seat that nobody needs any more, when its callers are done."""
        held = (self._seat, self._before, self._canary)
        loaded = [each for each in held if each is not None]
        if any(each.rung.student is seat.rung.student for each in loaded):
            return
        alone = all(each.teacher is not seat.teacher for each in loaded)
        leaving = asyncio.get_running_loop().create_task(_ended(seat, teacher=alone))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    def _show_roles(self) -> None:
        roles, canary = self._roles, self.cascade.canary
        self._metrics.installed(self.task, "student", self._seat.name)
        self._metrics.installed(self.task, "teacher", self._seat.teacher.name)
        self._metrics.installed(self.task, "previous", roles.previous)
        self._metrics.installed(self.task, "canary", canary.rung.name if canary else None)
        self._metrics.promoting(self.task, canary.share if canary else 0.0)

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


def _evident(entry: Entry, *seats: Seat | None) -> Entry:
    """The same with the threshold and the teacher of the student that is new in it."""
    for seat in seats:
        if seat is not None and seat.name == entry.new:
            found = {"threshold": seat.rung.policy.threshold, "teacher": seat.teacher.name}
            return replace(entry, evidence=found | dict(entry.evidence))
    return entry


def _present(written: Roles | None, settings: TaskSettings, seat: Seat) -> Roles:
    """The roles at the start: a canary comes when it is ready."""
    present = {"configured": configured(settings), "serving": seat.name, "canary": None}
    if written is None:
        return Roles.model_validate(present)
    return written.model_copy(update=present)


def _canary(seat: Seat | None, role: CanaryRole | None, settings: TaskSettings) -> Canary | None:
    if seat is None or role is None:
        return None
    share = settings.promotion.ladder().step(role.step).share
    return Canary(seat.rung, share, settings.promotion.key)


def _limits(settings: TaskSettings) -> Limits:
    alarm = settings.promotion.alarm
    return Limits(alarm.disagreement, alarm.failures, alarm.apart)


def _shape(task: Task) -> tuple[object, ...]:
    """What two students must have in common to take each other's place; labels may differ."""
    return (task.name, *((head.name, head.kind) for head in task.heads))


def _in_words(heads: Sequence[Head]) -> str:
    return "; ".join(f"{head.name} ({head.kind}: {', '.join(head.labels)})" for head in heads)

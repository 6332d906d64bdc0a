"""Who serves one task: the student that does, the one that did before, and how one takes over.

A student takes over in two steps. It is made ready beside the one that serves: verified, rehearsed
in a process of its own, opened, warmed, held against the settings; whatever is wrong with it is
found there. Then roles.json is written, and one pointer moves: a request is answered by the rung
that it met, and what is in flight ends on the old one. The student that served before stays loaded,
so that going back takes no time.

A canary is a third student, made ready likewise, which answers a share of the requests
(gateway/routing/canary.py). What roles.json says is what holds: replicas that share the registry
look there and do the same, and so does a restart.

Every change starts from what roles.json says, and is written where it still says so. A wish
(`become`) first has its row in the log of changes, and takes turns for that with all others. The
way back (`roll_back`, `send_away`) waits for no wish, no database and no student but the one that
is to serve: it takes effect first. Its row is written into roles.json with the effect, by the same
rename, and from there into the log, so that neither is ever without the other.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import orjson
import structlog

from gateway import identity
from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.manifest import Head, Task
from gateway.errors import (
    BundleError,
    BundleMismatch,
    BundleMissing,
    Conflict,
    LogUnavailable,
    SettingsError,
    StudentFailed,
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
from gateway.shadow.lookout import Lookout
from gateway.shadow.served import ServedQuality
from gateway.shadow.streams import Reading
from gateway.store.changes import Changes, Entry, What
from gateway.students.registry import CanaryRole, Draft, Frozen, Owed, Registry, Roles
from gateway.students.rehearsal import warm
from gateway.students.student import Student
from gateway.students.tally import Count, Tally
from gateway.students.vacancy import NO_STUDENT, Vacancy
from gateway.telemetry.figures import Figures
from gateway.telemetry.metrics import Metrics
from gateway.types import Instance, Observer
from gateway.watch import Duty, Watch, in_numbers

_ALARM = "alarm"  # who changes something where nobody wishes it
_AGAIN_S = 0.1  # before another try to send a student away, while somebody else changes the task
_LATER_S = 10.0  # the same where something is in the way that a person has to mend
_TRIES = 5  # of going back, where others change the same task at the same time
_PAUSE_S = 5.0  # before a bundle that could not be loaded is tried again, or the log of changes
_ROW_S = 1.0  # that a reply waits at most for the row of what took effect before

_Said = ParamSpec("_Said")
_Got = TypeVar("_Got")

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


class Basis(NamedTuple):
    """What a change starts from: what roles.json says, if it is there, and the roles by that."""

    written: Roles | None
    roles: Roles


class Ready(NamedTuple):
    """Who answers under new roles, as the pointers stood after so many moves."""

    seat: Seat
    canary: Seat | None
    moves: int


class Wanted(NamedTuple):
    """Whom roles.json names: who serves, since when if that is new, and the canary."""

    serving: str
    launched: float | None
    canary: str | None

    @classmethod
    def by(cls, roles: Roles) -> Wanted:
        """Those whom these roles name."""
        return cls(roles.serving, roles.launched, roles.canary.bundle if roles.canary else None)


@dataclass(frozen=True, slots=True)
class Successor:
    """All that new settings want of a task, ready to hold from one moment to the next.

    `changed`: the roles are others than roles.json says.
    """

    settings: TaskSettings
    ready: Ready
    cascade: Cascade
    basis: Basis
    roles: Roles
    changed: bool

    @property
    def wanted(self) -> Roles | None:
        """What roles.json is to say; None: it is right."""
        return self.roles if self.changed else None


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
        self._configured = configured(settings)
        # what roles.json said when it was last followed, or will say when the start is done
        self._written = roles or registry.roles()
        self._roles = _present(self._written, settings, seat)
        self._launched = self._roles.launched  # under which the seat stands
        self._seat = seat = self._under(seat, settings, self._launched)
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
        self.absent = ""  # why the canary that there is does not answer here, in words
        self.rows = 0  # texts that the canary has answered in its step, over all replicas
        self._moves = 0  # of the pointers
        self._moving = (
            asyncio.Lock()
        )  # while roles.json and then the pointers move: no load, no row
        # A thread for roles.json, which no load and no database can keep busy.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix=f"roles-{task}")
        self._tally = Tally(registry.folder, identity.answer_id())
        self._changing = False
        self._going_back = False
        self._own = asyncio.Lock()  # what is done by nobody's wish: others wait for it
        self._adding = asyncio.Lock()  # a rehearsal takes a core: one at a time
        self._leaving: set[asyncio.Task[None]] = set()
        self._rescuing: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._wanted: Wanted | None = None  # whom it loads, or could not load
        self._load_at = 0.0  # not before
        self._paying: asyncio.Task[None] | None = None
        self._pay_at = 0.0
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
    async def attempt(self, *, by: str) -> AsyncIterator[Basis]:
        """The same for a wish of somebody, who starts from what other replicas have done.

        Raises Conflict, also where another replica has other settings, or SettingsError. What keeps
        the change from taking place is counted and logged.
        """
        with self._refusals(by=by):
            async with self.claim():
                await self.catch_up()
                basis = await self.basis()
                if basis.roles.configured != self._configured:
                    raise Conflict(
                        f"{self.task}: another replica was told to serve "
                        f"{basis.roles.configured}, by its settings, and this one was not",
                        mend="reload this one too: understudy reload",
                    )
                yield basis

    async def basis(self) -> Basis:
        """What a change starts from now. Raises SettingsError."""
        found = await self.on_disk(self.registry.roles)
        if found == self._written and (found is None or found.serving == self._seat.name):
            return Basis(found, self._roles)  # which also know a previous one that is only loaded
        return Basis(found, found or self._roles)

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
        async with self.attempt(by=by) as basis:
            old = basis.roles.serving
            if name == old == self._seat.name:
                return self.unchanged()
            await self._check_vacancy(name)
            launched = None if name == NO_STUDENT else self.clock()
            roles = await self.succeeded_by(basis, name, launched=launched)
            entry = Entry(what=What.SWAP, who=by, task=self.task, old=old, new=name, why=why)
            await self.become(basis, roles, entry)
            return self.done("swapped", by=by)

    async def roll_back(
        self,
        *,
        by: str,
        why: str = "",
        leaving: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Change:
        """End the canary, or where there is none let the previous student serve again.

        Nobody is promoted from then on, until somebody unfreezes it. With `leaving`, the bundle
        that is to go, nothing changes where another replica has seen to it. It waits for no other
        change and for no database. Raises like `swap`, but never LogUnavailable, and Conflict only
        beside another way back.
        """
        said = Entry(what=What.ROLLBACK, who=by, task=self.task, why=why, evidence=evidence or {})

        async def change(basis: Basis) -> bool:
            roles = basis.roles
            going = roles.canary.bundle if roles.canary else roles.serving
            if leaving not in (None, going):
                return False
            if roles.canary is not None:
                back = roles.model_copy(update={"canary": None, "proposal": None})
            elif roles.previous not in (None, roles.serving):
                await self._check_vacancy(roles.previous)
                back = await self.succeeded_by(basis, roles.previous, launched=None)
            else:
                raise BundleMissing(
                    f"{self.task} has no previous bundle", mend="swap to a bundle by its name"
                )
            rows = [replace(said, old=going, new=back.serving)]
            if roles.frozen is None:
                frozen = Frozen(
                    why=why or f"{going} was rolled back", at=self.clock(), student=going
                )
                back = back.model_copy(update={"frozen": frozen})
                rows.append(Entry(what=What.FREEZE, who=by, task=self.task, why=frozen.why))
            await self._at_once(basis, _sent_back(back, going), *rows)
            return True

        return await self._back(change, "rolled_back", by=by)

    async def freeze(self, *, by: str, why: str) -> Change:
        """From now on nobody is promoted: a canary stays on its step, and no proposal waits.

        Like a rollback it waits for nothing, and raises like one.
        """
        row = Entry(what=What.FREEZE, who=by, task=self.task, why=why)

        async def change(basis: Basis) -> bool:
            return basis.roles.frozen is None and await self._freeze(basis, row)

        return await self._back(change, "frozen", by=by)

    async def send_away(
        self, name: str, *, by: str, why: str, evidence: Mapping[str, Any], freeze_only: bool
    ) -> Change:
        """Let another serve than that bundle, which does not do its work; a canary ends.

        It is the previous one, or where that was sent away itself or cannot serve the teacher
        alone. Nobody is promoted from then on; with `freeze_only` that is all. Nothing changes
        where the bundle serves no more. Raises like `roll_back`.
        """
        row = Entry(what=What.FREEZE, who=by, task=self.task, why=why, evidence=evidence)

        async def change(basis: Basis) -> bool:
            if basis.roles.serving != name or (freeze_only and basis.roles.frozen):
                return False
            if freeze_only:
                return await self._freeze(basis, row)
            return await self._let_an_heir_serve(basis, row)

        return await self._back(change, "frozen" if freeze_only else "rolled_back", by=by)

    async def _back(
        self, change: Callable[[Basis], Awaitable[bool]], result: str, *, by: str
    ) -> Change:
        """Go back by that `change`, and again where somebody changed the roles just then.

        Two people who go back at once would go back twice: the second one gets Conflict. The row of
        what was done is waited for when it holds, and not for long.
        """
        with self._refusals(by=by):
            if self._going_back:
                raise Conflict(
                    f"{self.task} is being rolled back already", mend="look again when it is done"
                )
            self._going_back = True
            try:
                changed = await self._again(change)
            finally:
                self._going_back = False
            if not changed:
                await self.catch_up()
                return self.unchanged()
        done = self.done(result, by=by)
        if (paying := self.pay()) is not None:
            await asyncio.wait({paying}, timeout=_ROW_S)
        return done

    async def _again(self, change: Callable[[Basis], Awaitable[bool]]) -> bool:
        for _ in range(_TRIES - 1):
            with suppress(Conflict):
                return await change(await self.basis())
        return await change(await self.basis())

    async def _freeze(self, basis: Basis, row: Entry) -> bool:
        await self.on_disk(self._kept, basis.roles.serving)  # what roles.json names is found there
        frozen = Frozen(why=row.why, at=self.clock())
        roles = basis.roles.model_copy(update={"frozen": frozen, "proposal": None})
        await self._at_once(basis, roles, row)
        return True

    async def _let_an_heir_serve(self, basis: Basis, row: Entry) -> bool:
        """The first who can; whatever is wrong with one, the next is tried. Raises as the last."""
        going = basis.roles.serving
        frozen = Frozen(why=row.why, at=self.clock(), student=going)
        *others, last = self._heirs(basis.roles)
        for heir in (*others, last):
            try:
                back = await self.succeeded_by(basis, heir, launched=None)
                roles = _sent_back(back.model_copy(update={"frozen": frozen}), going)
                gone = replace(row, what=What.ROLLBACK, old=going, new=heir)
                await self._at_once(basis, roles, gone, row)
                break
            except (BundleError, SettingsError, StudentFailed) as error:
                if heir == last:
                    raise
                self._note_refusal(error, by=row.who)
        return True

    def _heirs(self, roles: Roles) -> Iterator[str]:
        """Who may serve in place of the student that does, the best first."""
        sent_away = roles.frozen.student if roles.frozen else None
        if roles.previous not in (None, NO_STUDENT, roles.serving, sent_away):
            yield roles.previous
        yield NO_STUDENT

    async def succeeded_by(self, basis: Basis, name: str, *, launched: float | None) -> Roles:
        """The roles where that bundle serves at once; the one that does now is kept for a way back.

        `launched`: when it got its first requests; None: it is no new one.
        """
        kept = await self.on_disk(self._kept, basis.roles.serving)
        taken = {"serving": name, "previous": kept, "launched": launched}
        ended = {"canary": None, "proposal": None}
        return trusted(basis.roles.model_copy(update=taken | ended), name)

    async def become(self, basis: Basis, roles: Roles, *entries: Entry) -> None:
        """Let these roles hold, here and in the registry, as somebody wishes.

        The log has the entries before, for nothing that is wished may be without its row. Who was
        faster meanwhile, a rollback above all, is not undone: then another row says that it did not
        come about. Who calls has the right to change the task. Raises Conflict, LogUnavailable,
        SettingsError, or what is wrong with a bundle; then nothing has changed.
        """
        ready = await self._ready_for(basis, roles)
        rows = [_evident(entry, ready.seat, ready.canary) for entry in entries]
        with self._left_on_error(ready.seat), self._left_on_error(ready.canary):
            draft = await asyncio.to_thread(self.registry.draft, basis.written, roles, in_turn=True)
            try:
                async with noted(self._changes, rows):
                    await self._move(draft.take, roles, ready)
            finally:
                await asyncio.to_thread(draft.close)

    async def _at_once(self, basis: Basis, roles: Roles, *entries: Entry) -> None:
        """Let these roles hold, here and in the registry, whatever else is under way.

        First the effect, then the row: nobody who goes back waits for a database. Both are in
        roles.json from the same moment on, whoever dies next, and `pay` brings the row from there
        into the log. Raises Conflict, SettingsError, or what is wrong with a bundle.
        """
        ready = await self._ready_for(basis, roles)
        if self._changes is not None:
            rows = [_evident(entry, ready.seat, ready.canary) for entry in entries]
            owed = tuple(_owed(row, at=self.clock()) for row in rows)
            roles = roles.model_copy(update={"owed": (*roles.owed, *owed)})
        with self._left_on_error(ready.seat):
            write = functools.partial(self.registry.replace, basis.written, roles)
            await self._move(write, roles, ready)

    async def _move(self, write: Callable[[], None], roles: Roles, ready: Ready) -> None:
        """roles.json and then the pointers; nobody here sees the one without the other.

        Raises Conflict also where the pointers have moved since somebody was made ready.
        """
        async with self._moving:
            self.check_still(ready)
            await self.on_disk(write)
            self._hold(roles, ready.seat, ready.canary)

    def check_still(self, ready: Ready) -> None:
        """Raises Conflict where the pointers have moved since."""
        if ready.moves != self._moves:
            raise Conflict(
                f"the students of {self.task} have just changed", mend="look, and try again"
            )

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Nobody moves a pointer of this task meanwhile: not for long."""
        async with self._moving:
            yield

    def pay(self) -> asyncio.Task[None] | None:
        """Bring rows that roles.json owes into the log, aside; None: it owes none, or not now."""
        running = self._paying is not None and not self._paying.done()
        owed = self._written.owed if self._written else ()
        if not running and owed and self._changes is not None and self.clock() >= self._pay_at:
            self._paying = asyncio.get_running_loop().create_task(self._pay(self._changes, owed))
            running = True
        return self._paying if running else None

    async def _pay(self, changes: Changes, owed: Sequence[Owed]) -> None:
        """First into the log, then out of roles.json: twice does no harm, as a row has an id."""
        rows = {each.id: _row(self.task, each) for each in owed}
        try:
            await asyncio.to_thread(changes.append_once, self.task, rows)
            async with self._moving:
                found = await self.on_disk(self.registry.roles)
                if found is None:
                    return
                left = tuple(each for each in found.owed if each.id not in rows)
                paid = found.model_copy(update={"owed": left})
                await self.on_disk(self.registry.replace, found, paid)
                if found == self._written:
                    self._written = paid
                    self._roles = self._roles.model_copy(update={"owed": left})
        except UnderstudyError as error:
            self._pay_at = self.clock() + _PAUSE_S
            _log.warning("a change is not in the log yet", task=self.task, error=error.message)

    async def catch_up(self) -> None:
        """Let hold what roles.json says: another replica wrote it, or this one before a restart.

        It waits for no student: those that are not loaded are loaded aside, and hold when they are
        ready, if roles.json still names them; so long the others go on. It waits for the settings
        where they name another bundle there than here. Raises SettingsError.
        """
        async with self._moving:
            found = await self.on_disk(self.registry.roles)
            if found is None or self._follows(found) or found.configured != self._configured:
                return
            ready = self._loaded(found)
            same = ready.seat is self._seat and ready.canary is self._canary
            if found != self._written or not same:
                self._hold(found, ready.seat, ready.canary)
                canary = found.canary and found.canary.bundle
                _log.info("roles followed", task=self.task, serving=found.serving, canary=canary)
        if not self._follows(found):
            self._load_aside(Wanted.by(found))

    async def settled(self) -> None:
        """Wait until those are loaded whom roles.json named at the last look, or cannot be."""
        if self._loading is not None:
            await asyncio.wait({self._loading})

    async def count(self) -> None:
        """See how many texts the canary has answered in its step, over all replicas: `rows`."""
        role = self._roles.canary
        if role is None:
            self.rows = 0
            return
        mine = Count(bundle=role.bundle, since=role.since, rows=self.lookout.rows)
        self.rows = await self.on_disk(self._tally.total, mine)

    @property
    def answers(self) -> bool:
        """Whether a canary answers here: a replica that cannot load it goes on without it."""
        return self.cascade.canary is not None

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

        It starts from what roles.json says, so that what another replica did holds on. A bundle
        that the settings did not name before takes over, and a canary ends; where they name none
        any more, the seat falls vacant. Raises Conflict, or what is wrong with any of it.
        """
        name, bundle = configured(settings), settings.student.bundle
        basis, moves = await self.basis(), self._moves
        if bundle is None:
            await asyncio.to_thread(heads_of, self.task, settings)  # a restart needs them
        held = basis.roles
        roles = held.model_copy(update={"configured": name})
        if name in {held.configured, held.serving}:
            seat = await self._ready(held.serving, settings, held.launched)
        else:
            if bundle is not None:
                await asyncio.to_thread(self.registry.keep, bundle)
            launched = None if bundle is None else self.clock()
            seat = await self._ready(name, settings, launched)
            with self._left_on_error(seat):
                roles = await self.succeeded_by(basis, name, launched=launched)
            roles = roles.model_copy(update={"configured": name})
        canary = None
        if self._canary is not None and roles.canary and roles.canary.bundle == self._canary.name:
            canary = self._under(self._canary, settings, roles.canary.began)
        cascade = self._cascade(seat, settings)
        ready = Ready(seat, canary, moves)
        return Successor(settings, ready, cascade, basis, roles, changed=roles != held)

    def draft(self, successor: Successor) -> Draft:
        """What roles.json is to say, or has to say still. Blocks; raises like `Registry.draft`."""
        return self.registry.draft(successor.basis.written, successor.wanted, in_turn=True)

    def install(self, successor: Successor) -> None:
        """From now on, what was made ready holds; who calls has written its roles down."""
        prices = successor.settings.prices.prices()
        self._settings = successor.settings
        self._configured = successor.roles.configured
        self._metrics.price(self.task, prices)
        self._figures.price(self.task, prices)
        if self._budget is not None:
            self._budget.follow(successor.settings.limits)
        self._quality.follow(self.task, successor.settings.audit.audited())
        self.cascade = successor.cascade
        self._hold(successor.roles, successor.ready.seat, successor.ready.canary)
        if successor.basis.written is None and not successor.changed:
            self._written = None  # there is still no file
        self._wanted, self._load_at = None, 0.0  # what could not be loaded may be now

    def dismiss(self, successor: Successor) -> None:
        """What was made ready is not wanted after all."""
        self._leave(successor.ready.seat)

    async def close(self) -> None:
        """Finish what waits and end every thread: audits, teachers, students."""
        await self.auditor.close()
        for each in (self._rescuing, self._loading):
            if each is not None:
                each.cancel()
                await asyncio.wait({each})
        if self._paying is not None:
            await asyncio.wait({self._paying})
        await self.watch.close()
        for seat in (self._canary, self._seat, self._before):
            if seat is not None:
                await seat.close(teacher=seat is not self._canary)
        if self._leaving:
            await asyncio.wait(self._leaving)
        self._disk.shutdown()

    async def on_disk(
        self, work: Callable[_Said, _Got], *said: _Said.args, **more: _Said.kwargs
    ) -> _Got:
        """Do something that blocks with roles.json, in the thread that does nothing else."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, functools.partial(work, *said, **more))

    def _follows(self, found: Roles) -> bool:
        """Whether what roles.json says is known here, and those whom it names are loaded."""
        canary = self._canary.name if self._canary else None
        here = Wanted(self._seat.name, self._launched, canary)
        return (found, Wanted.by(found)) == (self._written, here)

    def _loaded(self, found: Roles) -> Ready:
        """Who is to answer under these roles, as far as they are loaded; else who does now."""
        seat, canary = self._seat, self._canary
        if (found.serving, found.launched) != (seat.name, self._launched):
            known = next((each for each in self._all() if each.name == found.serving), None)
            seat = seat if known is None else self._under(known, self._settings, found.launched)
        if canary is not None and (found.canary is None or canary.name != found.canary.bundle):
            canary = None
        return Ready(seat, canary, self._moves)

    def _all(self) -> list[Seat]:
        """Those that are loaded."""
        return [each for each in (self._seat, self._before, self._canary) if each is not None]

    def _load_aside(self, wanted: Wanted) -> None:
        """Load those who are wanted, unless that is under way, or has just failed."""
        running = self._loading is not None and not self._loading.done()
        if wanted == self._wanted and (running or self.clock() < self._load_at):
            return
        if self._loading is not None and running:
            self._loading.cancel()  # roles.json has moved on: nobody waits for these any more
            self._leaving.add(self._loading)
            self._loading.add_done_callback(self._leaving.discard)
        self._wanted, self.absent = wanted, ""
        self._loading = asyncio.get_running_loop().create_task(self._load(wanted))

    async def _load(self, wanted: Wanted) -> None:
        """First who serves, then the canary: without it the task goes on, and says so."""
        try:
            if (wanted.serving, wanted.launched) != (self._seat.name, self._launched):
                moves = self._moves
                seat = await self._ready(wanted.serving, self._settings, wanted.launched)
                await self._arrive(wanted, Ready(seat, None, moves))
            if wanted.canary not in (None, self._canary and self._canary.name):
                role, moves = self._roles.canary, self._moves
                if role is not None and role.bundle == wanted.canary:
                    canary = await self._ready_beside(role)
                    await self._arrive(wanted, Ready(self._seat, canary, moves))
        except Conflict:
            self._wanted = None  # the next look begins again
        except Exception as error:  # noqa: BLE001  whatever it is, the task goes on without them
            said = error.message if isinstance(error, UnderstudyError) else repr(error)
            self._load_at = self.clock() + _PAUSE_S
            behind = wanted.serving != self._seat.name
            self.absent = "" if behind else said
            lacking = wanted.serving if behind else wanted.canary
            _log.warning("goes on without a student", task=self.task, bundle=lacking, error=said)

    async def _arrive(self, wanted: Wanted, ready: Ready) -> None:
        """Let those answer who were loaded, if roles.json names them still. Raises Conflict."""
        with self._left_on_error(ready.seat), self._left_on_error(ready.canary):
            async with self._moving:
                self.check_still(ready)
                found = await self.on_disk(self.registry.roles)
                if found is None or Wanted.by(found) != wanted:
                    raise Conflict(f"{self.task} has moved on", mend="look again")
                self._hold(found, ready.seat, ready.canary)
        _log.info("roles followed", task=self.task, serving=wanted.serving, canary=wanted.canary)

    async def _ready_for(self, basis: Basis, roles: Roles) -> Ready:
        """Those who answer under new roles, loaded and warm.

        Only whom the change itself names is loaded: who is behind goes on with whom it has.
        """
        before, moves = basis.roles, self._moves
        seat, canary = self._seat, self._canary
        if (roles.serving, roles.launched) != (before.serving, before.launched):
            seat = await self._ready(roles.serving, self._settings, roles.launched)
        role = roles.canary
        if role is None:
            return Ready(seat, None, moves)
        if canary is None or canary.name != role.bundle:
            canary = None
            if before.canary is None or before.canary.bundle != role.bundle:
                with self._left_on_error(seat):
                    canary = await self._ready_beside(role)
        return Ready(seat, canary, moves)

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
        for each in self._all():
            if each.name == name:
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

    def _kept(self, name: str) -> str | None:
        """See to it that a serving bundle lies in the registry, to be found after a restart."""
        bundle = self._seat.bundle
        if name == NO_STUDENT or name in self.registry.names():
            return name
        if bundle is None or bundle.name != name:
            return None
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
            strict=self._is_strict,
            clock=self.clock,
        )

    def _may_audit(self) -> bool:
        return self.auditor.ready

    def _look_closer(self) -> bool:
        return self.watch.alert

    def _is_void(self) -> bool:
        """Whether a certificate that is stale is void, and this one is."""
        return self.watch.stale and self._settings.drift.certificate == "escalate"

    def _is_strict(self) -> bool:
        """Whether policies are strict as long as a certificate is stale, and this one is."""
        return self.watch.stale and self._settings.drift.certificate == "strict"

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
                threshold=rung.policy.threshold,
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
        self._moves += 1
        self._written = roles
        if seat.name == roles.serving:
            self._launched = roles.launched
        else:  # who is named there is not loaded yet: this one answers until then
            roles = roles.model_copy(update={"serving": seat.name})
        cascade.canary = _canary(canary, roles.canary, settings)
        self.auditor.follow(seat.teacher, settings.prices.prices())
        self._look_out(cascade.canary, roles.canary)
        old, self._seat = self._seat, seat
        gone = [self._canary]
        self._canary = canary
        if old.rung.student is not seat.rung.student:
            self._quality.serves(self.task, seat.bundle.id if seat.bundle else None)
            gone.append(self._before)
            self._before = old
            if roles.previous is None:  # it could not be kept, and yet is loaded
                roles = roles.model_copy(update={"previous": old.name})
        looked_at, self._roles = self._roles.frozen and not roles.frozen, roles
        self._watch_over()
        if looked_at:  # whoever unfroze it, here or elsewhere: what rang may ring again
            self.watch.begin_anew()
            self.lookout.begin_anew()
        for each in gone:
            if each is not None:
                self._leave(each)
        self._show_roles()

    def _look_out(self, canary: Canary | None, role: CanaryRole | None) -> None:
        """Look at the canary that answers now, on the terms that hold now."""
        settings = self._settings
        critical = canary.rung.policy.critical if canary else None
        terms = settings.promotion.alarm.terms(settings.alarms, critical)
        self.lookout.follow(canary, role.since if role else None, terms)
        if canary is not None or role is None:
            self.absent = ""

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
        loaded = self._all()
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
    """The roles at the start; a canary answers when it is ready."""
    present = {"configured": configured(settings), "serving": seat.name}
    if written is None:
        return Roles.model_validate(present)
    return written.model_copy(update=present)


def _canary(seat: Seat | None, role: CanaryRole | None, settings: TaskSettings) -> Canary | None:
    if seat is None or role is None:
        return None
    share = settings.promotion.ladder().step(role.step).share
    return Canary(seat.rung, share, settings.promotion.key)


@asynccontextmanager
async def noted(changes: Changes | None, entries: Sequence[Entry]) -> AsyncIterator[None]:
    """Have these rows in the log before what they say is done; if it fails, one that says so too.

    Without a log nothing is noted. Raises LogUnavailable.
    """
    if changes is None or not entries:
        yield
        return
    await asyncio.to_thread(changes.append, *entries)
    try:
        yield
    except UnderstudyError as error:
        taken_back = [
            replace(each, what=What.WITHDRAWN, old=each.new, new=each.old, why=error.message)
            for each in entries
        ]
        with suppress(LogUnavailable):  # the next start notes who serves
            await asyncio.to_thread(changes.append, *taken_back)
        raise


def _sent_back(roles: Roles, name: str) -> Roles:
    """The same where that bundle was rolled back: nobody promotes it but a person."""
    if name == NO_STUDENT or name in roles.sent_back:
        return roles
    return roles.model_copy(update={"sent_back": (*roles.sent_back, name)})


def trusted(roles: Roles, name: str) -> Roles:
    """These roles where somebody lets that bundle serve, whatever it was sent back for."""
    left = tuple(each for each in roles.sent_back if each != name)
    return roles.model_copy(update={"sent_back": left})


def _owed(entry: Entry, *, at: float) -> Owed:
    said = orjson.loads(orjson.dumps(entry.evidence))  # as it will be read
    return Owed(
        id=identity.answer_id(),
        at=at,
        what=entry.what.value,
        who=entry.who,
        old=entry.old,
        new=entry.new,
        why=entry.why,
        evidence=said,
    )


def _row(task: str, owed: Owed) -> Entry:
    return Entry(
        what=What(owed.what),
        who=owed.who,
        task=task,
        old=owed.old,
        new=owed.new,
        why=owed.why,
        evidence={**owed.evidence, "held_at": owed.at},
    )


def _shape(task: Task) -> tuple[object, ...]:
    """What two students must have in common to take each other's place; labels may differ."""
    return (task.name, *((head.name, head.kind) for head in task.heads))


def _in_words(heads: Sequence[Head]) -> str:
    return "; ".join(f"{head.name} ({head.kind}: {', '.join(head.labels)})" for head in heads)

"""The line of one task: who serves, who did before, and how one takes over from another.

A student takes over in two steps. It is made ready beside the one that serves (wings.py). Then
roles.json is written, and one pointer moves (stage.py). The student that served before stays
loaded, so that going back takes no time. A canary is a third student, made ready likewise, which
answers a share of the requests (gateway/routing/canary.py).

Every change starts from what roles.json says, and is written where it still says so. A wish
(`become`) first has its row in the log of changes, and takes turns for that with all others. The
way back (retreat.py) waits for neither. Here is who may change the task, and what is wished of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from gateway import identity
from gateway.contract.bundle import Bundle
from gateway.errors import BundleError, Conflict
from gateway.routing.budget import Budget
from gateway.routing.cascade import Cascade
from gateway.settings import TaskSettings
from gateway.shadow.lookout import Lookout
from gateway.shadow.served import ServedQuality
from gateway.shadow.streams import Reading
from gateway.store.changes import Changes, Entry, What
from gateway.students.registry import Draft, Registry, Roles
from gateway.students.tally import Count, Tally
from gateway.students.vacancy import NO_STUDENT
from gateway.succession.arrivals import Arrivals
from gateway.succession.cast import Cast
from gateway.succession.change import Basis, Change, Ready, Successor
from gateway.succession.entries import Debt, evident, noted, undivided
from gateway.succession.minutes import Minutes
from gateway.succession.retreat import Retreat
from gateway.succession.roles import trusted
from gateway.succession.seat import Seat, configured, heads_of, reseated
from gateway.succession.stage import Stage
from gateway.succession.vigil import Vigil
from gateway.succession.wings import Wings
from gateway.telemetry.figures import Figures
from gateway.telemetry.metrics import Metrics
from gateway.types import Observer

_log = structlog.get_logger(__name__)


class Succession:
    """The students of one task, of which that of `seat` serves. `cascade` answers.

    `roles` are those that the start brings; None: they are as they were written down. `clock` gives
    seconds since the epoch; pauses are measured in `ticks`, seconds of a clock that nobody sets.
    `watched` is the name of the file in the registry that keeps what the watch has seen; None:
    nothing is kept.
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
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.task = task
        self.registry = registry
        self.clock = clock
        self.ticks = ticks
        self._vigil = Vigil(
            task,
            settings=settings,
            seat=seat,
            quality=quality,
            observers=observers,
            ring=self._ring,
            file=None if watched is None else registry.folder / watched,
        )
        self.watch, self.auditor = self._vigil.watch, self._vigil.auditor
        self.lookout: Lookout = self._vigil.lookout
        written = roles or registry.roles()
        launched = written.launched if written else None
        seat = reseated(task, settings, seat, launched=launched, clock=clock)
        self._cast = Cast(seat, launched)
        self.stage = Stage(
            task,
            settings=settings,
            cast=self._cast,
            registry=registry,
            written=written,
            vigil=self._vigil,
            metrics=metrics,
            clock=clock,
            ticks=ticks,
        )
        self._wings = Wings(task, self._cast, registry, metrics=metrics, budget=budget, clock=clock)
        self._minutes = Minutes(task, metrics)
        self._arrivals = Arrivals(self.stage, self._wings)
        self._debt = Debt(self.stage, changes)
        self._retreat = Retreat(self.stage, self._wings, self._arrivals, self._debt, self._minutes)
        self._metrics = metrics
        self._figures = figures
        self._budget = budget
        self._changes = changes
        self.rows = 0  # texts that the canary has answered in its step, over all replicas
        self._tally = Tally(registry.folder, identity.answer_id())
        self._changing = False
        self._own = asyncio.Lock()  # what is done by nobody's wish: others wait for it
        self.stage.open()

    @property
    def cascade(self) -> Cascade:
        """What answers."""
        return self.stage.cascade

    @property
    def roles(self) -> Roles:
        """Who has which role now."""
        return self.stage.roles

    @property
    def settings(self) -> TaskSettings:
        """The settings of the task that hold now."""
        return self.stage.settings

    @property
    def answers(self) -> bool:
        """Whether a canary answers here: a replica that cannot load it goes on without it."""
        return self.cascade.canary is not None

    @property
    def absent(self) -> str:
        """Why the canary that there is does not answer here, in words."""
        return self.stage.absent

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

        What is owed the log comes into it before. Raises Conflict, also where another replica has
        other settings, or SettingsError. What keeps the change from taking place is counted and
        logged.
        """
        with self._minutes.refusals(by=by):
            async with self.claim():
                await self.catch_up()
                await self.settled()  # who is on the way here need not be loaded twice
                await self.paid()
                basis = await self.stage.basis()
                if basis.roles.configured != self.stage.configured:
                    raise Conflict(
                        f"{self.task}: another replica was told to serve "
                        f"{basis.roles.configured}, by its settings, and this one was not",
                        mend="reload this one too: understudy reload",
                    )
                yield basis

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
            bundle = await self._wings.receive(archive, self.settings)
        except BundleError as error:
            self._minutes.refused(error, by=by)
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
            if name == old == self._cast.serving.name:
                return self.unchanged()
            await self._wings.check_vacancy(name, self.settings)
            launched = None if name == NO_STUDENT else self.clock()
            roles = await self.stage.succeeded_by(basis, name, launched=launched)
            roles = trusted(roles, name)
            entry = Entry(what=What.SWAP, who=by, task=self.task, old=old, new=name, why=why)
            await self.become(basis, roles, entry)
            return self.done("swapped", by=by)

    async def become(self, basis: Basis, roles: Roles, *entries: Entry) -> None:
        """Let these roles hold, here and in the registry, as somebody wishes.

        The log has the entries before, for nothing that is wished may be without its row. Who was
        faster meanwhile, a rollback above all, is not undone: then another row says that it did not
        come about. Who calls has the right to change the task. Raises Conflict, LogUnavailable,
        SettingsError, or what is wrong with a bundle; then nothing has changed.
        """
        ready = await self._wings.ready_for(basis, roles, self.settings)
        rows = [evident(entry, ready) for entry in entries]
        with self._cast.left_on_error(ready.seat, ready.canary):
            await undivided(self._let_hold(basis, roles, ready, rows))

    async def _let_hold(
        self, basis: Basis, roles: Roles, ready: Ready, rows: Sequence[Entry]
    ) -> None:
        """The rows and then the effect; if that fails, a row that says so."""
        draft = await asyncio.to_thread(self.registry.draft, basis.written, roles, in_turn=True)
        try:
            async with noted(self._changes, rows):
                await self.stage.move(draft.take, roles, ready)
        finally:
            await asyncio.to_thread(draft.close)

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
        return await self._retreat.roll_back(
            by=by, why=why, leaving=leaving, evidence=evidence or {}
        )

    async def clear(self, *, by: str, why: str = "") -> Change:
        """End the canary, and let nobody serve: the teacher alone answers.

        Like a rollback nobody is promoted after it, and it waits for as little; nor does it wait
        for one that is under way. Raises SettingsError, and Conflict where others change the task
        again and again.
        """
        return await self._retreat.clear(by=by, why=why)

    async def freeze(self, *, by: str, why: str) -> Change:
        """From now on nobody is promoted: a canary stays on its step, and no proposal waits.

        Like a rollback it waits for nothing, and raises like one.
        """
        return await self._retreat.freeze(by=by, why=why)

    async def send_away(
        self, name: str, *, by: str, why: str, evidence: Mapping[str, Any], freeze_only: bool
    ) -> Change:
        """Let another serve than that bundle, which does not do its work; a canary ends.

        It is the previous one, or where that was sent away itself or cannot serve the teacher
        alone. Nobody is promoted from then on; with `freeze_only` that is all. Nothing changes
        where the bundle serves no more. Raises like `roll_back`.
        """
        return await self._retreat.send_away(
            name, by=by, why=why, evidence=evidence, freeze_only=freeze_only
        )

    def pay(self) -> asyncio.Task[None] | None:
        """Bring rows that roles.json owes into the log, aside; None: it owes none, or not now."""
        return self._debt.pay()

    async def paid(self) -> None:
        """Bring them there before a row that comes after them, where the log takes them."""
        await self._debt.settle()

    async def catch_up(self) -> None:
        """Let hold what roles.json says, as `Arrivals.catch_up`. Raises SettingsError."""
        await self._arrivals.catch_up()

    async def settled(self) -> None:
        """Wait until those are loaded whom roles.json named at the last look, or cannot be."""
        await self._arrivals.settled()

    async def count(self) -> None:
        """See how many texts the canary has answered in its step, over all replicas: `rows`."""
        role = self.roles.canary
        if role is None:
            self.rows = 0
            return
        mine = Count(bundle=role.bundle, since=role.since, rows=self.lookout.rows)
        self.rows = await self.stage.on_disk(self._tally.total, mine)

    def unchanged(self) -> Change:
        """What comes of a wish that is fulfilled already."""
        return self._minutes.unchanged(self.roles)

    def done(self, result: str, *, by: str) -> Change:
        """What came of a wish that was fulfilled: it is counted under `result`, and logged."""
        return self._minutes.done(self.roles, result, by=by)

    async def prepare(self, settings: TaskSettings) -> Successor:
        """Make ready what new settings want; who calls has the claim. Nothing changes yet.

        It starts from what roles.json says, so that what another replica did holds on. A bundle
        that the settings did not name before takes over, and a canary ends; where they name none
        any more, the seat falls vacant. Raises Conflict, or what is wrong with any of it.
        """
        name, bundle = configured(settings), settings.student.bundle
        stage, cast, wings = self.stage, self._cast, self._wings
        basis, moves = await stage.basis(), cast.moves
        if bundle is None:
            await asyncio.to_thread(heads_of, self.task, settings)  # a restart needs them
        held = basis.roles
        roles = held.model_copy(update={"configured": name})
        if name in {held.configured, held.serving}:
            seat = await wings.ready(held.serving, settings, held.launched)
        else:
            if bundle is not None:
                await asyncio.to_thread(self.registry.keep, bundle)
            launched = None if bundle is None else self.clock()
            seat = await wings.ready(name, settings, launched)
            with cast.left_on_error(seat):
                roles = await stage.succeeded_by(basis, name, launched=launched)
            roles = trusted(roles, name).model_copy(update={"configured": name})
        canary = None
        if cast.canary is not None and roles.canary and roles.canary.bundle == cast.canary.name:
            canary = wings.under(cast.canary, settings, roles.canary.began)
        ready = Ready(seat, canary, moves)
        cascade = stage.cascade_of(seat, settings)
        return Successor(settings, ready, cascade, basis, roles, changed=roles != held)

    def draft(self, successor: Successor) -> Draft:
        """What roles.json is to say, or has to say still. Blocks; raises like `Registry.draft`."""
        return self.registry.draft(successor.basis.written, successor.wanted, in_turn=True)

    def install(self, successor: Successor) -> None:
        """From now on, what was made ready holds; who calls has written its roles down."""
        prices = successor.settings.prices.prices()
        self._metrics.price(self.task, prices)
        self._figures.price(self.task, prices)
        if self._budget is not None:
            self._budget.follow(successor.settings.limits)
        self.stage.renew(successor)
        self._arrivals.try_again()

    def dismiss(self, successor: Successor) -> None:
        """What was made ready is not wanted after all."""
        self._cast.leave(successor.ready.seat)

    async def close(self) -> None:
        """Finish what waits and end every thread: audits, teachers, students."""
        await self.auditor.close()
        await self._retreat.close()
        await self._arrivals.close()
        await self._debt.close()
        await self.watch.close()
        await self._cast.close()
        self.stage.close()

    def _ring(self, student: str, reading: Reading) -> None:
        self._retreat.ring(student, reading)

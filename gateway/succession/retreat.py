"""The retreat of one task: the way back from a student or a canary that does not do its work.

It waits for no wish, no database and no student but the one that is to serve: it takes effect
first. Its rows are written into roles.json with the effect, by the same rename, and come from there
into the log. Nobody is promoted after it until somebody has looked. A person begins it, or the
alarm of the student that serves.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from gateway.errors import BundleMissing, Conflict, UnderstudyError
from gateway.shadow.streams import Reading
from gateway.store.changes import Entry, What
from gateway.students.registry import Frozen, Roles
from gateway.students.vacancy import NO_STUDENT
from gateway.succession.arrivals import Arrivals
from gateway.succession.change import Basis, Change
from gateway.succession.entries import Debt, evident
from gateway.succession.minutes import Minutes
from gateway.succession.roles import heirs, sent_back, succeeded
from gateway.succession.stage import Stage
from gateway.succession.watch import in_numbers
from gateway.succession.wings import Wings

_ALARM = "alarm"  # who changes something where nobody wishes it
_AGAIN_S = 0.1  # before another try to send a student away, while somebody else changes the task
_LATER_S = 10.0  # the same where something is in the way that a person has to mend
_TRIES = 5  # of going back, where others change the same task at the same time
_ROW_S = 1.0  # that a reply waits at most for the row of what took effect before

_log = structlog.get_logger(__name__)


class Retreat:
    """The ways back on a `stage`. Nobody who goes back waits for the log: it is owed the rows."""

    def __init__(
        self, stage: Stage, wings: Wings, arrivals: Arrivals, debt: Debt, minutes: Minutes
    ) -> None:
        self._stage = stage
        self._wings = wings
        self._arrivals = arrivals
        self._debt = debt
        self._minutes = minutes
        self._going_back = False
        self.rescuing: asyncio.Task[None] | None = None  # what an alarm has begun

    async def roll_back(
        self, *, by: str, why: str, leaving: str | None, evidence: Mapping[str, Any]
    ) -> Change:
        """End the canary, or where there is none let the previous student serve again."""
        said = Entry(what=What.ROLLBACK, who=by, task=self._stage.task, why=why, evidence=evidence)
        meant = leaving

        async def change(basis: Basis) -> bool:
            nonlocal meant
            roles = basis.roles
            going = roles.canary.bundle if roles.canary else roles.serving
            meant = meant or going  # who goes is settled at the first look: one step back, not two
            if meant != going:
                return False
            await self._leave(basis, await self._without(basis), [going], said)
            return True

        return await self._back(change, "rolled_back", by=by)

    async def clear(self, *, by: str, why: str) -> Change:
        """Let no student answer, whoever does, and also beside another way back that still waits.

        It is the same wish each time, so that nobody is named who is to go.
        """
        said = Entry(what=What.ROLLBACK, who=by, task=self._stage.task, why=why)

        async def change(basis: Basis) -> bool:
            roles = basis.roles
            going = [roles.canary.bundle] if roles.canary else []
            back = roles.model_copy(update={"canary": None, "proposal": None})
            if roles.serving != NO_STUDENT:
                going.append(roles.serving)
                back = await self._succeeded_by(basis, NO_STUDENT)
            if not going:
                row = replace(said, what=What.FREEZE)
                return roles.frozen is None and await self._freeze(basis, row)
            await self._leave(basis, back, going, said)
            return True

        return await self._changed(change, "rolled_back", by=by)

    async def freeze(self, *, by: str, why: str) -> Change:
        """From now on nobody is promoted: a canary stays on its step, and no proposal waits."""
        row = Entry(what=What.FREEZE, who=by, task=self._stage.task, why=why)

        async def change(basis: Basis) -> bool:
            return basis.roles.frozen is None and await self._freeze(basis, row)

        return await self._changed(change, "frozen", by=by)

    async def send_away(
        self, name: str, *, by: str, why: str, evidence: Mapping[str, Any], freeze_only: bool
    ) -> Change:
        """Let another serve than that bundle, which does not do its work; a canary ends."""
        row = Entry(what=What.FREEZE, who=by, task=self._stage.task, why=why, evidence=evidence)

        async def change(basis: Basis) -> bool:
            if basis.roles.serving != name or (freeze_only and basis.roles.frozen):
                return False
            if freeze_only:
                return await self._freeze(basis, row)
            return await self._let_an_heir_serve(basis, row)

        if freeze_only:
            return await self._changed(change, "frozen", by=by)
        return await self._back(change, "rolled_back", by=by)

    def ring(self, student: str, reading: Reading) -> None:
        """The alarm of a student rings, which is named by its bundle's id."""
        action, bundle = self._stage.settings.alarms.action, self._stage.cast.serving.bundle
        if action != "none" and bundle is not None and bundle.id == student:
            rescue = self._rescue(bundle.name, reading, freeze_only=action == "freeze")
            self.rescuing = asyncio.get_running_loop().create_task(rescue)

    async def close(self) -> None:
        """Send nobody away any more."""
        if self.rescuing is not None:
            self.rescuing.cancel()
            await asyncio.wait({self.rescuing})

    async def _rescue(self, name: str, reading: Reading, *, freeze_only: bool) -> None:
        """Send a student away, whatever is in the way: it serves until then, and rings no more."""
        why = (
            f"{name}: {reading.stream} is above its limit of {reading.limit:g} "
            f"({reading.mean or 0.0:.1%} of {reading.rows} rows)"
        )
        evidence = in_numbers(reading)
        while self._stage.cast.serving.name == name:
            try:
                await self.send_away(
                    name, by=_ALARM, why=why, evidence=evidence, freeze_only=freeze_only
                )
            except Conflict:
                await asyncio.sleep(_AGAIN_S)
            except Exception as error:  # noqa: BLE001  what nobody foresaw must not let it serve
                if not isinstance(error, UnderstudyError):  # which is counted and logged already
                    self._minutes.refused(error, by=_ALARM)
                await asyncio.sleep(_LATER_S)
            else:
                return

    async def _without(self, basis: Basis) -> Roles:
        """The roles without the canary, or without one where the previous student serves.

        Raises BundleMissing where there is none, or one that was itself rolled back.
        """
        roles, stage = basis.roles, self._stage
        if roles.canary is not None:
            return roles.model_copy(update={"canary": None, "proposal": None})
        if roles.previous in (None, roles.serving):
            raise BundleMissing(
                f"{stage.task} has no previous bundle", mend="swap to a bundle by its name"
            )
        if roles.previous in roles.sent_back:
            mend = f"if it is to serve all the same: understudy students swap {roles.previous}"
            if roles.serving != NO_STUDENT:
                mend += "; if the teacher alone is: understudy students rollback --to-teacher"
            raise BundleMissing(
                f"{stage.task} has nobody to go back to: {roles.previous} was rolled back itself",
                mend=mend,
            )
        await self._wings.check_vacancy(roles.previous, stage.settings)
        await self._arrivals.backed(roles.previous)
        return await self._succeeded_by(basis, roles.previous)

    async def _leave(self, basis: Basis, back: Roles, going: Sequence[str], said: Entry) -> None:
        """Let these roles hold, in which those are gone; nobody is promoted from then on."""
        rows = [replace(said, old=each, new=back.serving) for each in going]
        if basis.roles.frozen is None:
            *_, last = going
            why = said.why or f"{last} was rolled back"
            frozen = Frozen(why=why, at=self._stage.clock(), student=last)
            back = back.model_copy(update={"frozen": frozen})
            rows.append(Entry(what=What.FREEZE, who=said.who, task=self._stage.task, why=why))
        for each in going:
            back = sent_back(back, each)
        await self._at_once(basis, back, *rows)

    async def _succeeded_by(self, basis: Basis, name: str) -> Roles:
        """The roles where that bundle serves; who goes is kept, and goes where it cannot be."""
        going, kept = basis.roles.serving, None
        try:
            kept = await self._stage.on_disk(self._stage.kept, going)
        except Exception as error:  # noqa: BLE001  no disk holds it back
            _log.warning("who goes is not kept", task=self._stage.task, error=repr(error))
        return succeeded(basis.roles, name, previous=kept, launched=None)

    async def _back(
        self, change: Callable[[Basis], Awaitable[bool]], result: str, *, by: str
    ) -> Change:
        """As `_changed`; of two people who go back at once here the second one gets Conflict."""
        with self._minutes.refusals(by=by):
            if self._going_back:
                raise Conflict(
                    f"{self._stage.task} is being rolled back already",
                    mend="look again when it is done",
                )
        self._going_back = True
        try:
            return await self._changed(change, result, by=by)
        finally:
            self._going_back = False

    async def _changed(
        self, change: Callable[[Basis], Awaitable[bool]], result: str, *, by: str
    ) -> Change:
        """Do that `change`, and again where somebody changed the roles just then.

        The row of what was done is waited for when it holds, and not for long.
        """
        stage = self._stage
        with self._minutes.refusals(by=by):
            changed = await self._again(change)
            if not changed:
                await self._arrivals.catch_up()
                return self._minutes.unchanged(stage.roles)
        done = self._minutes.done(stage.roles, result, by=by)
        if (paying := self._debt.pay()) is not None:
            await asyncio.wait({paying}, timeout=_ROW_S)
        return done

    async def _again(self, change: Callable[[Basis], Awaitable[bool]]) -> bool:
        for _ in range(_TRIES - 1):
            with suppress(Conflict):
                return await change(await self._stage.basis())
        return await change(await self._stage.basis())

    async def _freeze(self, basis: Basis, row: Entry) -> bool:
        stage = self._stage
        await stage.on_disk(stage.kept, basis.roles.serving)  # what roles.json names is found there
        frozen = Frozen(why=row.why, at=stage.clock())
        roles = basis.roles.model_copy(update={"frozen": frozen, "proposal": None})
        await self._at_once(basis, roles, row)
        return True

    async def _let_an_heir_serve(self, basis: Basis, row: Entry) -> bool:
        """The first who can; whatever is wrong with one, the next is tried.

        Raises Conflict, or as the last.
        """
        going = basis.roles.serving
        frozen = Frozen(why=row.why, at=self._stage.clock(), student=going)
        *others, last = heirs(basis.roles)
        for heir in (*others, last):
            try:
                await self._arrivals.backed(heir)
                back = await self._succeeded_by(basis, heir)
                roles = sent_back(back.model_copy(update={"frozen": frozen}), going)
                gone = replace(row, what=What.ROLLBACK, old=going, new=heir)
                await self._at_once(basis, roles, gone, row)
                break
            except Conflict:
                raise
            except Exception as error:
                if heir == last:
                    raise
                self._minutes.refused(error, by=row.who)
        return True

    async def _at_once(self, basis: Basis, roles: Roles, *entries: Entry) -> None:
        """Let these roles hold, here and in the registry, whatever else is under way.

        First the effect, then the row: nobody who goes back waits for a database. Both are in
        roles.json from the same moment on, whoever dies next, and the debt is paid from there.
        Raises Conflict, SettingsError, or what is wrong with a bundle.
        """
        stage = self._stage
        ready = await self._wings.ready_for(basis, roles, stage.settings)
        roles = self._debt.owing(roles, [evident(entry, ready) for entry in entries])
        with stage.cast.left_on_error(ready.seat):
            write = functools.partial(stage.registry.replace, basis.written, roles)
            await stage.move(write, roles, ready)

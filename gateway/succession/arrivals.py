"""The arrivals of one task: whom roles.json names, and who is not loaded here yet.

Replicas that share the registry look at roles.json and do as it says, and so does a restart. A look
waits for no student: those that are missing are loaded aside, and hold when they are ready, if they
are still named. Who cannot be loaded is tried again a little later; so long the task goes on.
Whom a rollback would let serve is loaded last, so that the way back is short after a restart too.
"""

from __future__ import annotations

import asyncio
import math

import structlog

from gateway.errors import Conflict, UnderstudyError
from gateway.students.registry import Roles
from gateway.students.vacancy import NO_STUDENT
from gateway.succession.change import Ready, Wanted
from gateway.succession.roles import heirs
from gateway.succession.stage import Stage
from gateway.succession.wings import Wings

_PAUSE_S = 5.0  # before a bundle that could not be loaded is tried again

_log = structlog.get_logger(__name__)


class Arrivals:
    """Lets those answer on a `stage` whom roles.json names, made ready in its `wings`."""

    def __init__(self, stage: Stage, wings: Wings) -> None:
        self._stage = stage
        self._wings = wings
        self._loading: asyncio.Task[None] | None = None
        self._wanted: Wanted | None = None  # whom it loads, or could not load
        self._load_at = -math.inf  # not before
        self._backing: asyncio.Task[None] | None = None  # loads the one of the way back
        self._heir: str | None = None  # whom it loads, or has loaded
        self._lost: str | None = None  # who could not be loaded for it

    async def catch_up(self) -> None:
        """Let hold what roles.json says: another replica wrote it, or this one before a restart.

        It waits for no student: those that are not loaded are loaded aside, and hold when they are
        ready, if roles.json still names them; so long the others go on. It waits for the settings
        where they name another bundle there than here. Raises SettingsError.
        """
        found = await self._follow()
        if found is not None and not self._stage.follows(found):
            self._load_aside(Wanted.by(found))
        elif found is not None:
            self._load_the_way_back(next(heirs(found)))

    async def _follow(self) -> Roles | None:
        """Let hold what is found, as far as they are loaded; None: nothing that is for us."""
        stage = self._stage
        async with stage.still():
            found = await stage.on_disk(stage.registry.roles)
            if found is None or found.configured != stage.configured:
                return None
            if stage.follows(found):
                return found
            ready = stage.loaded(found)
            same = ready.seat is stage.cast.serving and ready.canary is stage.cast.canary
            if found != stage.written or not same:
                stage.hold(found, ready.seat, ready.canary)
                canary = found.canary and found.canary.bundle
                _log.info("roles followed", task=stage.task, serving=found.serving, canary=canary)
        return found

    async def settled(self) -> None:
        """Wait until those are loaded whom roles.json named at the last look, or cannot be."""
        if self._loading is not None:
            await asyncio.wait({self._loading})

    async def backed(self, heir: str) -> None:
        """Wait for that bundle, if it is being loaded for the way back: not to load it twice."""
        if self._backing is not None and self._heir == heir:
            await asyncio.wait({self._backing})

    def try_again(self) -> None:
        """What could not be loaded may be now."""
        self._wanted, self._load_at, self._lost = None, -math.inf, None

    async def close(self) -> None:
        """Load nobody any more."""
        for each in (self._loading, self._backing):
            if each is not None:
                each.cancel()
                await asyncio.wait({each})

    def _load_the_way_back(self, heir: str) -> None:
        """Load who serves after a rollback, once; one that cannot be is tried by the rollback."""
        done = self._backing is None or self._backing.done()
        here = heir == NO_STUDENT or self._stage.cast.named(heir) is not None
        if done and heir != self._lost and not here:
            self._heir = heir
            self._backing = asyncio.get_running_loop().create_task(self._back(heir))

    async def _back(self, heir: str) -> None:
        stage, cast = self._stage, self._stage.cast
        moves = cast.moves
        try:
            seat = await self._wings.ready(heir, stage.settings, None)
            with cast.left_on_error(seat):
                async with stage.still():
                    stage.check_still(Ready(seat, None, moves))
                    cast.keep(seat)
        except Conflict:
            return  # the next look begins again
        except Exception as error:  # noqa: BLE001  whatever it is, the task goes on without
            self._lost = heir
            _log.warning(
                "the way back is not loaded", task=stage.task, bundle=heir, error=str(error)
            )
        else:
            _log.info("the way back is loaded", task=stage.task, bundle=heir)

    def _load_aside(self, wanted: Wanted) -> None:
        """Load those who are wanted, unless that is under way, or has just failed."""
        running = self._loading is not None and not self._loading.done()
        if wanted == self._wanted and (running or self._stage.ticks() < self._load_at):
            return
        if self._loading is not None and running:
            self._loading.cancel()  # roles.json has moved on: nobody waits for these any more
            self._stage.cast.see_off(self._loading)
        self._wanted, self._stage.absent = wanted, ""
        self._loading = asyncio.get_running_loop().create_task(self._load(wanted))

    async def _load(self, wanted: Wanted) -> None:
        """First who serves, then the canary: without it the task goes on, and says so."""
        stage = self._stage
        try:
            await self._load_who_serves(wanted)
            await self._load_canary(wanted)
        except Conflict:
            self._wanted = None  # the next look begins again
        except Exception as error:  # noqa: BLE001  whatever it is, the task goes on without them
            said = error.message if isinstance(error, UnderstudyError) else repr(error)
            self._load_at = stage.ticks() + _PAUSE_S
            behind = wanted.serving != stage.cast.serving.name
            stage.absent = "" if behind else said
            lacking = wanted.serving if behind else wanted.canary
            _log.warning("goes on without a student", task=stage.task, bundle=lacking, error=said)

    async def _load_who_serves(self, wanted: Wanted) -> None:
        stage, cast = self._stage, self._stage.cast
        if (wanted.serving, wanted.launched) == (cast.serving.name, cast.launched):
            return
        moves = cast.moves
        seat = await self._wings.ready(wanted.serving, stage.settings, wanted.launched)
        await self._arrive(wanted, Ready(seat, None, moves))

    async def _load_canary(self, wanted: Wanted) -> None:
        stage, cast = self._stage, self._stage.cast
        if wanted.canary in (None, cast.canary and cast.canary.name):
            return
        role, moves = stage.roles.canary, cast.moves
        if role is not None and role.bundle == wanted.canary:
            canary = await self._wings.ready_beside(role, stage.settings)
            await self._arrive(wanted, Ready(cast.serving, canary, moves))

    async def _arrive(self, wanted: Wanted, ready: Ready) -> None:
        """Let those answer who were loaded, if roles.json names them still. Raises Conflict."""
        stage = self._stage
        with stage.cast.left_on_error(ready.seat, ready.canary):
            async with stage.still():
                stage.check_still(ready)
                found = await stage.on_disk(stage.registry.roles)
                if found is None or Wanted.by(found) != wanted:
                    raise Conflict(f"{stage.task} has moved on", mend="look again")
                stage.hold(found, ready.seat, ready.canary)
        _log.info("roles followed", task=stage.task, serving=wanted.serving, canary=wanted.canary)

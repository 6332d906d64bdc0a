"""The arrivals of one task: whom roles.json names, and who is not loaded here yet.

Replicas that share the registry look at roles.json and do as it says, and so does a restart. A look
waits for no student: those that are missing are loaded aside, and hold when they are ready, if they
are still named. Who cannot be loaded is tried again a little later; so long the task goes on.
"""

from __future__ import annotations

import asyncio

import structlog

from gateway.errors import Conflict, UnderstudyError
from gateway.succession.change import Ready, Wanted
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
        self._load_at = 0.0  # not before

    async def catch_up(self) -> None:
        """Let hold what roles.json says: another replica wrote it, or this one before a restart.

        It waits for no student: those that are not loaded are loaded aside, and hold when they are
        ready, if roles.json still names them; so long the others go on. It waits for the settings
        where they name another bundle there than here. Raises SettingsError.
        """
        stage = self._stage
        async with stage.still():
            found = await stage.on_disk(stage.registry.roles)
            if found is None or stage.follows(found) or found.configured != stage.configured:
                return
            ready = stage.loaded(found)
            same = ready.seat is stage.cast.serving and ready.canary is stage.cast.canary
            if found != stage.written or not same:
                stage.hold(found, ready.seat, ready.canary)
                canary = found.canary and found.canary.bundle
                _log.info("roles followed", task=stage.task, serving=found.serving, canary=canary)
        if not stage.follows(found):
            self._load_aside(Wanted.by(found))

    async def settled(self) -> None:
        """Wait until those are loaded whom roles.json named at the last look, or cannot be."""
        if self._loading is not None:
            await asyncio.wait({self._loading})

    def try_again(self) -> None:
        """What could not be loaded may be now."""
        self._wanted, self._load_at = None, 0.0

    async def close(self) -> None:
        """Load nobody any more."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait({self._loading})

    def _load_aside(self, wanted: Wanted) -> None:
        """Load those who are wanted, unless that is under way, or has just failed."""
        running = self._loading is not None and not self._loading.done()
        if wanted == self._wanted and (running or self._stage.clock() < self._load_at):
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
            self._load_at = stage.clock() + _PAUSE_S
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

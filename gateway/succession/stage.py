"""The stage of one task: who answers, and what roles.json says of it.

roles.json is written, and one pointer moves: a request is answered by the rung that it met, and
what is in flight ends on the old one. What roles.json says is what holds; here it is read, written
where it still says what a change started from, and let hold. Who is to serve, and why, is decided
elsewhere.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

import structlog

from gateway.errors import BundleError, Conflict
from gateway.routing.canary import Canary
from gateway.routing.cascade import Cascade
from gateway.settings import TaskSettings
from gateway.students.registry import CanaryRole, Registry, Roles
from gateway.students.vacancy import NO_STUDENT
from gateway.succession.cast import Cast
from gateway.succession.change import Basis, Ready, Successor, Wanted
from gateway.succession.roles import present, succeeded
from gateway.succession.seat import Seat, configured, reseated
from gateway.succession.vigil import Vigil
from gateway.telemetry.metrics import Metrics

_Said = ParamSpec("_Said")
_Got = TypeVar("_Got")

_log = structlog.get_logger(__name__)


class Stage:
    """Where the `cast` of one task plays. `cascade` answers; `roles` say who has which role now.

    `written` is what roles.json said when it was last followed, or will say when the start is done;
    None: there is none. `clock` gives seconds since the epoch; pauses are measured in `ticks`,
    seconds of a clock that nobody sets. `absent` says in words why the
    canary that there is does not answer here.
    """

    def __init__(
        self,
        task: str,
        *,
        settings: TaskSettings,
        cast: Cast,
        registry: Registry,
        written: Roles | None,
        vigil: Vigil,
        metrics: Metrics,
        clock: Callable[[], float],
        ticks: Callable[[], float],
    ) -> None:
        self.task = task
        self.registry = registry
        self.settings = settings
        self.configured = configured(settings)
        self.cast = cast
        self.clock = clock
        self.ticks = ticks
        self.written = written
        self.roles = present(written, configured=self.configured, serving=cast.serving.name)
        self.absent = ""
        self._vigil = vigil
        self._metrics = metrics
        # While roles.json and then the pointers move: no load, no row.
        self._moving = asyncio.Lock()
        # A thread for roles.json, which no load and no database can keep busy.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix=f"roles-{task}")
        self.cascade = self.cascade_of(cast.serving, settings)

    async def on_disk(
        self, work: Callable[_Said, _Got], *said: _Said.args, **more: _Said.kwargs
    ) -> _Got:
        """Do something that blocks with roles.json, in the thread that does nothing else."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, functools.partial(work, *said, **more))

    async def basis(self) -> Basis:
        """What a change starts from now. Raises SettingsError."""
        found = await self.on_disk(self.registry.roles)
        if found == self.written and (found is None or found.serving == self.cast.serving.name):
            return Basis(found, self.roles)  # which also know a previous one that is only loaded
        return Basis(found, found or self.roles)

    async def succeeded_by(self, basis: Basis, name: str, *, launched: float | None) -> Roles:
        """The roles where that bundle serves at once; the one that does now is kept for a way back.

        `launched`: when it got its first requests; None: it is no new one.
        """
        kept = await self.on_disk(self.kept, basis.roles.serving)
        return succeeded(basis.roles, name, previous=kept, launched=launched)

    def kept(self, name: str) -> str | None:
        """See to it that a serving bundle lies in the registry, to be found after a restart.

        Returns its name, or None where it could not be kept. Blocks.
        """
        bundle = self.cast.serving.bundle
        if name == NO_STUDENT or name in self.registry.names():
            return name
        if bundle is None or bundle.name != name:
            return None
        try:
            return self.registry.keep(bundle.path).name
        except BundleError as error:
            _log.warning("no way back after a restart", task=self.task, error=error.message)
            return None

    async def move(self, write: Callable[[], None], roles: Roles, ready: Ready) -> None:
        """roles.json and then the pointers; nobody here sees the one without the other.

        Raises Conflict also where the pointers have moved since somebody was made ready.
        """
        async with self._moving:
            self.check_still(ready)
            await self.on_disk(write)
            self.hold(roles, ready.seat, ready.canary)

    def check_still(self, ready: Ready) -> None:
        """Raises Conflict where the pointers have moved since."""
        if ready.moves != self.cast.moves:
            raise Conflict(
                f"the students of {self.task} have just changed", mend="look, and try again"
            )

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Nobody moves a pointer of this task meanwhile: not for long."""
        async with self._moving:
            yield

    async def strike_out(self, paid: frozenset[str]) -> None:
        """Take rows out of what roles.json owes, by their ids. Raises Conflict, SettingsError."""
        async with self._moving:
            found = await self.on_disk(self.registry.roles)
            if found is None:
                return
            left = tuple(each for each in found.owed if each.id not in paid)
            roles = found.model_copy(update={"owed": left})
            await self.on_disk(self.registry.replace, found, roles)
            if found == self.written:
                self.written = roles
                self.roles = self.roles.model_copy(update={"owed": left})

    def hold(self, roles: Roles, seat: Seat, canary: Seat | None) -> None:
        """The pointers move. Nothing here waits, so that no request sees half of it."""
        cascade, cast, settings = self.cascade, self.cast, self.settings
        cascade.rung, cascade.teacher = seat.rung, seat.teacher
        cast.moves += 1
        self.written = roles
        if seat.name == roles.serving:
            cast.launched = roles.launched
        else:  # who is named there is not loaded yet: this one answers until then
            roles = roles.model_copy(update={"serving": seat.name})
        cascade.canary = _canary(canary, roles.canary, settings)
        self._vigil.auditor.follow(seat.teacher, settings.prices.prices())
        self._vigil.look_out(cascade.canary, roles.canary, settings)
        if canary is not None or roles.canary is None:
            self.absent = ""
        old = cast.serving
        if cast.take(seat, canary):
            self._vigil.serves(seat)
            if roles.previous is None:  # it could not be kept, and yet is loaded
                roles = roles.model_copy(update={"previous": old.name})
        looked_at, self.roles = self.roles.frozen and not roles.frozen, roles
        self._vigil.watch_over(cascade, settings)
        if looked_at:  # whoever unfroze it, here or elsewhere: what rang may ring again
            self._vigil.begin_anew()
        self.show()

    def renew(self, successor: Successor) -> None:
        """New settings hold, and whom they want answers. Nothing here waits."""
        self.settings = successor.settings
        self.configured = successor.roles.configured
        self._vigil.audit(successor.settings)
        self.cascade = successor.cascade
        self.hold(successor.roles, successor.ready.seat, successor.ready.canary)
        if successor.basis.written is None and not successor.changed:
            self.written = None  # there is still no file

    def open(self) -> None:
        """Begin to watch over who serves, and show who has which role."""
        self._metrics.follow_queue(self.task, lambda: self.cascade.rung.student.depth)
        self._vigil.watch_over(self.cascade, self.settings)
        self.show()

    def show(self) -> None:
        """Let the metrics say who has which role."""
        roles, canary, serving = self.roles, self.cascade.canary, self.cast.serving
        self._metrics.installed(self.task, "student", serving.name)
        self._metrics.installed(self.task, "teacher", serving.teacher.name)
        self._metrics.installed(self.task, "previous", roles.previous)
        self._metrics.installed(self.task, "canary", canary.rung.name if canary else None)
        self._metrics.promoting(self.task, canary.share if canary else 0.0)

    def follows(self, found: Roles) -> bool:
        """Whether what roles.json says is known here, and those whom it names are loaded."""
        cast = self.cast
        here = Wanted(cast.serving.name, cast.launched, cast.canary.name if cast.canary else None)
        return (found, Wanted.by(found)) == (self.written, here)

    def loaded(self, found: Roles) -> Ready:
        """Who is to answer under these roles, as far as they are loaded; else who does now."""
        cast = self.cast
        seat, canary = cast.serving, cast.canary
        if (found.serving, found.launched) != (seat.name, cast.launched):
            known = cast.named(found.serving)
            if known is not None:
                seat = reseated(
                    self.task, self.settings, known, launched=found.launched, clock=self.clock
                )
        if canary is not None and (found.canary is None or canary.name != found.canary.bundle):
            canary = None
        return Ready(seat, canary, cast.moves)

    def cascade_of(self, seat: Seat, settings: TaskSettings) -> Cascade:
        """What is to answer where that seat serves under these settings."""
        return Cascade(
            task=self.task,
            rung=seat.rung,
            teacher=seat.teacher,
            prices=settings.prices.prices(),
            observers=self._vigil.observers,
            unavailable=settings.policy.unavailable(),
            coins=self._vigil.coins(settings),
            stale=self._is_void,
            strict=self._is_strict,
            clock=self.clock,
        )

    def _is_void(self) -> bool:
        """Whether a certificate that is stale is void, and this one is."""
        return self._vigil.watch.stale and self.settings.drift.certificate == "escalate"

    def _is_strict(self) -> bool:
        """Whether policies are strict as long as a certificate is stale, and this one is."""
        return self._vigil.watch.stale and self.settings.drift.certificate == "strict"

    def close(self) -> None:
        """End the thread of roles.json."""
        self._disk.shutdown()


def _canary(seat: Seat | None, role: CanaryRole | None, settings: TaskSettings) -> Canary | None:
    if seat is None or role is None:
        return None
    share = settings.promotion.ladder().step(role.step).share
    return Canary(seat.rung, share, settings.promotion.key)

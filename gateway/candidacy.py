"""The candidates of one task: which bundles are compared with live traffic, and what they proved.

The names lie in a file of the registry beside the roles, so that a restart goes on with them, and
replicas that share the registry with one another do as it says. What each process has counted is a
row of its own in the database; what is known of a candidate is the sum of all, whoever counted it.
Without records a test lasts as long as the process. A candidate that is wrong in any way costs
nobody an answer: it is not compared, and says why.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway import identity
from gateway.contract.bundle import open_bundle
from gateway.errors import BundleMissing, DataError, UnderstudyError
from gateway.routing.cascade import Cascade
from gateway.routing.policy import EscalationPolicy
from gateway.rungs import open_student, policy_of
from gateway.settings import TaskSettings, environment_without_keys
from gateway.shadow.pairing import Measure
from gateway.shadow.promotion import Decision, Saved, Terms, Trial, Verdict
from gateway.shadow.runner import NICENESS, Runner, State
from gateway.shadow.shadow import Candidate, Sampling, Shadow
from gateway.shadow.slices import Slices
from gateway.store import comparisons
from gateway.store.comparisons import Counted, Disagreement
from gateway.students.process import ProcessWorker
from gateway.students.registry import Registry, Roles
from gateway.students.rehearsal import handed_on
from gateway.students.student import Student
from gateway.telemetry.metrics import Metrics
from gateway.types import Lapse

if TYPE_CHECKING:
    from sqlalchemy import Engine

_EVERY_S = 5.0  # seconds of evidence that a crash may lose; comparisons themselves are stored
_WORST = 10  # disagreements that a status shows

_log = structlog.get_logger(__name__)


class Serves(Protocol):
    """Who serves a task now: as much of a succession as is read here."""

    @property
    def roles(self) -> Roles:
        """Who has which role now."""

    @property
    def registry(self) -> Registry:
        """Where the task's bundles lie."""

    @property
    def cascade(self) -> Cascade:
        """What answers, and the teacher behind it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known of a candidate by now, over all processes that have compared it.

    `share` is that of the requests which it is shown. `shed` and `lapses` are of this process:
    requests that it was not shown, and that it said nothing of, by cause. `ended`: why it was left
    alone, in words.
    """

    name: str
    state: State
    ended: str
    began: float
    share: float
    verdict: Verdict
    slices: Slices
    shed: Mapping[str, int]
    lapses: Mapping[Lapse, int]
    worst: tuple[Disagreement, ...] = ()

    def requests(self, pairs: int, needed: int | None) -> int | None:
        """About how many further requests of the task bring so many pairs; None: nobody knows."""
        if needed is None or not pairs or not self.share:
            return None
        return math.ceil(needed * self.slices.whole.compared / pairs / self.share)


class Candidacy:
    """The candidates of one task, and the shadow that they stand in.

    `clock` gives seconds since the epoch. `start` and `close` belong to the event loop that serves.
    """

    def __init__(
        self,
        shadow: Shadow,
        serves: Serves,
        settings: TaskSettings,
        *,
        metrics: Metrics,
        engine: Engine | None = None,
        clock: Callable[[], float] = time.time,
        every_s: float = _EVERY_S,
    ) -> None:
        self.shadow = shadow
        self.decisions: Mapping[str, Decision] = {}  # by candidate, as last judged
        self._serves = serves
        self._settings = settings
        self._metrics = metrics
        self._engine = engine
        self._clock = clock
        self._every = every_s
        self._process = identity.answer_id()  # names what this process counts
        self._students: dict[str, Student] = {}
        self._others: Sequence[Counted] = ()  # what other processes have counted, as last seen
        self._changing = asyncio.Lock()
        self._living: asyncio.Task[None] | None = None
        self._kept: dict[str, int] = {}  # by candidate: requests compared when it was last saved
        self._wake = asyncio.Event()  # somebody has changed something: look now
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """The bundles under test."""
        return tuple(each.name for each in self.shadow.candidates)

    def start(self) -> None:
        """Bring the candidates in that were under test before, beside what serves."""
        self._living = asyncio.get_running_loop().create_task(self._live())

    async def add(self, name: str) -> str:
        """Compare that bundle of the registry from now on; returns why not, or nothing.

        What serves, or did before, is not compared with itself. Raises what is wrong with it.
        """
        async with self._changing:
            if name in self.names:
                return ""
            if name in self._taken():
                return "it serves, or did before: it is compared with nobody"
            if not self._settings.shadow.share:
                await asyncio.to_thread(self._serves.registry.nominate, name)
                return f"tasks.{self.shadow.task}.shadow.share is 0: nothing is compared"
            most = self._settings.shadow.candidates
            if len(self.names) >= most:
                return f"{most} candidates are under test already: remove one, and add it again"
            await self._enter(name)
            await asyncio.to_thread(self._serves.registry.nominate, name)
        _log.info("candidate under test", task=self.shadow.task, bundle=name)
        return ""

    async def remove(self, name: str, *, by: str) -> None:
        """Compare it no more; its bundle stays in the registry. Raises BundleMissing."""
        async with self._changing:
            if name not in self.names:
                raise BundleMissing(
                    f"{name[:120]!r} is no candidate of {self.shadow.task}",
                    mend=f"name one of: {', '.join(self.names) or '(none)'}",
                )
            await self._save()
            self._leave(name)
            await asyncio.to_thread(self._serves.registry.withdraw, name)
        _log.info("candidate removed", task=self.shadow.task, by=by, bundle=name)

    def follow(self, settings: TaskSettings) -> None:
        """From now on these settings hold. A gate whose limit has moved begins anew."""
        before, self._settings = self._settings.shadow, settings
        self._wake.set()
        self.shadow.sampling = sampling(settings)
        terms = settings.shadow.gates.terms()
        run = ("workers", "queue", "limit_ms")
        again = any(getattr(before, name) != getattr(settings.shadow, name) for name in run)
        for each in self.shadow.candidates:
            try:
                policy = self._policy(self._students[each.name])
            except UnderstudyError as error:
                _log.warning(
                    "a candidate does not fit the settings", bundle=each.name, error=error.message
                )
                self._leave(each.name)
                continue
            each.follow(policy, measure(settings))
            each.trial = Trial.restored(each.trial.saved(), terms)
            if again:
                old, each.runner = each.runner, self._runner(each.name)
                self._retire(old)

    async def progress(self, *, worst: int = _WORST) -> list[Progress]:
        """What is known of each candidate now, with the worst disagreements of each."""
        await self._look()
        return await asyncio.to_thread(self._judged, self._seen(), worst)

    def verdict(self, bundle: str) -> Verdict | None:
        """Whether the bundle of that name may serve; None: it is not under test.

        What other processes have counted is as it was some seconds ago.
        """
        found = self._judged([each for each in self._seen() if each.progress.name == bundle], 0)
        return found[0].verdict if found else None

    async def close(self) -> None:
        """Compare no more, and keep what was counted."""
        if self._living is not None:
            self._living.cancel()
            await asyncio.wait({self._living})
        self.shadow.close()
        await self._save()
        for name in self.names:
            self._leave(name)
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def _live(self) -> None:
        """Do as the file says, save, judge; again and again."""
        while True:
            try:
                async with self._changing:
                    await self._reconcile()
                    await self._save()
                found = await self.progress(worst=0) if self.names else []
                self.decisions = {each.name: each.verdict.decision for each in found}
                self._metrics.judged(self.shadow.task, self.decisions)
            except Exception as error:  # noqa: BLE001  the next look may find it mended
                _log.warning("the shadow waits", task=self.shadow.task, error=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._every)
            self._wake.clear()

    async def _reconcile(self) -> None:
        """Who serves is a candidate no more, and who is in the file is one."""
        registry = self._serves.registry
        wanted = await asyncio.to_thread(registry.candidates)
        taken = self._taken()
        if not self._settings.shadow.share:
            wanted = ()
        if gone := [name for name in wanted if name in taken]:
            await asyncio.to_thread(registry.withdraw, *gone)
        for name in self.names:
            if name in taken or name not in wanted:
                self._leave(name)
        for name in wanted:
            if name in self.names or name in taken:
                continue
            if len(self.names) < self._settings.shadow.candidates:
                await self._bring_back(name)

    async def _bring_back(self, name: str) -> None:
        try:
            await self._enter(name)
        except UnderstudyError as error:
            _log.error("a candidate is not compared", bundle=name, error=error.message)
            await asyncio.to_thread(self._serves.registry.withdraw, name)
        else:
            _log.info("candidate under test again", task=self.shadow.task, bundle=name)

    async def _enter(self, name: str) -> None:
        """Open a bundle and begin its processes. Raises what is wrong with it."""
        student = await asyncio.to_thread(self._open, name)
        policy = self._policy(student)
        self._students[name] = student
        settings = self._settings
        candidate = Candidate(
            name,
            bundle=student.bundle.id,
            runner=self._runner(name),
            policy=policy,
            measure=measure(settings),
            trial=Trial(settings.shadow.gates.terms(), began=self._clock()),
            slices=Slices(tuple(settings.audit.audited().fields)),
        )
        self.shadow.enter(candidate)
        self._metrics.tried(self.shadow.task, self.names)
        await self._look()

    def _open(self, name: str) -> Student:
        """Load it; it was rehearsed when it came into the registry."""
        return open_student(self._settings, open_bundle(self._serves.registry.find(name)))

    def _policy(self, student: Student) -> EscalationPolicy:
        """The settings' policy for it, without a certificate: that is of who serves, and no other.

        Raises SettingsError.
        """
        policy = self._settings.policy.model_copy(update={"certificate": None})
        settings = self._settings.model_copy(update={"policy": policy})
        teacher = self._serves.cascade.teacher.name
        return policy_of(self.shadow.task, settings, student, teacher=teacher)

    def _runner(self, name: str) -> Runner:
        student, chosen = self._students[name], self._settings.shadow

        def start() -> ProcessWorker:
            environment = handed_on(environment_without_keys())
            return ProcessWorker(student, environment=environment, niceness=NICENESS)

        return Runner(
            name,
            start,
            workers=chosen.workers,
            queue=chosen.queue,
            limit_s=chosen.limit_ms / 1000,
        )

    def _taken(self) -> frozenset[str | None]:
        roles = self._serves.roles
        return frozenset({roles.serving, roles.previous})

    def _leave(self, name: str) -> None:
        found = self.shadow.leave(name)
        self._students.pop(name, None)
        if found is not None:
            self._retire(found.runner)
        self._metrics.tried(self.shadow.task, self.names)

    def _retire(self, runner: Runner) -> None:
        task = asyncio.get_running_loop().create_task(runner.close())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _save(self) -> None:
        """Keep what this process has counted; a database in trouble is asked again next time.

        Nothing is written of a candidate of which nothing is new.
        """
        now = {each.name: each.slices.whole.compared for each in self.shadow.candidates}
        if self._engine is None or now == self._kept:
            return
        rows = [
            Counted(
                self._process,
                each.name,
                each.trial.began,
                {"trial": each.trial.saved(), "slices": each.slices.saved()},
            )
            for each in self.shadow.candidates
            if now[each.name] != self._kept.get(each.name)
        ]
        with suppress(SQLAlchemyError):
            if rows:
                await asyncio.to_thread(
                    comparisons.save, self._engine, self.shadow.task, self._process, rows
                )
            self._kept = now

    async def _look(self) -> None:
        """See what other processes have counted; what cannot be read now is as it was."""
        if self._engine is None:
            return
        with suppress(SQLAlchemyError):
            found = await asyncio.to_thread(comparisons.counted, self._engine, self.shadow.task)
            self._others = [each for each in found if each.process != self._process]

    def _seen(self) -> list[_Seen]:
        """All that a judgement needs, as of now: it is made beside the event loop."""
        terms = self._settings.shadow.gates.terms()
        return [
            _Seen(
                Progress(
                    name=each.name,
                    state=each.runner.state,
                    ended=each.runner.ended,
                    began=each.trial.began,
                    share=self.shadow.sampling.share,
                    verdict=_UNJUDGED,
                    slices=Slices.restored(each.slices.saved()),
                    shed={cause.value: count for cause, count in each.runner.shed.items()},
                    lapses=dict(each.runner.lapses),
                ),
                each.trial.saved(),
                terms,
            )
            for each in self.shadow.candidates
        ]

    def _judged(self, seen: Sequence[_Seen], worst: int) -> list[Progress]:
        """Add what others have counted, and judge. Blocks."""
        others, now = list(self._others), self._clock()
        order = _order(others, seen)
        found = []
        for each in seen:
            trial, slices = Trial.restored(each.saved, each.terms), each.progress.slices
            for other in others:
                if other.candidate == each.progress.name:
                    _absorb(trial, slices, other)
            place = order[each.progress.name] if self._settings.shadow.gates.sequence else None
            progress = replace(
                each.progress,
                began=trial.began,
                verdict=trial.verdict(now, rivals=max(1, len(self.names)), place=place),
            )
            if worst and self._engine is not None:
                progress = replace(progress, worst=self._worst(progress.name, worst))
            found.append(progress)
        return found

    def _worst(self, name: str, limit: int) -> tuple[Disagreement, ...]:
        if self._engine is None:
            return ()
        with suppress(SQLAlchemyError):
            found = comparisons.worst(self._engine, self.shadow.task, name, limit=limit)
            return tuple(found)
        return ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """One candidate as of a moment; its progress waits for the judgement."""

    progress: Progress
    saved: Saved
    terms: Terms


def sampling(settings: TaskSettings) -> Sampling:
    """Which requests of a task are compared."""
    chosen = settings.shadow
    return Sampling(chosen.share, chosen.double_asked, chosen.audit_wait_s)


def measure(settings: TaskSettings) -> Measure:
    """By what a task's candidates are measured."""
    critical = settings.policy.critical
    return Measure(
        settings.shadow.gates.latency_ms / 1000,
        {head: frozenset(names) for head, names in critical.labels.items()} if critical else {},
    )


def _absorb(trial: Trial, slices: Slices, other: Counted) -> None:
    """Add what another process has counted; what cannot be read is left out, and said."""
    try:
        trial.absorb(other.state["trial"])
        slices.absorb(Slices.restored(other.state["slices"]))
    except (DataError, KeyError, TypeError, ValueError) as error:
        _log.warning("a count is not read", candidate=other.candidate, error=str(error))


def _order(others: Sequence[Counted], seen: Sequence[_Seen]) -> Mapping[str, int]:
    """The place of each candidate among all that ever were under test, from 1."""
    began: dict[str, float] = {}
    for name, at in (
        *((each.candidate, each.began) for each in others),
        *((each.progress.name, each.progress.began) for each in seen),
    ):
        began[name] = min(at, began.get(name, at))
    return {name: place for place, name in enumerate(sorted(began, key=began.__getitem__), 1)}


_UNJUDGED = Trial(Terms(), began=0.0).verdict(0.0)

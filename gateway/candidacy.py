"""The candidates of one task: which bundles are compared with live traffic, and what they proved.

The names lie in a file of the registry beside the roles, so that a restart goes on with them, and
replicas that share the registry with one another do as it says. A candidate is measured under the
policy that it would serve under; what was counted under it, and beside whom, is kept in
gateway/dossier.py. A candidate that is wrong in any way costs nobody an answer: it is not
compared, and says why.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from gateway.contract.bundle import open_bundle
from gateway.contract.certificate import Fault
from gateway.dossier import Dossier, Known, Live
from gateway.errors import BundleMissing, UnderstudyError
from gateway.routing.cascade import Cascade
from gateway.routing.policy import EscalationPolicy
from gateway.rungs import open_student, policy_of, standing
from gateway.settings import TaskSettings, environment_without_keys
from gateway.shadow.pairing import Measure
from gateway.shadow.promotion import Decision, Footing, Gate, Terms, Trial, Verdict, Why
from gateway.shadow.runner import Runner, State
from gateway.shadow.shadow import Candidate, Sampling, Shadow
from gateway.shadow.slices import Slices
from gateway.store.comparisons import Disagreement
from gateway.store.database import Database
from gateway.students.process import ProcessWorker
from gateway.students.registry import Registry, Roles
from gateway.students.rehearsal import handed_on
from gateway.students.student import Student
from gateway.telemetry.metrics import Metrics
from gateway.types import Answer, Lapse

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
    alone, in words. `anew`: in words why gates began anew, and which. `void`: why its certificate
    does not hold.
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
    anew: Mapping[str, tuple[Gate, ...]] = field(default_factory=dict)
    void: Fault | None = None

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
        database: Database | None = None,
        clock: Callable[[], float] = time.time,
        every_s: float = _EVERY_S,
    ) -> None:
        self.shadow = shadow
        self.decisions: Mapping[str, Decision] = {}  # by candidate, as last judged
        self._serves = serves
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._every = every_s
        self._dossier = Dossier(shadow.task, database, clock)
        self._students: dict[str, Student] = {}
        self._void: dict[str, Fault | None] = {}  # by candidate: why its certificate does not hold
        self._beside = self._now_beside()
        self._changing = asyncio.Lock()
        self._living: asyncio.Task[None] | None = None
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
        """Compare it no more; its bundle and its evidence stay. Raises BundleMissing."""
        async with self._changing:
            if name not in self.names:
                raise BundleMissing(
                    f"{name[:120]!r} is no candidate of {self.shadow.task}",
                    mend=f"name one of: {', '.join(self.names) or '(none)'}",
                )
            self._leave(name)
            await asyncio.to_thread(self._serves.registry.withdraw, name)
        _log.info("candidate removed", task=self.shadow.task, by=by, bundle=name)

    def follow(self, settings: TaskSettings) -> None:
        """From now on these settings hold. A gate begins anew where what it rests on has moved."""
        before, self._settings = self._settings.shadow, settings
        self._wake.set()
        self.shadow.sampling = sampling(settings)
        run = ("workers", "queue", "busy", "limit_ms")
        again = any(getattr(before, name) != getattr(settings.shadow, name) for name in run)
        for each in self.shadow.candidates:
            try:
                policy, void = self._policy(self._students[each.name])
            except UnderstudyError as error:
                _log.warning(
                    "a candidate does not fit the settings", bundle=each.name, error=error.message
                )
                self._leave(each.name)
                continue
            each.follow(policy, measure(settings))
            self._void[each.name] = void
            if again:
                old, each.runner = each.runner, self._runner(each.name)
                self._retire(old)
        self._stand()

    async def progress(self, *, worst: int = _WORST) -> list[Progress]:
        """What is known of each candidate now, with the worst disagreements of each."""
        self._stand()
        await self._dossier.look(self.names)
        return await asyncio.to_thread(self._judged, self._seen(), worst)

    async def verdict(self, bundle: str) -> Verdict | None:
        """Whether the bundle of that name may serve; None: it is not under test.

        It is that of `progress`; what other processes have counted is as it was some seconds ago.
        """
        self._stand()
        found = await asyncio.to_thread(self._judged, self._seen(), 0)
        return next((each.verdict for each in found if each.name == bundle), None)

    async def close(self) -> None:
        """Compare no more, and keep what was counted."""
        if self._living is not None:
            self._living.cancel()
            await asyncio.wait({self._living})
        self.shadow.close()
        for name in self.names:
            self._leave(name)
        await self._dossier.save(())
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def _live(self) -> None:
        """Do as the file says, save, judge; again and again."""
        while True:
            try:
                async with self._changing:
                    await self._reconcile()
                    self._stand()
                    await self._dossier.save(self.shadow.candidates)
                await self._dossier.hear(
                    self.names, self._settings.shadow.gates.terms(), measure(self._settings)
                )
                await self._dossier.fold()
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
        policy, void = self._policy(student)
        self._students[name], self._void[name] = student, void
        settings = self._settings
        candidate = Candidate(
            name,
            bundle=student.bundle.id,
            runner=self._runner(name),
            policy=policy,
            measure=measure(settings),
            trial=Trial(settings.shadow.gates.terms(), began=self._clock()),
            slices=Slices(tuple(settings.audit.audited().fields)),
            pairs=self._pairs,
        )
        self._beside = self._now_beside()
        self._dossier.begin(candidate, candidate.trial.terms, self._footing(candidate))
        self.shadow.enter(candidate)
        self._metrics.tried(self.shadow.task, self.names)
        await self._dossier.look(self.names)

    def _open(self, name: str) -> Student:
        """Load it; it was rehearsed when it came into the registry."""
        return open_student(self._settings, open_bundle(self._serves.registry.find(name)))

    def _policy(self, student: Student) -> tuple[EscalationPolicy, Fault | None]:
        """The policy that it would serve under, and why its certificate does not hold.

        Where the settings want a certificate and it has none that holds, it would leave everything
        to the teacher: it is measured without one, to be looked at, and is not promoted until it
        has one. Raises SettingsError.
        """
        task, teacher = self.shadow.task, self._serves.cascade.teacher.name
        found = policy_of(task, self._settings, student, teacher=teacher)
        if found.warrant is None or found.warrant.fault is None:
            return found, None
        bare = self._settings.policy.model_copy(update={"certificate": None})
        settings = self._settings.model_copy(update={"policy": bare})
        return policy_of(task, settings, student, teacher=teacher), found.warrant.fault

    def _now_beside(self) -> _Beside:
        """Who serves now, and under which policy."""
        cascade, now = self._serves.cascade, self._clock()
        policy, stale, bundle = cascade.policy(), cascade.stale(), cascade.rung.bundle
        teacher, settings = cascade.teacher.name, self._settings.policy
        name = standing(policy, settings, teacher=teacher, now=now, stale=stale)
        return _Beside(bundle.id if bundle else "", name, policy, stale, now)

    def _footing(self, candidate: Candidate) -> Footing:
        """What is counted of the candidate now is counted under this."""
        teacher, settings = self._serves.cascade.teacher.name, self._settings.policy
        its = standing(candidate.policy, settings, teacher=teacher, now=self._clock())
        beside = self._beside
        return Footing(its, beside.serving, beside.standing, candidate.measure.slow_s)

    def _stand(self) -> None:
        """Where something has moved that evidence rests on, let that begin anew."""
        if not (beside := self._now_beside()).is_as(self._beside):
            self._beside = beside
        terms = self._settings.shadow.gates.terms()
        for each in self.shadow.candidates:
            footing, before = self._footing(each), each.trial
            if footing == before.footing and terms.limits == before.terms.limits:
                before.terms = terms
                continue
            self._dossier.begin(each, terms, footing)
            if before.rows and (moved := each.trial.moved(before.saved())):
                _log.info(
                    "evidence begun anew",
                    task=self.shadow.task,
                    bundle=each.name,
                    gates=[gate.value for gate in moved],
                    because=sorted({why for reasons in moved.values() for why in reasons}),
                )

    def _pairs(self, answer: Answer) -> bool:
        """Whether it was answered by the student that serves, under its policy of now."""
        cascade, beside = self._serves.cascade, self._beside
        if cascade.policy() is not beside.policy or cascade.stale() is not beside.stale:
            self._wake.set()
            return False
        if answer.at - answer.stages.total < beside.since:
            return False
        if answer.student is not None:
            return answer.student.bundle == beside.serving
        return cascade.canary is None or not cascade.canary.takes(answer.instance)

    def _runner(self, name: str) -> Runner:
        student, chosen = self._students[name], self._settings.shadow

        def start() -> ProcessWorker:
            environment = handed_on(environment_without_keys())
            return ProcessWorker(student, environment=environment, aside=True)

        return Runner(
            name,
            start,
            workers=chosen.workers,
            queue=chosen.queue,
            limit_s=chosen.limit_ms / 1000,
            busy=chosen.busy,
        )

    def _taken(self) -> frozenset[str | None]:
        roles = self._serves.roles
        return frozenset({roles.serving, roles.previous})

    def _leave(self, name: str) -> None:
        found = self.shadow.leave(name)
        self._students.pop(name, None)
        self._void.pop(name, None)
        if found is not None:
            self._dossier.end(found)
            self._retire(found.runner)
        self._metrics.tried(self.shadow.task, self.names)

    def _retire(self, runner: Runner) -> None:
        task = asyncio.get_running_loop().create_task(runner.close())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _seen(self) -> list[_Seen]:
        """All that a judgement needs, as of now: it is made beside the event loop."""
        return [
            _Seen(
                Progress(
                    name=each.name,
                    state=each.runner.state,
                    ended=each.runner.ended,
                    began=each.trial.began,
                    share=self.shadow.sampling.share,
                    verdict=_UNJUDGED,
                    slices=each.slices,
                    shed={cause.value: count for cause, count in each.runner.shed.items()},
                    lapses=dict(each.runner.lapses),
                    void=self._void[each.name],
                ),
                self._dossier.live(each),
            )
            for each in self.shadow.candidates
        ]

    def _judged(self, seen: Sequence[_Seen], worst: int) -> list[Progress]:
        """Add what others have counted, and judge. Blocks."""
        gates = self._settings.shadow.gates
        known = self._dossier.known([each.live for each in seen], gates.terms())
        return [
            replace(
                progress,
                began=(its := known[progress.name]).trial.began,
                slices=its.slices,
                verdict=_verdict(its, progress.void, sequence=gates.sequence),
                anew=its.anew,
                worst=self._dossier.worst(progress.name, worst),
            )
            for progress in (each.progress for each in seen)
        ]


@dataclass(frozen=True, slots=True)
class _Beside:
    """Who serves beside the candidates: the bundle's id, and a fingerprint of its policy.

    `since`, in seconds since the epoch, is from when on it has been so.
    """

    serving: str
    standing: str
    policy: EscalationPolicy
    stale: bool
    since: float

    def is_as(self, other: _Beside) -> bool:
        """Whether nothing has moved."""
        return (self.serving, self.standing, self.stale) == (
            other.serving, other.standing, other.stale,
        ) and self.policy is other.policy  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Seen:
    """One candidate as of a moment; its progress waits for the judgement."""

    progress: Progress
    live: Live


def _verdict(known: Known, void: Fault | None, *, sequence: bool) -> Verdict:
    """What may be done with a candidate; without a certificate that is due it is held."""
    place = known.place if sequence else None
    found = known.trial.verdict(rivals=known.rivals, place=place)
    if void is not None and found.decision is Decision.PROMOTE:
        return replace(found, decision=Decision.HOLD, why=Why.UNCERTIFIED)
    return found


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


_UNJUDGED = Trial(Terms(), began=0.0).verdict()

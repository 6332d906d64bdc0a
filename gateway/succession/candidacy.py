"""The candidates of one task: which bundles are compared with live traffic, and what they proved.

The names lie in a file of the registry beside the roles, so that a restart goes on with them, and
replicas that share the registry with one another do as it says. A candidate is measured under the
policy that it would serve under; what was counted under it, and beside whom, is kept in
dossier.py. A candidate that is wrong in any way costs nobody an answer: it is not compared, and
says why.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import structlog

from gateway.contract.bundle import open_bundle
from gateway.contract.certificate import Fault
from gateway.errors import BundleMissing, UnderstudyError
from gateway.routing.cascade import Cascade
from gateway.routing.policy import EscalationPolicy, Warrant
from gateway.settings import TaskSettings, environment_without_keys
from gateway.shadow.pairing import Measure
from gateway.shadow.promotion import (
    Decision,
    Finding,
    Footing,
    Gate,
    Terms,
    Trial,
    Verdict,
    Why,
)
from gateway.shadow.runner import Runner, State
from gateway.shadow.shadow import Candidate, Sampling, Shadow
from gateway.shadow.slices import Slices
from gateway.store.comparisons import Disagreement
from gateway.store.database import Database
from gateway.students.process import ProcessWorker
from gateway.students.registry import Registry, Roles
from gateway.students.rehearsal import handed_on
from gateway.students.student import Student
from gateway.succession.dossier import Dossier, Known, Moment
from gateway.succession.policies import policy_of, standing
from gateway.succession.students import open_student
from gateway.telemetry.metrics import Metrics
from gateway.types import Answer, Lapse

_EVERY_S = 5.0  # seconds of evidence that a crash may lose; comparisons themselves are stored
_WORST = 10  # disagreements that a status shows
_PAUSE_S = 10.0  # until a candidate that could not be opened is tried again; doubled each time
_LONGEST_PAUSE_S = 600.0

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

    `share` is that of the requests which it is to be shown, and `shown` that of these which it has
    room for here. `shed` and `lapses` are of this process:
    requests that it was not shown, and that it said nothing of, by cause. `ended`: why it was left
    alone, in words. `anew`: in words why gates began anew, and which. `void`: why its certificate
    does not hold.
    """

    name: str
    state: State
    ended: str
    began: float
    share: float
    shown: float
    verdict: Verdict
    slices: Slices
    shed: Mapping[str, int]
    lapses: Mapping[Lapse, int]
    worst: tuple[Disagreement, ...] = ()
    anew: Mapping[str, tuple[Gate, ...]] = field(default_factory=dict)
    void: Fault | None = None

    def requests(self, found: Finding) -> int | None:
        """About how many further requests bring the pairs that a gate needs; None: nobody knows."""
        share = self.share * self.shown
        if found.needed is None or not found.pairs or not share:
            return None
        return math.ceil(found.needed * found.compared / found.pairs / share)


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
        self._policies: dict[str, _Policies] = {}  # by candidate
        self._absent: dict[str, _Pause] = {}  # by name: candidates that could not be opened here
        self._beside = self._now_beside()
        self._changing = asyncio.Lock()
        self._living: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()  # somebody has changed something: look now

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
        """Compare it no more; its bundle and its evidence stay.

        It may be one that is noted and not compared now. Raises BundleMissing, or SettingsError.
        """
        registry = self._serves.registry
        async with self._changing:
            noted = await asyncio.to_thread(registry.candidates)
            known = dict.fromkeys((*self.names, *noted))
            if name not in known:
                raise BundleMissing(
                    f"{name[:120]!r} is no candidate of {self.shadow.task}",
                    mend=f"name one of: {', '.join(known) or '(none)'}",
                )
            self._leave(name)
            await asyncio.to_thread(registry.withdraw, name)
        _log.info("candidate removed", task=self.shadow.task, by=by, bundle=name)

    def follow(self, settings: TaskSettings) -> None:
        """From now on these settings hold. A gate begins anew where what it rests on has moved."""
        before, self._settings = self._settings.shadow, settings
        self._wake.set()
        self._absent.clear()  # what kept them away may have been mended
        self.shadow.sampling = sampling(settings)
        run = ("workers", "queue", "busy", "limit_ms")
        again = any(getattr(before, name) != getattr(settings.shadow, name) for name in run)
        for each in self.shadow.candidates:
            try:
                policies = self._policies_of(self._students[each.name])
            except UnderstudyError as error:
                _log.warning(
                    "a candidate does not fit the settings", bundle=each.name, error=error.message
                )
                self._leave(each.name)
                continue
            self._policies[each.name] = policies
            each.follow(policies.at(self._clock()), measure(settings))
            if again:
                self.shadow.retire(each.runner)
                each.runner = self._runner(each.name)
        self._stand()

    async def progress(self, *, worst: int = _WORST) -> list[Progress]:
        """What is known of each candidate now, with the worst disagreements of each."""
        self._stand()
        await self._dossier.look()
        return await asyncio.to_thread(self._judged, *self._seen(self.names), worst)

    async def verdict(self, bundle: str) -> Verdict | None:
        """Whether the bundle of that name may serve; None: it is not under test.

        It is that of `progress`, of this one alone.
        """
        if bundle not in self.names:
            return None
        self._stand()
        await self._dossier.look()
        found = await asyncio.to_thread(self._judged, *self._seen({bundle}), 0)
        return next((each.verdict for each in found), None)  # it may have left meanwhile

    async def close(self) -> None:
        """Compare no more, and keep what was counted."""
        if self._living is not None:
            self._living.cancel()
            await asyncio.wait({self._living})
        self.shadow.close()
        for name in self.names:
            self._leave(name)
        await self._dossier.save()
        await self.shadow.retired()

    async def _live(self) -> None:
        """Do as the file says, save, judge; again and again."""
        while True:
            try:
                async with self._changing:
                    await self._follow_file()
                    self._stand()
                    await self._dossier.save()
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

    async def _follow_file(self) -> None:
        """Do as the file says; while it cannot be read, those who are compared are as they are."""
        try:
            await self._reconcile()
        except Exception as error:  # noqa: BLE001  what was counted is stored and judged meanwhile
            _log.warning("the candidates wait", task=self.shadow.task, error=str(error))

    async def _reconcile(self) -> None:
        """Who serves is a candidate no more, and who is in the file is one while there is room."""
        registry, chosen, taken = self._serves.registry, self._settings.shadow, self._taken()
        for name in self.names:
            if name in taken:
                self._leave(name)
        noted = await asyncio.to_thread(registry.candidates)
        wanted = [name for name in noted if name not in taken] if chosen.share else []
        if chosen.share and (gone := [name for name in noted if name in taken]):
            await asyncio.to_thread(registry.withdraw, *gone)
        stay = [name for name in wanted if name in self.names][: chosen.candidates]
        for name in self.names:
            if name not in stay:
                self._leave(name)
        for name in wanted:
            if name not in self.names and len(self.names) < chosen.candidates:
                await self._bring_back(name)

    async def _bring_back(self, name: str) -> None:
        """Compare it again; where that fails it is tried later, and the others go on.

        It stays in the file, which is of all replicas: there may be nothing wrong with it there.
        """
        before = self._absent.get(name)
        if before is not None and self._clock() < before.until:
            return
        try:
            await self._enter(name)
        except Exception as error:  # noqa: BLE001  whatever is wrong with it
            pause = _PAUSE_S if before is None else min(_LONGEST_PAUSE_S, 2.0 * before.seconds)
            self._absent[name] = _Pause(pause, self._clock() + pause)
            _log.error(
                "a candidate is not compared", bundle=name, error=str(error), again_in_s=pause
            )
        else:
            _log.info("candidate under test again", task=self.shadow.task, bundle=name)

    async def _enter(self, name: str) -> None:
        """Open a bundle and begin its processes. Raises what is wrong with it."""
        student = await asyncio.to_thread(self._open, name)
        policies = self._policies_of(student)
        self._students[name], self._policies[name] = student, policies
        settings = self._settings
        candidate = Candidate(
            name,
            bundle=student.bundle.id,
            runner=self._runner(name),
            policy=policies.at(self._clock()),
            measure=measure(settings),
            trial=Trial(settings.shadow.gates.terms(), began=self._clock()),
            slices=Slices(tuple(settings.audit.audited().fields)),
            beside=self._policy_beside,
        )
        self._stand()  # all are beside the same student
        self._dossier.begin(candidate, candidate.trial.terms, self._footing(candidate))
        self.shadow.enter(candidate)
        self._absent.pop(name, None)
        self._metrics.tried(self.shadow.task, self.names)
        await self._dossier.look()

    def _open(self, name: str) -> Student:
        """Load it; it was rehearsed when it came into the registry."""
        return open_student(self._settings, open_bundle(self._serves.registry.find(name)))

    def _policies_of(self, student: Student) -> _Policies:
        """What it is measured under, with its certificate and without. Raises SettingsError."""
        task, teacher = self.shadow.task, self._serves.cascade.teacher.name
        found = policy_of(task, self._settings, student, teacher=teacher)
        if found.warrant is None:
            return _Policies(found, found, None)
        bare = self._settings.policy.model_copy(update={"certificate": None})
        settings = self._settings.model_copy(update={"policy": bare})
        return _Policies(
            replace(found, warrant=None),
            policy_of(task, settings, student, teacher=teacher),
            found.warrant,
        )

    def _now_beside(self) -> _Beside:
        """Who serves now, and under which policy: however strict traffic has made it meanwhile."""
        cascade, now = self._serves.cascade, self._clock()
        policy, bundle = cascade.rung.policy, cascade.rung.bundle
        teacher, settings = cascade.teacher.name, self._settings.policy
        name = standing(policy, settings, teacher=teacher, now=now)
        return _Beside(bundle.id if bundle else "", name, policy, now)

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
        terms, now = self._settings.shadow.gates.terms(), self._clock()
        for each in self.shadow.candidates:
            each.follow(self._policies[each.name].at(now), each.measure)
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

    def _policy_beside(self, answer: Answer) -> EscalationPolicy | None:
        """That of the student that serves, where it answered, under that policy; else None."""
        cascade, beside = self._serves.cascade, self._beside
        if cascade.rung.policy is not beside.policy:
            self._wake.set()
            return None
        if answer.at - answer.stages.total < beside.since:
            return None
        if answer.student is not None:
            mine = answer.student.bundle == beside.serving
        else:
            mine = cascade.canary is None or not cascade.canary.takes(answer.instance)
        return beside.policy if mine else None

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
        self._policies.pop(name, None)
        if found is not None:
            self._dossier.end(found)
        self._metrics.tried(self.shadow.task, self.names)

    def _seen(self, names: Collection[str]) -> tuple[Moment, list[Progress]]:
        """All that a judgement of these needs, as of now: it is made beside the event loop."""
        candidates = [each for each in self.shadow.candidates if each.name in names]
        now = self._clock()
        return self._dossier.moment(each.name for each in candidates), [
            Progress(
                name=each.name,
                state=each.runner.state,
                ended=each.runner.ended,
                began=each.trial.began,
                share=self.shadow.sampling.share,
                shown=each.runner.shown,
                verdict=_UNJUDGED,
                slices=_NO_SLICES,
                shed={cause.value: count for cause, count in each.runner.shed.items()},
                lapses=dict(each.runner.lapses),
                void=self._policies[each.name].void(now),
            )
            for each in candidates
        ]

    def _judged(self, moment: Moment, seen: Sequence[Progress], worst: int) -> list[Progress]:
        """Add what others have counted, and judge. Blocks."""
        gates = self._settings.shadow.gates
        terms = gates.terms()
        return [
            replace(
                progress,
                began=(its := moment.known(progress.name, terms)).trial.began,
                slices=its.slices,
                verdict=_verdict(its, progress, sequence=gates.sequence),
                anew=its.anew,
                worst=self._dossier.worst(progress.name, worst),
            )
            for progress in seen
        ]


@dataclass(frozen=True, slots=True)
class _Beside:
    """Who serves beside the candidates: the bundle's id, and a fingerprint of its policy.

    `since`, in seconds since the epoch, is from when on it has been so.
    """

    serving: str
    standing: str
    policy: EscalationPolicy
    since: float

    def is_as(self, other: _Beside) -> bool:
        """Whether nothing has moved."""
        mine, its = (self.serving, self.standing), (other.serving, other.standing)
        return mine == its and self.policy is other.policy


@dataclass(frozen=True, slots=True)
class _Policies:
    """What a candidate is measured under while its certificate holds, and while it does not.

    Where the settings want a certificate and it has none that holds, it would leave everything to
    the teacher: it is measured as without one, to be looked at, and is not promoted until it has
    one. Neither policy knows of the warrant, so that no row is ever left to the teacher, and seems
    to differ from nobody, for a certificate that has just ended.
    """

    certified: EscalationPolicy
    bare: EscalationPolicy
    warrant: Warrant | None

    def void(self, now: float) -> Fault | None:
        """Why the certificate does not hold then; None: it does, or none is due."""
        return self.warrant.fault_at(now) if self.warrant else None

    def at(self, now: float) -> EscalationPolicy:
        """The one that holds at that time, in seconds since the epoch."""
        return self.certified if self.void(now) is None else self.bare


class _Pause(NamedTuple):
    """So many seconds, until then, in seconds since the epoch."""

    seconds: float
    until: float


def _verdict(known: Known, progress: Progress, *, sequence: bool) -> Verdict:
    """What may be done with a candidate; one that could not serve, or is half known, is held."""
    place = known.place if sequence else None
    found = known.trial.verdict(rivals=known.rivals, place=place)
    if not known.read:
        return replace(found, decision=Decision.HOLD, why=Why.UNREAD)
    if found.decision is Decision.PROMOTE and progress.void is not None:
        return replace(found, decision=Decision.HOLD, why=Why.UNCERTIFIED)
    if found.decision is Decision.PROMOTE and progress.state is State.STOPPED:
        return replace(found, decision=Decision.HOLD, why=Why.STOPPED)
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
_NO_SLICES = Slices()

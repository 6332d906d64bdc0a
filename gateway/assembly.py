"""The composition root: Settings -> a running Gateway. Opens in order, closes in reverse."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import structlog

from gateway.contract.manifest import Task
from gateway.errors import Conflict, LogUnavailable, SettingsError, UnknownTask
from gateway.recall import recall
from gateway.routing.budget import Budget
from gateway.routing.cascade import Cascade
from gateway.settings import RecordSettings, Settings, environment_without_keys
from gateway.shadow.audit import Skip
from gateway.shadow.runner import Shed
from gateway.shadow.served import ServedQuality
from gateway.shadow.shadow import Shadow
from gateway.shadow.shown import Shown
from gateway.store.changes import Changes
from gateway.store.database import Database, open_database
from gateway.store.ledger import Ledger
from gateway.store.receipts import Receipts
from gateway.store.retention import Retention
from gateway.store.verdicts import Verdicts
from gateway.store.writer import RecordWriter
from gateway.students.registry import Registry, take_all
from gateway.students.rehearsal import rehearse
from gateway.succession.candidacy import Candidacy, sampling
from gateway.succession.line import Succession
from gateway.succession.roles import reconfigured
from gateway.succession.rollout import Rollout, keep_looking
from gateway.succession.seat import First, first, heads_of, take_seat
from gateway.teachers.guard import Guard
from gateway.telemetry.figures import Figures
from gateway.telemetry.metrics import Metrics
from gateway.types import Bucket, Instance, Observer, Onlooker, RecordState, Reply, Terms

Read = Callable[[], Settings]  # the settings as they stand in their file now

_MIB = 1 << 20
# Seconds that a record waits for others while no reply waits for it. With the commit itself a crash
# loses no more than the last 50 ms, and a busy gateway commits less than 40 times a second.
_LINGER_S = 0.025
_WATCHED = "watch.json"  # in the registry: what alarms and drift have seen
_TRIES = 5  # of writing down who serves, where others change the same tasks at the same time
_START = "start"  # who changes something between two runs of the gateway is not known

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Gateway:
    """Everything that runs. `draining` turns true once, on the way out.

    `settings` and the cascades of `tasks` are replaced by a reload, of which `generation` is the
    number: look them up where they are needed, and keep none.
    """

    settings: Settings
    tasks: dict[str, Cascade]
    metrics: Metrics
    figures: Figures
    quality: ServedQuality
    shown: Shown
    writer: RecordWriter | None  # None, as the receipts: no records are kept
    receipts: Receipts | None
    retention: Retention | None
    budgets: Mapping[str, Budget]  # by task
    successions: Mapping[str, Succession]
    rollouts: Mapping[str, Rollout]
    candidacies: Mapping[str, Candidacy]
    changes: Changes | None  # the log of who let what serve; None: no records are kept
    read: Read
    verdicts: Verdicts | None = field(default=None)  # None: no records are kept
    generation: int = field(default=1)
    draining: bool = field(default=False)

    def cascade(self, task: str | None) -> Cascade:
        """The cascade of that task; no name means the only one. Raises UnknownTask."""
        if task is None and len(self.tasks) == 1:
            return next(iter(self.tasks.values()))
        found = self.tasks.get(task or "")
        if found is None:
            raise UnknownTask(
                f"there is no task {task!r} here" if task else "the request names no task",
                mend=f"name one of: {', '.join(self.tasks)}",
            )
        return found

    async def answer(self, task: str | None, instances: Sequence[Instance], terms: Terms) -> Reply:
        """Answer the instances of one request. Every protocol's route comes through here.

        The task's deadline holds where the request names none, and for the wait for records too.
        Raises RecordsUnavailable where no reply goes out without its record.
        """
        cascade, receipts = self.cascade(task), self.receipts
        default_ms = self.settings.tasks[cascade.task].deadline_ms
        if terms.deadline is None and default_ms is not None:
            terms = replace(terms, deadline=time.perf_counter() + default_ms / 1000)
        if receipts is None:
            return Reply(await cascade.answer(instances, terms), RecordState.OFF)
        receipts.admit()
        answers = await cascade.answer(instances, terms)
        return Reply(answers, await receipts.of_last(len(answers), terms.deadline))

    async def look_at_budgets(self) -> None:
        """See what is left of each budget, for /metrics and /v1/stats; takes a second at most."""
        await asyncio.gather(*(budget.look() for budget in self.budgets.values()))
        self.metrics.budgeted(
            {
                (task, window): balance
                for task, budget in self.budgets.items()
                for window, balance in budget.seen.items()
            }
        )

    def audits_skipped(self, task: str) -> dict[str, int]:
        """How many audits of that task did not take place, by cause."""
        found = self.successions.get(task)
        return {cause.value: found.auditor.skipped[cause] for cause in Skip} if found else {}

    @property
    def alive(self) -> bool:
        """Whether the workers and the writer, which answering needs, all run."""
        writes = self.writer is None or self.writer.alive
        return writes and all(each.rung.student.alive for each in self.tasks.values())


@asynccontextmanager
async def open_gateway(
    settings: Settings,
    *,
    read: Read | None = None,
    aside: bool = False,
    replica: int | None = None,
    clock: Callable[[], float] = time.time,
    ticks: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Gateway]:
    """Open everything, yield the gateway, close in reverse: audits, teachers, students, records.

    `read` gives the settings again, for a reload. `aside`: only to look; the registry, which may be
    that of a gateway which runs, is not written. `replica`: which one this is, of several.
    `clock`, by which canaries take their steps, gives seconds since the epoch; what failed is tried
    again after a pause in `ticks`, seconds of a clock that nobody sets.
    """
    async with AsyncExitStack() as stack:
        registries = {name: registry_of(name, settings) for name in settings.tasks}
        firsts = {
            name: first(task, registries[name], aside=aside)
            for name, task in settings.tasks.items()
        }
        students = {name: each.student for name, each in firsts.items()}
        tasks = [
            Task(name=name, heads=each.task.heads if each else heads_of(name, settings.tasks[name]))
            for name, each in students.items()
        ]
        prices = {name: task.prices.prices() for name, task in settings.tasks.items()}
        metrics = Metrics(tasks, prices=prices)
        figures = Figures(tasks, prices=prices, clock=time.monotonic)
        engine = _open_engine(settings.records, stack)
        writer, receipts, retention = _open_records(engine, settings.records, metrics, stack)
        budgets = _open_budgets(engine, settings, (metrics, figures), stack)
        changes = Changes(engine) if engine is not None else None
        quality = ServedQuality(tasks)
        shown = Shown(quality)
        metrics.follow_served(lambda: shown.parts)
        observers: list[Observer] = [metrics, figures, quality]
        onlookers: list[Onlooker] = [metrics, figures]
        if writer is not None:
            observers.append(writer)
            onlookers.append(writer)
        successions: dict[str, Succession] = {}
        candidacies: dict[str, Candidacy] = {}
        for name, student in students.items():
            task = settings.tasks[name]
            shadow = Shadow(
                name,
                sampling=sampling(task),
                teacher=functools.partial(_teacher, successions, name),
                onlookers=onlookers,
                uniform=task.audit.share,
            )
            successions[name] = Succession(
                name,
                settings=task,
                seat=await take_seat(name, task, student, metrics, purse=budgets.get(name)),
                registry=registries[name],
                metrics=metrics,
                figures=figures,
                quality=quality,
                observers=[*observers, shadow],
                roles=firsts[name].roles,
                budget=budgets.get(name),
                changes=changes,
                clock=clock,
                ticks=ticks,
                watched=None if aside else _WATCHED if replica is None else f"{replica}.{_WATCHED}",
            )
            successions[name].auditor.tell_skips(shadow.unaudited)
            candidacies[name] = Candidacy(
                shadow, successions[name], task, metrics=metrics, database=engine, clock=clock
            )
            stack.push_async_callback(candidacies[name].close)  # when all audits have been told
            stack.push_async_callback(successions[name].close)
        await asyncio.to_thread(_remember, registries, firsts)
        if not aside:
            for candidacy in candidacies.values():
                candidacy.start()
        metrics.follow_skips(
            lambda: {
                **{
                    cause.value: sum(each.auditor.skipped[cause] for each in successions.values())
                    for cause in Skip
                },
                **{
                    cause.value: sum(each.shadow.skipped[cause] for each in candidacies.values())
                    for cause in Shed
                },
            }
        )
        if changes is not None and not aside:
            await _note_start(changes, successions)
        if engine is not None and not aside:
            _go_on_from(engine, quality, list(successions), stack)
        rollouts = {name: Rollout(each, candidacies[name]) for name, each in successions.items()}
        if not aside:
            await _keep_rolling(rollouts, stack)
        yield Gateway(
            settings=settings,
            tasks={name: each.cascade for name, each in successions.items()},
            metrics=metrics,
            figures=figures,
            quality=quality,
            shown=shown,
            writer=writer,
            receipts=receipts,
            retention=retention,
            budgets=budgets,
            successions=successions,
            rollouts=rollouts,
            candidacies=candidacies,
            changes=changes,
            read=read or _unread,
            verdicts=Verdicts(engine) if engine is not None else None,
        )


def _teacher(successions: Mapping[str, Succession], task: str) -> Guard:
    """Who stands behind that task now."""
    return successions[task].cascade.teacher


def registry_of(name: str, settings: Settings) -> Registry:
    """The registry of that task."""
    return Registry(
        settings.registry.path,
        task=name,
        max_bytes=settings.registry.max_bytes,
        rehearse=functools.partial(rehearse, environment=environment_without_keys()),
    )


def _remember(registries: Mapping[str, Registry], firsts: Mapping[str, First]) -> None:
    """Write down who serves now that nothing is left that could keep the gateway from starting.

    Of gateways that start at once one does, and the others find it done. Raises SettingsError, or
    Conflict where somebody changes the roles all the time.
    """
    named = {name: each.roles.configured for name, each in sorted(firsts.items()) if each.roles}
    for _ in range(_TRIES - 1):
        with suppress(Conflict):
            return _reconfigure(registries, named)
    return _reconfigure(registries, named)


def _reconfigure(registries: Mapping[str, Registry], named: Mapping[str, str]) -> None:
    """Let those bundles serve that settings name anew, in all tasks or none. Raises Conflict."""
    with ExitStack() as opened:
        drafts = []
        for name, bundle in named.items():
            seen = registries[name].roles()
            if seen is None or seen.configured == bundle:
                continue
            drafts.append(registries[name].draft(seen, reconfigured(seen, bundle), in_turn=True))
            opened.callback(drafts[-1].close)
        take_all(drafts)


async def _note_start(changes: Changes, successions: Mapping[str, Succession]) -> None:
    """Note which student serves where the log knows another, or none: it changed between two runs.

    Where roles.json owes the log a row, that one says it. A gateway that starts beside a database
    that is in trouble answers all the same.
    """
    await asyncio.gather(*(each.paid() for each in successions.values()))
    serving: dict[str, str] = {}
    for task, each in successions.items():  # another replica may have changed it by now
        roles = await each.stage.on_disk(each.registry.roles) or each.roles
        if not roles.owed:
            serving[task] = roles.serving
    try:
        await asyncio.to_thread(_note_who_serves, changes, serving)
    except LogUnavailable as error:
        _log.warning("the log of changes does not know who serves", error=str(error))


def _note_who_serves(changes: Changes, serving: Mapping[str, str]) -> None:
    for task, name in serving.items():
        changes.start(task, name, who=_START)


def _go_on_from(
    engine: Database, quality: ServedQuality, tasks: Sequence[str], stack: AsyncExitStack
) -> None:
    """Find the served error of the time before, while answers are given already."""
    recalling = asyncio.create_task(recall(engine, quality, tasks, now=time.time()))

    async def end() -> None:
        recalling.cancel()
        await asyncio.wait({recalling})

    stack.push_async_callback(end)


async def _keep_rolling(rollouts: Mapping[str, Rollout], stack: AsyncExitStack) -> None:
    """Go on with the canaries of the time before, and look from then on for what is due."""
    for rollout in rollouts.values():
        await rollout.look()
        await rollout.settled()
    looking = asyncio.create_task(keep_looking(list(rollouts.values())))

    async def end() -> None:
        looking.cancel()
        await asyncio.wait({looking})
        for rollout in rollouts.values():
            await rollout.close()

    stack.push_async_callback(end)


def _unread() -> Settings:
    raise SettingsError(
        "this gateway was not opened from a settings file",
        mend="start it with `understudy serve --config FILE`",
    )


def _open_engine(settings: RecordSettings, stack: AsyncExitStack) -> Database | None:
    """The database; None: no records are kept."""
    if not settings.enabled:
        return None
    engine = open_database(settings.database)
    stack.callback(engine.dispose)
    return engine


def _open_budgets(
    engine: Database | None,
    settings: Settings,
    counting: Sequence[Metrics | Figures],
    stack: AsyncExitStack,
) -> Mapping[str, Budget]:
    """The budget of each task, limited or not: a reload may bring limits.

    Those who are `counting` hear of every call what it cost.
    """
    ledger = None
    if engine is not None:
        ledger = Ledger(engine)
        stack.push_async_callback(asyncio.to_thread, ledger.close)

    def told(task: str, bucket: Bucket, cost: int | None) -> None:
        for each in counting:
            each.spent(task, bucket, cost)

    return {
        name: Budget(name, task.limits, ledger, functools.partial(told, name))
        for name, task in settings.tasks.items()
    }


def _open_records(
    engine: Database | None, settings: RecordSettings, metrics: Metrics, stack: AsyncExitStack
) -> tuple[RecordWriter, Receipts, Retention] | tuple[None, None, None]:
    if engine is None:
        return None, None, None
    retention = Retention(engine, settings.retention_days)
    writer = RecordWriter(
        engine,
        capacity=settings.queue,
        max_bytes=settings.queue_mb * _MIB,
        linger_s=_LINGER_S if settings.ack == "async" else 0.0,
        store_text=settings.text,
        retention=retention,
    )
    stack.push_async_callback(asyncio.to_thread, writer.close)
    wait_ms = settings.group_wait_ms if settings.ack == "group" else settings.strict_wait_ms
    loop = asyncio.get_running_loop()
    receipts = Receipts(writer, ack=settings.ack, wait_s=wait_ms / 1000, loop=loop)
    metrics.follow_records(
        lambda: {"stored": writer.records.stored, "dropped": writer.records.dropped},
        degraded=lambda: writer.degraded,
    )
    return writer, receipts, retention

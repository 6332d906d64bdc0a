"""New settings while the gateway runs: what they change holds from one moment to the next.

Everything is read, validated and made ready beside what runs; only when nothing is wrong with any
of it does it take effect, all at once. Some keys are only read at the start: for them the running
value is kept, and the answer says so. Whatever goes wrong, the old settings go on.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import orjson
import structlog
from pydantic import BaseModel

from gateway import document
from gateway.assembly import Gateway
from gateway.errors import Conflict, LogUnavailable, SettingsError, UnderstudyError
from gateway.settings import (
    KeySettings,
    LogSettings,
    RecordSettings,
    ServerSettings,
    Settings,
    StudentSettings,
    TaskSettings,
)
from gateway.store.changes import Changes, Entry, What
from gateway.students.registry import take_all
from gateway.succession.change import Successor
from gateway.succession.entries import noted, undivided
from gateway.succession.line import Succession
from gateway.succession.seat import configured
from gateway.telemetry import logs

# What takes effect without a restart, by the section that it stands in. A section that is named as
# a whole does so with all its keys; whatever is not named is read at the start only.
_LIVE: Mapping[type[BaseModel], frozenset[str]] = {
    Settings: frozenset({"keys"}),
    ServerSettings: frozenset({"max_body_bytes", "max_inputs", "max_characters"}),
    TaskSettings: frozenset(
        {
            "heads",
            "policy",
            "audit",
            "shadow",
            "alarms",
            "drift",
            "promotion",
            "prices",
            "budget",
            "deadline_ms",
        }
    ),
    StudentSettings: frozenset({"bundle", "operating_point"}),
    RecordSettings: frozenset({"retention_days"}),
    LogSettings: frozenset({"level"}),
}

_BY_NAME = "tasks"  # the one key whose value is sections by name
_TRIES = 5  # where others change the same tasks at the same time
_DIGITS = 12  # of a fingerprint: 48 bits

_Section = TypeVar("_Section", bound=BaseModel)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What became of each key, dotted. Those of `restart` differ in the file, and do not hold."""

    generation: int
    applied: tuple[str, ...]
    unchanged: tuple[str, ...]
    restart: tuple[str, ...]


@dataclass(slots=True)
class Comparison:
    """The settings that run against those of the file, key by key."""

    applied: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)

    def merge(self, old: Settings, new: Settings) -> Settings:
        """The new settings where they may take effect, the old ones elsewhere.

        Raises SettingsError: the two together may contradict each other where neither alone does.
        """
        merged = self._section(old, new, "")
        content = merged.model_dump(exclude_unset=True)
        return document.validate(
            content, Settings, SettingsError, where="the new settings beside what needs a restart"
        )

    def _section(self, old: _Section, new: _Section, place: str) -> _Section:
        live = _LIVE.get(type(old), frozenset())
        taken: dict[str, object] = {}
        for name in type(old).model_fields:
            before, after, key = getattr(old, name), getattr(new, name), place + name
            if name in live:
                self._note(before, after, key, self.applied)
                taken[name] = after
            elif name == _BY_NAME:
                taken[name] = self._sections(before, after, f"{key}.")
            elif isinstance(before, BaseModel) and isinstance(after, BaseModel):
                taken[name] = self._section(before, after, f"{key}.")
            else:
                self._note(before, after, key, self.restart)
        return old.model_copy(update=taken)

    def _sections(
        self, old: Mapping[str, _Section], new: Mapping[str, _Section], place: str
    ) -> dict[str, _Section]:
        """Sections by name. One that is only on one side comes or goes with a restart."""
        self.restart += [place + name for name in sorted(old.keys() ^ new.keys())]
        return {
            name: self._section(section, new[name], f"{place}{name}.") if name in new else section
            for name, section in old.items()
        }

    def _note(self, before: object, after: object, key: str, differing: list[str]) -> None:
        if not isinstance(before, BaseModel) or type(before) is not type(after):
            (self.unchanged if before == after else differing).append(key)
            return
        for name in type(before).model_fields:
            self._note(getattr(before, name), getattr(after, name), f"{key}.{name}", differing)


@dataclass(frozen=True, slots=True)
class _Ahead:
    """New keys that hold ahead of the rest: the `old` ones, and what is to be said and noted."""

    old: tuple[KeySettings, ...]
    comparison: Comparison
    row: Entry


async def reload(gateway: Gateway, *, by: str, why: str = "") -> Reloaded:
    """Read the settings again, and let hold what may; the log gets `by`, who wishes it, and `why`.

    Raises Conflict, SettingsError, LogUnavailable, or what is wrong with a bundle; then nothing has
    changed. Where `keys` alone differ they hold first, whatever becomes of the rest: a key may be
    revoked. They are all that is done where somebody else changes a task, or without the log.
    """
    try:
        ahead = await _keys_alone(gateway, by=by, why=why)
        if ahead is None:
            async with _claims(gateway):
                done = await _again(gateway, by=by, why=why)
        else:
            done = await _rest(gateway, ahead, by=by, why=why)
    except UnderstudyError as error:
        _log.warning("reload refused", by=by, code=error.code, error=error.message)
        raise
    _log.info(
        "reloaded",
        by=by,
        generation=done.generation,
        applied=list(done.applied),
        restart=list(done.restart),
    )
    return done


@asynccontextmanager
async def _claims(gateway: Gateway) -> AsyncIterator[None]:
    """The right to change every task. Raises Conflict."""
    async with AsyncExitStack() as stack:
        for succession in gateway.successions.values():
            await stack.enter_async_context(succession.claim())
        yield


async def _keys_alone(gateway: Gateway, *, by: str, why: str) -> _Ahead | None:
    """Let new keys hold, which waits for nothing; None: something else differs too."""
    comparison, before = Comparison(), gateway.settings
    settings = comparison.merge(before, await asyncio.to_thread(gateway.read))
    links = (configured(settings.tasks[each.task]) for each in gateway.successions.values())
    held = (each.stage.configured for each in gateway.successions.values())
    if comparison.applied != ["keys"] or [*links] != [*held] or gateway.settings is not before:
        return None
    row = _row(before, settings, comparison, by=by, why=why)
    gateway.settings = settings
    return _Ahead(before.keys, comparison, row)


async def _rest(gateway: Gateway, ahead: _Ahead, *, by: str, why: str) -> Reloaded:
    """Reload the rest: where the paths are the same, what lies there may be another by now.

    Raises as `reload`; the keys hold all the same, and have their row.
    """
    claimed = False
    try:
        async with _claims(gateway):
            claimed = True
            return await _again(gateway, by=by, why=why, keys=ahead.old)
    except BaseException as error:
        done = _told(gateway, ahead.comparison)
        await _note(gateway, ahead.row)
        if isinstance(error, LogUnavailable) or (isinstance(error, Conflict) and not claimed):
            _log.warning("keys alone were reloaded", by=by, error=error.message)
            return done
        if isinstance(error, UnderstudyError):
            error.mend += "; the new keys hold already"
        raise


async def _note(gateway: Gateway, row: Entry) -> None:
    """Write down what holds already, if that can be."""
    if gateway.changes is not None:
        try:
            await asyncio.to_thread(gateway.changes.append, row)
        except LogUnavailable as error:
            _log.warning("a change is not in the log", error=error.message)


async def _again(
    gateway: Gateway, *, by: str, why: str, keys: tuple[KeySettings, ...] | None = None
) -> Reloaded:
    """Reload, and again where a rollback or another replica was faster."""
    for _ in range(_TRIES - 1):
        with suppress(Conflict):
            return await _reload(gateway, by=by, why=why, keys=keys)
    return await _reload(gateway, by=by, why=why, keys=keys)


async def _reload(
    gateway: Gateway, *, by: str, why: str, keys: tuple[KeySettings, ...] | None
) -> Reloaded:
    """Reload once. `keys` are those before the new ones, where these hold already."""
    comparison, running = Comparison(), gateway.settings
    before = running if keys is None else running.model_copy(update={"keys": keys})
    settings = comparison.merge(before, await asyncio.to_thread(gateway.read))
    ready: list[tuple[Succession, Successor]] = []
    try:
        for name, succession in gateway.successions.items():
            ready.append((succession, await succession.prepare(settings.tasks[name])))
        whole = _row(before, settings, comparison, by=by, why=why)
        entries = (whole, *_of_tasks(whole, ready))
        hold = functools.partial(_hold, gateway, running, settings, ready)
        await undivided(_install(ready, gateway.changes, entries, hold))
    except BaseException:
        for succession, successor in ready:
            succession.dismiss(successor)
        raise
    for succession, successor in ready:
        key = f"tasks.{succession.task}.student.bundle"
        if successor.changed and key in comparison.unchanged:
            comparison.unchanged.remove(key)  # a link, which means another bundle now
            comparison.applied.append(key)
    return _told(gateway, comparison)


def _hold(
    gateway: Gateway,
    before: Settings,
    settings: Settings,
    ready: Sequence[tuple[Succession, Successor]],
) -> None:
    """From now on these settings hold. Nothing here waits: no request sees a part of it."""
    if gateway.settings is not before:  # keys alone waited for nobody, and were read later
        settings = settings.model_copy(update={"keys": gateway.settings.keys})
    gateway.settings = settings
    for succession, successor in ready:
        succession.install(successor)
        gateway.tasks[succession.task] = successor.cascade
    for succession, _ in ready:
        gateway.candidacies[succession.task].follow(settings.tasks[succession.task])
    if settings.logging.level != before.logging.level:
        logs.set_level(settings.logging.level)
    if gateway.retention is not None:
        gateway.retention.keep_for(settings.records.retention_days)


def _told(gateway: Gateway, comparison: Comparison) -> Reloaded:
    """What became of it, under the next number."""
    gateway.generation += 1
    gateway.metrics.configured(gateway.generation)
    return Reloaded(
        gateway.generation,
        tuple(comparison.applied),
        tuple(comparison.unchanged),
        tuple(comparison.restart),
    )


def fingerprint(settings: Settings) -> str:
    """A short name for settings: the same for the same values, and no secret goes into it."""
    said = settings.model_dump(mode="json", exclude={"keys": True, "records": {"url"}})
    digest = hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f"settings-{digest[:_DIGITS]}"


def _row(
    before: Settings, settings: Settings, comparison: Comparison, *, by: str, why: str
) -> Entry:
    return Entry(
        what=What.RELOAD,
        who=by,
        old=fingerprint(before),
        new=fingerprint(settings),
        why=why,
        evidence={"applied": comparison.applied, "restart": comparison.restart},
    )


def _of_tasks(whole: Entry, ready: Sequence[tuple[Succession, Successor]]) -> Iterator[Entry]:
    """A row for each task whose student the reload replaces."""
    for succession, successor in ready:
        old, new = successor.basis.roles.serving, successor.roles.serving
        if new != old:
            yield replace(whole, task=succession.task, old=old, new=new, evidence={})


async def _install(
    ready: Sequence[tuple[Succession, Successor]],
    changes: Changes | None,
    entries: Sequence[Entry],
    hold: Callable[[], None],
) -> None:
    """Write down the rows of the log and the roles of all tasks, and `hold`: all or nothing.

    While they are written every task may still go back; then this raises Conflict.
    """
    for succession, _ in ready:
        await succession.paid()
    async with AsyncExitStack() as stack:
        drafts = []
        for succession, successor in sorted(ready, key=lambda each: each[0].task):
            draft = await asyncio.to_thread(succession.draft, successor)
            stack.push_async_callback(asyncio.to_thread, draft.close)
            drafts.append(draft)
        await stack.enter_async_context(noted(changes, entries))
        for succession, successor in ready:
            await stack.enter_async_context(succession.stage.still())
            succession.stage.check_still(successor.ready)
        for succession, _ in ready[:1]:
            await succession.stage.on_disk(take_all, drafts)
        hold()


class Hangup:
    """What a process does on SIGHUP: it reloads. A refusal is logged, and nothing changes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._running: set[asyncio.Task[None]] = set()

    def __call__(self) -> None:
        """Start a reload; called on the event loop."""
        task = asyncio.get_running_loop().create_task(self._reload())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _reload(self) -> None:
        with suppress(UnderstudyError):  # it is in the log
            await reload(self._gateway, by="SIGHUP")

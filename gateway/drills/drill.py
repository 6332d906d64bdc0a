"""A drill: a gateway of the user's own settings, and an outage of its teacher made to measure.

The gateway's teacher is a fault server in this process, which is fine first, then fails as the
drill says, then is fine again; meanwhile requests go to the gateway at a steady rate. What came
back is held against what Understudy promises of an outage. No real teacher is asked.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from gateway.contract.bundle import open_bundle
from gateway.drills import aside
from gateway.drills.crowd import NUMBER, Client, Crowd, Watch, mixed
from gateway.drills.findings import Findings, Kind, closing_time_s
from gateway.errors import SettingsError
from gateway.settings import Settings, TaskSettings
from gateway.store import records
from gateway.store.database import open_database
from gateway.teachers import faults
from gateway.teachers.breaker import State
from gateway.teachers.faults import FaultServer, Phase
from gateway.teachers.garbage import GARBAGE
from gateway.types import FieldValue

_SAMPLE = 200  # texts that are tried out: enough for variety
_PATIENCE_S = 30.0  # for a reply, beyond what the teacher may take
_FLAKY = 0.3  # share of the calls that fail in that drill
# What a teacher does that is down, or that a proxy answers for.
_BROKEN = (faults.RESET, *map(faults.http, (503, 502, 504, 500)), faults.CLOSE)
# Every case of garbage, each with two good answers, so that the breaker lets all of them be tried.
_AMONG_GOOD = [fault for each in GARBAGE for fault in (each, faults.OK, faults.OK)]


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent in each of the three phases: so many requests, at so many a second.

    Half of them are texts that the student is sure of, half go to the teacher. `slow_s`: what a
    slow teacher takes, in the drill of that name.
    """

    requests: int = 240
    rate: float = 60.0
    slow_s: float = 2.0


def rehearse(
    settings: Settings,
    kind: Kind,
    *,
    task: str | None = None,
    texts: Sequence[str] = (),
    load: Load | None = None,
) -> Findings:
    """Run a drill on one task. Without `texts`, with those that the student's bundle was sealed on.

    Raises SettingsError, DataError when no text is answered by the student alone, ServingError when
    the gateway does not start, and what opening the bundle raises.
    """
    name = _task(settings, task)
    given = texts or _golden(_student(name, settings.tasks[name]))
    with tempfile.TemporaryDirectory(prefix="understudy-drill-") as folder:
        drill = _Drill(settings, name, kind, load=load or Load(), folder=Path(folder))
        return asyncio.run(drill.run(given[:_SAMPLE]))


def _task(settings: Settings, task: str | None) -> str:
    if task is None and len(settings.tasks) == 1:
        return next(iter(settings.tasks))
    if task is None or task not in settings.tasks:
        raise SettingsError(
            f"there is no task {task!r}" if task else "the settings have several tasks",
            mend=f"give --task, one of: {', '.join(settings.tasks)}",
        )
    return task


def _student(name: str, task: TaskSettings) -> Path:
    """The bundle that is to answer while the teacher is out. Raises SettingsError."""
    if task.student.bundle is None:
        raise SettingsError(
            f"tasks.{name}: without a student every outage of the teacher is one of the task",
            mend=f"name a bundle under tasks.{name}.student.bundle, and drill again",
        )
    return task.student.bundle


def _golden(bundle: Path) -> list[str]:
    return [vector.text for vector in open_bundle(bundle).manifest.golden.vectors]


class _Drill:
    """One drill, from the start of its gateway to what was found."""

    def __init__(
        self, settings: Settings, task: str, kind: Kind, *, load: Load, folder: Path
    ) -> None:
        self._settings = settings
        self._task = task
        self._kind = kind
        self._load = load
        self._folder = folder

    async def run(self, texts: Sequence[str]) -> Findings:
        """Healthy, then the fault, then recovery."""
        # Ended by either signal, it ends its gateway too.
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
        task = self._settings.tasks[self._task]
        patience = _PATIENCE_S + task.teacher.timeout_s * (1 + task.teacher.retries)
        load = self._load
        async with FaultServer() as server:
            config = aside.write(self._settings, self._task, server.url, self._folder)
            async with (
                aside.running(config) as url,
                Client(url, patience_s=patience) as client,
                Watch(client) as watch,
            ):
                crowd = Crowd(client, server, watch, await mixed(client, texts))
                healthy = await crowd.phase(load.requests, load.rate)
                await server.follow(*self._phases())
                began = time.monotonic()
                fault = await crowd.phase(self._requests(), load.rate)
                await server.follow(Phase(faults.turns(faults.OK)))
                recovered = time.monotonic()
                recovery = await crowd.phase(
                    load.requests, load.rate, until_closed_s=closing_time_s(task)
                )
        return Findings(
            kind=self._kind,
            task=self._task,
            healthy=healthy,
            fault=fault,
            recovery=recovery,
            # One that is half open has been open, for less than from look to look.
            opened_s=watch.since(began, State.OPEN, State.HALF_OPEN, until=recovered),
            closed_s=watch.since(recovered, State.CLOSED),
            garbage_accepted=len((self._stored() | client.taught) - _given(server)),
        )

    def _requests(self) -> int:
        """Of the fault phase. Every case of garbage is shown, whatever the load is."""
        if self._kind is Kind.GARBAGE:
            return max(self._load.requests, 2 * len(_AMONG_GOOD))  # every second one is escalated
        return self._load.requests

    def _phases(self) -> tuple[Phase, ...]:
        """What the teacher does in the fault phase."""
        match self._kind:
            case Kind.DOWN:  # away at first; then a proxy answers for it, or lets calls fall
                half = self._load.requests / self._load.rate / 2
                return Phase(None, half), Phase(faults.turns(*_BROKEN))
            case Kind.SLOW:
                late = faults.slow(self._load.slow_s)
                return (Phase(faults.turns(late, late, late, faults.trickle(), faults.HANG)),)
            case Kind.GARBAGE:
                return (Phase(faults.turns(*_AMONG_GOOD)),)
            case Kind.LIMITED:
                limits = faults.limited(1.0), faults.limited(0.5, in_ms=True), faults.QUOTA
                return (Phase(faults.turns(*limits)),)
            case Kind.FLAKY:
                return (Phase(faults.flaky(_FLAKY, *_BROKEN)),)

    def _stored(self) -> set[FieldValue]:
        """Of which requests a record holds a label of the teacher's. The gateway has ended."""
        engine = open_database(self._folder / aside.DATABASE)
        try:
            found = records.each(engine, records.Selection())
            return {
                record.fields[NUMBER]
                for record in found
                if record.teacher_labels is not None and record.fields is not None
            }
        finally:
            engine.dispose()


def _given(server: FaultServer) -> set[int]:
    """The requests that the teacher has given a good answer to."""
    return {orjson.loads(question)["fields"][NUMBER] for question in server.answered}

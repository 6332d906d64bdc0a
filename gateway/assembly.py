"""The composition root: Settings -> a running Gateway. Opens in order, closes in reverse."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from gateway import cores
from gateway.contract.bundle import open_bundle
from gateway.contract.manifest import OperatingPoint, Task
from gateway.errors import BundleMismatch, SettingsError, StudentFailed, UnknownTask
from gateway.routing.cascade import Cascade, OnUnavailable
from gateway.routing.policy import EscalationPolicy
from gateway.routing.risk import Rule
from gateway.settings import Settings, TaskSettings, TeacherSettings
from gateway.shadow.audit import Auditor, Skip
from gateway.store.database import open_database
from gateway.store.writer import RecordWriter
from gateway.students.batching import Batcher
from gateway.students.student import Student
from gateway.teachers.base import Teacher
from gateway.teachers.bundle import BundleTeacher
from gateway.teachers.guard import Guard
from gateway.teachers.scripted import ScriptedTeacher
from gateway.telemetry.figures import Figures
from gateway.telemetry.metrics import Metrics


@dataclass(slots=True)
class Gateway:
    """Everything that runs. `draining` turns true once, on the way out."""

    settings: Settings
    tasks: dict[str, Cascade]
    metrics: Metrics
    figures: Figures
    writer: RecordWriter
    auditors: Mapping[str, Auditor]
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

    def audits_skipped(self, task: str) -> dict[str, int]:
        """How many audits of that task did not take place, by cause."""
        auditor = self.auditors.get(task)
        return {cause.value: auditor.skipped[cause] for cause in Skip} if auditor else {}

    @property
    def alive(self) -> bool:
        """Whether the threads that answering needs all run."""
        return self.writer.alive and all(each.student.alive for each in self.tasks.values())


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """Open everything, yield the gateway, close in reverse: audits, teachers, students, records."""
    async with AsyncExitStack() as stack:
        students = {
            name: Student(open_bundle(task.student.bundle)) for name, task in settings.tasks.items()
        }
        tasks = [Task(name=name, heads=each.task.heads) for name, each in students.items()]
        prices = {name: task.prices.prices() for name, task in settings.tasks.items()}
        metrics = Metrics(tasks, prices=prices)
        figures = Figures(tasks, prices=prices, clock=time.monotonic)
        engine = open_database(settings.records.path)
        stack.callback(engine.dispose)
        writer = RecordWriter(
            engine, capacity=settings.records.queue, store_text=settings.records.text
        )
        stack.push_async_callback(asyncio.to_thread, writer.close)
        metrics.follow_records(lambda: {"stored": writer.stored, "dropped": writer.dropped})
        observers = (metrics, figures, writer)
        cascades: dict[str, Cascade] = {}
        auditors: dict[str, Auditor] = {}
        for name, student in students.items():
            cascades[name], auditors[name] = await _open_task(
                name, student, settings, observers, stack
            )
        metrics.follow_skips(
            lambda: {cause: sum(a.skipped[cause] for a in auditors.values()) for cause in Skip}
        )
        yield Gateway(settings, cascades, metrics, figures, writer, auditors)


async def _open_task(
    name: str,
    student: Student,
    everything: Settings,
    observers: tuple[Metrics, Figures, RecordWriter],
    stack: AsyncExitStack,
) -> tuple[Cascade, Auditor]:
    settings, metrics = everything.tasks[name], observers[0]
    workers = settings.student.workers
    batcher = Batcher(
        student,
        workers=cores.available() if workers == "auto" else workers,
        max_rows=settings.student.max_batch,
        capacity=settings.student.queue,
        observe=metrics.batched,
        name=f"{name}-student",
    )
    stack.push_async_callback(asyncio.to_thread, batcher.close)
    teacher = _open_teacher(settings.teacher, student.task)
    stack.push_async_callback(teacher.close)
    metrics.installed(name, "student", student.bundle.name)
    metrics.installed(name, "teacher", teacher.name)
    prices = settings.prices.prices()
    auditor = Auditor(
        teacher=teacher,
        prices=prices,
        observers=observers,
        random_source=random.Random(),  # noqa: S311  a coin
    )
    stack.push_async_callback(auditor.close)
    metrics.follow_queue(name, lambda: batcher.depth)
    (warm,) = await batcher.submit(["warm up"])
    if isinstance(warm, StudentFailed):
        raise warm
    cascade = Cascade(
        task=name,
        student=batcher,
        teacher=teacher,
        policy=EscalationPolicy(
            threshold=_threshold(name, settings, student),
            rules=_rules(name, settings, student.task),
        ),
        prices=prices,
        observers=(*observers, auditor),
        fallback=OnUnavailable(
            ordinary=settings.policy.on_unavailable == "student",
            high_risk=settings.policy.on_unavailable_high_risk == "student",
        ),
        audit_share=settings.audit.share,
    )
    return cascade, auditor


def _open_teacher(settings: TeacherSettings, task: Task) -> Guard:
    teacher: Teacher
    if settings.bundle is not None:
        student = Student(open_bundle(settings.bundle))
        if student.task.heads != task.heads:
            raise BundleMismatch(
                f"the teacher {student.bundle.name} answers other heads or labels than the student",
                mend="serve a student with the teacher that it was distilled from",
            )
        teacher = BundleTeacher(student, workers=settings.workers, capacity=settings.concurrency)
    elif settings.scripted is not None:
        script = settings.scripted
        teacher = ScriptedTeacher(
            task,
            labels=script.labels,
            delay_s=script.delay_ms / 1000,
            fail_every=script.fail_every,
        )
    return Guard(teacher, timeout_s=settings.timeout_s, concurrency=settings.concurrency)


def _rules(name: str, settings: TaskSettings, task: Task) -> tuple[Rule, ...]:
    """The risk rules. Raises SettingsError for one that no answer of this task can ever meet."""
    labels = {head.name: frozenset(head.labels) for head in task.heads}
    for place, rule in enumerate(settings.policy.rules):
        if rule.head is None:
            continue
        where = f"tasks.{name}.policy.rules.{place} ({rule.name})"
        if rule.head not in labels:
            raise SettingsError(
                f"{where}: the student has no head {rule.head!r}",
                mend=f"name one of: {', '.join(labels)}",
            )
        if unknown := sorted(set(rule.labels or ()) - labels[rule.head]):
            raise SettingsError(
                f"{where}: the head {rule.head!r} has no label {unknown[0]!r}",
                mend=f"name labels of: {', '.join(sorted(labels[rule.head]))}",
            )
    return tuple(rule.rule() for rule in settings.policy.rules)


def _threshold(name: str, settings: TaskSettings, student: Student) -> float | None:
    """The threshold of the settings, else the certified one; None: everything is escalated."""
    if settings.policy.threshold is not None:
        return settings.policy.threshold
    wanted = settings.student.operating_point
    points = student.bundle.manifest.operating_points
    if not points:
        return None  # an uncertified bundle: everything is escalated, and says why
    point: OperatingPoint | None = student.bundle.manifest.operating_point(wanted)
    if point is None:
        raise SettingsError(
            f"tasks.{name}.student.operating_point: {student.bundle.name} has no {wanted!r}",
            mend=f"name one of: {', '.join(each.name for each in points)}",
        )
    return point.threshold if point.certificate else None

"""A student becomes a rung of its task: workers that run it, and the policy that it answers under.

What the settings say of a task is held against what the student's bundle says of itself; where they
contradict each other, the settings are wrong and nothing is opened.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.manifest import OperatingPoint, Task
from gateway.errors import BundleMismatch, SettingsError
from gateway.routing.policy import EscalationPolicy
from gateway.routing.risk import Rule
from gateway.settings import TaskSettings, TeacherSettings, environment_without_keys
from gateway.students import tuning
from gateway.students.batching import Batcher
from gateway.students.process import ProcessWorker
from gateway.students.rehearsal import handed_on
from gateway.students.student import Student
from gateway.students.workers import ThreadWorker, Worker
from gateway.teachers.base import Teacher
from gateway.teachers.bundle import BundleTeacher
from gateway.teachers.guard import Guard
from gateway.teachers.scripted import ScriptedTeacher
from gateway.telemetry.metrics import Metrics


def open_student(settings: TaskSettings, bundle: Bundle) -> Student:
    """Load a student, to be run as the settings say. Raises BundleMismatch."""
    tuned = tuning.load(settings.student.tuning, bundle)
    threads = settings.student.threads
    return Student(
        bundle,
        threads=tuned.threads if threads == "auto" else threads,
        call_tokens=tuned.call_tokens,
    )


async def open_batcher(
    name: str, settings: TaskSettings, student: Student, metrics: Metrics
) -> Batcher:
    """Start the workers that run a student; `Batcher.ready` waits for them."""
    workers = settings.student.workers
    if workers == "auto":
        workers = tuning.load(settings.student.tuning, student.bundle).workers
    return Batcher(
        student,
        await start_workers(name, settings, student, workers),
        max_rows=settings.student.max_batch,
        max_tokens=settings.student.max_batch_tokens,
        capacity=settings.student.queue,
        longest_wait=settings.student.max_wait_ms / 1000,
        observe=metrics.batched,
    )


async def start_workers(
    name: str, settings: TaskSettings, student: Student, count: int
) -> Sequence[Worker]:
    """So many workers, of the kind that the settings say; all of them, or none."""
    begun: list[Worker] = []
    try:
        for number in range(count):
            worker = _worker(f"{name}-student-{number}", settings, student)
            begun.append(worker)
    except BaseException:
        await Batcher(student, begun).close()  # it is what ends workers in order
        raise
    return begun


def _worker(name: str, settings: TaskSettings, student: Student) -> Worker:
    if settings.student.run_in == "threads":
        return ThreadWorker(student, name=name)
    return ProcessWorker(student, environment=handed_on(environment_without_keys()))


def policy_of(name: str, settings: TaskSettings, student: Student) -> EscalationPolicy:
    """What the settings say, of this student. Raises SettingsError."""
    return EscalationPolicy(
        threshold=_threshold(name, settings, student),
        rules=_rules(name, settings, student.task),
    )


def open_teacher(settings: TeacherSettings, task: Task) -> Guard:
    """The guarded teacher of a task. Raises BundleMismatch when it answers another one."""
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

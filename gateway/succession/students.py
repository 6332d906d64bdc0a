"""Opens the student of a task, and the workers that run it, as the settings say."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.contract.bundle import Bundle
from gateway.settings import (
    TaskSettings,
    environment_without_keys,
)
from gateway.students import tuning
from gateway.students.batching import Batcher
from gateway.students.process import ProcessWorker
from gateway.students.rehearsal import handed_on
from gateway.students.student import Student
from gateway.students.workers import ThreadWorker, Worker
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

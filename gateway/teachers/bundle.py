"""A teacher that is a local bundle: a larger ONNX model in this process."""

from __future__ import annotations

from gateway.contract.manifest import Task
from gateway.errors import ServingError, StudentFailed, TeacherUnavailable
from gateway.students.batching import Batcher
from gateway.students.student import Student
from gateway.students.workers import ThreadWorker
from gateway.teachers.base import Said
from gateway.types import Instance


class BundleTeacher:
    """Runs a bundle on worker threads of its own, apart from the student's."""

    def __init__(self, student: Student, *, workers: int, capacity: int) -> None:
        threads = [ThreadWorker(student, name=f"teacher-{number}") for number in range(workers)]
        self._batcher = Batcher(student, threads, max_rows=4, capacity=capacity)

    @property
    def name(self) -> str:
        """The bundle's folder name."""
        return self._batcher.student.bundle.name

    @property
    def task(self) -> Task:
        """The bundle's task."""
        return self._batcher.student.task

    async def answer(self, instance: Instance) -> Said:
        """Run the bundle on the text."""
        try:
            (said,) = await self._batcher.submit([instance.text])
        except ServingError as error:
            raise TeacherUnavailable(error.message, mend=error.mend) from error
        if isinstance(said, StudentFailed):
            raise TeacherUnavailable(said.message, mend=said.mend) from said
        return Said(said.prediction)

    async def close(self) -> None:
        """Finish what waits and end the threads."""
        await self._batcher.close()

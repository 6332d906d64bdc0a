"""What this machine can do without HTTP: the student in as many threads as there are cores.

Every figure of a server is shown as a share of it. The host's speed drifts, so it is measured again
between the servers, with the texts in the same turn. Its answers are what servers are checked with.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from gateway.contract.bundle import open_bundle
from gateway.contract.manifest import HeadKind
from gateway.errors import DataError
from gateway.students.student import Student
from loadtests.bodies import groups
from loadtests.compare.contestants import Labels

BATCH = 32  # texts: what a full batch and a request of many texts hold

_FLOOR_S = 0.3  # of one measurement: below it threads starting and ending show


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Texts a second: one at a time, and in batches of BATCH."""

    single: float
    batched: float

    @property
    def best(self) -> float:
        """The better of the two."""
        return max(self.single, self.batched)


class Bench:
    """A student in this process, and the texts that everybody is asked.

    Texts that the student must cut are left out, because its policy sends those to the teacher.
    Raises DataError when none is left.
    """

    def __init__(self, bundle: Path, texts: Sequence[str], *, threads: int) -> None:
        self._student = Student(open_bundle(bundle))
        self._threads = threads
        encoded = self._student.encode(texts)
        self.texts = [text for text, each in zip(texts, encoded, strict=True) if not each.truncated]
        self.left_out = len(texts) - len(self.texts)
        if not self.texts:
            raise DataError(
                "every text is longer than the student reads", mend="name shorter ones with --texts"
            )

    def labels(self) -> list[Labels]:
        """The student's own labels of each text, answered alone."""
        heads = self._student.task.heads
        found = []
        for text in self.texts:
            (said,) = self._student.predict([text])
            found.append(
                {
                    head.name: part.labels[0] if head.kind is HeadKind.CHOICE else list(part.labels)
                    for head, part in zip(heads, said.heads, strict=True)
                }
            )
        return found

    def ceiling(self, seconds: float) -> Ceiling:
        """Measure both, each for so long."""
        alone = [[text] for text in self.texts]
        many = groups(self.texts, BATCH)
        seconds = max(_FLOOR_S, seconds)
        return Ceiling(self._per_second(alone, seconds), self._per_second(many, seconds))

    def _per_second(self, batches: Sequence[Sequence[str]], seconds: float) -> float:
        """Texts a second of all threads together, batches taken from one queue."""
        queue = cycle(batches)  # `next` on it is one step of the interpreter
        counts = [0] * self._threads
        began = time.monotonic()

        def work(place: int) -> None:
            while time.monotonic() - began < seconds:
                batch = next(queue)
                self._student.predict(batch)
                counts[place] += len(batch)

        threads = [threading.Thread(target=work, args=(place,)) for place in range(self._threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return round(sum(counts) / (time.monotonic() - began), 1)

"""One seed of one data set: a teacher and a student, trained and sealed, and what both say.

Everything that is random hangs on the seed: the splits, the teacher and the student. Training is
done once; a second run takes the bundles that are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import Corpus
from distill import labeling, pipeline
from distill.corpus import collect
from distill.progress import Narrator
from distill.train import gold_of
from distill.workspace import Workspace
from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.examples import Example
from gateway.contract.labelled import Truth
from gateway.contract.manifest import Task
from gateway.students.student import Student
from gateway.types import Prediction

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Seen:
    """What both models say of n texts that neither was taught, each array (n,).

    `plain` is the student's largest probability without temperature: what a router without
    calibration would look at. `distance` is that of the bundle's domain. For texts of no label
    `right` and `teacher_right` are all false.
    """

    texts: tuple[str, ...]
    truth: tuple[Truth | None, ...]
    said: tuple[Prediction, ...]
    plain: Doubles
    distance: Doubles
    right: Bools
    teacher_right: Bools
    agrees: Bools

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def score(self) -> Doubles:
        """What the policy holds against its threshold (n,)."""
        return np.array([each.score for each in self.said])

    @property
    def familiarity(self) -> Doubles:
        """The conformal p-value of each text (n,)."""
        return np.array([each.familiarity for each in self.said], np.float64)


@dataclass(frozen=True, slots=True)
class Trial:
    """What a seed came to. `strangers` is empty where the data set has none."""

    corpus: str
    seed: int
    student: Bundle
    teacher: Bundle
    calibration: Seen
    certification: Seen
    test: Seen
    strangers: Seen


def run(corpus: Corpus, folder: Path, narrator: Narrator, *, seed: int) -> Trial:
    """Train, seal and ask. `folder` is the seed's own project."""
    recipe, workspace = corpus.recipe(folder, seed=seed), Workspace(folder)
    teacher = pipeline.teach(recipe, workspace, narrator).bundle
    student = pipeline.distill(recipe, workspace, narrator).bundle
    splits = collect(recipe, workspace, narrator, teacher=teacher.path).splits
    asked = _Asked(student, teacher)
    narrator.note("asking both models")
    return Trial(
        corpus=corpus.name,
        seed=seed,
        student=open_bundle(student.path),
        teacher=open_bundle(teacher.path),
        calibration=asked.see(splits.calibration),
        certification=asked.see(splits.certification),
        test=asked.see(splits.test),
        strangers=asked.see([Example(text=text) for text in corpus.strangers]),
    )


_NOBODY = Seen(
    texts=(),
    truth=(),
    said=(),
    plain=np.zeros(0),
    distance=np.zeros(0),
    right=np.zeros(0, bool),
    teacher_right=np.zeros(0, bool),
    agrees=np.zeros(0, bool),
)


class _Asked:
    """Both models, opened."""

    def __init__(self, student: Bundle, teacher: Bundle) -> None:
        self._student, self._teacher = Student(student), Student(teacher)

    def see(self, rows: list[Example] | tuple[Example, ...]) -> Seen:
        """Ask both; a row without a label is one that nobody can be right about."""
        if not rows:
            return _NOBODY
        texts = [row.text for row in rows]
        raw, _ = labeling.observe(self._student, texts)
        said = self._student.interpret(raw)
        ours = self._student.calibration.read(raw.logits)[0][0].states
        theirs = self._teacher.calibration.read(labeling.read(self._teacher, texts))[0][0].states
        gold = _gold(self._student.task, rows)
        return Seen(
            texts=tuple(texts),
            truth=tuple(_truth(row) for row in rows),
            said=tuple(said),
            plain=_largest(raw.logits),
            distance=np.zeros(len(texts))
            if raw.distances is None
            else raw.distances.astype(np.float64),
            right=ours == gold,
            teacher_right=theirs == gold,
            agrees=ours == theirs,
        )


def _truth(row: Example) -> Truth | None:
    """The label of each head as a tuple; None where the row has none."""
    labels = {
        head: (label,) if isinstance(label, str) else label for head, label in row.labels.items()
    }
    return labels or None


def _gold(task: Task, rows: list[Example] | tuple[Example, ...]) -> NDArray[Any]:
    return gold_of(task, [row.labels for row in rows])[0]


def _largest(logits: NDArray[np.float32]) -> Doubles:
    """The largest probability of each row (n,), at temperature 1."""
    z = logits.astype(np.float64)
    shares: Doubles = 1.0 / np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)
    return shares

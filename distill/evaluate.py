"""What a student is worth, on the untouched test split, as exported and calibrated.

Against gold labels where there are any, else against the teacher, and it says which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distill.certify import Gold, all_right, right, rowwise
from gateway.contract import measures
from gateway.contract.calibration import Calibration, HeadReading
from gateway.contract.manifest import (
    Evaluation,
    Head,
    HeadKind,
    HeadQuality,
    SliceQuality,
    Task,
)

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

_SLICE_ROWS = 30  # fewer rows say nothing about a slice
_POINTS = 200  # of a plotted curve
_BINS = 15  # of a reliability diagram, equal mass


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability diagram: per bin the mean confidence, the accuracy, the rows."""

    head: str
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often one label was said where another was right."""

    head: str
    actual: str
    said: str
    count: int


@dataclass(frozen=True, slots=True)
class Curves:
    """What the report plots: `coverage` with `undetected`, and `escalation` with `system`."""

    coverage: tuple[float, ...]
    undetected: tuple[float, ...]
    escalation: tuple[float, ...]
    system: tuple[float, ...]
    random: tuple[float, ...]  # the same with rows escalated at random
    reliability: tuple[Reliability, ...]
    confusions: tuple[Confusion, ...]
    slices: tuple[SliceQuality, ...]
    score: Reliability | None = None  # of the request's score, where it is a correctness


@dataclass(frozen=True, slots=True)
class Opinion:
    """One model's readings of the test rows, and its request scores.

    `answered` (rows,): whether it said anything that could be used; None: of all rows. What stands
    in the readings of other rows is not its own, and counts as wrong.
    """

    readings: tuple[HeadReading, ...]
    scores: Floats
    answered: Bools | None = None

    @classmethod
    def of(cls, calibration: Calibration, logits: Floats) -> Opinion:
        """Read logits with a calibration."""
        return cls(*calibration.read(logits))

    def labels(self) -> tuple[Gold, ...]:
        """What it says, in the form of gold labels."""
        return tuple(
            reading.states.astype(np.int64)
            if reading.states.ndim == 1
            else reading.states.astype(np.float32)
            for reading in self.readings
        )


def evaluate(
    task: Task,
    *,
    student: Opinion,
    teacher: Opinion | None,
    gold: Sequence[Gold] | None,
    threshold: float | None,
    truncated: Bools,
    lengths: NDArray[np.int64],
    severity: Mapping[str, Mapping[str, float]],
    plain: Opinion | None = None,
    strange: Bools | None = None,
) -> tuple[Evaluation, Curves]:
    """Measure the student alone and the system (teacher where the student is not sure enough).

    `truncated` and `lengths` are (rows,): whether the text was cut, and its tokens. Without a
    teacher the system is the student. `plain` is the student by its calibrated confidence alone,
    where its score is another; `strange` (rows,) are those that are out of its domain.
    """
    if gold is None:
        if teacher is None:
            raise ValueError("neither gold labels nor a teacher to compare with")
        gold = teacher.labels()
        labels: Literal["gold", "teacher"] = "teacher"
    else:
        labels = "gold"
    student_right = all_right(student.readings, gold)
    answered = np.ones(len(student_right), np.bool_)
    if teacher is not None and teacher.answered is not None:
        answered = teacher.answered
    teacher_right = all_right(teacher.readings, gold) & answered if teacher else student_right
    # In double precision, as serving compares them.
    sure = student.scores.astype(np.float64) >= (np.inf if threshold is None else threshold)
    accepted = sure & ~truncated
    if strange is not None:
        accepted &= ~strange
    system_right = np.where(accepted, student_right, teacher_right)
    slices = _slices(task, gold, lengths, student_right)
    evaluation = Evaluation(
        rows=len(student_right),
        labels=labels,
        heads=tuple(
            _head(
                head,
                student.readings[place],
                teacher.readings[place] if teacher else None,
                gold[place],
                plain.readings[place] if plain else None,
                answered,
            )
            for place, head in enumerate(task.heads)
        ),
        accuracy=float(student_right.mean()),
        teacher_accuracy=float(teacher_right.mean()) if teacher else None,
        system_accuracy=float(system_right.mean()),
        escalation=float(1.0 - accepted.mean()),
        undetected_error=float((accepted & ~student_right).mean()),
        system_accuracy_at_10=measures.system_accuracy(
            student.scores, student_right, teacher_right, 0.10
        ),
        augrc=measures.augrc(student.scores, ~student_right),
        augrc_plain=measures.augrc(plain.scores, ~student_right) if plain else None,
        score_ece=measures.calibration_error(student.scores, student_right) if plain else None,
        score_ece_plain=measures.calibration_error(plain.scores, student_right) if plain else None,
        out_of_domain=float(strange.mean()) if strange is not None else None,
        severity_weighted_error=_severity(task, student.readings, gold, severity),
        worst_slice=min(slices, key=lambda each: each.accuracy, default=None),
    )
    curves = _curves(task, student, gold, student_right, teacher_right, slices)
    if plain is not None:
        score = _reliability("all heads together", student.scores, student_right)
        curves = replace(curves, score=score)
    return evaluation, curves


def _head(
    head: Head,
    student: HeadReading,
    teacher: HeadReading | None,
    gold: Gold,
    plain: HeadReading | None,
    answered: Bools,
) -> HeadQuality:
    """One head's figures. `answered` (rows,): whether the teacher said anything of them."""
    correct = right(student, gold)
    count = len(head.labels)
    truth = gold if head.kind is HeadKind.CHOICE else gold > 0.5
    return HeadQuality(
        head=head.name,
        rows=len(correct),
        accuracy=float(correct.mean()),
        macro_f1=measures.macro_f1(student.states, truth, count),
        agreement=float((_same(student, teacher) & answered).mean()) if teacher else None,
        ece=measures.calibration_error(student.confidence, correct),
        ece_plain=measures.calibration_error(plain.confidence, correct) if plain else None,
        teacher_accuracy=float((right(teacher, gold) & answered).mean()) if teacher else None,
        teacher_macro_f1=measures.macro_f1(teacher.states[answered], truth[answered], count)
        if teacher
        else None,
    )


def _same(one: HeadReading, other: HeadReading) -> Bools:
    return rowwise(one.states == other.states)


def _severity(
    task: Task,
    readings: Sequence[HeadReading],
    gold: Sequence[Gold],
    severity: Mapping[str, Mapping[str, float]],
) -> float:
    """Mean over rows of the weights of what was got wrong; a weight belongs to the actual label.

    For flags each label that is wrong counts by itself. Weights that are not given are 1.
    """
    total = 0.0
    for head, reading, truth in zip(task.heads, readings, gold, strict=True):
        weights = np.array([severity.get(head.name, {}).get(each, 1.0) for each in head.labels])
        if head.kind is HeadKind.CHOICE:
            total += float((weights[truth.astype(np.int64)] * (reading.states != truth)).mean())
        else:
            total += float(((reading.states != (truth > 0.5)) * weights).sum(axis=1).mean())
    return total


def _slices(
    task: Task, gold: Sequence[Gold], lengths: NDArray[np.int64], correct: Bools
) -> tuple[SliceQuality, ...]:
    """Accuracy by label and by length, where a slice has rows enough."""
    parts: list[tuple[str, Bools]] = []
    for head, truth in zip(task.heads, gold, strict=True):
        for place, label in enumerate(head.labels):
            rows = truth == place if head.kind is HeadKind.CHOICE else truth[:, place] > 0.5
            parts.append((f"{head.name} = {label}", rows))
    short, long = np.quantile(lengths, [1 / 3, 2 / 3]) if len(lengths) else (0, 0)
    parts += [
        (f"length <= {short:.0f} tokens", lengths <= short),
        (f"length {short:.0f} to {long:.0f} tokens", (lengths > short) & (lengths <= long)),
        (f"length > {long:.0f} tokens", lengths > long),
    ]
    return tuple(
        SliceQuality(name=name, rows=int(rows.sum()), accuracy=float(correct[rows].mean()))
        for name, rows in parts
        if rows.sum() >= _SLICE_ROWS
    )


def _curves(
    task: Task,
    student: Opinion,
    gold: Sequence[Gold],
    student_right: Bools,
    teacher_right: Bools,
    slices: tuple[SliceQuality, ...],
) -> Curves:
    coverage, undetected = measures.risk_coverage(student.scores, ~student_right)
    points = np.linspace(0, len(coverage) - 1, min(_POINTS, len(coverage))).astype(int)
    shares = np.linspace(0.0, 1.0, 101)
    alone, taught = float(student_right.mean()), float(teacher_right.mean())
    return Curves(
        coverage=tuple(coverage[points].tolist()),
        undetected=tuple(undetected[points].tolist()),
        escalation=tuple(shares.tolist()),
        system=tuple(
            measures.system_accuracy(student.scores, student_right, teacher_right, share)
            for share in shares
        ),
        random=tuple((alone + (taught - alone) * shares).tolist()),
        reliability=tuple(
            _reliability(head.name, reading.confidence, right(reading, truth))
            for head, reading, truth in zip(task.heads, student.readings, gold, strict=True)
        ),
        confusions=_confusions(task, student.readings, gold),
        slices=slices,
    )


def _reliability(name: str, confidence: Floats, correct: Bools) -> Reliability:
    order = np.argsort(confidence, kind="stable")
    bins = [part for part in np.array_split(order, _BINS) if len(part)]
    return Reliability(
        head=name,
        confidence=tuple(float(confidence[part].mean()) for part in bins),
        accuracy=tuple(float(correct[part].mean()) for part in bins),
        rows=tuple(len(part) for part in bins),
    )


def _confusions(
    task: Task, readings: Sequence[HeadReading], gold: Sequence[Gold]
) -> tuple[Confusion, ...]:
    """The most frequent mistakes of the choice heads."""
    found: list[Confusion] = []
    for head, reading, truth in zip(task.heads, readings, gold, strict=True):
        if head.kind is not HeadKind.CHOICE:
            continue
        pairs = Counter(
            (int(actual), int(said))
            for actual, said in zip(truth, reading.states, strict=True)
            if actual != said
        )
        found += [
            Confusion(head.name, head.labels[actual], head.labels[said], count)
            for (actual, said), count in pairs.most_common(10)
        ]
    return tuple(sorted(found, key=lambda each: -each.count)[:15])

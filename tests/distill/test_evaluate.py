"""What a student is worth, on few rows whose figures can be counted by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from distill.certify import Gold
from distill.evaluate import Curves, Opinion, evaluate
from gateway.contract.calibration import Calibration, HeadReading
from gateway.contract.manifest import (
    Evaluation,
    Head,
    HeadCalibration,
    HeadKind,
    SliceQuality,
    Task,
)

TASK = Task(
    name="tickets",
    heads=(
        Head(name="intent", kind=HeadKind.CHOICE, labels=("a", "b", "c")),
        Head(name="flags", kind=HeadKind.FLAGS, labels=("x", "y")),
    ),
)


def opinion(
    intents: list[int], scores: list[float], flags: list[list[int]] | None = None
) -> Opinion:
    """A model that says these intents and flags, as sure of each row as it scores."""
    sure = np.array(scores, np.float32)
    rows = len(intents)
    marks = np.array(flags or [[0, 0]] * rows, bool)
    return Opinion(
        readings=(
            HeadReading(np.array(intents, np.int64), np.zeros((rows, 3), np.float32), sure),
            HeadReading(marks, np.zeros((rows, 2), np.float32), sure),
        ),
        scores=sure,
    )


def gold(intents: list[int], flags: list[list[int]] | None = None) -> tuple[Gold, ...]:
    return np.array(intents), np.array(flags or [[0, 0]] * len(intents), np.float32)


@dataclass
class Case:
    """Four rows: the student is wrong on the 2nd (sure) and the 4th (unsure), the teacher never."""

    student: Opinion
    teacher: Opinion | None
    truth: tuple[Gold, ...] | None
    threshold: float | None = 0.5
    truncated: tuple[bool, ...] = (False,) * 4
    lengths: tuple[int, ...] = (3, 4, 5, 6)
    severity: dict[str, dict[str, float]] | None = None
    plain: Opinion | None = None
    strange: tuple[bool, ...] | None = None

    def measure(self) -> tuple[Evaluation, Curves]:
        """Evaluate it."""
        return evaluate(
            TASK,
            student=self.student,
            teacher=self.teacher,
            gold=self.truth,
            threshold=self.threshold,
            truncated=np.array(self.truncated),
            lengths=np.array(self.lengths),
            severity=self.severity or {},
            plain=self.plain,
            strange=None if self.strange is None else np.array(self.strange),
        )


@pytest.fixture
def case() -> Case:
    return Case(
        student=opinion([0, 1, 2, 0], [0.9, 0.75, 0.5, 0.25]),
        teacher=opinion([0, 0, 2, 1], [1.0, 1.0, 1.0, 1.0]),
        truth=gold([0, 0, 2, 1]),
    )


def test_the_student_alone_and_the_system_are_counted_by_hand(case: Case) -> None:
    found, _ = case.measure()
    assert (found.rows, found.labels) == (4, "gold")
    assert found.accuracy == 0.5
    assert found.teacher_accuracy == 1.0
    assert found.escalation == 0.25  # a score equal to the threshold is answered
    assert found.undetected_error == 0.25
    assert found.system_accuracy == 0.75
    assert found.system_accuracy_at_10 == 0.5  # a tenth of four rows is no row
    # Undetected after 1, 2, 3, 4 rows: 0, 1/4, 1/4, 2/4.
    assert found.augrc == pytest.approx(0.25)


def test_where_the_teacher_said_nothing_usable_it_is_wrong(case: Case) -> None:
    assert case.teacher is not None
    case.teacher = replace(case.teacher, answered=np.array([False, True, True, False]))
    found, _ = case.measure()
    intent = found.heads[0]
    assert found.teacher_accuracy == intent.teacher_accuracy == 0.5
    # The first row is the student's, which is right; the last is the teacher's, who is silent.
    assert found.system_accuracy == 0.5
    assert intent.agreement == 0.25  # of the rows with an answer, the third
    assert intent.teacher_macro_f1 == 1.0  # of the second and the third, where it is right


def test_each_head_is_measured_by_itself(case: Case) -> None:
    (intent, flags), _ = case.measure()[0].heads, None
    assert (intent.head, intent.rows) == ("intent", 4)
    assert intent.accuracy == 0.5
    assert intent.agreement == 0.5
    assert intent.teacher_accuracy == intent.teacher_macro_f1 == 1.0
    # a: tp 1, fp 1, fn 1 -> 1/2. b: tp 0 -> 0. c: 1.
    assert intent.macro_f1 == pytest.approx(0.5)
    # As many bins as rows: |0.9-1|, |0.75-0|, |0.5-1|, |0.25-0|.
    assert intent.ece == pytest.approx(1.6 / 4)
    assert flags.accuracy == flags.agreement == 1.0
    assert flags.macro_f1 == 0.0  # no flag is ever on


def test_a_row_is_right_when_all_its_flags_are(case: Case) -> None:
    case.student = opinion([0] * 4, [1.0] * 4, [[0, 0], [1, 0], [1, 1], [0, 1]])
    case.truth = gold([0] * 4, [[0, 0], [1, 0], [1, 0], [1, 0]])
    found, _ = case.measure()
    assert found.accuracy == 0.5
    flags = found.heads[1]
    assert flags.accuracy == 0.5
    # x: tp 2, fp 0, fn 1 -> 4/5. y: tp 0, fp 2 -> 0.
    assert flags.macro_f1 == pytest.approx(0.4)


def test_a_cut_text_is_never_the_students(case: Case) -> None:
    case.truncated = (True, True, False, False)
    found, _ = case.measure()
    assert found.escalation == 0.75
    assert found.undetected_error == 0.0
    assert found.system_accuracy == 1.0


def test_a_strange_text_is_never_the_students(case: Case) -> None:
    case.strange = (False, True, False, False)
    found, _ = case.measure()
    assert found.out_of_domain == 0.25
    assert found.escalation == 0.5  # the strange one, and the unsure one
    assert found.undetected_error == 0.0


def test_a_score_is_compared_with_the_confidence_that_it_replaces(case: Case) -> None:
    case.plain = opinion([0, 1, 2, 0], [0.25, 0.9, 0.75, 0.5])
    found, curves = case.measure()
    # By the plain order the mistakes come 1st and 3rd: 1/4, 1/4, 2/4, 2/4.
    assert (found.augrc, found.augrc_plain) == pytest.approx((0.25, 0.375))
    # Row by row: |0.9-1| + |0.75-0| + |0.5-1| + |0.25-0|, and 0.75 + 0.9 + 0.25 + 0.5.
    assert (found.score_ece, found.score_ece_plain) == pytest.approx((0.4, 0.6))
    assert (found.heads[0].ece, found.heads[0].ece_plain) == pytest.approx((0.4, 0.6))
    assert curves.score is not None
    assert curves.score.confidence == pytest.approx((0.25, 0.5, 0.75, 0.9))
    assert curves.score.accuracy == (0.0, 1.0, 0.0, 1.0)


def test_without_another_score_there_is_nothing_to_compare(case: Case) -> None:
    found, curves = case.measure()
    assert (found.augrc_plain, found.score_ece, found.out_of_domain) == (None, None, None)
    assert (found.heads[0].ece_plain, curves.score) == (None, None)


def test_without_a_threshold_everything_is_escalated(case: Case) -> None:
    case.threshold = None
    found, _ = case.measure()
    assert (found.escalation, found.undetected_error, found.system_accuracy) == (1.0, 0.0, 1.0)


def test_scores_are_compared_as_serving_compares_them(case: Case) -> None:
    case.student = opinion([0, 0, 2, 1], [0.9] * 4)  # a float32 of 0.9 lies below the double
    case.threshold = 0.9
    assert case.measure()[0].escalation == 1.0


def test_without_gold_labels_the_teacher_is_the_yardstick_and_it_is_said(case: Case) -> None:
    case.truth = None
    case.teacher = opinion([0, 0, 2, 0], [1.0] * 4, [[0, 0], [0, 0], [0, 0], [1, 0]])
    found, _ = case.measure()
    assert found.labels == "teacher"
    assert found.teacher_accuracy == 1.0
    assert found.accuracy == 0.5  # the 2nd by its intent, the 4th by its flags
    assert found.heads[0].accuracy == found.heads[0].agreement == 0.75


def test_without_a_teacher_the_system_is_the_student(case: Case) -> None:
    case.teacher = None
    found, curves = case.measure()
    assert found.teacher_accuracy is None
    assert found.system_accuracy == found.accuracy == 0.5
    assert found.heads[0].agreement is None
    assert found.heads[0].teacher_macro_f1 is None
    assert set(curves.system) == {0.5}


def test_with_neither_there_is_nothing_to_measure_by(case: Case) -> None:
    case.teacher = case.truth = None
    with pytest.raises(ValueError, match="neither gold labels nor a teacher"):
        case.measure()


def test_a_mistake_weighs_what_its_actual_label_weighs(case: Case) -> None:
    case.severity = {"intent": {"a": 10.0, "b": 2.0}, "flags": {"y": 5.0}}
    case.student = opinion([0, 1, 2, 0], [1.0] * 4, [[0, 0], [1, 0], [1, 1], [0, 0]])
    found, _ = case.measure()
    # Intent: row 2 is an `a` (10), row 4 a `b` (2). Flags: x wrong twice (1 each), y once (5).
    assert found.severity_weighted_error == pytest.approx((10 + 2 + 1 + 1 + 5) / 4)


def test_small_slices_say_nothing_and_the_worst_of_the_others_is_named() -> None:
    rows = 90
    intents = [0] * 40 + [1] * 40 + [2] * 10
    student = opinion([0] * 40 + [1] * 20 + [0] * 20 + [0] * 10, [0.9] * rows)
    found, curves = evaluate(
        TASK,
        student=student,
        teacher=None,
        gold=gold(intents, [[1, 0]] * 45 + [[0, 0]] * 45),
        threshold=0.5,
        truncated=np.zeros(rows, bool),
        lengths=np.repeat([4, 8, 16], 30),
        severity={},
    )
    by_name = {each.name: each for each in curves.slices}
    assert by_name["intent = a"] == SliceQuality(name="intent = a", rows=40, accuracy=0.0)
    assert by_name["intent = b"] == SliceQuality(name="intent = b", rows=40, accuracy=0.375)
    assert "intent = c" not in by_name  # ten rows
    assert by_name["flags = x"].rows == 45
    assert "flags = y" not in by_name
    lengths = [each for each in curves.slices if each.name.startswith("length")]
    assert sum(each.rows for each in lengths) == rows
    assert found.worst_slice is not None
    assert found.worst_slice.accuracy == 0.0


def test_too_few_rows_have_no_worst_slice(case: Case) -> None:
    found, curves = case.measure()
    assert found.worst_slice is None
    assert curves.slices == ()


def test_the_curves_begin_and_end_where_they_must(case: Case) -> None:
    _, curves = case.measure()
    assert curves.coverage == (0.25, 0.5, 0.75, 1.0)
    assert curves.undetected == (0.0, 0.25, 0.25, 0.5)
    assert len(curves.escalation) == len(curves.system) == len(curves.random) == 101
    assert (curves.system[0], curves.system[25], curves.system[100]) == (0.5, 0.75, 1.0)
    assert curves.random[0] == 0.5
    assert curves.random[50] == pytest.approx(0.75)
    assert curves.random[100] == 1.0


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    rows = 1_000
    _, curves = evaluate(
        TASK,
        student=opinion([0] * rows, np.linspace(0, 1, rows).tolist()),
        teacher=None,
        gold=gold([0] * rows),
        threshold=0.5,
        truncated=np.zeros(rows, bool),
        lengths=np.ones(rows, np.int64),
        severity={},
    )
    assert len(curves.coverage) == 200
    assert (curves.coverage[0], curves.coverage[-1]) == (0.001, 1.0)


def test_reliability_is_told_bin_by_bin(case: Case) -> None:
    intent, flags = case.measure()[1].reliability
    assert (intent.head, intent.rows) == ("intent", (1, 1, 1, 1))
    assert intent.confidence == pytest.approx((0.25, 0.5, 0.75, 0.9))
    assert intent.accuracy == (0.0, 1.0, 0.0, 1.0)
    assert flags.accuracy == (1.0, 1.0, 1.0, 1.0)


def test_the_most_frequent_confusions_come_first(case: Case) -> None:
    case.student = opinion([1, 1, 0, 2], [1.0] * 4)
    case.truth = gold([0, 0, 2, 2])
    found = [
        (each.head, each.actual, each.said, each.count) for each in case.measure()[1].confusions
    ]
    assert found == [("intent", "a", "b", 2), ("intent", "c", "a", 1)]


def test_an_opinion_reads_logits_with_its_calibration() -> None:
    calibration = Calibration(
        TASK, [HeadCalibration(head=head.name, temperature=1.0, rows=0) for head in TASK.heads]
    )
    logits: NDArray[np.float32] = np.array([[0, 9, 0, -9, 9], [9, 0, 0, -9, -9]], np.float32)
    said = Opinion.of(calibration, logits)
    intents, flags = said.labels()
    assert intents.tolist() == [1, 0]
    assert flags.tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert intents.dtype == np.dtype(np.int64)
    assert flags.dtype == np.dtype(np.float32)
    assert said.scores == pytest.approx([0.9995, 0.9995], abs=1e-3)

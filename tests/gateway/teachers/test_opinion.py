"""What probabilities and labels say, in the arithmetic of a student."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.contract.calibration import Calibration
from gateway.contract.manifest import HeadCalibration
from gateway.teachers import opinion
from tests.factories import TASK

INTENT, FLAGS = TASK.heads


def test_a_choice_is_its_likeliest_label() -> None:
    said = opinion.of_probabilities(INTENT, np.array([0.2, 0.7, 0.1], np.float32))
    assert (said.head, said.labels) == ("intent", ("fraud",))
    assert said.confidence == pytest.approx(0.7)


def test_a_flag_is_set_from_one_half_on_and_the_confidence_is_of_all_states() -> None:
    said = opinion.of_probabilities(FLAGS, np.array([0.5, 0.2], np.float32))
    assert said.labels == ("urgent",)
    assert said.confidence == pytest.approx(0.5 * 0.8)
    assert opinion.of_probabilities(FLAGS, np.array([0.1, 0.2], np.float32)).labels == ()


def test_a_label_without_more_is_certain() -> None:
    said = opinion.of_labels(INTENT, ["fraud"])
    assert said.confidence == 1.0
    assert said.probabilities.tolist() == [0.0, 1.0, 0.0]
    assert opinion.of_labels(FLAGS, ["legal"]).probabilities.tolist() == [0.0, 1.0]


def test_what_a_choice_leaves_is_shared_evenly() -> None:
    said = opinion.of_labels(INTENT, ["refund"], 0.8)
    assert said.probabilities.tolist() == pytest.approx([0.8, 0.1, 0.1])


def test_flags_share_a_confidence_so_that_their_product_is_it() -> None:
    said = opinion.of_labels(FLAGS, ["legal", "urgent"], 0.81)
    assert said.labels == ("urgent", "legal")  # in the order of the head
    assert said.probabilities.tolist() == pytest.approx([0.9, 0.9])
    assert opinion.of_labels(FLAGS, [], 0.81).probabilities.tolist() == pytest.approx([0.1, 0.1])


def test_the_score_is_the_product_unless_it_is_known() -> None:
    heads = [opinion.of_labels(INTENT, ["refund"], 0.8), opinion.of_labels(FLAGS, [], 0.5)]
    said = opinion.prediction(TASK, heads, by="t")
    assert said.score == pytest.approx(0.4)
    assert (said.bundle, said.asked, said.truncated) == ("t", TASK.heads, False)
    assert opinion.prediction(TASK, heads, by="t", score=0.7).score == 0.7


def test_a_teacher_is_read_as_a_student_is() -> None:
    logits = np.array([[0.3, 1.2, -0.5, 0.4, -2.0]], np.float32)
    parts = [HeadCalibration(head=head.name, temperature=1.0, rows=10) for head in TASK.heads]
    readings = Calibration(TASK, parts).read(logits)[0]
    for head, reading in zip(TASK.heads, readings, strict=True):
        said = opinion.of_probabilities(head, reading.probabilities[0])
        assert said.confidence == pytest.approx(float(reading.confidence[0]))

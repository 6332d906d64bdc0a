"""Soft targets from a teacher: in order, cached, and never asked for twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from distill import labeling
from gateway.contract.bundle import open_bundle
from gateway.students.student import Student
from tests.factories import CONFIDENT, UNSURE, tiny_bundle

TEXTS = (CONFIDENT, "fraud", UNSURE, "hello there", "urgent", "a lawyer", "refund", "maybe", "x y")


class Counting(Student):
    """A real teacher that counts the texts it is asked for."""

    asked = 0

    def logits(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Count, then run."""
        self.asked += len(rows)
        return super().logits(rows)


@pytest.fixture
def teacher(tmp_path: Path) -> Counting:
    return Counting(open_bundle(tiny_bundle(tmp_path / "bundles", role="teacher")))


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four texts between two writes of the cache."""
    monkeypatch.setattr(labeling, "_CHUNK", 4)


def alone(teacher: Student) -> NDArray[np.float32]:
    """What the teacher says of each text by itself."""
    return np.concatenate([labeling.read(teacher, [text]) for text in TEXTS])


def test_logits_are_read_in_the_order_of_the_texts(teacher: Counting) -> None:
    logits = labeling.read(teacher, TEXTS)
    assert logits.shape == (9, 5)
    assert logits == pytest.approx(alone(teacher), abs=1e-6)
    said = ["refund", "fraud", "refund", "other", "other", "other", "refund", "other", "other"]
    labels = teacher.task.heads[0].labels
    assert [labels[place] for place in logits[:, :3].argmax(axis=1)] == said


def test_no_texts_give_no_logits(teacher: Counting, tmp_path: Path) -> None:
    assert labeling.read(teacher, []).shape == (0, 5)
    assert labeling.label(teacher, [], tmp_path / "cache", lambda *_: None).shape == (0, 5)
    assert teacher.asked == 0


@pytest.mark.usefixtures("_small_chunks")
def test_labels_come_in_order_with_progress(teacher: Counting, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    logits = labeling.label(
        teacher, TEXTS, tmp_path / "cache", lambda done, total: told.append((done, total))
    )
    assert told == [(4, 9), (8, 9), (9, 9)]
    assert teacher.asked == 9
    assert logits == pytest.approx(alone(teacher), abs=1e-6)


@pytest.mark.usefixtures("_small_chunks")
def test_a_killed_labelling_asks_only_for_what_is_left(teacher: Counting, tmp_path: Path) -> None:
    def dies(done: int, _total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        labeling.label(teacher, TEXTS, tmp_path / "cache", dies)
    assert teacher.asked == 8
    logits = labeling.label(teacher, TEXTS, tmp_path / "cache", lambda *_: None)
    assert teacher.asked == 9
    assert logits == pytest.approx(alone(teacher), abs=1e-6)


@pytest.mark.usefixtures("_small_chunks")
def test_a_half_written_chunk_is_asked_for_again(
    teacher: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(_path: Path, _target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        labeling.label(teacher, TEXTS, tmp_path / "cache", lambda *_: None)
    monkeypatch.undo()
    monkeypatch.setattr(labeling, "_CHUNK", 4)
    logits = labeling.label(teacher, TEXTS, tmp_path / "cache", lambda *_: None)
    assert teacher.asked == 4 + 9
    assert logits == pytest.approx(alone(teacher), abs=1e-6)


@pytest.mark.usefixtures("_small_chunks")
def test_a_finished_labelling_asks_nothing(teacher: Counting, tmp_path: Path) -> None:
    first = labeling.label(teacher, TEXTS, tmp_path / "cache", lambda *_: None)
    again = labeling.label(teacher, TEXTS, tmp_path / "cache", lambda *_: None)
    assert teacher.asked == 9
    assert np.array_equal(first, again)


@pytest.mark.usefixtures("_small_chunks")
def test_another_list_of_texts_never_gets_the_answers_of_this_one(
    teacher: Counting, tmp_path: Path
) -> None:
    labeling.label(teacher, TEXTS, tmp_path / "cache", lambda *_: None)
    others = [f"{text} again" for text in TEXTS]
    logits = labeling.label(teacher, others, tmp_path / "cache", lambda *_: None)
    assert teacher.asked == 18
    assert logits == pytest.approx(labeling.read(teacher, others), abs=1e-6)

"""An exported model before it is sealed: written, read again, and run as it would be served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.draft import Draft, Facts, neutral
from gateway.contract.bundle import open_bundle
from gateway.contract.manifest import HeadCalibration
from gateway.errors import BundleMismatch
from gateway.students.student import Student
from tests.factories import CONFIDENT, TASK, UNSURE, tiny_bundle


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "bundles")


@pytest.fixture
def draft(path: Path) -> Draft:
    """The draft of which the tiny bundle could have been sealed."""
    bundle = open_bundle(path)
    manifest = bundle.manifest
    facts = Facts(manifest.graph, manifest.limits, 1e-6, manifest.reports.trials)
    return Draft("student", TASK, facts, bundle.model, bundle.tokenizer)


def test_what_is_written_is_read_again(draft: Draft, tmp_path: Path) -> None:
    draft.write(tmp_path)
    assert Draft.read(tmp_path, role="student", task=TASK) == draft
    assert sorted(file.name for file in tmp_path.glob("*.*")) == [
        "facts.json", "model.onnx", "tokenizer.json",
    ]  # fmt: skip


def test_it_answers_as_the_sealed_bundle_does(draft: Draft, path: Path) -> None:
    sealed = Student(open_bundle(path)).predict([CONFIDENT, UNSURE])
    for ours, theirs in zip(draft.student().predict([CONFIDENT, UNSURE]), sealed, strict=True):
        assert ours.agrees(theirs)
        assert ours.score == theirs.score


def test_a_calibration_is_used_where_one_is_given(draft: Draft) -> None:
    hot = tuple(HeadCalibration(head=h.name, temperature=6.0, rows=9) for h in TASK.heads)
    (said,) = draft.student(hot).predict([CONFIDENT])
    # 12 and 6 over 6 are 2 and 1.
    assert said.heads[0].confidence == pytest.approx(1 / (1 + np.exp(-2) + np.exp(-1)), abs=1e-3)


def test_a_neutral_calibration_is_a_temperature_of_one_for_each_head() -> None:
    parts = neutral(TASK)
    assert [(part.head, part.temperature, part.rows) for part in parts] == [
        ("intent", 1.0, 0),
        ("flags", 1.0, 0),
    ]


def test_a_model_that_cannot_be_loaded_is_refused(draft: Draft) -> None:
    broken = Draft(draft.role, draft.task, draft.facts, b"no graph", draft.tokenizer)
    with pytest.raises(BundleMismatch, match=r"model\.onnx cannot be loaded"):
        broken.student()

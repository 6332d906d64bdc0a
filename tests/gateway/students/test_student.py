"""One opened bundle that answers: labels and scores by hand, cuts, and what it refuses to open."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from gateway.contract import bundle
from gateway.contract.bundle import open_bundle
from gateway.errors import BundleMismatch, StudentFailed
from gateway.students.student import Raw, Session, Student
from tests.factories import CONFIDENT, UNSURE, tiny_bundle

TEXTS = (CONFIDENT, UNSURE, "urgent: my lawyer says fraud", "hello", "fraud " * 17)


class Watched(Session):
    """A session that remembers how many rows each run had."""

    def __init__(self, model: bytes) -> None:
        super().__init__(model)
        self.rows: list[int] = []

    def run(self, rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Count, then run."""
        self.rows.append(len(rows))
        return super().run(rows)


def watched(student: Student) -> Watched:
    session = Watched(student.bundle.model)
    student.session = session
    return session


@pytest.fixture
def student(tmp_path: Path) -> Student:
    return Student(open_bundle(tiny_bundle(tmp_path)))


def resealed(path: Path, **update: Any) -> Path:
    """The same bundle with another manifest, sealed beside it."""
    manifest = open_bundle(path).manifest
    files = {entry.name: (path / entry.name).read_bytes() for entry in manifest.files}
    return bundle.write(manifest.model_copy(update=update), files, path.parent)


def test_labels_and_scores_are_those_worked_out_by_hand(student: Student) -> None:
    sure, unsure, angry = student.predict(TEXTS[:3])
    # refund 12, fraud 0, other 6: 1 / (1 + e^-12 + e^-6); both flags off at -8.
    intent = 1 / (1 + np.exp(-12) + np.exp(-6))
    off = 1 / (1 + np.exp(-8))
    assert [head.labels for head in sure.heads] == [("refund",), ()]
    assert [head.head for head in sure.heads] == ["intent", "flags"]
    assert sure.heads[0].confidence == pytest.approx(intent, abs=1e-4)
    assert sure.heads[1].confidence == pytest.approx(off**2, abs=1e-4)
    assert sure.score == pytest.approx(intent * off**2, abs=2e-4)
    # "maybe" brings `urgent` to -0.5.
    assert [head.labels for head in unsure.heads] == [("refund",), ()]
    assert unsure.score == pytest.approx(intent * off / (1 + np.exp(-0.5)), abs=2e-4)
    assert [head.labels for head in angry.heads] == [("fraud",), ("urgent", "legal")]


def test_probabilities_stand_in_the_order_of_the_labels(student: Student) -> None:
    (angry,) = student.predict([TEXTS[2]])
    assert angry.heads[0].probabilities.argmax() == 1
    assert angry.heads[0].probabilities.sum() == pytest.approx(1.0, abs=1e-6)
    assert angry.heads[1].probabilities == pytest.approx([0.99966, 0.99966], abs=1e-4)


def test_every_prediction_names_its_bundle(student: Student) -> None:
    assert {each.bundle for each in student.predict(TEXTS)} == {student.bundle.id}


def test_a_cut_text_says_so(student: Student) -> None:
    said = student.predict(["fraud " * 16, "fraud " * 17, "a" * 200, "a" * 201])
    assert [each.truncated for each in said] == [False, True, False, True]


def test_no_texts_give_no_predictions(student: Student) -> None:
    assert student.predict([]) == []


def test_a_text_gets_the_same_answer_alone_and_in_any_batch(student: Student) -> None:
    together = student.predict(TEXTS)
    alone = [student.predict([text])[0] for text in TEXTS]
    for one, other in zip(together, alone, strict=True):
        assert one.agrees(other)
        assert one.score == pytest.approx(other.score, abs=1e-6)


def test_a_batch_is_run_in_parts_of_like_length(student: Student) -> None:
    session = watched(student)
    student.predict(["refund", "fraud " * 12, "fraud", "refund " * 12, "other"])
    assert session.rows == [3, 2]


def test_a_graph_that_is_not_batch_invariant_is_run_one_text_at_a_time(tmp_path: Path) -> None:
    student = Student(open_bundle(tiny_bundle(tmp_path, batch_invariant=False)))
    session = watched(student)
    said = student.predict(TEXTS)
    assert session.rows == [1, 1, 1, 1, 1]
    assert [each.heads[0].labels for each in said] == [
        ("refund",), ("refund",), ("fraud",), ("other",), ("fraud",),
    ]  # fmt: skip


def test_a_temperature_makes_the_student_less_sure(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path)
    parts = open_bundle(path).manifest.calibration
    hot = tuple(part.model_copy(update={"temperature": 6.0}) for part in parts)
    (said,) = Student(open_bundle(resealed(path, calibration=hot))).predict([CONFIDENT])
    # 12 and 6 over 6 are 2 and 1.
    assert said.heads[0].confidence == pytest.approx(1 / (1 + np.exp(-2) + np.exp(-1)), abs=1e-3)
    assert said.heads[0].labels == ("refund",)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_a_failure(student: Student, number: float) -> None:
    logits = np.zeros((2, 5), np.float32)
    logits[1, 4] = number
    with pytest.raises(StudentFailed, match="not finite"):
        student.interpret(Raw(logits, [False, False], np.array([1, 1])))


def test_a_graph_that_gives_another_number_of_rows_is_a_failure(student: Student) -> None:
    with pytest.raises(ValueError, match="zip"):
        student.interpret(Raw(np.zeros((1, 5), np.float32), [False, False], np.array([1, 1])))


def test_several_threads_may_ask_at_once(student: Student) -> None:
    expected = [each.score for each in student.predict(TEXTS)]
    with ThreadPoolExecutor(4) as pool:
        asked = pool.map(lambda _: [each.score for each in student.predict(TEXTS)], range(32))
        assert all(scores == expected for scores in asked)


@pytest.mark.parametrize(("gap", "opens"), [(0.009, True), (0.011, False)])
def test_a_host_that_gives_other_logits_is_refused(
    tmp_path: Path, gap: float, *, opens: bool
) -> None:
    path = tiny_bundle(tmp_path)
    golden = open_bundle(path).manifest.golden
    first, *rest = golden.vectors
    moved = first.model_copy(update={"logits": (first.logits[0] + gap, *first.logits[1:])})
    other = open_bundle(
        resealed(path, golden=golden.model_copy(update={"vectors": (moved, *rest)}))
    )
    if opens:
        assert Student(other).predict([CONFIDENT])
    else:
        with pytest.raises(BundleMismatch, match=r"0\.0110 off, 0\.0100 allowed"):
            Student(other)


def test_a_tokenizer_that_splits_a_golden_text_another_way_is_refused(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path)
    golden = open_bundle(path).manifest.golden
    moved = golden.vectors[1].model_copy(update={"tokens": (1, 1)})
    other = resealed(path, golden=golden.model_copy(update={"vectors": (moved,)}))
    with pytest.raises(BundleMismatch, match="splits a golden text another way: 'maybe refund"):
        Student(open_bundle(other))


def test_a_tokenizer_with_more_ids_than_the_graph_is_refused(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path)
    graph = open_bundle(path).manifest.graph.model_copy(update={"vocabulary": 6})
    with pytest.raises(BundleMismatch, match="the tokenizer has 7 ids, the graph 6"):
        Student(open_bundle(resealed(path, graph=graph)))


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(BundleMismatch, match=r"model\.onnx cannot be loaded"):
        Session(b"not a graph")


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["token_ids"], ["logits", "pooled"]),
        (["attention_mask", "input_ids"], ["logits", "pooled"]),
        (["input_ids", "attention_mask"], ["pooled", "logits"]),
    ],
)
def test_a_graph_of_another_shape_is_refused(inputs: list[str], outputs: list[str]) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", [inputs[0]], [name]) for name in outputs],
        "other",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "m"]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "m"]) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    with pytest.raises(BundleMismatch, match=r"model\.onnx has the inputs"):
        Session(model.SerializeToString())

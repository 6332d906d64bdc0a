"""A sealed bundle opens, answers, tells what it is, and is timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distill.networks.encoder import Encoder
from exporters import benchmark, graph, int8, parity, seal
from exporters.activations import observe
from gateway.contract.bundle import open_bundle
from gateway.contract.calibration import Calibration
from gateway.contract.domain import Familiarity
from gateway.contract.encoding import Encoding
from gateway.contract.manifest import (
    Correctness,
    Domain,
    Head,
    HeadCalibration,
    HeadCorrectness,
    HeadKind,
    InputLimits,
    Provenance,
    Reports,
    Task,
)
from gateway.errors import DataError, StageFailed, UsageError
from gateway.students.student import Session, Student

TEXTS = ["where is my card", "the payment is late", "my card is lost", "my card is lost"]


@pytest.fixture(scope="module")
def student(
    fp32: bytes,
    tokenizer: bytes,
    task: Task,
    parts: tuple[HeadCalibration, ...],
    limits: InputLimits,
    rows: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Student:
    """A static int8 student, sealed and opened again."""
    model = int8.static(fp32, observe(fp32, rows).extremes)
    path = seal.seal(
        role="student",
        task=task,
        limits=limits,
        graph=graph.describe(
            model, precision="int8", recipe="static int8", batch_invariant=True, layers=2
        ),
        calibration=parts,
        operating_points=(),
        model=model,
        tokenizer=tokenizer,
        golden_texts=TEXTS,
        provenance=Provenance(created_at="2026-01-02T03:04:05+00:00"),
        reports=Reports(),
        parent=tmp_path_factory.mktemp("bundles"),
    )
    return Student(open_bundle(path))


def test_a_sealed_bundle_opens_and_answers(student: Student) -> None:
    manifest = student.bundle.manifest
    assert student.bundle.path.name == student.bundle.name
    assert manifest.graph.layers == 2
    (prediction,) = student.predict(["my card is lost"])
    assert prediction.heads[0].labels[0] in {"lost", "late", "other"}
    assert "# cards: a student" in (student.bundle.path / "CARD.md").read_text()


def test_golden_vectors_are_what_the_session_says_of_distinct_texts(student: Student) -> None:
    golden = student.bundle.manifest.golden
    assert [vector.text for vector in golden.vectors] == TEXTS[:3]
    logits = np.array([vector.logits for vector in golden.vectors], np.float32)
    again = parity.alone(student.session, [vector.tokens for vector in golden.vectors])
    np.testing.assert_array_equal(again, logits)
    assert golden.tolerance == pytest.approx(max(1e-3, 0.05 * logits.std()))


def test_a_domain_is_sealed_with_its_golden_distances(
    fp32: bytes,
    tokenizer: bytes,
    task: Task,
    parts: tuple[HeadCalibration, ...],
    limits: InputLimits,
    tmp_path: Path,
) -> None:
    described = graph.describe(fp32, precision="fp32", recipe="fp32", batch_invariant=True)
    hidden = described.hidden
    numbers = Familiarity(
        projection=np.eye(hidden, dtype=np.float32),
        centres=np.zeros((1, hidden), np.float32),
        known=np.arange(3, dtype=np.float32),
    )
    domain = Domain(dimensions=hidden, centres=1, rows=9, calibration=3)
    heads = tuple(HeadCorrectness(head=head.name) for head in task.heads)
    path = seal.seal(
        role="student",
        task=task,
        limits=limits,
        graph=described,
        calibration=parts,
        operating_points=(),
        model=fp32,
        tokenizer=tokenizer,
        golden_texts=TEXTS,
        provenance=Provenance(created_at="2026-01-02T03:04:05+00:00"),
        reports=Reports(),
        parent=tmp_path,
        correctness=Correctness(heads=heads, rows=7),
        domain=(domain, numbers.content()),
    )
    sealed = Student(open_bundle(path))
    assert (path / "domain.f32").read_bytes() == numbers.content()
    manifest = sealed.bundle.manifest
    assert manifest.correctness
    assert manifest.correctness.rows == 7
    lengths = []
    for vector in manifest.golden.vectors:
        pooled = sealed.session.run([vector.tokens])[1][0]
        lengths.append(float(np.sqrt((pooled.astype(np.float64) ** 2).sum())))
        assert vector.distance == pytest.approx(lengths[-1], rel=1e-5)
    assert manifest.golden.distance_tolerance == pytest.approx(1e-3 * np.mean(lengths), rel=1e-5)
    assert not sealed.session.masked  # and rows of several lengths say what each says alone
    together = sealed.raw(TEXTS[:3]).distances
    alone = [sealed.raw([text]).distances for text in TEXTS[:3]]
    assert together == pytest.approx(np.concatenate([each for each in alone if each is not None]))


def test_fp32_is_held_to_a_thousandth(
    fp32: bytes, tokenizer: bytes, limits: InputLimits, task: Task
) -> None:
    texts = [f"card {number}" for number in range(40)]
    made = seal.golden(fp32, Encoding(tokenizer, limits), texts, task=task, precision="fp32")
    assert made.tolerance == 1e-3
    assert len(made.vectors) == 32


def test_a_bundle_without_golden_texts_is_refused(
    fp32: bytes, tokenizer: bytes, limits: InputLimits, task: Task
) -> None:
    with pytest.raises(DataError, match="golden texts"):
        seal.golden(fp32, Encoding(tokenizer, limits), [], task=task, precision="fp32")


def test_a_graph_of_another_task_is_refused(
    fp32: bytes, tokenizer: bytes, limits: InputLimits
) -> None:
    other = Task(name="other", heads=(Head(name="one", kind=HeadKind.CHOICE, labels=("a", "b")),))
    with pytest.raises(StageFailed, match="3 logits, the task has 2 labels"):
        seal.golden(fp32, Encoding(tokenizer, limits), TEXTS, task=other, precision="fp32")


def test_a_model_that_went_to_infinity_is_refused(
    network: Encoder, tokenizer: bytes, limits: InputLimits, task: Task
) -> None:
    before = network.heads.bias.detach().clone()
    try:
        network.heads.bias.data = torch.full((3,), float("inf"))
        broken = graph.export(network)
    finally:
        network.heads.bias.data = before
    with pytest.raises(StageFailed, match="not finite"):
        seal.golden(broken, Encoding(tokenizer, limits), TEXTS, task=task, precision="fp32")


def test_parity_compares_what_is_served_with_fp32(
    student: Student, fp32: bytes, rows: list[list[int]], calibration: Calibration
) -> None:
    measured = parity.measure(
        fp32=Session(fp32), served=student, rows=rows, threshold=0.0, fp32_difference=1e-6
    )
    ours = parity.alone(student.session, rows)
    theirs = parity.alone(Session(fp32), rows)
    flips = parity.label_flips(calibration, ours, theirs)
    assert measured.rows == len(rows)
    assert measured.label_flips == flips
    assert measured.confident_flips == flips  # every score is at or above 0
    assert measured.batch_label_flips == 0.0
    assert measured.fp32_max_difference == 1e-6


def test_latency_is_measured_for_both_in_one_loop(student: Student) -> None:
    latency = benchmark.compare(student, student, TEXTS, repeats=2)
    assert latency.rows == 4
    assert 0.0 < latency.p50_ms <= latency.p95_ms
    assert latency.teacher_p50_ms is not None
    assert latency.teacher_p95_ms is not None
    assert 0.0 < latency.teacher_p50_ms <= latency.teacher_p95_ms


def test_latency_alone_has_no_teacher(student: Student) -> None:
    latency = benchmark.time_alone(student, TEXTS[:1], repeats=1)
    assert latency.p50_ms == latency.p95_ms > 0.0  # of one measurement
    assert latency.teacher_p50_ms is None


def test_timing_nothing_is_refused(student: Student) -> None:
    with pytest.raises(UsageError, match="nothing to time"):
        benchmark.time_student(student, [])


def test_a_machine_is_its_processor_its_cores_and_its_runtime() -> None:
    named = benchmark.machine()
    assert " cores, onnxruntime " in named
    assert "\n" not in named


def test_a_system_without_a_listing_names_its_architecture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert benchmark.machine().startswith("riscv64, ")

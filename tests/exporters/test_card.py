"""The card says in words what the manifest says in numbers."""

from __future__ import annotations

from exporters.card import card
from gateway.contract.manifest import (
    Certificate,
    Correctness,
    Domain,
    Evaluation,
    Golden,
    Graph,
    Head,
    HeadCalibration,
    HeadCorrectness,
    HeadKind,
    HeadQuality,
    InputLimits,
    Latency,
    Manifest,
    OperatingPoint,
    Parity,
    Provenance,
    Reports,
    Signal,
    SliceQuality,
    Task,
    Trial,
)

CERTIFICATE = Certificate(
    alpha=0.01,
    delta=0.05,
    labels="gold",
    rows=1500,
    undetected_errors=6,
    upper_bound=0.0079,
    issued_at="2026-01-02",
)
REPORTS = Reports(
    evaluation=Evaluation(
        rows=3080,
        labels="gold",
        heads=(HeadQuality(head="intent", rows=3080, accuracy=0.92, ece=0.0123),),
        accuracy=0.92,
        teacher_accuracy=0.93,
        system_accuracy=0.929,
        escalation=0.25,
        undetected_error=0.005,
        system_accuracy_at_10=0.925,
        augrc=0.0111,
        severity_weighted_error=0.2,
        worst_slice=SliceQuality(name="short", rows=200, accuracy=0.81),
    ),
    parity=Parity(
        rows=1000,
        tokenizer_equal=True,
        fp32_max_difference=5e-6,
        label_flips=0.001,
        confident_flips=0.0,
        batch_label_flips=0.0,
        batch_score_difference=2e-6,
    ),
    trials=(
        Trial(
            recipe="static int8",
            microseconds=310.2,
            microseconds_batched=200.4,
            size=16_300_000,
            label_flips=0.001,
            confident_flips=0.0,
            batch_invariant=True,
            passed=True,
            kept=True,
        ),
        Trial(
            recipe="dynamic int8",
            microseconds=300.0,
            size=16_200_000,
            label_flips=0.02,
            confident_flips=0.01,
            batch_invariant=False,
            passed=False,
            kept=False,
            note="changes too many answers",
        ),
    ),
    latency=Latency(
        machine="A processor, 2 cores",
        rows=300,
        p50_ms=0.4,
        p95_ms=0.7,
        teacher_p50_ms=3.25,
        teacher_p95_ms=5.0,
    ),
)


def _manifest(*, points: tuple[OperatingPoint, ...] = (), reports: Reports = REPORTS) -> Manifest:
    labels = tuple(f"label {number}" for number in range(101))
    return Manifest(
        role="student",
        task=Task(
            name="cards",
            heads=(
                Head(name="intent", kind=HeadKind.CHOICE, labels=labels),
                Head(name="risk", kind=HeadKind.FLAGS, labels=("fraud",)),
            ),
        ),
        limits=InputLimits(max_tokens=64, max_characters=1024),
        graph=Graph(
            precision="int8",
            recipe="static int8",
            opset=20,
            hidden=384,
            vocabulary=30522,
            parameters=15_496_397,
            batch_invariant=bool(points),
        ),
        calibration=(
            HeadCalibration(head="intent", temperature=1.25, rows=900),
            HeadCalibration(head="risk", temperature=1.0, rows=0),
        ),
        operating_points=points,
        files=(),
        tokenizer_sha256="0" * 64,
        golden=Golden(tolerance=0.05, vectors=()),
        provenance=Provenance(
            created_at="2026-01-02",
            run="abc",
            seeds=(1, 2),
            data={"train.csv": "1" * 64},
            rows={"train": 9000},
            libraries={"torch": "2.13.0"},
            stages={"train": 61.4},
        ),
        reports=reports,
    )


def _point(threshold: float | None, certificate: Certificate | None) -> OperatingPoint:
    return OperatingPoint(
        name="default",
        threshold=threshold,
        coverage=0.75,
        undetected_error=0.004,
        certificate=certificate,
    )


def test_a_certificate_is_told_in_words() -> None:
    text = card(_manifest(points=(_point(0.8125, CERTIFICATE),)))
    assert "it answers where its score is 0.8125 or more" in text
    assert "75.0% of the requests answered, 0.40% answered and wrong" in text
    assert "Certified on 1500 rows with gold labels: with confidence 95%" in text
    assert "no more than 1.00% of all requests" in text
    assert "(6 seen, upper bound 0.79%, issued 2026-01-02)" in text


def test_a_missing_certificate_or_threshold_is_not_hidden() -> None:
    assert "every request goes to the teacher" in card(_manifest())
    assert "no threshold could be certified" in card(_manifest(points=(_point(None, None),)))
    assert "This is not certified." in card(_manifest(points=(_point(0.9, None),)))


def test_the_score_and_the_domain_are_told_in_words() -> None:
    signals = (Signal(name="margin", mean=1.0, scale=1.0, weight=1.0),
               Signal(name="distance", mean=1.0, scale=1.0, weight=-1.0))  # fmt: skip
    heads = (HeadCorrectness(head="intent", signals=signals), HeadCorrectness(head="risk"))
    text = card(
        _manifest().model_copy(
            update={
                "correctness": Correctness(heads=heads, rows=900),
                "domain": Domain(dimensions=128, centres=77, rows=8000, calibration=900),
            }
        )
    )
    assert "from distance, margin, fitted on 900 rows" in text
    assert "it knows 77 kinds of texts, fitted on 8000 rows" in text
    assert "ranks a text's distance to them among 900 others" in text
    assert "kinds of texts" not in card(_manifest())


def test_quality_parity_latency_and_trials_are_shown() -> None:
    text = card(_manifest())
    assert "| intent | 3080 | 92.00% | - | - | 0.0123 | - |" in text
    assert "All heads right: 92.00%; teacher 93.00%" in text
    assert "Worst slice: short, 200 rows, 81.00%" in text
    assert "Error weighted by severity: 0.2000" in text
    assert "int8 against fp32: 0.10% of the labels differ" in text
    assert "p50 0.40 ms, p95 0.70 ms; the teacher in the same loop: p50 3.25 ms" in text
    assert "| **static int8** | 310 | 200 | 16.3 | 0.10% | 0.00% | yes | kept |" in text
    assert (
        "| dynamic int8 | 300 | - | 16.2 | 2.00% | 1.00% | no | changes too many answers |" in text
    )


def test_the_model_its_labels_its_limits_and_its_origin_are_shown() -> None:
    text = card(_manifest())
    assert "A text model of 15,496,397 parameters (hidden size 384, vocabulary 30,522)" in text
    assert "runs one text at a time" in text
    assert "**intent** (one of 101): `label 0`" in text
    assert "and 1 more" in text
    assert "**risk** (any of 1): `fraud`" in text
    assert "**risk**: temperature 1.000, not fitted" in text
    assert "64 tokens and 1,024 characters" in text
    assert "- seeds: 1, 2" in text
    assert "- rows of train: 9000" in text
    assert "- stage train: 61 s" in text


def test_what_was_not_measured_is_said_or_left_out() -> None:
    text = card(_manifest(points=(_point(0.9, CERTIFICATE),), reports=Reports()))
    assert "## Quality\n\nNot measured." in text
    assert "do not depend on what else is in a batch" in text
    assert "## Latency" not in text
    assert "## Parity" not in text
    assert "## Graphs" not in text

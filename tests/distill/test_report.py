"""The report page: the figures it shows, what it says of the unknown, and that it stands alone."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest

from distill.evaluate import Confusion, Curves, Reliability
from distill.report import (
    Report,
    bill,
    count,
    duration,
    milliseconds,
    percent,
    render,
    size,
    target,
    tiles,
    usd,
    verdict,
    within,
)
from gateway.contract.manifest import (
    Certificate,
    Evaluation,
    FileEntry,
    Golden,
    Graph,
    Head,
    HeadCalibration,
    HeadKind,
    HeadQuality,
    InputLimits,
    Latency,
    Manifest,
    OperatingPoint,
    Parity,
    Provenance,
    Reports,
    SliceQuality,
    Task,
    Trial,
)
from gateway.telemetry.pricing import Prices

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "br", "hr", "img", "input", "link"}
HEADS = (
    Head(name="intent", kind=HeadKind.CHOICE, labels=("refund", "invoice", "delivery", "other")),
    Head(name="urgency", kind=HeadKind.CHOICE, labels=("low", "normal", "high")),
    Head(name="risk", kind=HeadKind.FLAGS, labels=("legal", "self_harm")),
)


def make_report(heads: tuple[Head, ...] = HEADS, *, labels: str = "gold") -> Report:
    """A student of three heads and 2,000 test rows; every figure is made up."""
    return Report(
        manifest=make_manifest(heads, labels=labels),
        bundle="tickets-3f9a1c77b0de",
        size=23_140_000,
        teacher=make_manifest(heads, labels=labels, role="teacher", layers=6),
        teacher_size=92_560_000,
        curves=make_curves(heads),
        history=(1.84, 0.91, 0.62, 0.481, 0.4117, 0.3804, 0.3625),
        prices=Prices(Decimal("2.5"), Decimal("0.36")),
    )


def make_manifest(
    heads: tuple[Head, ...], *, labels: str, role: str = "student", layers: int = 2
) -> Manifest:
    """A manifest with everything in it that a report can tell."""
    return Manifest.model_validate(
        {
            "role": role,
            "task": Task(name="tickets", heads=heads),
            "limits": InputLimits(max_tokens=256, max_characters=8000),
            "graph": Graph(
                precision="int8", recipe="dynamic int8, per row", opset=18, layers=layers,
                hidden=384, vocabulary=9000, parameters=7_100_000, batch_invariant=True,
            ),
            "calibration": tuple(
                HeadCalibration(
                    head=each.name, temperature=1.284, rows=1500, ece_before=0.046, ece_after=0.011
                )
                for each in heads
            ),
            "operating_points": (make_point(labels),),
            "files": (FileEntry(name="model.onnx", sha256="a" * 64, size=22_000_000),),
            "tokenizer_sha256": "b" * 64,
            "golden": Golden(tolerance=0.05, vectors=()),
            "provenance": make_provenance(),
            "reports": make_reports(heads, labels),
        }
    )  # fmt: skip


def make_point(labels: str) -> OperatingPoint:
    """9 errors in 1,000 rows: 0.9 %, and at most 1.57 % with 95 % confidence."""
    certificate: dict[str, Any] = {
        "alpha": 0.02, "delta": 0.05, "labels": labels, "rows": 1000, "undetected_errors": 9,
        "upper_bound": 0.0157, "issued_at": "2026-03-02T10:05:00Z",
    }  # fmt: skip
    return OperatingPoint(
        name="default", threshold=0.6312, coverage=0.914, undetected_error=0.009,
        certificate=Certificate.model_validate(certificate),
    )  # fmt: skip


def make_provenance() -> Provenance:
    """Where it came from; the stages took 62 + 871 + 3,725 + 43 seconds."""
    return Provenance(
        created_at="2026-03-02T10:05:00Z",
        run="c0ffee" * 10 + "0123",
        seeds=(7,),
        data={"tickets.jsonl": "d" * 64, "strangers.jsonl": "e" * 64},
        rows={"train": 12_000, "calibration": 1500, "certification": 1000, "test": 2000},
        base_model="all-MiniLM-L6-v2",
        base_model_sha256="f" * 64,
        teacher="9" * 64,
        libraries={"understudy": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.26.0"},
        commit="5" * 40,
        stages={"collect": 62.0, "label": 871.0, "train": 3725.0, "export": 43.0},
    )


def make_reports(heads: tuple[Head, ...], labels: str) -> Reports:
    """Quality, parity, four trials and times: 2.1 ms against 18.9 ms is 9 to 1."""
    evaluation: dict[str, Any] = {
        "rows": 2000,
        "labels": labels,
        "heads": tuple(
            HeadQuality(
                head=each.name, rows=2000, accuracy=0.9615, macro_f1=0.9342, agreement=0.9705,
                ece=0.0112, teacher_accuracy=0.9745, teacher_macro_f1=0.9561,
            )
            for each in heads
        ),
        "accuracy": 0.937,
        "teacher_accuracy": 1.0 if labels == "teacher" else 0.951,
        "system_accuracy": 0.956,
        "escalation": 0.088,
        "undetected_error": 0.0105,
        "system_accuracy_at_10": 0.9575,
        "augrc": 0.00871,
        "severity_weighted_error": 0.0843,
        "worst_slice": SliceQuality(name="intent = other", rows=40, accuracy=0.75),
    }  # fmt: skip
    return Reports(
        evaluation=Evaluation.model_validate(evaluation),
        parity=Parity(
            rows=500, tokenizer_equal=True, fp32_max_difference=0.0000021, label_flips=0.004,
            confident_flips=0.0002, batch_label_flips=0.0, batch_score_difference=0.0,
        ),
        trials=make_trials(),
        latency=Latency(
            machine="x86-64, 2 cores", rows=300, p50_ms=2.1, p95_ms=4.8, teacher_p50_ms=18.9,
            teacher_p95_ms=31.25,
        ),
    )  # fmt: skip


def make_trials() -> tuple[Trial, ...]:
    """Four ways to quantise, of which the third is kept."""
    rows: tuple[tuple[str, int, int, float, float, bool, bool, str], ...] = (
        ("fp32", 5210, 4380, 0.0, 0.0, True, True, ""),
        ("dynamic int8, whole tensor", 1630, 1630, 0.021, 0.0065, False, False, "confident flips"),
        ("dynamic int8, per row", 1702, 1240, 0.004, 0.0002, True, True, ""),
        ("static int8", 1588, 1105, 0.058, 0.0181, True, False, "label flips above 2 %"),
    )
    return tuple(
        Trial(
            recipe=recipe, microseconds=alone, microseconds_batched=batched,
            size=92_000_000 if recipe == "fp32" else 23_000_000, label_flips=flips,
            confident_flips=confident, batch_invariant=invariant, passed=passed,
            kept=recipe.endswith("row"), note=note,
        )
        for recipe, alone, batched, flips, confident, invariant, passed, note in rows
    )  # fmt: skip


def make_curves(heads: tuple[Head, ...]) -> Curves:
    """Smooth curves through the figures of the evaluation, or near them."""
    shares = tuple(place / 100 for place in range(101))
    bins = tuple(0.55 + 0.03 * place for place in range(15))
    return Curves(
        coverage=shares[1:],
        undetected=tuple(0.063 * share**18 for share in shares[1:]),
        escalation=shares,
        system=tuple(0.951 - 0.014 * (1 - s) ** 12 + 0.02 * s * (1 - s) ** 6 for s in shares),
        random=tuple(0.937 + 0.014 * share for share in shares),
        reliability=tuple(
            Reliability(
                head=each.name,
                confidence=bins,
                accuracy=tuple(b + (0.02 if place % 2 else -0.03) for place, b in enumerate(bins)),
                rows=(133,) * 15,
            )
            for each in heads
        ),
        confusions=(
            Confusion("intent", "invoice", "refund", 14),
            Confusion("intent", "other", "delivery", 9),
            Confusion("urgency", "high", "normal", 7),
        ),
        slices=(
            SliceQuality(name="intent = refund", rows=610, accuracy=0.9623),
            SliceQuality(name="intent = other", rows=40, accuracy=0.75),
            SliceQuality(name="length > 41 tokens", rows=655, accuracy=0.9038),
        ),
    )

"""Tiny real things for tests: a bundle that ONNX Runtime runs, and a settings file that serves it.

The tiny model looks for words and nothing else, so a test chooses a text and knows the answer:

    "refund", "fraud"    the intent; without them it is "other"
    "urgent", "lawyer"   the flags `urgent` and `legal`
    "maybe"              the same labels, but unsure: score 0.62
    anything else        no effect; a text without "maybe" has a score above 0.99

Token ids: a text of n words and punctuation marks has n tokens, and 16 of them are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

from gateway.contract import bundle, measures
from gateway.contract.manifest import (
    Certificate,
    Evaluation,
    Golden,
    GoldenVector,
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
from gateway.students.student import Session

TASK = Task(
    name="tickets",
    heads=(
        Head(name="intent", kind=HeadKind.CHOICE, labels=("refund", "fraud", "other")),
        Head(name="flags", kind=HeadKind.FLAGS, labels=("urgent", "legal")),
    ),
)
CONFIDENT = "please refund my order"  # intent refund, no flag, score 0.997
UNSURE = "maybe refund my order"  # the same labels, score 0.62
THRESHOLD = 0.9

WORDS = ("refund", "fraud", "urgent", "lawyer", "maybe")
# What each word adds to the logits of refund, fraud, other; urgent, legal.
_WEIGHTS = np.array(
    [
        [12.0, 0.0, 0.0, 0.0, 0.0],  # refund: 12 against 6 is 0.9975
        [0.0, 12.0, 0.0, 0.0, 0.0],  # fraud
        [0.0, 0.0, 0.0, 16.0, 0.0],  # urgent: 8 is 0.9997
        [0.0, 0.0, 0.0, 0.0, 16.0],  # lawyer
        [0.0, 0.0, 0.0, 7.5, 0.0],  # maybe: -0.5 is 0.38, so "not urgent" is only 0.62 sure
    ],
    np.float32,
)
_BIAS: Mapping[str, float] = {
    "refund": 0.0, "fraud": 0.0, "other": 6.0, "urgent": -8.0, "legal": -8.0,
}  # fmt: skip
_WIDE = 512  # of the matrices that take time
_GOLDEN_TEXTS = (CONFIDENT, UNSURE, "urgent: my lawyer says fraud")


def tiny_bundle(
    parent: Path,
    *,
    role: Literal["student", "teacher"] = "student",
    task: Task = TASK,
    threshold: float | None = THRESHOLD,
    certified: bool = True,
    precision: Literal["fp32", "int8"] = "fp32",
    batch_invariant: bool = True,
    seed: int = 0,
    bias: Mapping[str, float] | None = None,
    drag: int = 0,
) -> Path:
    """Write a bundle below `parent` and return its folder.

    `task` may be renamed but keeps the labels of TASK. A `threshold` of None: nothing is certified;
    nor is it where `certified` is false, which leaves the threshold.
    Another `seed` gives a bundle of another id that answers the same; `bias` adds to the logits of
    labels, so that {"fraud": 20.0} says fraud to everything. `drag` matrix products change nothing
    and take their time.
    """
    logits = np.array([_BIAS[name] + (bias or {}).get(name, 0.0) for name in _BIAS], np.float32)
    noise = np.random.default_rng(seed).normal(0.0, 1e-4, _WEIGHTS.shape).astype(np.float32)
    weights: NDArray[np.float32] = _WEIGHTS + noise
    model = _graph(weights, logits, drag)
    tokenizer = _tokenizer()
    files = {
        bundle.MODEL: model,
        bundle.TOKENIZER: tokenizer.to_str().encode(),
        bundle.CARD: f"# {task.name}\n\nA tiny model for tests.\n".encode(),
    }
    entries = bundle.entries(files)
    manifest = Manifest(
        role=role,
        task=task,
        limits=InputLimits(max_tokens=16, max_characters=200),
        graph=Graph(
            precision=precision,
            recipe="as it is",
            opset=18,
            layers=1,
            hidden=len(WORDS),
            vocabulary=len(WORDS) + 2,
            parameters=int(weights.size + logits.size),
            batch_invariant=batch_invariant,
        ),
        calibration=tuple(
            HeadCalibration(head=head.name, temperature=1.0, rows=200) for head in task.heads
        ),
        operating_points=(_operating_point(threshold, certified=certified),),
        files=entries,
        tokenizer_sha256=next(each.sha256 for each in entries if each.name == bundle.TOKENIZER),
        golden=_golden(model, tokenizer),
        provenance=Provenance(
            created_at="2026-01-01T00:00:00Z", seeds=(seed,), rows={"train": 800, "test": 200}
        ),
        reports=_reports(),
    )
    return bundle.write(manifest, files, parent)


def settings_file(
    folder: Path,
    *,
    student: Path | None = None,
    teacher: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    run_in: Literal["processes", "threads"] = "threads",
    **sections: Any,
) -> Path:
    """Write an understudy.yaml for one task, `tickets`, and return its path.

    Without `student` a tiny bundle is made beside it; without `teacher` a script says "other". A
    student in threads starts at once; one in a process takes half a second. Nobody is refused for
    a long wait: whoever else is busy on the machine makes requests wait.
    `sections` are further keys of the document; "tickets" adds to those of the task.
    """
    task: dict[str, dict[str, Any]] = {
        "student": {
            "bundle": str(student or tiny_bundle(folder / "bundles")),
            "workers": 1,
            "run_in": run_in,
            "max_wait_ms": 60_000,
        },
        "teacher": dict(teacher or {"scripted": {"labels": {"intent": "other"}}}),
        "policy": dict(policy or {}),
        "audit": {"share": 0.0},
        "shadow": {"share": 0.0},  # a candidate is a process, which most tests have no use for
        "alarms": {"action": "none"},  # a script that contradicts the student is no incident
    }
    for section, keys in sections.pop("tickets", {}).items():
        task[section] = task.get(section, {}) | keys
    document = {
        "version": 1,
        "tasks": {TASK.name: task},
        "records": {"path": "records.db"},
        **sections,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "understudy.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _graph(weights: NDArray[np.float32], bias: NDArray[np.float32], drag: int = 0) -> bytes:
    """ids, mask -> which words are there (pooled), times weights, plus bias (logits)."""
    words = len(weights)
    table = np.vstack([np.zeros((2, words), np.float32), np.eye(words, dtype=np.float32)])
    constants = {"table": table, "weights": weights, "bias": bias}
    constants |= {"last": np.array([2], np.int64), "along": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["found"]),
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["column"]),
        helper.make_node("Mul", ["found", "column"], ["seen"]),
        helper.make_node("ReduceMax", ["seen", "along"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "weights"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
    ]
    if drag:
        nodes[-1:] = _dragging(drag)
        constants |= {
            "wide": np.full((words, _WIDE), 1.0 / words, np.float32),
            "square": np.eye(_WIDE, dtype=np.float32),
            "narrow": np.zeros((_WIDE, len(bias)), np.float32),
        }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "width"])
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", len(bias)]),
            helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["rows", words]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def _dragging(count: int) -> list[onnx.NodeProto]:
    """The sum of logits and bias, by a long way round."""
    return [
        helper.make_node("MatMul", ["pooled", "wide"], ["turn0"]),
        *(
            helper.make_node("MatMul", [f"turn{number}", "square"], [f"turn{number + 1}"])
            for number in range(count)
        ),
        helper.make_node("MatMul", [f"turn{count}", "narrow"], ["nothing"]),
        helper.make_node("Add", ["scaled", "nothing"], ["dragged"]),
        helper.make_node("Add", ["dragged", "bias"], ["logits"]),
    ]


def _tokenizer() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106  no password
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _golden(model: bytes, tokenizer: Tokenizer) -> Golden:
    session = Session(model)
    vectors = []
    for text in _GOLDEN_TEXTS:
        tokens = tuple(tokenizer.encode(text).ids)
        logits = tuple(session.run([tokens])[0][0].tolist())
        vectors.append(GoldenVector(text=text, tokens=tokens, logits=logits))
    return Golden(tolerance=0.01, vectors=tuple(vectors))


def _operating_point(threshold: float | None, *, certified: bool) -> OperatingPoint:
    certificate = Certificate(
        alpha=0.05,
        delta=0.05,
        labels="gold",
        rows=500,
        undetected_errors=5,
        upper_bound=measures.upper_bound(5, 500, 0.05),
        issued_at="2026-01-01T00:00:00Z",
    )
    return OperatingPoint(
        name="default",
        threshold=threshold,
        coverage=0.0 if threshold is None else 0.9,
        undetected_error=0.0 if threshold is None else 0.01,
        certificate=certificate if certified and threshold is not None else None,
    )


def _reports() -> Reports:
    """Figures of the right shape, so that what shows reports has some to show."""
    return Reports(
        evaluation=Evaluation(
            rows=200,
            labels="gold",
            heads=tuple(
                HeadQuality(head=head.name, rows=200, accuracy=0.95, macro_f1=0.94, ece=0.02)
                for head in TASK.heads
            ),
            accuracy=0.93,
            teacher_accuracy=0.97,
            system_accuracy=0.96,
            escalation=0.1,
            undetected_error=0.01,
            system_accuracy_at_10=0.96,
            augrc=0.02,
            worst_slice=SliceQuality(name="short", rows=20, accuracy=0.9),
        ),
        parity=Parity(rows=200, tokenizer_equal=True, fp32_max_difference=1e-6, label_flips=0.005),
        trials=(
            Trial(
                recipe="as it is",
                microseconds=20.0,
                size=1024,
                label_flips=0.0,
                confident_flips=0.0,
                batch_invariant=True,
                passed=True,
                kept=True,
            ),
        ),
        latency=Latency(machine="a test", rows=200, p50_ms=0.05, p95_ms=0.08),
    )

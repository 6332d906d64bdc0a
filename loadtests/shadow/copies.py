"""Copies of a bundle that answer the same under another id: as fast, or many times slower.

A candidate must be another bundle than the one that serves. What slows a copy down is a long row of
matrix products behind the logits whose result is times zero.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from gateway.contract.bundle import CARD, MODEL, entries, open_bundle, write
from gateway.students.student import OUTPUTS, Student

_WIDE = 256  # of the square that is multiplied with: 256 KiB, which a core's own cache holds
_PROBE = 400  # products of the first try, by which the price of one is found
_TRIES = 3
_NEAR = 0.1  # of what was asked for: times on a shared host move by as much
_LEAST = 0.05  # that a try must be slower, for its price to be known
_TURNS = 10  # of the texts, when students are timed
_QUIET = 25  # the percentile that counts: what others on the host take is in the upper ones


def copied(bundle: Path, parent: Path) -> Path:
    """The same student, with another card and so another id, below `parent`."""
    files = _files(bundle)
    files[CARD] += b"\nA copy, to be compared with the original.\n"
    return _written(bundle, files, parent)


def dragged(
    bundle: Path, parent: Path, texts: Sequence[str], *, times: float
) -> tuple[Path, float]:
    """The same student, which takes about `times` as long for each of these texts; how many."""
    count = _PROBE
    for _ in range(_TRIES):
        found = _with_products(bundle, parent, count)
        ratio = _ratio(bundle, found, texts)
        if abs(ratio / times - 1.0) < _NEAR:
            break
        count = max(1, round(count * (times - 1.0) / max(_LEAST, ratio - 1.0)))
    return found, ratio


def _with_products(bundle: Path, parent: Path, count: int) -> Path:
    files = _files(bundle)
    proto = onnx.load_from_string(files[MODEL])
    logits = OUTPUTS[0]
    outputs = open_bundle(bundle).manifest.task.outputs
    for node in proto.graph.node:
        node.output[:] = ["drag_logits" if each == logits else each for each in node.output]
        node.input[:] = ["drag_logits" if each == logits else each for each in node.input]
    constants = {
        "drag_wide": np.full((outputs, _WIDE), 1.0 / outputs, np.float32),
        "drag_square": np.eye(_WIDE, dtype=np.float32),
        "drag_narrow": np.zeros((_WIDE, outputs), np.float32),
    }
    proto.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    turns = [
        helper.make_node("MatMul", [f"drag_{number}", "drag_square"], [f"drag_{number + 1}"])
        for number in range(count)
    ]
    proto.graph.node.extend(
        [
            helper.make_node("MatMul", ["drag_logits", "drag_wide"], ["drag_0"]),
            *turns,
            helper.make_node("MatMul", [f"drag_{count}", "drag_narrow"], ["drag_nothing"]),
            helper.make_node("Add", ["drag_logits", "drag_nothing"], [logits]),
        ]
    )
    files[MODEL] = proto.SerializeToString()
    return _written(bundle, files, parent)


def _files(bundle: Path) -> dict[str, bytes]:
    return {
        each.name: (bundle / each.name).read_bytes() for each in open_bundle(bundle).manifest.files
    }


def _written(bundle: Path, files: dict[str, bytes], parent: Path) -> Path:
    manifest = open_bundle(bundle).manifest.model_copy(update={"files": entries(files)})
    return write(manifest, files, parent)


def _ratio(one: Path, other: Path, texts: Sequence[str]) -> float:
    """How many times as long as the first the other takes for a text: both in turn, here."""
    students = [Student(open_bundle(each)) for each in (one, other)]
    found: list[list[float]] = [[], []]
    for _ in range(_TURNS):
        for text in texts:
            for student, times in zip(students, found, strict=True):
                began = time.perf_counter()
                student.predict([text])
                times.append(time.perf_counter() - began)
    first, second = (float(np.percentile(each, _QUIET)) for each in found)
    return second / first

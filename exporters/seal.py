"""Everything that is known of a model -> one bundle, atomically.

It makes the golden vectors and the card; it measures and decides nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from exporters.card import card
from gateway.contract.bundle import CARD, DOMAIN, MODEL, TOKENIZER, entries, write
from gateway.contract.domain import Familiarity
from gateway.contract.encoding import Encoding
from gateway.contract.manifest import (
    Correctness,
    Domain,
    Golden,
    GoldenVector,
    Graph,
    HeadCalibration,
    InputLimits,
    Manifest,
    OperatingPoint,
    Provenance,
    Reports,
    Task,
)
from gateway.errors import DataError, StageFailed
from gateway.students.student import Session

GOLDEN_TEXTS = 32  # enough to meet every layer often; checked at each opening within 0.1 s

_FP32_TOLERANCE = 1e-3  # of any logit: ten times what another order of sums changes
# Share of the spread (standard deviation) of the golden logits. Sums of int8 are exact, but the
# fp32 around them rounds by CPU and may carry a value over the edge between two steps; such a step
# moves logits less than this. A host whose int8 instructions saturate is far beyond it.
_INT8_TOLERANCE = 0.05
# The same of distances, as shares of their mean: a step of one of hundreds of numbers is far less.
_FP32_DISTANCE, _INT8_DISTANCE = 1e-3, 0.05


def seal(
    *,
    role: Literal["student", "teacher"],
    task: Task,
    limits: InputLimits,
    graph: Graph,
    calibration: Sequence[HeadCalibration],
    operating_points: Sequence[OperatingPoint],
    model: bytes,
    tokenizer: bytes,
    golden_texts: Sequence[str],
    provenance: Provenance,
    reports: Reports,
    parent: Path,
    correctness: Correctness | None = None,
    domain: tuple[Domain, bytes] | None = None,
) -> Path:
    """Write the bundle below `parent` and return its folder.

    `domain` comes with the content of its file.
    Raises StageFailed when the graph gives another number of logits than the task has labels, or
    numbers that are not finite, and DataError when there are no golden texts.
    """
    contents = {MODEL: model, TOKENIZER: tokenizer}
    familiarity: Familiarity | None = None
    if domain is not None:
        contents[DOMAIN] = domain[1]
        familiarity = Familiarity.read(domain[1], domain[0], hidden=graph.hidden)
    manifest = Manifest(
        role=role,
        task=task,
        limits=limits,
        graph=graph,
        calibration=tuple(calibration),
        correctness=correctness,
        domain=domain[0] if domain else None,
        operating_points=tuple(operating_points),
        files=(),
        tokenizer_sha256=hashlib.sha256(tokenizer).hexdigest(),
        golden=golden(
            model,
            Encoding(tokenizer, limits),
            golden_texts,
            task=task,
            precision=graph.precision,
            familiarity=familiarity,
        ),
        provenance=provenance,
        reports=reports,
    )
    contents[CARD] = card(manifest).encode()
    return write(manifest.model_copy(update={"files": entries(contents)}), contents, parent)


def golden(
    model: bytes,
    encoding: Encoding,
    texts: Sequence[str],
    *,
    task: Task,
    precision: Literal["fp32", "int8"],
    familiarity: Familiarity | None = None,
) -> Golden:
    """What the model says, alone, about the first GOLDEN_TEXTS distinct texts."""
    chosen = list(dict.fromkeys(texts))[:GOLDEN_TEXTS]
    if not chosen:
        raise DataError("a bundle needs golden texts", mend="give the texts of a held-out split")
    session = Session(model)
    rows = [encoded.ids for encoded in encoding.encode(chosen)]
    outputs = [session.run([row]) for row in rows]
    logits = np.concatenate([said for said, _ in outputs])
    if logits.shape[1] != task.outputs:
        raise StageFailed(
            f"the graph gives {logits.shape[1]} logits, the task has {task.outputs} labels",
            mend="export the model that was trained for this task",
        )
    if not np.isfinite(logits).all():
        raise StageFailed(
            "the graph gives numbers that are not finite", mend="look at the loss of the training"
        )
    far: list[float] | list[None] = [None] * len(chosen)
    if familiarity is not None:
        far = [float(familiarity.distances(pooled)[0]) for _, pooled in outputs]
    vectors = tuple(
        GoldenVector(text=text, tokens=tuple(row), logits=tuple(map(float, said)), distance=away)
        for text, row, said, away in zip(chosen, rows, logits, far, strict=True)
    )
    spread = _INT8_TOLERANCE * float(logits.std())
    tolerance = _FP32_TOLERANCE if precision == "fp32" else max(_FP32_TOLERANCE, spread)
    return Golden(
        tolerance=tolerance, distance_tolerance=_distance_tolerance(far, precision), vectors=vectors
    )


def _distance_tolerance(
    far: Sequence[float | None], precision: Literal["fp32", "int8"]
) -> float | None:
    known = [away for away in far if away is not None]
    if not known:
        return None
    share = _FP32_DISTANCE if precision == "fp32" else _INT8_DISTANCE
    return max(_FP32_TOLERANCE, share * float(np.mean(known)))

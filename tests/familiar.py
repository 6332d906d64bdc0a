"""The tiny bundle with a domain and a correctness score, of numbers that a person can check.

The pooled vector of the tiny model marks which of its five words are there. The domain takes it as
it is and has three centres: "refund" alone, "fraud" alone, and no word at all. A text's distance is
then the root of the number of words that it has beyond the nearest of these. Of 199 known distances
190 are 0, and 9 are 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gateway.contract import bundle
from gateway.contract.domain import Familiarity
from gateway.contract.manifest import (
    Correctness,
    Domain,
    HeadCorrectness,
    Manifest,
    Signal,
)
from gateway.students.student import Session

HIDDEN = 5
ALIKE = Familiarity(
    projection=np.eye(HIDDEN, dtype=np.float32),
    centres=np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], np.float32),
    known=np.array([0.0] * 190 + [1.0] * 9, np.float32),
)
DOMAIN = Domain(dimensions=HIDDEN, centres=3, rows=400, calibration=199)
STRANGE = "maybe urgent lawyer"  # distance sqrt(3), beyond all: p = 1/200
KNOWN = "please refund my order"  # distance 0: p = 200/200
NEAR = "refund, urgent"  # distance 1: p = (1 + 9)/200


def correctness(*, distance: float = 0.0, rows: int = 500) -> Correctness:
    """The intent's score is the logistic of (margin - 4) / 2, less `distance` times the distance.

    The flags keep their calibrated confidence.
    """
    signals = [Signal(name="margin", mean=4.0, scale=2.0, weight=1.0)]
    if distance:
        signals.append(Signal(name="distance", mean=0.0, scale=1.0, weight=-distance))
    heads = (HeadCorrectness(head="intent", signals=tuple(signals)), HeadCorrectness(head="flags"))
    return Correctness(heads=heads, rows=rows)


def familiar_bundle(
    tiny: Path,
    *,
    domain: bool = True,
    score: Correctness | None = None,
    content: bytes | None = None,
    golden_off: float = 0.0,
) -> Path:
    """Seal the bundle `tiny` again beside itself, with what is asked for.

    `content` replaces the bytes of domain.f32; `golden_off` is added to each golden distance.
    """
    opened = bundle.open_bundle(tiny)
    files = {entry.name: (tiny / entry.name).read_bytes() for entry in opened.manifest.files}
    update: dict[str, object] = {"correctness": score}
    if domain:
        files[bundle.DOMAIN] = ALIKE.content() if content is None else content
        update |= {"domain": DOMAIN, "golden": _golden(opened, golden_off)}
    update["files"] = bundle.entries(files)
    manifest: Manifest = opened.manifest.model_copy(update=update)
    return bundle.write(manifest, files, tiny.parent)


def _golden(opened: bundle.Bundle, off: float) -> object:
    session, golden = Session(opened.model), opened.manifest.golden
    vectors = tuple(
        vector.model_copy(
            update={"distance": float(ALIKE.distances(session.run([vector.tokens])[1])[0]) + off}
        )
        for vector in golden.vectors
    )
    return golden.model_copy(update={"vectors": vectors, "distance_tolerance": 0.01})

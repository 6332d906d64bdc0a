"""What a model says, how it says it, and how strange the text is -> P(it is right).

Each head's score is logistic in signals of its logits over the temperature, z, and of the text
(Platt 1999, with more than one input):

    margin       a choice: the largest z less the second; flags: the smallest |z|
    probability  the calibrated confidence, as in `calibration`
    entropy      of the choice; of all flags together; in nats
    energy       a choice: log sum exp z (Liu et al. 2020, arXiv 2010.03759); flags: sum of
                 log(1 + exp z) (Wang et al. 2021, arXiv 2109.14162)
    distance     as in `domain`
    length       log(1 + tokens)

and, where a bundle has steps, then a monotone curve (isotonic regression), linear between them. The
request's score, that all heads are right, is the product of theirs with its log-odds scaled and
shifted. Numbers only: the fit is in `distill`. The same function runs in serving, in certification
and in evaluation, and what it says of a row never depends on the other rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gateway.contract.calibration import Calibration, HeadReading
from gateway.contract.manifest import Correctness, HeadCorrectness, HeadKind

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_EDGE = 1e-12  # of a product of scores: its log-odds stay finite at 0 and 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of n texts beside their logits.

    `lengths` are tokens (n,), `distances` (n,); None: the model has no domain.
    """

    lengths: NDArray[np.int64]
    distances: Floats | None


class Score:
    """The correctness of all heads of a task, and of the request."""

    def __init__(self, calibration: Calibration, parts: Correctness) -> None:
        self._calibration = calibration
        self._heads = tuple(_Head(part) for part in parts.heads)
        self._slope, self._bias = parts.slope, parts.bias
        self._plain = parts.slope == 1.0 and parts.bias == 0.0  # as with one head

    def read(self, logits: Floats, evidence: Evidence) -> tuple[tuple[HeadReading, ...], Floats]:
        """Logits (n, outputs) -> each head's reading, its score as confidence; and scores (n,)."""
        readings, _ = self._calibration.read(logits)
        scaled = self._calibration.scaled(logits)
        scores = [
            head.score(signals(kind, z, reading, evidence) if head.reads else {}, reading)
            for head, kind, z, reading in zip(
                self._heads, self._calibration.kinds, scaled, readings, strict=True
            )
        ]
        product = scores[0]
        for score in scores[1:]:
            product = product * score
        if not self._plain:
            product = _logistic(self._slope * log_odds(product) + self._bias)
        said = tuple(
            replace(reading, confidence=score.astype(np.float32))
            for reading, score in zip(readings, scores, strict=True)
        )
        return said, product.astype(np.float32)


class _Head:
    """One head's numbers, folded so that a row costs one product."""

    def __init__(self, part: HeadCorrectness) -> None:
        self.reads = bool(part.signals)
        self._names = [signal.name for signal in part.signals]
        self._means = np.array([signal.mean for signal in part.signals])
        self._weights = np.array([signal.weight / signal.scale for signal in part.signals])
        self._bias = part.bias
        self._from = np.array([step.score for step in part.steps])
        self._to = np.array([step.right for step in part.steps])

    def score(self, values: Mapping[str, Doubles], reading: HeadReading) -> Doubles:
        """P(right) of each row (n,); without signals the calibrated confidence."""
        if not self.reads:
            return reading.confidence.astype(np.float64)
        table = np.stack([values[name] for name in self._names], axis=1)
        # A sum along each row: a matrix product rounds by how many rows there are.
        odds = ((table - self._means) * self._weights).sum(axis=1) + self._bias
        found: Doubles = _logistic(odds)
        return np.interp(found, self._from, self._to) if len(self._from) else found


def signals(
    kind: HeadKind, z: Floats, reading: HeadReading, evidence: Evidence
) -> Mapping[str, Doubles]:
    """The signals of one head, (n,) each; `z` are its logits over its temperature (n, labels)."""
    z = z.astype(np.float64)
    p = reading.probabilities.astype(np.float64)
    if kind is HeadKind.CHOICE:
        two = np.partition(z, -2, axis=1)[:, -2:]
        margin = two[:, 1] - two[:, 0]
        energy = two[:, 1] + np.log(np.exp(z - two[:, 1:]).sum(axis=1))
    else:
        margin = np.abs(z).min(axis=1)
        energy = np.logaddexp(0.0, z).sum(axis=1)
    found = {
        "margin": margin,
        "probability": reading.confidence.astype(np.float64),
        "entropy": energy - (p * z).sum(axis=1),  # of either kind: -sum p log p, written out
        "energy": energy,
        "length": np.log1p(evidence.lengths),
    }
    if evidence.distances is not None:
        found["distance"] = evidence.distances.astype(np.float64)
    return found


def log_odds(share: Doubles) -> Doubles:
    """log(p / (1 - p)), finite also at 0 and 1."""
    inside = np.clip(share, _EDGE, 1.0 - _EDGE)
    odds: Doubles = np.log(inside) - np.log1p(-inside)
    return odds


def _logistic(odds: Doubles) -> Doubles:
    """Logistic function in double precision, exact in both tails."""
    share: Doubles = np.exp(-np.logaddexp(0.0, -odds))
    return share

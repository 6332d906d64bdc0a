"""Raw logits -> calibrated probabilities, labels and confidence, per head and for the request.

A choice is a softmax, a flag a sigmoid, both over logits divided by the head's temperature (Guo et
al. 2017, arXiv 1706.04599). The confidence of a choice is its largest probability, that of flags
the product of the probabilities of each flag's state; the request's score is the product over
heads: the probability that all heads are right, were they independent. The same function runs in
serving, in certification and in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.contract.manifest import HeadCalibration, HeadKind, Task

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HeadReading:
    """What one head says about each of n rows.

    `states` is (n,) int64 label indices for a choice and (n, labels) bool for flags;
    `probabilities` is (n, labels), `confidence` (n,).
    """

    states: NDArray[np.int64] | NDArray[np.bool_]
    probabilities: Floats
    confidence: Floats


class Calibration:
    """The calibrations of all heads of a task."""

    def __init__(self, task: Task, parts: Sequence[HeadCalibration]) -> None:
        self.task = task
        self._heads = tuple(
            (head.kind, where, np.float32(1.0 / part.temperature))
            for head, where, part in zip(task.heads, task.slices(), parts, strict=True)
        )
        self.kinds = tuple(kind for kind, _, _ in self._heads)

    def read(self, logits: Floats) -> tuple[tuple[HeadReading, ...], Floats]:
        """Logits (n, outputs) -> the reading of each head, and the request scores (n,)."""
        readings = tuple(
            _choice(z) if kind is HeadKind.CHOICE else _flags(z)
            for kind, z in zip(self.kinds, self.scaled(logits), strict=True)
        )
        score = readings[0].confidence
        for reading in readings[1:]:
            score = score * reading.confidence
        return readings, score

    def scaled(self, logits: Floats) -> tuple[Floats, ...]:
        """Logits (n, outputs) -> each head's (n, labels), over its temperature."""
        return tuple(logits[:, where] * scale for _, where, scale in self._heads)


def softmax(logits: Floats) -> Floats:
    """Softmax over the last axis, safe for large logits."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = raised / raised.sum(axis=-1, keepdims=True)
    return result


def sigmoid(logits: Floats) -> Floats:
    """Logistic function, safe for large logits."""
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return result


def _choice(logits: Floats) -> HeadReading:
    probabilities = softmax(logits)
    states = probabilities.argmax(axis=1)
    return HeadReading(states, probabilities, probabilities.max(axis=1))


def _flags(logits: Floats) -> HeadReading:
    probabilities = sigmoid(logits)
    states = probabilities >= 0.5
    sure = np.where(states, probabilities, 1.0 - probabilities)
    return HeadReading(states, probabilities, sure.prod(axis=1))

"""Probabilities of labels -> what a teacher said, read as a student's are.

The arithmetic is that of `gateway.contract.calibration`: a choice is its likeliest label, a flag is
set from one half on, and scores are products, so that teachers and students can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.contract.manifest import Head, HeadKind, Task
from gateway.types import HeadPrediction, Prediction

_SET = 0.5  # from this probability on a flag is set, as in calibration


def of_probabilities(head: Head, probabilities: NDArray[np.float32]) -> HeadPrediction:
    """What (labels,) probabilities say: those of a choice sum to 1, each flag has its own."""
    if head.kind is HeadKind.CHOICE:
        place = int(probabilities.argmax())
        return HeadPrediction(
            head.name, (head.labels[place],), float(probabilities[place]), probabilities
        )
    states = probabilities >= _SET
    sure = np.where(states, probabilities, 1.0 - probabilities)
    labels = tuple(label for label, on in zip(head.labels, states, strict=True) if on)
    return HeadPrediction(head.name, labels, float(sure.prod()), probabilities)


def of_labels(head: Head, labels: Sequence[str], confidence: float = 1.0) -> HeadPrediction:
    """What labels say that are `confidence` sure, where nothing is known of the others.

    A choice leaves the rest to its other labels, in equal parts. The state of each of n flags has
    the n-th root, so that the product is the confidence. The labels stay as they were said, also
    where a low confidence leaves more to another.
    """
    marks = np.array([label in labels for label in head.labels])
    if head.kind is HeadKind.CHOICE:
        sure, rest = confidence, (1.0 - confidence) / (len(head.labels) - 1)
    else:
        sure = confidence ** (1.0 / len(head.labels))
        rest = 1.0 - sure
    return HeadPrediction(
        head=head.name,
        labels=tuple(label for label in head.labels if label in labels),
        confidence=confidence,
        probabilities=np.where(marks, sure, rest).astype(np.float32),
    )


def prediction(
    task: Task,
    heads: Sequence[HeadPrediction],
    *,
    by: str,
    score: float | None = None,
    truncated: bool = False,
) -> Prediction:
    """The heads' predictions as one, in the order of the task. `by`: the teacher's name."""
    return Prediction(
        heads=tuple(heads),
        score=math.prod(head.confidence for head in heads) if score is None else score,
        truncated=truncated,
        bundle=by,
        asked=task.heads,
    )

"""What a teacher said of texts, as their lines tell it -> logits that a student can learn.

A probability becomes its logarithm, a label alone a probability of nearly 1. Nothing is asked here,
and nothing is guessed: a head of which a line says nothing stays NaN, and no loss counts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.contract.examples import Example, Label
from gateway.contract.manifest import Head, HeadKind, Task

# Share of a belief that is spread evenly over the labels: the logarithm of 0 cannot be learnt, and
# scores that were stored with four digits do not know what is below it anyway. Szegedy et al. 2016
# (arXiv 1512.00567) smooth labels alike.
SMOOTHING = 0.01


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What is known of rows, in the order of the task's outputs.

    `logits` is (rows, outputs) float32, NaN where nothing is known of a head; those of a choice
    have the mean 0. `scored` (rows, heads) bool: more than a label was known.
    """

    logits: NDArray[np.float32]
    scored: NDArray[np.bool_]


def of(task: Task, rows: Sequence[Example]) -> Beliefs:
    """Scores where a row has them, else its labels; scores of labels that no head has are passed.

    What those take with them is given to the others in proportion.
    """
    logits = np.full((len(rows), task.outputs), np.nan, np.float32)
    scored = np.zeros((len(rows), len(task.heads)), np.bool_)
    for number, row in enumerate(rows):
        for place, (head, where) in enumerate(zip(task.heads, task.slices(), strict=True)):
            scores = row.scores.get(head.name)
            found = None if scores is None else _probabilities(head, scores)
            if found is None:
                found = _stated(head, row.labels.get(head.name))
            else:
                scored[number, place] = bool(((found > 0.0) & (found < 1.0)).any())
            if found is not None:
                logits[number, where] = _logits(head, found)
    return Beliefs(logits, scored)


def _probabilities(head: Head, scores: Mapping[str, float]) -> NDArray[np.float64] | None:
    """(labels,) probabilities; None where the scores say nothing of this head's labels."""
    found = np.array([scores.get(label, 0.0) for label in head.labels], np.float64)
    if head.kind is HeadKind.FLAGS:
        return found
    total = float(found.sum())
    return found / total if total > 0.0 else None


def _stated(head: Head, label: Label | None) -> NDArray[np.float64] | None:
    """A label, or flags, of which nothing more is known."""
    if label is None:
        return None
    named = (label,) if isinstance(label, str) else label
    return np.array([each in named for each in head.labels], np.float64)


def _logits(head: Head, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    if head.kind is HeadKind.FLAGS:
        smooth = (1.0 - SMOOTHING) * probabilities + SMOOTHING / 2
        return np.asarray(np.log(smooth) - np.log1p(-smooth))
    smooth = (1.0 - SMOOTHING) * probabilities + SMOOTHING / len(head.labels)
    logs = np.log(smooth)
    return np.asarray(logs - logs.mean())

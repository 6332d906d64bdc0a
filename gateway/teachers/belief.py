"""How sure a chat model is of what it said: from one reply, from its tokens, or from many replies.

Pure. A chat model gives labels and no probabilities; here it is decided what stands for them. None
of these is calibrated, and none is more than what the model itself lets be seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from gateway.contract.manifest import Head, HeadKind, Task
from gateway.teachers.completion import Tokens
from gateway.teachers.prompt import Reading, Spoken
from gateway.types import HeadPrediction, Prediction


def stated(task: Task, reading: Reading, bundle: str) -> Prediction:
    """What was said, with probability 1: nothing else is known."""
    heads = [
        _said(head, spoken.labels, 1.0, [float(label in spoken.labels) for label in head.labels])
        for head, spoken in zip(task.heads, reading, strict=True)
    ]
    return _prediction(task, heads, bundle)


def weighed(task: Task, reading: Reading, tokens: Tokens, bundle: str) -> Prediction:
    """What was said, with the probability of its tokens.

    A label's probability is that of its tokens, given all before them: the exponential of the sum
    of their log-probabilities. Of what was not said nothing is known, so what is left of 1 is
    spread evenly: over the other labels of a choice; over the flags that were not said, where it is
    what the whole list leaves. The confidence is the probability of the label, or of the list.
    """
    heads = [
        _weighed(head, spoken, tokens) for head, spoken in zip(task.heads, reading, strict=True)
    ]
    return _prediction(task, heads, bundle)


def voted(task: Task, readings: Sequence[Reading], bundle: str) -> Prediction:
    """What most replies said, with the share of them that said it (Wang et al. 2022).

    Each flag is voted on by itself, and the confidence of flags is then the product over their
    states, as it is for a student. Where votes are equal the reply that came first decides.
    Source: self-consistency, arXiv 2203.11171.
    """
    columns = zip(*readings, strict=True)
    heads = [_voted(head, votes) for head, votes in zip(task.heads, columns, strict=True)]
    return _prediction(task, heads, bundle)


def _weighed(head: Head, spoken: Spoken, tokens: Tokens) -> HeadPrediction:
    confidence = tokens.probability(spoken.value)
    others = len(head.labels) - len(spoken.labels)
    rest = (1.0 - confidence) / others if others else 0.0
    said = {label: tokens.probability(place) for label, place in spoken.places.items()}
    return _said(head, spoken.labels, confidence, [said.get(label, rest) for label in head.labels])


def _voted(head: Head, votes: Sequence[Spoken]) -> HeadPrediction:
    counts = Counter(label for spoken in votes for label in spoken.labels)
    shares = [counts[label] / len(votes) for label in head.labels]
    if head.kind is HeadKind.CHOICE:
        ((label, count),) = counts.most_common(1)  # of equals the one that was counted first
        return _said(head, (label,), count / len(votes), shares)
    first = votes[0].labels
    states = [
        label in first if share == 0.5 else share > 0.5
        for label, share in zip(head.labels, shares, strict=True)
    ]
    labels = tuple(label for label, on in zip(head.labels, states, strict=True) if on)
    sure = [share if on else 1.0 - share for share, on in zip(shares, states, strict=True)]
    return _said(head, labels, math.prod(sure), shares)


def _said(
    head: Head, labels: tuple[str, ...], confidence: float, probabilities: Sequence[float]
) -> HeadPrediction:
    return HeadPrediction(
        head=head.name,
        labels=labels,
        confidence=confidence,
        probabilities=np.array(probabilities, np.float32),
    )


def _prediction(task: Task, heads: Sequence[HeadPrediction], bundle: str) -> Prediction:
    return Prediction(
        heads=tuple(heads),
        score=math.prod(head.confidence for head in heads),
        truncated=False,
        bundle=bundle,
        asked=task.heads,
    )

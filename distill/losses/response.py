"""Response losses: the student's logits against the teacher's, or against labels.

All are means over the rows of which something is known, a head at a time: a softmax for a choice, a
sigmoid each for flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gateway.contract.manifest import HeadKind

NO_LABEL = -100  # gold of a row without one; torch's own mark for rows to leave out


@dataclass(frozen=True, slots=True)
class Targets:
    """What is known of one head's rows.

    `gold` is (rows,) int64 with NO_LABEL where there is none for a choice, and (rows, labels) float
    with NO_LABEL for flags. `teacher` is (rows, labels) float logits, NaN in rows of which it said
    nothing, or None. `scored` (rows,) bool: its logits come from probabilities and not from a label
    alone; None: all do. `weight` (rows,) is what a row counts, 1 in the mean; None: all count 1.
    """

    kind: HeadKind
    gold: Tensor
    teacher: Tensor | None
    scored: Tensor | None = None
    weight: Tensor | None = None


class Loss(Protocol):
    """One term of what is made small."""

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Logits (rows, labels) of one head -> a scalar."""


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Hard cross-entropy with the labels; rows without one do not count."""

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """See Loss."""
        if targets.kind is HeadKind.CHOICE:
            known = targets.gold != NO_LABEL
            each = functional.cross_entropy(logits[known], targets.gold[known], reduction="none")
        else:
            known = (targets.gold != NO_LABEL).all(dim=1)
            each = functional.binary_cross_entropy_with_logits(
                logits[known], targets.gold[known], reduction="none"
            ).mean(dim=1)
        return _mean(each, known, targets)


@dataclass(frozen=True, slots=True)
class Kl:
    """tau^2 KL(teacher || student) at temperature tau (Hinton et al. 2015, arXiv 1503.02531).

    For flags the sum over labels of the KL of two Bernoullis.
    """

    temperature: float

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """See Loss."""
        said, known = _known(targets)
        teacher, student = said[known] / self.temperature, logits[known] / self.temperature
        if targets.kind is HeadKind.FLAGS:  # a Bernoulli is a softmax over (z, 0)
            teacher = torch.stack([teacher, torch.zeros_like(teacher)], -1)
            student = torch.stack([student, torch.zeros_like(student)], -1)
        divergence = functional.kl_div(
            functional.log_softmax(student, -1),
            functional.log_softmax(teacher, -1),
            log_target=True,
            reduction="none",
        )
        return self.temperature**2 * _mean(divergence.flatten(1).sum(1), known, targets)


@dataclass(frozen=True, slots=True)
class LogitMse:
    """Mean squared difference of logits (Kim et al. 2021, arXiv 2105.08919).

    Rows of which only a label is known do not count: how large their logits are is not known.
    """

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """See Loss."""
        said, known = _known(targets)
        if targets.scored is not None:
            known = known & targets.scored
        each = functional.mse_loss(logits[known], said[known], reduction="none").mean(dim=1)
        return _mean(each, known, targets)


def build(name: str, options: Mapping[str, float]) -> Loss:
    """The loss of that name, as a recipe writes it."""
    if name == "kl":
        return Kl(temperature=options.get("temperature", 2.0))
    return CrossEntropy() if name == "cross_entropy" else LogitMse()


def _known(targets: Targets) -> tuple[Tensor, Tensor]:
    """The teacher's logits, and the rows (rows,) of which it said something."""
    if targets.teacher is None:
        raise ValueError("this loss needs the teacher's logits, and there are none")
    return targets.teacher, ~targets.teacher.isnan().any(dim=1)


def _mean(losses: Tensor, known: Tensor, targets: Targets) -> Tensor:
    """The mean of the known rows' losses; 0, with a gradient of 0, where there are none."""
    if not len(losses):
        return losses.sum()
    if targets.weight is not None:
        losses = losses * targets.weight[known]
    return losses.mean()

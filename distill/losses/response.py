"""Response losses: the student's logits against the teacher's, or against gold labels.

All are means over rows, a head at a time: a softmax for a choice, a sigmoid each for flags.
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
    with NO_LABEL for flags. `teacher` is (rows, labels) float logits, or None.
    """

    kind: HeadKind
    gold: Tensor
    teacher: Tensor | None


class Loss(Protocol):
    """One term of what is made small."""

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Logits (rows, labels) of one head -> a scalar."""


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Hard cross-entropy with the gold labels; rows without gold do not count."""

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """See Loss."""
        if targets.kind is HeadKind.CHOICE:
            known = targets.gold != NO_LABEL
            if not known.any():
                return logits.sum() * 0.0
            return functional.cross_entropy(logits[known], targets.gold[known])
        known = (targets.gold != NO_LABEL).all(dim=1)
        if not known.any():
            return logits.sum() * 0.0
        return functional.binary_cross_entropy_with_logits(logits[known], targets.gold[known])


@dataclass(frozen=True, slots=True)
class Kl:
    """tau^2 KL(teacher || student) at temperature tau (Hinton et al. 2015, arXiv 1503.02531).

    For flags the sum over labels of the KL of two Bernoullis.
    """

    temperature: float

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """See Loss."""
        teacher = _known(targets) / self.temperature
        student = logits / self.temperature
        if targets.kind is HeadKind.FLAGS:  # a Bernoulli is a softmax over (z, 0)
            teacher = torch.stack([teacher, torch.zeros_like(teacher)], -1).flatten(0, 1)
            student = torch.stack([student, torch.zeros_like(student)], -1).flatten(0, 1)
        divergence = functional.kl_div(
            functional.log_softmax(student, -1),
            functional.log_softmax(teacher, -1),
            log_target=True,
            reduction="sum",
        )
        return self.temperature**2 * divergence / len(logits)


@dataclass(frozen=True, slots=True)
class LogitMse:
    """Mean squared difference of logits (Kim et al. 2021, arXiv 2105.08919)."""

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """See Loss."""
        return functional.mse_loss(logits, _known(targets))


def build(name: str, options: Mapping[str, float]) -> Loss:
    """The loss of that name, as a recipe writes it."""
    if name == "kl":
        return Kl(temperature=options.get("temperature", 2.0))
    return CrossEntropy() if name == "cross_entropy" else LogitMse()


def _known(targets: Targets) -> Tensor:
    if targets.teacher is None:
        raise ValueError("this loss needs the teacher's logits, and there are none")
    return targets.teacher

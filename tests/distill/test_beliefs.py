"""What a teacher said becomes logits: scores by their logarithm, a label as nearly sure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distill import beliefs
from distill.losses.response import Kl, LogitMse, Targets
from gateway.contract.examples import Example
from gateway.contract.manifest import Head, HeadKind, Task

TASK = Task(
    name="t",
    heads=(
        Head(name="intent", kind=HeadKind.CHOICE, labels=("a", "b")),
        Head(name="risk", kind=HeadKind.FLAGS, labels=("x", "y")),
    ),
)
LN = math.log


def smooth(share: float) -> float:
    """A probability with one part in a hundred spread over two labels, or two states."""
    return 0.99 * share + 0.005


def test_scores_become_centred_logarithms_and_log_odds() -> None:
    row = Example("t", scores={"intent": {"a": 0.8, "b": 0.2}, "risk": {"x": 0.3}})
    found = beliefs.of(TASK, [row])
    half = (LN(smooth(0.8)) - LN(smooth(0.2))) / 2
    odds = [LN(smooth(share) / (1 - smooth(share))) for share in (0.3, 0.0)]
    assert found.logits[0].tolist() == pytest.approx([half, -half, *odds], abs=1e-6)
    assert found.scored.tolist() == [[True, True]]


def test_a_label_alone_is_nearly_sure_and_has_no_score() -> None:
    rows = [
        Example("t", {"intent": "b", "risk": ("x",)}, source="teacher"),
        Example("t", scores={"intent": {"b": 1.0}, "risk": {"x": 1.0}}),
    ]
    found = beliefs.of(TASK, rows)
    half = (LN(smooth(1.0)) - LN(smooth(0.0))) / 2
    assert found.logits[0].tolist() == pytest.approx([-half, half, 2 * half, -2 * half], abs=1e-5)
    assert np.array_equal(found.logits[0], found.logits[1])
    assert not found.scored.any()


def test_what_is_not_said_is_not_known_and_flags_may_all_be_off() -> None:
    rows = [Example("t"), Example("t", scores={"intent": {"c": 0.9}, "risk": {}})]
    found = beliefs.of(TASK, rows)
    assert np.isnan(found.logits[0]).all()
    assert np.isnan(found.logits[1, :2]).all()
    assert (found.logits[1, 2:] < -5).all()


def test_what_other_labels_took_goes_to_those_of_the_head() -> None:
    of_three = Example("t", scores={"intent": {"a": 0.4, "b": 0.1, "gone": 0.5}})
    of_two = Example("t", scores={"intent": {"a": 0.8, "b": 0.2}})
    assert beliefs.of(TASK, [of_three]).logits[0, :2] == pytest.approx(
        beliefs.of(TASK, [of_two]).logits[0, :2]
    )


def test_losses_pass_over_what_is_unknown_and_weigh_what_is_known() -> None:
    nan = math.nan
    logits = torch.zeros(3, 2)
    targets = Targets(
        HeadKind.CHOICE,
        torch.empty(0),
        torch.tensor([[LN(3), 0.0], [nan, nan], [0.0, 2.0]]),
        scored=torch.tensor([True, True, False]),
        weight=torch.tensor([1.5, 0.5, 1.0]),
    )
    first = 0.75 * LN(1.5) + 0.25 * LN(0.5)
    sure = 1 / (1 + math.exp(-2))
    third = sure * LN(2 * sure) + (1 - sure) * LN(2 * (1 - sure))
    assert Kl(1.0)(logits, targets).item() == pytest.approx((1.5 * first + third) / 2, abs=1e-6)
    # The third row has a label alone: how large its logits are is not known.
    assert LogitMse()(logits, targets).item() == pytest.approx(1.5 * LN(3) ** 2 / 2, rel=1e-6)
    none = Targets(HeadKind.CHOICE, torch.empty(0), torch.full((3, 2), nan))
    assert Kl(1.0)(logits.requires_grad_(), none).item() == 0.0

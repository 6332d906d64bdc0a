"""Response losses against closed forms worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.losses.response import NO_LABEL, CrossEntropy, Kl, LogitMse, Loss, Targets, build
from gateway.contract.manifest import HeadKind

LN = math.log
NONE = torch.empty(0)


def choice(*, gold: Tensor = NONE, teacher: Tensor | None = None) -> Targets:
    return Targets(HeadKind.CHOICE, gold, teacher)


def flags(*, gold: Tensor = NONE, teacher: Tensor | None = None) -> Targets:
    return Targets(HeadKind.FLAGS, gold, teacher)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32, requires_grad=True)


def gradient(loss: Loss, logits: Tensor, targets: Targets) -> Tensor:
    (found,) = torch.autograd.grad(loss(logits, targets), logits)
    return found


@pytest.mark.parametrize("targets", [choice, flags])
@pytest.mark.parametrize("loss", [Kl(1.0), Kl(4.0), LogitMse()])
def test_a_student_that_says_the_same_has_nothing_to_learn(loss: Loss, targets: object) -> None:
    logits = rows([2.0, -1.0, 0.5], [0.0, 3.0, -7.0])
    kind = HeadKind.CHOICE if targets is choice else HeadKind.FLAGS
    same = Targets(kind, NONE, logits.detach().clone())
    assert loss(logits, same).item() == pytest.approx(0.0, abs=1e-7)
    assert gradient(loss, logits, same).abs().max().item() == pytest.approx(0.0, abs=1e-6)


def test_kl_of_a_choice_by_hand() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2).
    loss = Kl(1.0)(rows([0.0, 0.0]), choice(teacher=rows([LN(3), 0.0])))
    assert loss.item() == pytest.approx(0.75 * LN(1.5) + 0.25 * LN(0.5), abs=1e-6)


def test_kl_is_asked_from_the_teacher_to_the_student() -> None:
    there = Kl(1.0)(rows([0.0, 0.0]), choice(teacher=rows([5.0, 0.0]))).item()
    back = Kl(1.0)(rows([5.0, 0.0]), choice(teacher=rows([0.0, 0.0]))).item()
    assert there == pytest.approx(LN(2) - 0.0401, abs=1e-3)  # ln 2 - H(sigmoid 5)
    assert back == pytest.approx(1.8135, abs=1e-3)  # -ln 2 - (ln s(5) + ln s(-5)) / 2


def test_kl_at_a_temperature_is_scaled_by_its_square() -> None:
    # Logits of ln 9 at temperature 2 are ln 3.
    loss = Kl(2.0)(rows([0.0, 0.0]), choice(teacher=rows([LN(9), 0.0])))
    assert loss.item() == pytest.approx(4 * (0.75 * LN(1.5) + 0.25 * LN(0.5)), abs=1e-6)


def test_the_gradient_of_kl_is_the_difference_of_probabilities_times_temperature() -> None:
    logits = rows([0.0, 0.0])
    moved = gradient(Kl(2.0), logits, choice(teacher=rows([LN(9), 0.0])))
    assert moved[0].tolist() == pytest.approx([2 * (0.5 - 0.75), 2 * (0.5 - 0.25)], abs=1e-6)


def test_at_a_high_temperature_kl_is_the_squared_difference_of_centred_logits() -> None:
    """Hinton et al., section 2.1: tau^2 KL tends to sum((z - v)^2) / (2 labels)."""
    loss = Kl(1000.0)(rows([1.0, -1.0]), choice(teacher=rows([3.0, -3.0])))
    assert loss.item() == pytest.approx((4 + 4) / (2 * 2), rel=2e-2)


def test_kl_of_flags_is_the_sum_of_the_kl_of_each() -> None:
    # Teacher 3/4 and 1/5, student 1/2 and 1/2.
    loss = Kl(1.0)(rows([0.0, 0.0]), flags(teacher=rows([LN(3), -LN(4)])))
    first = 0.75 * LN(1.5) + 0.25 * LN(0.5)
    second = 0.2 * LN(0.4) + 0.8 * LN(1.6)
    assert loss.item() == pytest.approx(first + second, abs=1e-6)


@pytest.mark.parametrize("targets", [choice, flags])
def test_kl_is_a_mean_over_rows(targets: object) -> None:
    kind = HeadKind.CHOICE if targets is choice else HeadKind.FLAGS
    one = Kl(1.0)(rows([0.0, 1.0]), Targets(kind, NONE, rows([2.0, 0.0])))
    many = Kl(1.0)(rows(*[[0.0, 1.0]] * 5), Targets(kind, NONE, rows(*[[2.0, 0.0]] * 5)))
    assert many.item() == pytest.approx(one.item(), rel=1e-6)


@pytest.mark.parametrize("kind", list(HeadKind))
@pytest.mark.parametrize("loss", [Kl(1.0), Kl(2.0), LogitMse(), CrossEntropy()])
def test_huge_logits_stay_finite(loss: Loss, kind: HeadKind) -> None:
    logits = rows([1e4, -1e4, 0.0])
    gold = torch.tensor([1]) if kind is HeadKind.CHOICE else torch.tensor([[0.0, 1.0, 1.0]])
    targets = Targets(kind, gold, torch.tensor([[-1e4, 1e4, 0.0]]))
    assert torch.isfinite(loss(logits, targets))
    assert torch.isfinite(gradient(loss, logits, targets)).all()


def test_the_squared_difference_of_logits_by_hand() -> None:
    loss = LogitMse()(rows([1.0, 2.0], [0.0, 0.0]), choice(teacher=rows([3.0, 2.0], [0.0, 2.0])))
    assert loss.item() == pytest.approx((4 + 0 + 0 + 4) / 4)


def test_cross_entropy_of_a_choice_by_hand() -> None:
    logits = rows([LN(3), 0.0], [0.0, 0.0])
    loss = CrossEntropy()(logits, choice(gold=torch.tensor([0, 1])))
    assert loss.item() == pytest.approx((-LN(0.75) - LN(0.5)) / 2, abs=1e-6)


def test_cross_entropy_of_flags_by_hand() -> None:
    loss = CrossEntropy()(rows([LN(3), 0.0]), flags(gold=torch.tensor([[1.0, 0.0]])))
    assert loss.item() == pytest.approx((-LN(0.75) - LN(0.5)) / 2, abs=1e-6)


def test_rows_without_gold_do_not_count() -> None:
    logits = rows([LN(3), 0.0], [50.0, -50.0])
    moved = gradient(CrossEntropy(), logits, choice(gold=torch.tensor([0, NO_LABEL])))
    assert moved[1].tolist() == [0.0, 0.0]
    known = CrossEntropy()(rows([LN(3), 0.0]), choice(gold=torch.tensor([0])))
    assert known.item() == pytest.approx(-LN(0.75), abs=1e-6)
    assert CrossEntropy()(logits, choice(gold=torch.tensor([0, NO_LABEL]))).item() == pytest.approx(
        known.item()
    )
    marks = torch.tensor([[1.0, 0.0], [NO_LABEL, NO_LABEL]])
    some = CrossEntropy()(logits, flags(gold=marks)).item()
    assert some == pytest.approx((-LN(0.75) - LN(0.5)) / 2, abs=1e-6)


@pytest.mark.parametrize(
    "targets",
    [
        choice(gold=torch.tensor([NO_LABEL, NO_LABEL])),
        flags(gold=torch.full((2, 2), float(NO_LABEL))),
    ],
)
def test_no_gold_at_all_teaches_nothing_and_keeps_the_graph_whole(targets: Targets) -> None:
    logits = rows([1.0, 2.0], [3.0, 4.0])
    assert CrossEntropy()(logits, targets).item() == 0.0
    assert gradient(CrossEntropy(), logits, targets).abs().sum().item() == 0.0


@pytest.mark.parametrize("loss", [Kl(1.0), LogitMse()])
def test_a_loss_that_needs_a_teacher_says_so(loss: Loss) -> None:
    with pytest.raises(ValueError, match="needs the teacher's logits"):
        loss(rows([0.0, 0.0]), choice(gold=torch.tensor([0])))


def test_losses_are_built_by_the_names_of_a_recipe() -> None:
    assert build("kl", {"temperature": 3.0}) == Kl(3.0)
    assert build("kl", {}) == Kl(2.0)
    assert build("cross_entropy", {}) == CrossEntropy()
    assert build("logit_mse", {}) == LogitMse()

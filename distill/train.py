"""The training loop, read top to bottom.

Batches hold texts of like length; the learning rate warms up and falls linearly; bf16 where the
processor has it. Each epoch ends with a checkpoint; a killed training goes on from the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.losses.response import NO_LABEL, Loss, Targets, build
from distill.recipe import Training
from gateway.contract.encoding import pad
from gateway.contract.examples import Label
from gateway.contract.manifest import HeadKind, Task

_WARM_UP = 0.06  # share of the steps in which the learning rate rises
_CLIP = 1.0  # largest norm of the gradient
_DECAY = 0.01  # AdamW weight decay, BERT's own
_POOL = 50  # batches that are sorted by length together: enough to pad little, still shuffled


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Encoded texts and their targets, row by row.

    `gold` has one array a head: (rows,) int64 or (rows, labels) float32, NO_LABEL where unknown;
    `teacher` is (rows, outputs) float32 logits, NaN where it said nothing, or None. `scored` (rows,
    heads) bool: the logits come from probabilities; None: all do. `weights` (rows,) float32 is what
    each row counts, 1 in the mean; None: all count alike.
    """

    task: Task
    rows: Sequence[Sequence[int]]
    gold: tuple[NDArray[np.int64] | NDArray[np.float32], ...]
    teacher: NDArray[np.float32] | None = None
    scored: NDArray[np.bool_] | None = None
    weights: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the data came to."""

    number: int
    loss: float


Progress = Callable[[int, int], None]  # (texts done, texts in all)


def train(
    module: nn.Module,
    data: TrainingSet,
    plan: Training,
    *,
    seed: int,
    checkpoints: Path,
    progress: Progress,
) -> list[Epoch]:
    """Train `module` in place; returns the mean loss of each epoch.

    Interrupted and called again with the same `checkpoints`, it goes on after the last whole epoch.
    """
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = plan.dropout
    accelerator = Accelerator(mixed_precision="bf16" if _has_bf16() else "no")
    # Fused: a quarter off a step, for the embedding table is most of the parameters.
    optimizer = torch.optim.AdamW(_groups(module, plan), weight_decay=_DECAY, fused=True)
    history = _resume(module, optimizer, checkpoints)
    network, optimizer = accelerator.prepare(module, optimizer)
    peaks = [plan.learning_rate, plan.head_learning_rate]
    losses = [
        (term.weight, build(term.name, {"temperature": term.temperature})) for term in plan.losses
    ]
    per_epoch = math.ceil(len(data.rows) / plan.batch)
    steps = plan.epochs * per_epoch

    network.train()
    for epoch in range(len(history), plan.epochs):
        torch.manual_seed(seed * 1_000 + epoch)
        order = np.random.default_rng([seed, epoch])
        total = 0.0
        for number, batch in enumerate(_batches(data.rows, plan.batch, order)):
            step = epoch * per_epoch + number
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * _pace(step / steps)
            ids, mask = (
                torch.from_numpy(part).to(accelerator.device)
                for part in pad([data.rows[row] for row in batch])
            )
            logits = network(ids, mask)[0].float()
            loss = _loss(logits, data, batch, losses)
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(network.parameters(), _CLIP)
            optimizer.step()
            total += loss.item() * len(batch)
            progress(
                epoch * len(data.rows) + min((number + 1) * plan.batch, len(data.rows)),
                plan.epochs * len(data.rows),
            )
        history.append(Epoch(epoch, total / len(data.rows)))
        _keep(module, optimizer, history, checkpoints)
    network.eval()
    module.cpu()
    return history


def _loss(
    logits: Tensor,
    data: TrainingSet,
    batch: NDArray[np.int64],
    losses: Sequence[tuple[float, Loss]],
) -> Tensor:
    """The weighted sum of the terms, summed over heads."""
    total = logits.new_zeros(())

    def taken(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values[batch]).to(logits.device)

    counts = None if data.weights is None else taken(data.weights)
    heads = zip(data.task.heads, data.task.slices(), data.gold, strict=True)
    for place, (head, where, gold) in enumerate(heads):
        targets = Targets(
            kind=head.kind,
            gold=taken(gold),
            teacher=None if data.teacher is None else taken(data.teacher)[:, where],
            scored=None if data.scored is None else taken(data.scored)[:, place],
            weight=counts,
        )
        for weight, loss in losses:
            total = total + weight * loss(logits[:, where], targets)
    return total


def gold_of(
    task: Task, labels: Sequence[Mapping[str, Label]]
) -> tuple[NDArray[np.int64] | NDArray[np.float32], ...]:
    """Gold labels as a TrainingSet wants them, one array a head."""
    columns: list[NDArray[np.int64] | NDArray[np.float32]] = []
    for head in task.heads:
        index = {label: place for place, label in enumerate(head.labels)}
        said = [each.get(head.name) for each in labels]
        if head.kind is HeadKind.CHOICE:
            columns.append(
                np.array([NO_LABEL if one is None else index[str(one)] for one in said], np.int64)
            )
            continue
        marks = np.zeros((len(said), len(head.labels)), np.float32)
        for row, some in enumerate(said):
            if some is None:
                marks[row] = NO_LABEL
            else:
                marks[row, [index[label] for label in some]] = 1.0
        columns.append(marks)
    return tuple(columns)


def _pace(done: float) -> float:
    """Share of the peak learning rate after this share of the steps."""
    return min(1.0, (done + 1e-9) / _WARM_UP) * (1.0 - done)


def _batches(
    rows: Sequence[Sequence[int]], size: int, order: np.random.Generator
) -> list[NDArray[np.int64]]:
    shuffled = order.permutation(len(rows))
    batches = []
    for start in range(0, len(shuffled), size * _POOL):
        pool = sorted(shuffled[start : start + size * _POOL], key=lambda row: len(rows[row]))
        batches += [np.array(pool[at : at + size]) for at in range(0, len(pool), size)]
    return [batches[place] for place in order.permutation(len(batches))]


def _groups(module: nn.Module, plan: Training) -> list[dict[str, object]]:
    heads = [weight for name, weight in module.named_parameters() if name.startswith("heads.")]
    body = [weight for name, weight in module.named_parameters() if not name.startswith("heads.")]
    return [
        {"params": body, "lr": plan.learning_rate},
        {"params": heads, "lr": plan.head_learning_rate},
    ]


def _has_bf16() -> bool:
    """Whether this machine multiplies bf16 in hardware; elsewhere autocast is slower than fp32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _keep(
    module: nn.Module, optimizer: torch.optim.Optimizer, history: list[Epoch], folder: Path
) -> None:
    """Write a checkpoint beside the last one, then put it in its place."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in module.state_dict().items()}, folder / "next.safetensors"
    )
    torch.save(
        {
            "optimizer": optimizer.state_dict(),
            "losses": [epoch.loss for epoch in history],
        },
        folder / "next.state",
    )
    # The weights go first: the state names the epoch whose weights `_resume` reads.
    (folder / "next.safetensors").rename(folder / f"epoch-{len(history)}.safetensors")
    (folder / "next.state").rename(folder / "state")
    (folder / f"epoch-{len(history) - 1}.safetensors").unlink(missing_ok=True)


def _resume(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> list[Epoch]:
    if not (folder / "state").is_file():
        return []
    state = torch.load(folder / "state", weights_only=True)
    losses = state["losses"]
    module.load_state_dict(load_file(folder / f"epoch-{len(losses)}.safetensors"))
    optimizer.load_state_dict(state["optimizer"])
    return [Epoch(number, loss) for number, loss in enumerate(losses)]

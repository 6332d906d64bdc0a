"""The train stage: a pretrained base, or layers of the teacher -> a trained network.

It leaves the network, its tokenizer, the loss of each epoch, and the ids of the rows that were
taught, since those can certify nothing later.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from distill import pretrained
from distill.networks import encoder
from distill.stages.job import Job, ids_of, texts_of
from distill.stages.lesson import lesson, originals_of
from distill.stages.limits import input_limits, teacher_limits
from distill.train import Epoch, TrainingSet, train
from distill.workspace import TAUGHT
from exporters import prune_vocabulary
from gateway.contract.encoding import Encoding
from gateway.contract.examples import Example
from gateway.errors import RecipeError

_COMMON_PIECES = 10_000  # of BERT's 30,522: 4 MB of int8 rows, and most words of plain English


def train_teacher(job: Job, folder: Path) -> None:
    """The recipe's base with the task's heads on it, fine-tuned on gold labels."""
    recipe, material = job.recipe, job.material
    plan = recipe.teacher
    base = pretrained.find(plan.base, recipe.folder)
    torch.manual_seed(recipe.seed)
    network = encoder.from_pretrained(
        base.folder, outputs=material.task.outputs, layers=plan.layers
    )
    encoding = Encoding(base.tokenizer, teacher_limits(network))
    rows = material.splits.train
    data = TrainingSet(material.task, ids_of(encoding, rows), job.gold(rows))
    with job.narrator.bar("training the teacher") as bar:
        history = train(
            network,
            data,
            plan.training,
            seed=recipe.seed,
            checkpoints=folder / "checkpoints",
            progress=bar,
        )
    _keep_training(network, base.tokenizer, history, rows, folder)


def train_student(job: Job, labelled: Path, folder: Path) -> None:
    """The layers that the recipe keeps, taught what the label stage has written down.

    Raises RecipeError where it asks for layers or positions that are not there.
    """
    recipe = job.recipe
    plan = recipe.student
    originals = originals_of(job)
    torch.manual_seed(recipe.seed)
    network, tokenizer = _untrained_student(job)
    if plan.max_tokens > network.shape.positions:
        raise RecipeError(
            f"student.max_tokens is {plan.max_tokens}, and the network it starts from reads "
            f"{network.shape.positions} tokens",
            mend="lower student.max_tokens",
        )
    encoder.keep_positions(network, plan.max_tokens)
    if plan.prune_vocabulary:
        pruned = prune_vocabulary.prune(tokenizer, texts_of(originals), common=_COMMON_PIECES)
        encoder.keep_words(network, pruned.kept)
        tokenizer = pruned.tokenizer
    data = lesson(job, labelled, Encoding(tokenizer, input_limits(plan.max_tokens)))
    with job.narrator.bar("training the student") as bar:
        history = train(
            network,
            data,
            plan.training,
            seed=recipe.seed,
            checkpoints=folder / "checkpoints",
            progress=bar,
        )
    _keep_training(network, tokenizer, history, originals, folder)


def _untrained_student(job: Job) -> tuple[encoder.Encoder, bytes]:
    """Layers of the teacher where its training is at hand, else of the pretrained base."""
    training = None if job.teacher is None else job.workspace.training_of(job.teacher.id)
    if training is not None:
        source, tokenizer = encoder.load(training), (training / "tokenizer.json").read_bytes()
    else:
        base = pretrained.find(job.recipe.teacher.base, job.recipe.folder)
        source = encoder.from_pretrained(base.folder, outputs=job.material.task.outputs)
        tokenizer = base.tokenizer
    layers = job.recipe.student.layers
    if layers[-1] >= source.shape.layers:
        raise RecipeError(
            f"student.layers names layer {layers[-1]}, and what it starts from has the layers 0 to "
            f"{source.shape.layers - 1}",
            mend="name layers that are there",
        )
    return encoder.take_layers(source, layers), tokenizer


def _keep_training(
    network: encoder.Encoder,
    tokenizer: bytes,
    history: Sequence[Epoch],
    rows: Sequence[Example],
    folder: Path,
) -> None:
    network.save(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    (folder / "history.json").write_text(json.dumps([epoch.loss for epoch in history]) + "\n")
    (folder / TAUGHT).write_text(json.dumps([row.id for row in rows]) + "\n")

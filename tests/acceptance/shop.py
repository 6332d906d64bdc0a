"""A small ticket project that is trained for real, through the commands that a user runs.

Its base is a tiny BERT of random weights whose vocabulary comes from the tickets, so that teaching
and distilling take seconds and still pass every stage. What it learns in them is little.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from distill.demo import project, tickets
from distill.workspace import Workspace
from gateway import settings
from tests.acceptance.command import Ran, understudy

TICKETS = 700
SEED = 0
EPOCHS = 5
CERTIFIED_ROWS = 91  # of 455 labelled ones

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PIECES = 300
_LONGEST_WAIT_MS = 60_000
_TRAINING = {"batch": 16, "learning_rate": 1.0e-3, "head_learning_rate": 1.0e-2}
# What differs from the recipe that `understudy init` writes.
_TEACHER = {
    "base": "base",
    "layers": 3,
    "training": _TRAINING | {"epochs": EPOCHS, "losses": [{"name": "cross_entropy"}]},
}
_STUDENT = {
    "layers": [0, 1],
    "training": _TRAINING
    | {"epochs": EPOCHS, "losses": [{"name": "kl"}, {"name": "logit_mse", "weight": 0.3}]},
}
_SPLIT = {"calibration": 0.1, "certification": 0.2, "test": 0.2}
_CERTIFICATE = {"alpha": 0.4, "delta": 0.05}  # a promise that so small a model can keep in part


@dataclass(frozen=True, slots=True)
class Shop:
    """A project folder with a trained teacher and student, and what the commands printed."""

    folder: Path
    init: Ran
    teach: Ran
    distill: Ran

    @property
    def recipe(self) -> Path:
        """Its recipe.yaml."""
        return self.folder / "recipe.yaml"

    @property
    def workspace(self) -> Workspace:
        """Its runs and bundles."""
        return Workspace(self.folder)

    def copy(self, parent: Path) -> Path:
        """The same project in a place that a test may change, without what was served in it.

        Its gateway refuses nobody for a long wait: others may be busy on this machine.
        """
        served = shutil.ignore_patterns("understudy.db*", "gateway.log")
        copied = shutil.copytree(self.folder, parent / "shop", symlinks=True, ignore=served)
        config = copied / settings.FILE
        content = yaml.safe_load(config.read_text())
        for task in content["tasks"].values():
            task["student"]["max_wait_ms"] = _LONGEST_WAIT_MS
        config.write_text(yaml.safe_dump(content, sort_keys=False))
        return copied


def trained(factory: pytest.TempPathFactory) -> Shop:
    """The project, made for whoever asks first and kept for the session."""
    return _made(factory.getbasetemp() / "shop")


@cache
def _made(folder: Path) -> Shop:
    project.write(folder, count=TICKETS, seed=SEED)
    pretrain(folder / "base")
    said = understudy(
        "init", "tickets", "--force", "--out", folder,
        "--data", folder / "tickets.csv", "--unlabelled", folder / "traffic.csv",
        "--label-column", "intent", "--label-column", "urgency", "--label-column", "risk:flags",
        "--group-column", "customer", "--field-column", "amount",
    )  # fmt: skip
    recipe = folder / "recipe.yaml"
    edit(recipe, {"data": {"path": "tickets.csv", "unlabelled": "traffic.csv", "split": _SPLIT}})
    edit(recipe, {"teacher": _TEACHER, "student": _STUDENT, "certificate": _CERTIFICATE})
    with one_thread():
        return Shop(
            folder=folder,
            init=said,
            teach=understudy("teach", "--recipe", recipe),
            distill=understudy("distill", "--recipe", recipe),
        )


def pretrain(folder: Path) -> Path:
    """Write a Hugging Face BERT folder with seeded random weights."""
    texts = [ticket.text for ticket in tickets.generate(TICKETS, seed=SEED)]
    tokenizer = _tokenizer(texts)
    torch.manual_seed(SEED)
    network = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=256,
        )
    )
    network.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def edit(path: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Change keys of the sections of a YAML file, as a person would in an editor."""
    content = yaml.safe_load(path.read_text())
    for section, keys in changes.items():
        content[section] |= keys
    path.write_text(yaml.safe_dump(content, sort_keys=False))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work on one thread: tiny products wait longer for a second one than they take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _tokenizer(texts: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106  no password
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=_PIECES, special_tokens=list(_SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(each, tokenizer.token_to_id(each)) for each in ("[CLS]", "[SEP]")],
    )
    return tokenizer

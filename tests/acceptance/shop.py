"""A small ticket project that is trained for real: a tiny BERT, and the demo's recipe on top of it.

The base has random weights and a vocabulary of the tickets' own words, so that teaching and
distilling take seconds on two cores and still go through every stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from distill.demo import project, tickets
from gateway import cli

TICKETS = 700
SEED = 0

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = 300  # pieces of the vocabulary
_POSITIONS = 256  # what a teacher reads
_RECIPE = project.RECIPE

def recipe(base: Path) -> str:
    """The demo's recipe, on the tiny base and with the promise that few rows can carry."""
    return f"""\
version: 1
task: tickets
data:
  path: tickets.csv
  unlabelled: traffic.csv
  group_column: customer
  field_columns: [amount]
  heads:
    intent: {{kind: choice, column: intent}}
    urgency: {{kind: choice, column: urgency}}
    risk: {{kind: flags, column: risk}}
  split: {{calibration: 0.10, certification: 0.20, test: 0.20}}
teacher:
  base: {base}
  layers: 3
  training: {{epochs: 12, learning_rate: 3.0e-3, head_learning_rate: 1.0e-2, losses: [{{name: cross_entropy}}]}}
student:
  layers: [0, 1]
  training:
    epochs: 6
    learning_rate: 2.0e-3
    losses: [{{name: kl, temperature: 2.0}}, {{name: logit_mse, weight: 0.3}}]
certificate: {{alpha: 0.25, delta: 0.05}}
prices: {{teacher_usd_per_1000: 2.00, instance_usd_per_hour: 0.10}}
seed: %(seed)d
"""


def pretrain(folder: Path, texts: Sequence[str]) -> Path:
    """Write a Hugging Face BERT folder with seeded random weights; returns it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=_WORDS, special_tokens=_SPECIAL, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(each, tokenizer.token_to_id(each)) for each in ("[CLS]", "[SEP]")],
    )
    torch.manual_seed(SEED)
    network = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=_POSITIONS,
        )
    )
    network.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder

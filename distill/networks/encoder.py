"""A BERT-shaped encoder with one linear head per head of the task.

The layers are BERT's (Devlin et al. 2019, arXiv 1810.04805) with mean pooling (Reimers and Gurevych
2019, arXiv 1908.10084), written so that the exported graph holds arithmetic and little else: one
matrix product for query, key and value, the attention scale folded into it, no token types, no
pooler. It reads Hugging Face BERT folders (safetensors only) and gives the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gateway.errors import RecipeError

_DROPOUT = 0.1  # BERT's own rate, until a training plan says another
# What config.json must say, for the layers below give other numbers for anything else.
_BERT = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
_MASKED = -1e4  # added to the score of a padded key; exp(-1e4) is 0 in fp32 and bf16


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The sizes of an encoder; `outputs` is the number of logits of all heads together."""

    vocabulary: int
    hidden: int
    layers: int
    attention_heads: int
    feed_forward: int
    positions: int
    outputs: int
    norm_epsilon: float = 1e-12


class _Attention(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.heads = shape.attention_heads
        self.size = shape.hidden // shape.attention_heads
        self.query_key_value = nn.Linear(shape.hidden, 3 * shape.hidden)
        self.output = nn.Linear(shape.hidden, shape.hidden)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        joined = self.query_key_value(states)
        query, key, value = (
            part.unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            for part in joined.chunk(3, dim=-1)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) + bias, dim=-1)
        mixed: Tensor = self.output((weights @ value).transpose(1, 2).flatten(2))
        return mixed


class _Layer(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.attention = _Attention(shape)
        self.attention_norm = nn.LayerNorm(shape.hidden, eps=shape.norm_epsilon)
        self.expand = nn.Linear(shape.hidden, shape.feed_forward)
        self.contract = nn.Linear(shape.feed_forward, shape.hidden)
        self.output_norm = nn.LayerNorm(shape.hidden, eps=shape.norm_epsilon)
        self.drop = nn.Dropout(_DROPOUT)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        states = self.attention_norm(states + self.drop(self.attention(states, bias)))
        expanded = nn.functional.gelu(self.expand(states))
        result: Tensor = self.output_norm(states + self.drop(self.contract(expanded)))
        return result


class Encoder(nn.Module):
    """Token ids -> (logits of all heads side by side, pooled vector).

    `forward(input_ids, attention_mask)`: both int64 of shape (rows, tokens), the mask 1 on real
    tokens. Returns logits (rows, outputs) and the mean-pooled state (rows, hidden), both float.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocabulary, shape.hidden)
        self.positions = nn.Embedding(shape.positions, shape.hidden)
        self.embedding_norm = nn.LayerNorm(shape.hidden, eps=shape.norm_epsilon)
        self.drop = nn.Dropout(_DROPOUT)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.heads = nn.Linear(shape.hidden, shape.outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        mask = attention_mask.to(self.words.weight.dtype)
        places = self.positions.weight[: input_ids.shape[1]]
        states = self.drop(self.embedding_norm(self.words(input_ids) + places))
        bias = ((1.0 - mask) * _MASKED)[:, None, None, :]
        for layer in self.layers:
            states = layer(states, bias)
        kept = mask[:, :, None]
        pooled = (states * kept).sum(1) / kept.sum(1)
        logits: Tensor = self.heads(self.drop(pooled))
        return logits, pooled

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and shape into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "encoder.safetensors")
        (folder / "encoder.json").write_text(json.dumps(asdict(self.shape), indent=2) + "\n")


def load(folder: Path) -> Encoder:
    """Read what `Encoder.save` wrote."""
    shape = EncoderShape(**json.loads((folder / "encoder.json").read_text()))
    encoder = Encoder(shape)
    encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    return encoder


def from_pretrained(folder: Path, *, outputs: int, layers: int | None = None) -> Encoder:
    """Build an encoder on the weights of a Hugging Face BERT folder; the heads are new.

    `layers` keeps only the first so many. Raises RecipeError when the folder holds no BERT.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise RecipeError(
            f"{folder} is not a readable pretrained model: {error}",
            mend="name a folder with config.json, model.safetensors and tokenizer.json",
        ) from error
    for key, wanted in _BERT.items():
        if (found := config.get(key, wanted if key != "model_type" else None)) != wanted:
            raise RecipeError(
                f"{folder / 'config.json'}: {key} is {found!r}; the encoder reads {wanted!r}",
                mend="name a BERT-shaped model, such as MiniLM",
            )
    try:
        shape = EncoderShape(
            vocabulary=config["vocab_size"],
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            attention_heads=config["num_attention_heads"],
            feed_forward=config["intermediate_size"],
            positions=config["max_position_embeddings"],
            outputs=outputs,
            norm_epsilon=config["layer_norm_eps"],
        )
        shape = replace(shape, layers=min(layers or shape.layers, shape.layers))
        state = _from_hugging_face(weights, shape)
    except KeyError as error:
        raise RecipeError(
            f"{folder} has no {error.args[0]}, which a BERT has",
            mend="copy the folder again from where it was whole",
        ) from error
    encoder = Encoder(shape)
    encoder.load_state_dict(state | _new_heads(shape), strict=True)
    return encoder


def take_layers(source: Encoder, layers: tuple[int, ...]) -> Encoder:
    """A student that starts from the embedding, the heads and these layers of `source`."""
    shape = replace(source.shape, layers=len(layers))
    student = Encoder(shape)
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("layers.")}
    for place, index in enumerate(layers):
        prefix = f"layers.{index}."
        for key, value in source.state_dict().items():
            if key.startswith(prefix):
                state[f"layers.{place}.{key.removeprefix(prefix)}"] = value
    student.load_state_dict(state)
    return student


def keep_words(encoder: Encoder, kept: Sequence[int]) -> None:
    """Keep only these rows of the embedding table, in this order."""
    rows = torch.tensor(kept)
    fewer = nn.Embedding(len(kept), encoder.shape.hidden)
    fewer.weight.data.copy_(encoder.words.weight.detach()[rows])
    encoder.words = fewer
    encoder.shape = replace(encoder.shape, vocabulary=len(kept))


def keep_positions(encoder: Encoder, count: int) -> None:
    """Keep only the first `count` positions: no longer text will be read."""
    fewer = nn.Embedding(count, encoder.shape.hidden)
    fewer.weight.data.copy_(encoder.positions.weight.detach()[:count])
    encoder.positions = fewer
    encoder.shape = replace(encoder.shape, positions=count)


def _new_heads(shape: EncoderShape) -> dict[str, Tensor]:
    return {
        "heads.weight": torch.randn(shape.outputs, shape.hidden) * 0.02,  # BERT's initial spread
        "heads.bias": torch.zeros(shape.outputs),
    }


def _from_hugging_face(weights: dict[str, Tensor], shape: EncoderShape) -> dict[str, Tensor]:
    """BERT's tensors under our names; token type 0 joins the positions, the scale the query."""
    weights = {k.removeprefix("bert."): v.float() for k, v in weights.items()}
    scale = (shape.hidden // shape.attention_heads) ** -0.5
    token_type = weights["embeddings.token_type_embeddings.weight"][0]
    state = {
        "words.weight": weights["embeddings.word_embeddings.weight"],
        "positions.weight": weights["embeddings.position_embeddings.weight"] + token_type,
        "embedding_norm.weight": weights["embeddings.LayerNorm.weight"],
        "embedding_norm.bias": weights["embeddings.LayerNorm.bias"],
    }
    names = {
        "attention.output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "expand": "intermediate.dense",
        "contract": "output.dense",
        "output_norm": "output.LayerNorm",
    }
    for index in range(shape.layers):
        theirs, ours = f"encoder.layer.{index}", f"layers.{index}"
        for part in ("weight", "bias"):
            query, key, value = (
                weights[f"{theirs}.attention.self.{name}.{part}"]
                for name in ("query", "key", "value")
            )
            state[f"{ours}.attention.query_key_value.{part}"] = torch.cat(
                [query * scale, key, value]
            )
            for name, their_name in names.items():
                state[f"{ours}.{name}.{part}"] = weights[f"{theirs}.{their_name}.{part}"]
    return state

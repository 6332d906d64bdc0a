"""The encoder: BERT's own numbers, and what may be taken out of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill import pretrained
from distill.networks.encoder import (
    Encoder,
    EncoderShape,
    from_pretrained,
    keep_words,
    load,
    take_layers,
)
from gateway.contract.encoding import Encoding, pad
from gateway.contract.manifest import InputLimits
from gateway.errors import RecipeError

SHAPE = EncoderShape(
    vocabulary=20, hidden=8, layers=3, attention_heads=2, feed_forward=16, positions=10, outputs=3
)
IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
CONFIG = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 10,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(SHAPE).eval()


def run(encoder: Encoder, ids: Tensor = IDS, mask: Tensor = MASK) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        logits, pooled = encoder(ids, mask)
    return logits, pooled


def bert_folder(folder: Path, *, prefix: str = "", layers: int = 2) -> Path:
    """A tiny BERT as Hugging Face writes it, with random weights."""
    draw = torch.Generator().manual_seed(0)
    hidden, wide = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    assert isinstance(hidden, int)
    assert isinstance(wide, int)
    sizes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (20, hidden),
        "embeddings.position_embeddings.weight": (10, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        for name, shape in {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (wide, hidden),
            "output.dense": (hidden, wide),
        }.items():
            sizes[f"{at}.{name}.weight"] = shape
            sizes[f"{at}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            sizes[f"{at}.{name}.weight"] = sizes[f"{at}.{name}.bias"] = (hidden,)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {prefix + key: torch.randn(size, generator=draw) for key, size in sizes.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def transformers_pooled(folder: Path, ids: Tensor, mask: Tensor) -> Tensor:
    """The mean of the last states over real tokens, by the library that BERT folders come from."""
    from transformers import BertModel  # noqa: PLC0415  slow to import, and only some tests need it

    model: nn.Module = BertModel.from_pretrained(folder, add_pooling_layer=False)
    model.eval()
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    kept = mask[:, :, None]
    mean: Tensor = (states * kept).sum(1) / kept.sum(1)
    return mean


def test_it_gives_logits_and_one_pooled_vector_a_row(encoder: Encoder) -> None:
    logits, pooled = run(encoder)
    assert logits.shape == (2, 3)
    assert pooled.shape == (2, 8)
    weight, bias = encoder.heads.weight.detach(), encoder.heads.bias.detach()
    assert torch.allclose(logits, pooled @ weight.T + bias, atol=1e-6)


def test_padding_does_not_change_a_row(encoder: Encoder) -> None:
    logits, pooled = run(encoder)
    alone, alone_pooled = run(encoder, IDS[1:, :2], MASK[1:, :2])
    assert torch.allclose(logits[1:], alone, atol=1e-6)
    assert torch.allclose(pooled[1:], alone_pooled, atol=1e-6)


def test_the_ids_under_the_padding_do_not_matter(encoder: Encoder) -> None:
    other = IDS.clone()
    other[1, 2:] = 9
    assert torch.allclose(run(encoder, other)[0], run(encoder)[0], atol=1e-6)


def test_the_order_of_words_matters(encoder: Encoder) -> None:
    assert not torch.allclose(run(encoder, IDS.flip(1), MASK.flip(1))[0][0], run(encoder)[0][0])


def test_what_is_saved_is_loaded(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "new" / "folder")
    again = load(tmp_path / "new" / "folder").eval()
    assert again.shape == SHAPE
    assert torch.equal(run(again)[0], run(encoder)[0])


def test_taken_layers_are_copies_of_those_of_the_source(encoder: Encoder) -> None:
    student = take_layers(encoder, (0, 2)).eval()
    assert student.shape.layers == len(student.layers) == 2
    source, taken = encoder.state_dict(), student.state_dict()
    for key, value in taken.items():
        theirs = key.replace("layers.1.", "layers.2.")
        assert torch.equal(value, source[theirs])
    with torch.no_grad():
        student.words.weight.zero_()
    assert encoder.words.weight.abs().sum() > 0


def test_all_layers_in_order_are_the_source_again(encoder: Encoder) -> None:
    assert torch.equal(run(take_layers(encoder, (0, 1, 2)).eval())[0], run(encoder)[0])
    assert not torch.allclose(run(take_layers(encoder, (2, 1, 0)).eval())[0], run(encoder)[0])


def test_a_layer_that_the_source_lacks_cannot_be_taken(encoder: Encoder) -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        take_layers(encoder, (0, 3))


def test_kept_words_mean_the_same_under_their_new_ids(encoder: Encoder) -> None:
    before = run(encoder)[0]
    kept = [0, 6, 5, 4, 3, 2, 1]
    keep_words(encoder, kept)
    new = torch.tensor([[kept.index(word) for word in row] for row in IDS.tolist()])
    assert encoder.shape.vocabulary == encoder.words.num_embeddings == 7
    assert torch.equal(run(encoder, new)[0], before)
    assert encoder.words.weight.requires_grad


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_bert_folder_is_read_whatever_its_prefix(tmp_path: Path, prefix: str) -> None:
    plain = from_pretrained(bert_folder(tmp_path / "plain"), outputs=3).eval()
    other = from_pretrained(bert_folder(tmp_path / "other", prefix=prefix), outputs=5).eval()
    assert torch.equal(run(plain)[1], run(other)[1])
    assert run(other)[0].shape == (2, 5)
    assert other.heads.bias.abs().sum() == 0
    assert other.heads.weight.std().item() == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize(("asked", "got"), [(None, 2), (1, 1), (2, 2), (9, 2)])
def test_only_the_first_layers_may_be_read(tmp_path: Path, asked: int | None, got: int) -> None:
    encoder = from_pretrained(bert_folder(tmp_path), outputs=3, layers=asked)
    assert encoder.shape.layers == len(encoder.layers) == got


@pytest.mark.slow
def test_a_tiny_bert_has_the_numbers_of_transformers(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path)
    pooled = run(from_pretrained(folder, outputs=3).eval())[1]
    assert torch.allclose(pooled, transformers_pooled(folder, IDS, MASK), atol=1e-5)


@pytest.mark.slow
def test_the_carried_minilm_has_the_numbers_of_transformers() -> None:
    base = pretrained.find("minilm", Path())
    texts = [
        "hello",
        "please refund my order, it never came",
        "I will sue you!",
        "the parcel was left in the rain and everything inside is ruined, who pays for that?",
        "\N{EURO SIGN}20",
    ]
    limits = InputLimits(max_tokens=64, max_characters=1_000)
    encoded = Encoding(base.tokenizer, limits).encode(texts)
    ids, mask = (torch.from_numpy(part) for part in pad([each.ids for each in encoded]))
    ours = run(from_pretrained(base.folder, outputs=4).eval(), ids, mask)[1]
    theirs = transformers_pooled(base.folder, ids, mask)
    assert np.abs((ours - theirs).numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "gpt2", "model_type is 'gpt2'; the encoder reads 'bert'"),
        ("model_type", None, "model_type is None"),
        ("hidden_act", "relu", "hidden_act is 'relu'; the encoder reads 'gelu'"),
        ("position_embedding_type", "relative_key", "position_embedding_type is 'relative_key'"),
    ],
)
def test_another_kind_of_model_is_refused(
    tmp_path: Path, key: str, value: str | None, message: str
) -> None:
    folder = bert_folder(tmp_path)
    config = {k: v for k, v in (CONFIG | {key: value}).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=message) as refused:
        from_pretrained(folder, outputs=3)
    assert "MiniLM" in refused.value.mend


def test_a_folder_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path)
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in CONFIG.items() if k != "vocab_size"})
    )
    with pytest.raises(RecipeError, match="has no vocab_size"):
        from_pretrained(folder, outputs=3)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(RecipeError, match=r"has no encoder\.layer\.1\.output\.dense\.bias"):
        from_pretrained(folder, outputs=3)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    folder = bert_folder(tmp_path)
    (folder / name).write_bytes(b"\x00spoilt")
    with pytest.raises(RecipeError, match="not a readable pretrained model"):
        from_pretrained(folder, outputs=3)
    (folder / name).unlink()
    with pytest.raises(RecipeError, match="not a readable pretrained model"):
        from_pretrained(folder, outputs=3)

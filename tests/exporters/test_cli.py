"""`understudy export` on Hugging Face folders that the test writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import typer
from tokenizers import Tokenizer
from typer.testing import CliRunner

from exporters.cli import register
from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.manifest import HeadKind
from gateway.errors import DataError, StageFailed, UnderstudyError, UsageError
from gateway.students.student import Student

LABELS = {0: "lost", 1: "late", 2: "other"}


@pytest.fixture(scope="module")
def folder(tokenizer: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT classifier as save_pretrained writes it."""
    return _save(tmp_path_factory.mktemp("models") / "my model", tokenizer)


def _save(folder: Path, tokenizer: bytes, **changes: Any) -> Path:
    torch.manual_seed(0)
    plain = Tokenizer.from_str(tokenizer.decode())
    config = transformers.BertConfig(
        vocab_size=plain.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        id2label=LABELS,
        **changes,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    fast: Any = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=plain,
        pad_token="[PAD]",  # noqa: S106  no password
        unk_token="[UNK]",  # noqa: S106  no password
    )
    fast.save_pretrained(folder)
    return folder


def _run(*arguments: str | Path) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)  # as in `understudy`, where export is one command of many
    register(app)
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    if isinstance(result.exception, UnderstudyError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def _only(parent: Path) -> Bundle:
    (path,) = parent.iterdir()
    return open_bundle(path)


def test_a_folder_becomes_a_bundle_that_says_what_the_model_says(
    folder: Path, tmp_path: Path
) -> None:
    output = _run("--model", folder, "--out", tmp_path)
    bundle = _only(tmp_path)
    manifest = bundle.manifest
    assert manifest.role == "student"
    assert manifest.task.name == "my-model"
    assert manifest.task.heads[0].labels == ("lost", "late", "other")
    assert manifest.graph.precision == "fp32"
    assert manifest.limits.max_tokens == 32  # all the positions that it has
    assert manifest.operating_points == ()
    assert manifest.reports.parity is not None
    assert manifest.reports.parity.tokenizer_equal
    student = Student(bundle)
    (encoded,) = student.encode(["my card is lost"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        expected = model(torch.tensor([encoded.ids])).logits.numpy()
    assert abs(student.logits([encoded.ids]) - expected).max() <= 1e-4
    assert "every request is escalated" in output
    assert "unless policy.threshold is set" in output
    assert "Next:" in output


def test_int8_is_searched_on_the_given_texts(folder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    lines = [f"my {word} is {state}" for word in "abcdefghijkl" for state in "mnopqrstuv"]
    texts.write_text("\n".join([*lines, "", lines[0]]))
    output = _run(
        *("--model", folder, "--out", tmp_path / "out", "--precision", "int8"),
        *("--texts", texts, "--task", "cards", "--head", "intent", "--role", "teacher"),
        *("--max-tokens", "16"),
    )
    manifest = _only(tmp_path / "out").manifest
    assert manifest.task.name == "cards"
    assert manifest.task.heads[0].name == "intent"
    assert manifest.role == "teacher"
    assert manifest.limits.max_tokens == 16
    assert len(manifest.reports.trials) == 7
    (kept,) = [trial for trial in manifest.reports.trials if trial.kept]
    assert kept.recipe == manifest.graph.recipe
    assert [vector.text for vector in manifest.golden.vectors] == lines[:32]
    assert f"kept: {kept.recipe}" in output
    assert f"--teacher {_only(tmp_path / 'out').path}" in output
    # 120 texts, of which every fifth sets the ranges: 96 are left to count flips on.
    assert manifest.reports.parity is not None
    assert manifest.reports.parity.rows == 96
    assert manifest.reports.parity.label_flips == kept.label_flips


def test_a_multi_label_model_has_a_flags_head(tokenizer: bytes, tmp_path: Path) -> None:
    folder = _save(tmp_path / "flags", tokenizer, problem_type="multi_label_classification")
    _run("--model", folder, "--out", tmp_path / "out")
    assert _only(tmp_path / "out").manifest.task.heads[0].kind is HeadKind.FLAGS


def test_int8_without_enough_texts_is_refused_before_anything_loads(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one\ntwo\n")
    with pytest.raises(UsageError, match="100 texts or more, got 2"):
        _run("--model", "nowhere", "--out", tmp_path, "--precision", "int8", "--texts", texts)


def test_texts_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--texts"):
        _run("--model", "nowhere", "--out", tmp_path, "--texts", tmp_path / "none.txt")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json cannot be read"):
        _run("--model", tmp_path, "--out", tmp_path / "out")


def test_a_model_without_a_trained_head_is_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    with pytest.raises(DataError, match="BertModel"):
        _run("--model", tmp_path, "--out", tmp_path / "out")


def test_a_folder_without_safe_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(DataError, match="cannot be loaded"):
        _run("--model", tmp_path, "--out", tmp_path / "out")


def test_another_tokenizer_json_than_the_models_own_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: object, **__: object) -> Any:
        return lambda _: {"input_ids": [1]}

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", other)
    with pytest.raises(DataError, match="other ids"):
        _run("--model", folder, "--out", tmp_path)


def test_a_graph_that_differs_from_torch_is_not_sealed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.parity.fp32_difference", lambda *_, **__: 0.5)
    with pytest.raises(StageFailed, match="off the torch module"):
        _run("--model", folder, "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-tokens", "33"), "positions for 32"),
        (("--task", "no spaces please"), "--task 'no spaces please'"),
        (("--head", "!"), "--head '!'"),
    ],
)
def test_wrong_options_are_named(
    folder: Path, tmp_path: Path, arguments: tuple[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        _run("--model", folder, "--out", tmp_path, *arguments)

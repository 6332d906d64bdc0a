"""`understudy export`: a local Hugging Face text classifier -> a bundle.

It reads safetensors and tokenizer.json only, runs no code of the folder and downloads nothing. It
neither calibrates nor certifies: that takes labelled rows, which `understudy distill` reads.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError

from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.calibration import Calibration
from gateway.contract.encoding import Encoding
from gateway.contract.manifest import (
    Head,
    HeadCalibration,
    HeadKind,
    InputLimits,
    Parity,
    Provenance,
    Reports,
    Task,
)
from gateway.errors import DataError, UsageError

if TYPE_CHECKING:  # torch and transformers load only when the command runs
    from exporters.graph import PooledClassifier
    from exporters.quantize import Choice

Precision = Literal["fp32", "int8"]
Role = Literal["student", "teacher"]

_DEFAULT_TOKENS = 128  # of a text; the cost of a longer limit is paid only by longer texts
_CHARACTERS_A_TOKEN = 16  # far above any language's mean, so that tokens decide what is cut
_REPRESENTATIVE = 400  # texts on which static quantisation sets its ranges
_HELD_OUT = 2000  # texts on which flips are counted: 0.5 % of them are ten
_FEWEST_TEXTS = 100  # below this the share of flips says nothing


@dataclass(frozen=True, slots=True)
class _Source:
    """A Hugging Face folder, read; `ids` is how its own tokenizer splits a text."""

    folder: Path
    module: PooledClassifier
    tokenizer: bytes
    ids: Callable[[str], Sequence[int]]
    config: Mapping[str, Any]

    def provenance(self) -> Provenance:
        """Where the model came from; a model in several files has no one hash."""
        weights = self.folder / "model.safetensors"
        return Provenance(
            created_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            base_model=self.folder.resolve().name,
            base_model_sha256=hashlib.sha256(weights.read_bytes()).hexdigest()
            if weights.is_file()
            else None,
            libraries={name: version(name) for name in ("onnxruntime", "torch", "transformers")},
        )


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the bundle is to be."""

    task: Task
    limits: InputLimits
    role: Role
    precision: Precision
    texts: tuple[str, ...]


def register(app: typer.Typer) -> None:
    """Add `export` to `understudy`."""
    app.command()(export)


def export(
    *,
    model: Annotated[Path, typer.Option(help="Folder with config.json, weights, tokenizer.json.")],
    out: Annotated[Path, typer.Option(help="Folder in which the bundle is made.")],
    task: Annotated[str | None, typer.Option(help="The task's name; else the folder's.")] = None,
    head: Annotated[str, typer.Option(help="The name of its one decision.")] = "label",
    role: Annotated[Role, typer.Option(help="How it will be served.")] = "student",
    precision: Annotated[Precision, typer.Option(help="int8 is smaller and faster.")] = "fp32",
    texts: Annotated[Path | None, typer.Option(help="One text a line; int8 needs them.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longer texts are cut.", min=8)] = None,
) -> None:
    """Make a bundle of a local Hugging Face text classifier."""
    lines = _read_texts(texts)
    if precision == "int8" and len(lines) < _FEWEST_TEXTS:
        raise UsageError(
            f"--precision int8 needs {_FEWEST_TEXTS} texts or more, got {len(lines)}",
            mend="give real texts, one a line, with --texts FILE",
        )
    source = _read_source(model)
    folder = re.sub(r"[^A-Za-z0-9_.\-]+", "-", model.resolve().name).strip("-._")
    wish = _Wish(
        task=_task(source.config, task or folder or "task", head),
        limits=_limits(source.config, max_tokens),
        role=role,
        precision=precision,
        texts=lines,
    )
    bundle = _bundle(source, wish, out)
    typer.echo(f"{role}: {bundle.path}")
    typer.echo(f"  {bundle.size / 1e6:.1f} MB, {bundle.manifest.graph.recipe}")
    typer.echo("  its scores are not calibrated, and no threshold is certified")
    if role == "teacher":
        typer.echo("\nNext: name it as teacher.bundle in recipe.yaml, then  understudy distill")
        return
    typer.echo("  so that as a student it escalates every request to the teacher")
    typer.echo(
        "\nNext: make it the teacher of a certified student: export it with --role teacher, "
        "name that\nas teacher.bundle in recipe.yaml, then  understudy distill"
    )


def _bundle(source: _Source, wish: _Wish, out: Path) -> Bundle:
    """Export, compare with torch, quantise where asked, seal."""
    from exporters import graph, parity, quantize, seal  # noqa: PLC0415  torch loads here
    from gateway.students.student import Session  # noqa: PLC0415

    encoding = Encoding(source.tokenizer, wish.limits)
    texts = list(wish.texts) or list(parity.ODD_TEXTS)
    if not parity.tokenizers_equal(source.ids, encoding, texts):
        raise DataError(
            f"{source.folder}: tokenizer.json gives other ids than the folder's own tokenizer",
            mend="save the tokenizer again beside the model that was trained with it",
        )
    rows = [encoded.ids for encoded in encoding.encode(texts)]
    fp32 = graph.export(source.module)
    difference = parity.fp32_difference(
        source.module, Session(fp32), rows, max_tokens=wish.limits.max_tokens
    )
    parity.require_fp32(difference, quantize.Gates().fp32_difference)
    parts = tuple(
        HeadCalibration(head=head.name, temperature=1.0, rows=0) for head in wish.task.heads
    )
    calibration = Calibration(wish.task, parts)
    choice = _choose(fp32, rows, calibration, wish.precision)
    effect = parity.batch_effect(Session(choice.model), rows[:_HELD_OUT], calibration)
    flips = next((trial.label_flips for trial in choice.trials if trial.kept), None)
    path = seal.seal(
        role=wish.role,
        task=wish.task,
        limits=wish.limits,
        graph=graph.describe(
            choice.model,
            precision=choice.precision,
            recipe=choice.recipe,
            batch_invariant=choice.batch_invariant and effect.invariant(),
            layers=source.config.get("num_hidden_layers"),
        ),
        calibration=parts,
        operating_points=(),
        model=choice.model,
        tokenizer=source.tokenizer,
        golden_texts=texts,
        provenance=source.provenance(),
        reports=Reports(
            parity=Parity(
                rows=len(rows[:_HELD_OUT]),
                tokenizer_equal=True,
                fp32_max_difference=difference,
                label_flips=flips,
                batch_label_flips=effect.label_flips,
                batch_score_difference=effect.score_difference,
            ),
            trials=choice.trials,
        ),
        parent=out,
    )
    return open_bundle(path)


def _choose(
    fp32: bytes, rows: Sequence[Sequence[int]], calibration: Calibration, precision: Precision
) -> Choice:
    """The graph to serve: fp32 as it is, or the best int8; one text in five sets the ranges."""
    from exporters import quantize  # noqa: PLC0415  torch loads here

    if precision == "fp32":
        return quantize.Choice(fp32, "fp32", "fp32", batch_invariant=True, trials=())
    return quantize.search(
        fp32,
        representative=rows[::5][:_REPRESENTATIVE],
        rows=[row for place, row in enumerate(rows) if place % 5][:_HELD_OUT],
        calibration=calibration,
        threshold=None,
        gates=quantize.Gates(),
        progress=typer.echo,
    )


def _read_source(folder: Path) -> _Source:
    """Load the folder; raises DataError when it is not a classifier that can be read safely."""
    import transformers  # noqa: PLC0415  slow, and not needed by other commands
    from transformers.utils import logging  # noqa: PLC0415

    from exporters.graph import PooledClassifier  # noqa: PLC0415

    config = _read_config(folder)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="eager",  # plain products and softmax, which ORT runs fastest
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        content = (folder / "tokenizer.json").read_bytes()
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise DataError(
            f"{folder} cannot be loaded: {str(error).splitlines()[0]}",
            mend="it must hold safetensors weights and tokenizer.json of a known architecture",
        ) from error
    return _Source(
        folder=folder,
        module=PooledClassifier(classifier.float().eval()),
        tokenizer=content,
        ids=lambda text: tokenizer(text)["input_ids"],
        config=config,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / 'config.json'} cannot be read: {error}",
            mend="name a folder that transformers' save_pretrained has written",
        ) from error
    names = config.get("architectures") or ["nothing"]
    if not names[0].endswith("ForSequenceClassification"):
        raise DataError(
            f"{folder} holds {names[0]}; its heads were never trained for classification",
            mend="name the folder of a ...ForSequenceClassification model",
        )
    return config


def _task(config: Mapping[str, Any], name: str, head: str) -> Task:
    """The task that config.json describes: its labels, one of them or any of them."""
    labels = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # what transformers assumes
    flags = config.get("problem_type") == "multi_label_classification"
    try:
        return Task(
            name=name,
            heads=(
                Head(
                    name=head,
                    kind=HeadKind.FLAGS if flags else HeadKind.CHOICE,
                    labels=tuple(labels[key] for key in sorted(labels, key=int)),
                ),
            ),
        )
    except ValidationError as error:
        raise UsageError(
            f"--task {name!r}, --head {head!r}: {error.errors(include_url=False)[0]['msg']}",
            mend="names are letters, digits, _ . and -; a choice needs two distinct labels or more",
        ) from error


def _limits(config: Mapping[str, Any], max_tokens: int | None) -> InputLimits:
    """How much text the model reads, no more than it has positions for."""
    # RoBERTa counts positions from the padding id on: it has fewer than it says.
    shift = config.get("pad_token_id", 0) + 1 if "roberta" in config.get("model_type", "") else 0
    most = config.get("max_position_embeddings", _DEFAULT_TOKENS) - shift
    tokens = min(_DEFAULT_TOKENS, most) if max_tokens is None else max_tokens
    if tokens > most:
        raise UsageError(
            f"--max-tokens {tokens}: the model has positions for {most}", mend="give that or less"
        )
    return InputLimits(max_tokens=tokens, max_characters=tokens * _CHARACTERS_A_TOKEN)


def _read_texts(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            f"--texts {path}: {error}", mend="name a UTF-8 file with one text a line"
        ) from error
    return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))

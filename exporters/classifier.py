"""A local Hugging Face text classifier -> a bundle.

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
from typing import Any, Literal

import transformers
from pydantic import ValidationError
from transformers.utils import logging

from exporters import graph, parity, quantize, seal
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
from gateway.students.student import Session

_DEFAULT_TOKENS = 128  # of a text; the cost of a longer limit is paid only by longer texts
_CHARACTERS_A_TOKEN = 16  # far above any language's mean, so that tokens decide what is cut
_REPRESENTATIVE = 400  # texts on which static quantisation sets its ranges
_HELD_OUT = 2000  # texts on which flips are counted: 0.5 % of them are ten


@dataclass(frozen=True, slots=True)
class Classifier:
    """A Hugging Face folder, read; `ids` is how its own tokenizer splits a text."""

    folder: Path
    module: graph.PooledClassifier
    tokenizer: bytes
    ids: Callable[[str], Sequence[int]]
    config: Mapping[str, Any]

    def task(self, name: str | None, head: str) -> Task:
        """The task that config.json describes; without a name it has the folder's."""
        config = self.config
        folder = re.sub(r"[^A-Za-z0-9_.\-]+", "-", self.folder.resolve().name).strip("-._")
        name = name or folder or "task"
        # Without names transformers assumes two labels.
        labels = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
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
                mend="names are letters, digits, _ . and -; a choice needs two distinct labels "
                "or more",
            ) from error

    def limits(self, max_tokens: int | None) -> InputLimits:
        """How much text the model reads, no more than it has positions for."""
        config = self.config
        # RoBERTa counts positions from the padding id on: it has fewer than it says.
        shift = (
            config.get("pad_token_id", 0) + 1 if "roberta" in config.get("model_type", "") else 0
        )
        most = config.get("max_position_embeddings", _DEFAULT_TOKENS) - shift
        tokens = min(_DEFAULT_TOKENS, most) if max_tokens is None else max_tokens
        if tokens > most:
            raise UsageError(
                f"--max-tokens {tokens}: the model has positions for {most}",
                mend="give that or less",
            )
        return InputLimits(max_tokens=tokens, max_characters=tokens * _CHARACTERS_A_TOKEN)

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
class Order:
    """What the bundle is to be; int8 is searched on `texts`."""

    task: Task
    limits: InputLimits
    role: Literal["student", "teacher"]
    precision: Literal["fp32", "int8"]
    texts: tuple[str, ...]


def read(folder: Path) -> Classifier:
    """Load the folder; raises DataError when it is not a classifier that can be read safely."""
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
    return Classifier(
        folder=folder,
        module=graph.PooledClassifier(classifier.float().eval()),
        tokenizer=content,
        ids=lambda text: tokenizer(text)["input_ids"],
        config=config,
    )


def bundle(source: Classifier, order: Order, out: Path, progress: Callable[[str], None]) -> Bundle:
    """Export, compare with torch, quantise where asked, seal; returns the bundle, opened.

    Raises DataError when the tokenizer is another than the model's, StageFailed when the graph is
    not the module, and what `quantize.search` raises.
    """
    encoding = Encoding(source.tokenizer, order.limits)
    texts = list(order.texts) or list(parity.ODD_TEXTS)
    if not parity.tokenizers_equal(source.ids, encoding, texts):
        raise DataError(
            f"{source.folder}: tokenizer.json gives other ids than the folder's own tokenizer",
            mend="save the tokenizer again beside the model that was trained with it",
        )
    rows = [encoded.ids for encoded in encoding.encode(texts)]
    fp32 = graph.export(source.module)
    difference = parity.fp32_difference(
        source.module, Session(fp32), rows, max_tokens=order.limits.max_tokens
    )
    parity.require_fp32(difference, quantize.Gates().fp32_difference)
    parts = tuple(
        HeadCalibration(head=head.name, temperature=1.0, rows=0) for head in order.task.heads
    )
    calibration = Calibration(order.task, parts)
    # One text in five sets the ranges of int8; it says nothing about flips.
    int8 = order.precision == "int8"
    compared = [row for place, row in enumerate(rows) if place % 5 or not int8][:_HELD_OUT]
    choice = quantize.Choice(fp32, "fp32", "fp32", batch_invariant=True, trials=())
    if int8:
        choice = quantize.search(
            fp32,
            representative=rows[::5][:_REPRESENTATIVE],
            rows=compared,
            calibration=calibration,
            threshold=None,
            gates=quantize.Gates(),
            progress=progress,
        )
    effect = parity.batch_effect(Session(choice.model), compared, calibration)
    flips = next((trial.label_flips for trial in choice.trials if trial.kept), None)
    path = seal.seal(
        role=order.role,
        task=order.task,
        limits=order.limits,
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
                rows=len(compared),
                tokenizer_equal=True,
                fp32_max_difference=difference,
                label_flips=flips,
                batch_label_flips=effect.flips,
                batch_score_difference=effect.score_difference,
            ),
            trials=choice.trials,
        ),
        parent=out,
    )
    return open_bundle(path)


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

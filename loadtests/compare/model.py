"""The one model that every peer serves: a bundle's graph and tokenizer, texts in, labels out.

It needs numpy, onnxruntime and tokenizers alone, because each peer runs in an environment of its
own, without Understudy. It asks the graph for its inputs. As Understudy does, it runs only rows of
one length together where the graph has no attention mask, and one row at a time where answers
depend on the batch: nobody may win by other answers. It verifies no hashes and knows no thresholds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

BUNDLE = "STUDENT_BUNDLE"  # names the environment variable that holds the bundle's folder
PORT = "STUDENT_PORT"  # and the one that holds the port
WORKERS = "STUDENT_WORKERS"  # and the number of processes that shall run the model

Answer = dict[str, Any]  # {"labels": {head: label or list of labels}, "score": probability}
Floats = NDArray[np.float32]

_IDS = "input_ids"
_MASK = "attention_mask"
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class Model:
    """An opened bundle. `threads` are those inside one run of the graph."""

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self._heads = manifest["task"]["heads"]
        self._temperatures = {each["head"]: each["temperature"] for each in manifest["calibration"]}
        self._characters = manifest["limits"]["max_characters"]
        self._one_by_one = not manifest["graph"]["batch_invariant"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(manifest["limits"]["max_tokens"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self._session = ort.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {each.name: _INTEGERS[each.type] for each in self._session.get_inputs()}
        self._masked = _MASK in self._inputs
        self.answer(["warm up"])

    @classmethod
    def of_environment(cls) -> Model:
        """The model that the environment names."""
        return cls(Path(os.environ[BUNDLE]))

    def answer(self, texts: Sequence[str]) -> list[Answer]:
        """One answer a text, in their order."""
        cut = [text[: self._characters] for text in texts]
        rows = [piece.ids for piece in self._tokenizer.encode_batch_fast(cut)]
        return self._read(self._logits(rows))

    def _logits(self, rows: Sequence[Sequence[int]]) -> Floats:
        """One row of logits a row of token ids, in their order."""
        if len(rows) > 1 and self._one_by_one:
            return np.concatenate([self._run([row]) for row in rows])
        if self._masked or len(rows) == 1:
            return self._run(rows)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        groups = groupby(order, key=lambda place: len(rows[place]))
        said = [self._run([rows[place] for place in same]) for _, same in groups]
        back = np.argsort(order)
        return np.concatenate(said)[back]

    def _run(self, rows: Sequence[Sequence[int]]) -> Floats:
        """One call. Rows of several lengths are padded to the longest, which takes a mask."""
        if not self._masked:
            feed = {_IDS: np.array(rows, self._inputs[_IDS])}
        else:
            shape = (len(rows), max(map(len, rows)))
            feed = {name: np.zeros(shape, kind) for name, kind in self._inputs.items()}
            for place, row in enumerate(rows):
                feed[_IDS][place, : len(row)] = row
                feed[_MASK][place, : len(row)] = 1
        logits: Floats = self._session.run(["logits"], feed)[0]
        return logits

    def _read(self, logits: Floats) -> list[Answer]:
        answers: list[Answer] = [{"labels": {}, "score": 1.0} for _ in logits]
        start = 0
        for head in self._heads:
            names = head["labels"]
            part = logits[:, start : start + len(names)] / self._temperatures[head["name"]]
            start += len(names)
            read = _choices if head["kind"] == "choice" else _flags
            for answer, (said, probability) in zip(answers, read(part, names), strict=True):
                answer["labels"][head["name"]] = said
                answer["score"] *= probability
        return answers


def _choices(logits: Floats, names: Sequence[str]) -> list[tuple[str, float]]:
    best = logits.argmax(axis=1)
    top = logits[np.arange(len(logits)), best]
    sure = 1.0 / np.exp(logits - top[:, None]).sum(axis=1)
    return [
        (names[place], share) for place, share in zip(best.tolist(), sure.tolist(), strict=True)
    ]


def _flags(logits: Floats, names: Sequence[str]) -> list[tuple[list[str], float]]:
    on = logits >= 0
    sure = (1.0 / (1.0 + np.exp(-np.abs(logits)))).prod(axis=1)
    return [
        ([name for name, state in zip(names, row, strict=True) if state], share)
        for row, share in zip(on.tolist(), sure.tolist(), strict=True)
    ]

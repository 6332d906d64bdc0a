"""One opened bundle and its ORT session: texts in, predictions out. Synchronous.

The only file of the gateway that imports onnxruntime. The teacher's local bundle runs through the
same class, and so do the exporters' parity gates: what is measured is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gateway.contract.bundle import Bundle
from gateway.contract.calibration import Calibration, HeadReading
from gateway.contract.encoding import Encoded, Encoding, pad
from gateway.contract.manifest import Head, HeadKind
from gateway.errors import BundleMismatch, StudentFailed
from gateway.types import HeadPrediction, Prediction

Floats = NDArray[np.float32]

INPUTS = ["input_ids", "attention_mask"]
OUTPUTS = ["logits", "pooled"]


class Session:
    """An ONNX graph from bytes, on the CPU, with an explicit number of threads and no spinning.

    `run` may be called from several threads at once.
    """

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; ORT otherwise writes to the terminal
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ORT's errors share no base class
            raise BundleMismatch(
                f"model.onnx cannot be loaded: {error}", mend="build the bundle again"
            ) from error
        inputs = [each.name for each in self._session.get_inputs()]
        outputs = [each.name for each in self._session.get_outputs()]
        if inputs != INPUTS or outputs != OUTPUTS:
            raise BundleMismatch(
                f"model.onnx has the inputs {inputs} and outputs {outputs}",
                mend=f"a bundle's graph takes {INPUTS} and gives {OUTPUTS}",
            )

    def run(self, rows: Sequence[Sequence[int]]) -> tuple[Floats, Floats]:
        """Rows of token ids -> logits (rows, outputs) and pooled vectors (rows, hidden)."""
        ids, mask = pad(rows)
        logits, pooled = self._session.run(OUTPUTS, {"input_ids": ids, "attention_mask": mask})
        return logits, pooled


class Student:
    """A model that answers: tokenise, run, calibrate.

    Opening runs the golden vectors and raises BundleMismatch when this host gives other numbers.
    """

    def __init__(self, bundle: Bundle, *, threads: int = 1) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.task = manifest.task
        self.encoding = Encoding(bundle.tokenizer, manifest.limits)
        if self.encoding.vocabulary > manifest.graph.vocabulary:
            raise BundleMismatch(
                f"the tokenizer has {self.encoding.vocabulary} ids, "
                f"the graph {manifest.graph.vocabulary}",
                mend="build the bundle again",
            )
        self.session = Session(bundle.model, threads=threads)
        self.calibration = Calibration(manifest.task, manifest.calibration)
        self._one_by_one = not manifest.graph.batch_invariant
        self._check_golden()

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Texts -> token ids, cut to the bundle's limits."""
        return self.encoding.encode(texts)

    def logits(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Token ids -> raw logits (rows, outputs), never letting a row change another's answer."""
        if self._one_by_one and len(rows) > 1:
            return np.concatenate([self.session.run([row])[0] for row in rows])
        return self.session.run(rows)[0]

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Answer texts, in their order. Raises StudentFailed when a number is not finite."""
        if not texts:
            return []
        encoded = self.encode(texts)
        logits = self.logits([each.ids for each in encoded])
        return self.interpret(logits, [each.truncated for each in encoded])

    def interpret(self, logits: Floats, truncated: Sequence[bool]) -> list[Prediction]:
        """Raw logits -> predictions, one a row."""
        if not np.isfinite(logits).all():
            raise StudentFailed("the model gave a number that is not finite")
        readings, scores = self.calibration.read(logits)
        heads = self.task.heads
        return [
            Prediction(
                heads=tuple(
                    _head(head, reading, row) for head, reading in zip(heads, readings, strict=True)
                ),
                score=float(scores[row]),
                truncated=cut,
                bundle=self.bundle.id,
            )
            for row, cut in zip(range(len(logits)), truncated, strict=True)
        ]

    def _check_golden(self) -> None:
        golden = self.bundle.manifest.golden
        for vector in golden.vectors:
            (encoded,) = self.encode([vector.text])
            if tuple(encoded.ids) != vector.tokens:
                raise BundleMismatch(
                    f"the tokenizer splits a golden text another way: {vector.text[:40]!r}",
                    mend="build the bundle again with this version of the tokenizers library",
                )
            logits = self.session.run([vector.tokens])[0][0]
            gap = float(np.abs(logits - np.array(vector.logits, np.float32)).max())
            if not gap <= golden.tolerance:
                raise BundleMismatch(
                    f"this host gives other logits than the bundle's golden ones: {gap:.4f} off, "
                    f"{golden.tolerance:.4f} allowed",
                    mend="build the bundle on a host of this kind",
                )


def _head(head: Head, reading: HeadReading, row: int) -> HeadPrediction:
    state = reading.states[row]
    if head.kind is HeadKind.CHOICE:
        labels: tuple[str, ...] = (head.labels[state],)
    else:
        labels = tuple(label for label, on in zip(head.labels, state, strict=True) if on)
    return HeadPrediction(
        head=head.name,
        labels=labels,
        confidence=float(reading.confidence[row]),
        probabilities=reading.probabilities[row],
    )

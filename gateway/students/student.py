"""One opened bundle and its ORT session: texts in, predictions out. Synchronous.

The only file of the gateway that imports onnxruntime. The teacher's local bundle runs through the
same class, and so do the exporters' parity gates: what is measured is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gateway.contract.bundle import Bundle
from gateway.contract.calibration import Calibration, HeadReading
from gateway.contract.correctness import Evidence, Score
from gateway.contract.domain import Familiarity
from gateway.contract.encoding import Encoded, Encoding, pad
from gateway.contract.manifest import GoldenVector, Head, HeadKind
from gateway.errors import BundleGolden, BundleMismatch, StudentFailed
from gateway.students.lengths import CALL_TOKENS, parted
from gateway.types import HeadPrediction, Prediction

Floats = NDArray[np.float32]

INPUTS = ["input_ids", "attention_mask"]
OUTPUTS = ["logits", "pooled"]

# Of one ORT call. Beyond some tens of rows a call gains nothing, and what it needs of memory for
# its activations (which ORT keeps) grows with the padded tokens.
_MAX_ROWS = 32
_MAX_TOKENS = 2048


def options(threads: int) -> ort.SessionOptions:
    """How every graph is run: so many threads, which sleep when they have nothing to do."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 3  # errors only; ORT otherwise writes to the terminal
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chosen.add_session_config_entry("session.set_denormal_as_zero", "1")
    return chosen


class Session:
    """An ONNX graph from bytes, on the CPU, with an explicit number of threads and no spinning.

    `run` may be called from several threads at once. `masked`: the graph reads an attention mask,
    so that rows of several lengths may share a call of ORT; without one each length is a call.
    """

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        try:
            self._session = ort.InferenceSession(
                model, options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ORT's errors share no base class
            raise BundleMismatch(
                f"model.onnx cannot be loaded: {error}", mend="build the bundle again"
            ) from error
        inputs = [each.name for each in self._session.get_inputs()]
        outputs = [each.name for each in self._session.get_outputs()]
        self.masked = inputs == INPUTS
        if inputs not in (INPUTS, INPUTS[:1]) or outputs != OUTPUTS:
            raise BundleMismatch(
                f"model.onnx has the inputs {inputs} and outputs {outputs}",
                mend=f"a bundle's graph takes {INPUTS}, or only the first, and gives {OUTPUTS}",
            )

    def run(self, rows: Sequence[Sequence[int]]) -> tuple[Floats, Floats]:
        """Rows of token ids -> logits (rows, outputs) and pooled vectors (rows, hidden)."""
        if self.masked:
            ids, mask = pad(rows)
            logits, pooled = self._session.run(OUTPUTS, {"input_ids": ids, "attention_mask": mask})
        elif len(rows) == 1 or len(set(map(len, rows))) == 1:
            logits, pooled = self._session.run(OUTPUTS, {"input_ids": np.array(rows, np.int64)})
        else:
            logits, pooled = self._run_by_length(rows)
        return logits, pooled

    def _run_by_length(self, rows: Sequence[Sequence[int]]) -> tuple[Floats, Floats]:
        """Each length by itself, and the results in the order of the rows."""
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        groups = groupby(order, key=lambda place: len(rows[place]))
        said = [self.run([rows[place] for place in same]) for _, same in groups]
        back = np.argsort(order)
        logits, pooled = (np.concatenate(parts)[back] for parts in zip(*said, strict=True))
        return logits, pooled


class Raw(NamedTuple):
    """What a model gave for n texts, before it is read: all that `interpret` needs.

    `logits` (n, outputs); `truncated`: which texts were cut; `lengths`: their tokens (n,);
    `distances` (n,) as in `gateway.contract.domain`, None where the bundle has none.
    """

    logits: Floats
    truncated: list[bool]
    lengths: NDArray[np.int64]
    distances: Floats | None = None

    def row(self, place: int) -> Raw:
        """One text's alone."""
        return Raw(
            self.logits[place : place + 1],
            self.truncated[place : place + 1],
            self.lengths[place : place + 1],
            None if self.distances is None else self.distances[place : place + 1],
        )


class Student:
    """A model that answers: tokenise, run, calibrate.

    Opening runs the golden vectors and raises BundleMismatch when this host gives other numbers.
    `threads` are those of one ORT call; `call_tokens` as in `gateway.students.lengths`.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int = 1, call_tokens: float = CALL_TOKENS
    ) -> None:
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
        self.familiarity: Familiarity | None = None
        if manifest.domain is not None and bundle.domain is not None:
            self.familiarity = Familiarity.read(
                bundle.domain, manifest.domain, hidden=manifest.graph.hidden
            )
        self._score: Score | None = None
        if manifest.correctness is not None:
            self._score = Score(self.calibration, manifest.correctness)
        self._one_by_one = not manifest.graph.batch_invariant
        # Without a mask rows of one length alone share a call, so there is nothing to weigh.
        self.threads = threads
        self.call_tokens = call_tokens if self.session.masked else 0.0
        self._check_golden()

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Texts -> token ids, cut to the bundle's limits."""
        return self.encoding.encode(texts)

    def logits(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Token ids -> raw logits (rows, outputs)."""
        return self.outputs(rows)[0]

    def outputs(self, rows: Sequence[Sequence[int]]) -> tuple[Floats, Floats]:
        """Token ids -> raw logits (rows, outputs) and pooled vectors (rows, hidden).

        No row ever changes another's answer.
        """
        if len(rows) == 1:
            return self.session.run(rows)
        if self._one_by_one:
            alone = zip(*(self.session.run([row]) for row in rows), strict=True)
            logits, pooled = (np.concatenate(each) for each in alone)
            return logits, pooled
        parts = parted(
            [len(row) for row in rows],
            max_rows=_MAX_ROWS,
            max_tokens=_MAX_TOKENS,
            call_tokens=self.call_tokens,
        )
        said = [self.session.run([rows[place] for place in part]) for part in parts]
        logits, pooled = (np.empty((len(rows), each.shape[1]), np.float32) for each in said[0])
        for part, (some, vectors) in zip(parts, said, strict=True):
            logits[part], pooled[part] = some, vectors
        return logits, pooled

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Answer texts, in their order. Raises StudentFailed when a number is not finite."""
        if not texts:
            return []
        return self.interpret(self.raw(texts))

    def raw(self, texts: Sequence[str]) -> Raw:
        """Run texts; nothing is read of the numbers yet."""
        encoded = self.encode(texts)
        logits, pooled = self.outputs([each.ids for each in encoded])
        return Raw(
            logits,
            [each.truncated for each in encoded],
            np.array([len(each.ids) for each in encoded]),
            self.familiarity.distances(pooled) if self.familiarity else None,
        )

    def read(self, raw: Raw) -> tuple[tuple[HeadReading, ...], Floats]:
        """The reading of each head, and the request scores (n,): correctness where there is one."""
        if self._score is None:
            return self.calibration.read(raw.logits)
        return self._score.read(raw.logits, Evidence(raw.lengths, raw.distances))

    def interpret(self, raw: Raw) -> list[Prediction]:
        """What was run -> predictions, one a text. Raises StudentFailed."""
        far = raw.distances
        if not np.isfinite(raw.logits).all() or not (far is None or np.isfinite(far).all()):
            raise StudentFailed("the model gave a number that is not finite")
        readings, scores = self.read(raw)
        heads = self.task.heads
        familiar = self._familiar(raw)
        return [
            Prediction(
                heads=tuple(
                    _head(head, reading, row) for head, reading in zip(heads, readings, strict=True)
                ),
                score=float(scores[row]),
                truncated=cut,
                bundle=self.bundle.id,
                asked=heads,
                familiarity=familiar[row],
            )
            for row, cut in zip(range(len(raw.logits)), raw.truncated, strict=True)
        ]

    def _familiar(self, raw: Raw) -> list[float] | list[None]:
        if self.familiarity is None or raw.distances is None:
            return [None] * len(raw.logits)
        found: list[float] = self.familiarity.p_values(raw.distances).tolist()
        return found

    def _check_golden(self) -> None:
        golden = self.bundle.manifest.golden
        for vector in golden.vectors:
            (encoded,) = self.encode([vector.text])
            if tuple(encoded.ids) != vector.tokens:
                raise BundleMismatch(
                    f"the tokenizer splits a golden text another way: {vector.text[:40]!r}",
                    mend="build the bundle again with this version of the tokenizers library",
                )
            logits, pooled = self.session.run([vector.tokens])
            self._check_width(pooled)
            gap = float(np.abs(logits[0] - np.array(vector.logits, np.float32)).max())
            if not gap <= golden.tolerance:
                raise BundleGolden(
                    f"this host gives other logits than the bundle's golden ones: {gap:.4f} off, "
                    f"{golden.tolerance:.4f} allowed",
                    mend="build the bundle on a host of this kind",
                )
            self._check_distance(vector, pooled)

    def _check_width(self, pooled: Floats) -> None:
        hidden = self.bundle.manifest.graph.hidden
        if pooled.shape != (1, hidden):
            raise BundleMismatch(
                f"model.onnx pools a text into {pooled.shape[1:]}, the manifest says {hidden}",
                mend="build the bundle again",
            )

    def _check_distance(self, vector: GoldenVector, pooled: Floats) -> None:
        allowed = self.bundle.manifest.golden.distance_tolerance
        if self.familiarity is None or vector.distance is None or allowed is None:
            return
        gap = abs(float(self.familiarity.distances(pooled)[0]) - vector.distance)
        if not gap <= allowed:
            raise BundleGolden(
                f"this host gives another distance than the bundle's golden one: {gap:.4f} off, "
                f"{allowed:.4f} allowed",
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

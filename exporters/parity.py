"""How near what is served is to what was trained: differences, flips, and the gates on them.

The measures are pure functions of logits; the drivers run graphs through `gateway.students`, so
that what is measured is what is served. It decides nothing but whether a gate is passed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gateway.contract.calibration import Calibration
from gateway.contract.encoding import Encoding, pad
from gateway.contract.manifest import Parity
from gateway.errors import StageFailed
from gateway.students.student import Session

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Rows = Sequence[Sequence[int]]  # token ids, one sequence a text

BATCH = 32  # rows of the mixed batches in which a text must get the answer that it gets alone
# (rows, tokens): one token, one row, an odd shape, a full batch
SHAPES = ((1, 1), (1, 16), (3, 7), (32, 64))
_ALIKE = 0.01  # of a calibrated score: what a batch may move, far below any threshold's rounding

# Texts on which tokenizers are known to differ: nothing, only spaces, controls, joined emoji, right
# to left, a letter composed and decomposed, an overlong word, markup, names of special tokens.
ODD_TEXTS = (
    "",
    "   \t\n ",
    "a\x00b\x07c\u200bd",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea ok",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m \ufb01ne",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "x" * 300,
    "<b>bold</b> &amp; {json: [1, 2.5e-3]} https://example.com/?q=a&b=c",
    "[CLS] [SEP] [PAD] [MASK] [UNK] <s> </s>",
    "WHY?!?! don't-you'll... 1,234.56\u20ac #42 @me",
)


@dataclass(frozen=True, slots=True)
class Gates:
    """What an exported graph must pass. Shares are of all rows."""

    label_flips: float = 0.005
    confident_flips: float = 0.001  # at or above the threshold nobody looks again
    fp32_difference: float = (
        1e-4  # of any logit; the sum order of two fp32 libraries differs so much
    )
    batch_score_difference: float = _ALIKE


@dataclass(frozen=True, slots=True)
class BatchEffect:
    """What batch mates change: the share of labels, and the largest move of a score."""

    label_flips: float
    score_difference: float

    def invariant(self, gates: Gates) -> bool:
        """Whether a text may be batched: no label moves, and scores only by rounding."""
        return self.label_flips == 0.0 and self.score_difference <= gates.batch_score_difference


def flips(calibration: Calibration, ours: Floats, theirs: Floats) -> Bools:
    """Which rows get another label of any head."""
    differ = np.zeros(len(ours), np.bool_)
    pairs = zip(calibration.read(ours)[0], calibration.read(theirs)[0], strict=True)
    for mine, other in pairs:
        differ |= (mine.states != other.states).reshape(len(ours), -1).any(axis=1)
    return differ


def label_flips(calibration: Calibration, ours: Floats, theirs: Floats) -> float:
    """Share of the rows that get another label of any head."""
    return float(flips(calibration, ours, theirs).mean())


def confident_flips(
    calibration: Calibration, ours: Floats, theirs: Floats, threshold: float | None
) -> float:
    """Share of all rows that flip where either side's score is at or above the threshold.

    Without a threshold nothing is answered unseen, so that none counts.
    """
    if threshold is None:
        return 0.0
    scores = np.maximum(calibration.read(ours)[1], calibration.read(theirs)[1])
    return float((flips(calibration, ours, theirs) & (scores >= threshold)).mean())


def alone(session: Session, rows: Rows) -> Floats:
    """The logits of each text run by itself."""
    return np.concatenate([session.run([row])[0] for row in rows])


def in_batches(session: Session, rows: Rows, *, size: int = BATCH) -> Floats:
    """The logits of each text run among others, of mixed lengths, in a shuffled but fixed order."""
    order = np.random.default_rng(0).permutation(len(rows))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    shuffled = np.concatenate([session.run([rows[i] for i in part])[0] for part in parts])
    logits = np.empty_like(shuffled)
    logits[order] = shuffled
    return logits


def batch_effect(session: Session, rows: Rows, calibration: Calibration) -> BatchEffect:
    """Compare each text alone with the same text in mixed batches."""
    return effect_of(calibration, alone(session, rows), in_batches(session, rows))


def effect_of(calibration: Calibration, single: Floats, batched: Floats) -> BatchEffect:
    """The effect of batch mates, from the logits of both ways."""
    gap = np.abs(calibration.read(single)[1] - calibration.read(batched)[1])
    return BatchEffect(label_flips(calibration, single, batched), float(gap.max()))


def fp32_difference(
    module: torch.nn.Module, session: Session, rows: Rows, *, max_tokens: int = 64
) -> float:
    """Largest absolute difference of any logit, torch against ONNX, over SHAPES of real ids.

    Each shape is one full row and shorter, padded ones.
    """
    stream = np.concatenate([np.asarray(row, np.int64) for row in rows])
    training = module.training
    module.eval()
    worst = 0.0
    for count, tokens in SHAPES:
        width = min(tokens, max_tokens)
        batch = [
            np.resize(np.roll(stream, -place), max(1, width - place % width)).tolist()
            for place in range(count)
        ]
        with torch.inference_mode():
            expected = module(*map(torch.from_numpy, pad(batch)))[0].float().numpy()
        worst = max(worst, float(np.abs(session.run(batch)[0] - expected).max()))
    module.train(training)
    return worst


def tokenizers_equal(
    trained: Callable[[str], Sequence[int]], encoding: Encoding, texts: Sequence[str]
) -> bool:
    """Whether the tokenizer of training gives the ids of serving, odd texts included.

    Texts that serving cuts are left out: training may cut elsewhere.
    """
    asked = [*texts, *ODD_TEXTS]
    served = zip(asked, encoding.encode(asked), strict=True)
    return all(
        list(trained(text)) == encoded.ids for text, encoded in served if not encoded.truncated
    )


def measure(
    module: torch.nn.Module,
    *,
    fp32: bytes,
    shipped: bytes,
    rows: Rows,
    calibration: Calibration,
    threshold: float | None,
    tokenizer_equal: bool,
) -> Parity:
    """Everything the manifest says about parity; `shipped` may be the fp32 graph itself."""
    reference = Session(fp32)
    session = reference if shipped == fp32 else Session(shipped)
    ours = alone(session, rows)
    theirs = ours if session is reference else alone(reference, rows)
    effect = effect_of(calibration, ours, in_batches(session, rows))
    quantised = session is not reference
    return Parity(
        rows=len(rows),
        tokenizer_equal=tokenizer_equal,
        fp32_max_difference=fp32_difference(
            module, reference, rows, max_tokens=max(map(len, rows))
        ),
        label_flips=label_flips(calibration, ours, theirs) if quantised else None,
        confident_flips=confident_flips(calibration, ours, theirs, threshold)
        if quantised
        else None,
        batch_label_flips=effect.label_flips,
        batch_score_difference=effect.score_difference,
    )


def require(parity: Parity, gates: Gates) -> None:
    """Raise StageFailed when the export is not the module that was trained.

    What int8 and batching change is weighed in `exporters.quantize.search`, not here.
    """
    if not parity.tokenizer_equal:
        raise StageFailed(
            "the tokenizer of the bundle gives other ids than the one of training",
            mend="train with the tokenizer.json that is exported",
        )
    difference = parity.fp32_max_difference
    if difference is not None and not difference <= gates.fp32_difference:
        raise StageFailed(
            f"the exported graph is {difference:.2g} off the torch module; "
            f"{gates.fp32_difference:.2g} is allowed",
            mend="look for an operation that depends on the shape or on the mode of the module",
        )

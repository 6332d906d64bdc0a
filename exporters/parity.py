"""How near what is served is to what was trained: differences, flips, and the gates on them.

The measures are pure functions of logits; the drivers run graphs through `gateway.students`, so
that what is measured is what is served. It decides nothing but whether a gate is passed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gateway import cores
from gateway.contract.calibration import Calibration
from gateway.contract.encoding import Encoding, pad
from gateway.contract.manifest import Parity
from gateway.errors import StageFailed
from gateway.students.student import Session, Student

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Rows = Sequence[Sequence[int]]  # token ids, one sequence a text

BATCH = 32  # rows of the mixed batches in which a text must get the answer that it gets alone
# (rows, tokens): one token, one row, an odd shape, a full batch
SHAPES = ((1, 1), (1, 16), (3, 7), (32, 64))
ALIKE = 0.01  # of a calibrated score: what a batch may move, far below any threshold's rounding

_COMMON_IDS = 100  # ids that every vocabulary has

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
class BatchEffect:
    """What batch mates change: labels or decisions (a share), and the largest move of a score."""

    flips: float
    score_difference: float

    def invariant(self, *, score_difference: float = ALIKE) -> bool:
        """Whether a text may be batched: nothing it says moves, and scores only by rounding."""
        return self.flips == 0.0 and self.score_difference <= score_difference


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
    """The logits of each text run by itself, on all cores."""
    with ThreadPoolExecutor(cores.available()) as pool:
        return np.concatenate(list(pool.map(lambda row: session.run([row])[0], rows)))


def in_batches(session: Session, rows: Rows, *, size: int = BATCH) -> Floats:
    """The logits of each text run among others, of mixed lengths, in a shuffled but fixed order."""
    order = np.random.default_rng(0).permutation(len(rows))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    with ThreadPoolExecutor(cores.available()) as pool:
        runs = pool.map(lambda part: session.run([rows[i] for i in part])[0], parts)
        shuffled = np.concatenate(list(runs))
    logits = np.empty_like(shuffled)
    logits[order] = shuffled
    return logits


def batch_effect(
    session: Session, rows: Rows, calibration: Calibration, threshold: float | None = None
) -> BatchEffect:
    """Compare each text alone with the same text in mixed batches."""
    return effect_of(calibration, alone(session, rows), in_batches(session, rows), threshold)


def effect_of(
    calibration: Calibration, single: Floats, batched: Floats, threshold: float | None
) -> BatchEffect:
    """The effect of batch mates, from the logits of both ways.

    A decision moves when the score is at or above the threshold one way and below it the other.
    """
    one, other = calibration.read(single)[1], calibration.read(batched)[1]
    moved = flips(calibration, single, batched)
    if threshold is not None:
        moved |= (one >= threshold) != (other >= threshold)
    return BatchEffect(float(moved.mean()), float(np.abs(one - other).max()))


def fp32_difference(
    module: torch.nn.Module,
    session: Session,
    rows: Rows = (range(_COMMON_IDS),),
    *,
    max_tokens: int = 64,
) -> float:
    """Largest absolute difference of any logit, torch against ONNX, over SHAPES.

    The ids are those of `rows`, one after the other; each shape is one full row and shorter, padded
    ones. Where `max_tokens` is below a shape's length, the shape is cut to it.
    """
    stream = np.concatenate([np.asarray(row, np.int64) for row in rows])
    training = module.training
    module.eval()
    worst = 0.0
    for count, tokens in SHAPES:
        width = min(tokens, max_tokens)
        batch = [
            np.resize(np.roll(stream, -place), width - place % width).tolist()
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
    *,
    fp32: Session,
    served: Student,
    rows: Rows,
    threshold: float | None,
    fp32_difference: float,
    tokenizer_equal: bool = True,
) -> Parity:
    """What the manifest says about parity: `served` against `fp32`, and against itself in batches.

    The other two are measured where the module is at hand; training that read the bundle's own
    tokenizer.json has nothing to compare.
    """
    calibration = served.calibration
    ours = alone(served.session, rows)
    effect = effect_of(calibration, ours, in_batches(served.session, rows), threshold)
    quantised = served.bundle.manifest.graph.precision != "fp32"
    theirs = alone(fp32, rows) if quantised else ours
    return Parity(
        rows=len(rows),
        tokenizer_equal=tokenizer_equal,
        fp32_max_difference=fp32_difference,
        label_flips=label_flips(calibration, ours, theirs) if quantised else None,
        confident_flips=confident_flips(calibration, ours, theirs, threshold)
        if quantised
        else None,
        batch_label_flips=effect.flips,
        batch_score_difference=effect.score_difference,
    )


def require_fp32(difference: float, allowed: float) -> None:
    """Raise StageFailed when the exported graph is not the module that was trained."""
    if not difference <= allowed:  # so that NaN is refused too
        raise StageFailed(
            f"the exported graph is {difference:.2g} off the torch module; "
            f"{allowed:.2g} is allowed",
            mend="look for an operation that depends on the shape or on the mode of the module",
        )

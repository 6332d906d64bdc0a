"""Labelled rows of the exported model -> how probably it is right, as plain numbers.

A logistic regression a head on the signals of `gateway.contract.correctness`, its strength of
regularisation by cross-validation; with rows enough a monotone curve on top, where that predicts
better. A head stays at its calibrated confidence where there is too little to learn from, and where
the fit does not surely predict better on unseen rows. It fits; it judges no threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill.certify import Gold, all_right, right
from gateway.contract.calibration import Calibration
from gateway.contract.correctness import Evidence, Score, log_odds, signals
from gateway.contract.manifest import Correctness, Head, HeadCorrectness, Signal, Step

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

_ROWS = 200  # fewer say nothing about six weights
_EACH = 10  # right and wrong answers, at least so many of both: two in each fold
_STEP_ROWS = 2000  # from here on a monotone curve has rows enough for its many levels
_FOLDS = 5
# Inverse strengths of the regularisation, from "almost none of the signals" to "as they are".
_STRENGTHS = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 10.0, 100.0)
_FREE = 1e6  # of the request's two numbers, which need no regularisation


@dataclass(frozen=True, slots=True)
class _Rows:
    """One head's rows: the signals (n, k) with their names, and whether it was right (n,)."""

    names: tuple[str, ...]
    table: Doubles
    right: Bools
    seed: int

    def folds(self) -> StratifiedKFold:
        return StratifiedKFold(_FOLDS, shuffle=True, random_state=self.seed)

    def unseen(self, model: object, inputs: Doubles) -> Doubles:
        """What a model, fitted on four fifths, says of each row of the other fifth."""
        told = cross_val_predict(model, inputs, self.right, cv=self.folds(), method="predict_proba")
        probabilities: Doubles = told[:, 1]
        return probabilities


def fit(
    calibration: Calibration,
    logits: Floats,
    evidence: Evidence,
    gold: Sequence[Gold],
    *,
    seed: int,
) -> Correctness | None:
    """Fit on labelled rows that nothing is certified on; None: the calibrated confidence stands.

    `logits` are (rows, outputs), `evidence` is of the same rows, `gold` one array a head.
    """
    readings, _ = calibration.read(logits)
    scaled = calibration.scaled(logits)
    heads = tuple(
        _head(
            head,
            signals(head.kind, z, reading, evidence),
            right(reading, truth),
            reading.confidence.astype(np.float64),
            seed,
        )
        for head, z, reading, truth in zip(
            calibration.task.heads, scaled, readings, gold, strict=True
        )
    )
    if not any(head.signals for head in heads):
        return None
    product = Correctness(heads=heads, rows=len(logits))
    if len(heads) == 1:
        return product  # of one score the product is the score
    _, scores = Score(calibration, product).read(logits, evidence)
    slope, bias = _recalibration(scores.astype(np.float64), all_right(readings, gold))
    return product.model_copy(update={"slope": slope, "bias": bias})


def _head(
    head: Head, values: Mapping[str, Doubles], correct: Bools, confidence: Doubles, seed: int
) -> HeadCorrectness:
    plain = HeadCorrectness(head=head.name)
    if len(correct) < _ROWS or min(correct.sum(), (~correct).sum()) < _EACH:
        return plain
    names = tuple(name for name, column in values.items() if np.ptp(column) > 0.0)
    rows = _Rows(names, np.stack([values[name] for name in names], axis=1), correct, seed)
    said = {
        strength: rows.unseen(make_pipeline(StandardScaler(), _logistic(strength)), rows.table)
        for strength in _STRENGTHS
    }
    best = min(said, key=lambda strength: _log_loss(said[strength], correct))
    if not _surely_better(said[best], confidence, correct):
        return plain
    scale = StandardScaler().fit(rows.table)
    model = _logistic(best).fit(scale.transform(rows.table), correct)
    return HeadCorrectness(
        head=head.name,
        bias=float(model.intercept_[0]),
        signals=tuple(
            Signal.model_validate(
                {"name": name, "mean": float(mean), "scale": float(size), "weight": float(weight)}
            )
            for name, mean, size, weight in zip(
                names, scale.mean_, scale.scale_, model.coef_[0], strict=True
            )
        ),
        steps=_steps(rows, said[best]),
    )


def _steps(rows: _Rows, unseen: Doubles) -> tuple[Step, ...]:
    """The monotone curve on top, where rows are enough and it predicts better than without."""
    if len(unseen) <= _STEP_ROWS:
        return ()
    stepped = np.empty_like(unseen)
    for learnt, asked in rows.folds().split(unseen, rows.right):
        stepped[asked] = _isotonic(unseen[learnt], rows.right[learnt]).predict(unseen[asked])
    if _brier(stepped, rows.right) >= _brier(unseen, rows.right):
        return ()
    curve = _isotonic(unseen, rows.right)
    shares = np.maximum.accumulate(curve.y_thresholds_)
    return tuple(
        Step(score=float(score), right=float(share))
        for score, share in zip(curve.X_thresholds_, shares, strict=True)
    )


def _recalibration(product: Doubles, correct: Bools) -> tuple[float, float]:
    """Slope and bias of the product's log-odds; 1 and 0 where they cannot be learnt."""
    if min(correct.sum(), (~correct).sum()) < _EACH:
        return 1.0, 0.0
    model = _logistic(_FREE).fit(log_odds(product)[:, np.newaxis], correct)
    slope, bias = float(model.coef_[0][0]), float(model.intercept_[0])
    return (slope, bias) if slope > 0.0 else (1.0, 0.0)


def _logistic(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=1000)


def _isotonic(scores: Doubles, correct: Bools) -> IsotonicRegression:
    curve = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    return curve.fit(scores, correct.astype(np.float64))


def _brier(probabilities: Doubles, correct: Bools) -> float:
    return float(((probabilities - correct) ** 2).mean())


def _surely_better(fitted: Doubles, plain: Doubles, correct: Bools) -> bool:
    """Whether the Brier score is smaller by more than one standard error, of rows in pairs.

    A smaller one alone may be luck: so more than a third of fits that gain nothing would be taken.
    """
    gains = (plain - correct) ** 2 - (fitted - correct) ** 2
    return float(gains.mean()) > float(gains.std(ddof=1)) / math.sqrt(len(gains))


def _log_loss(probabilities: Doubles, correct: Bools) -> float:
    said = np.where(correct, probabilities, 1.0 - probabilities)
    return float(-np.log(np.clip(said, 1e-12, None)).mean())

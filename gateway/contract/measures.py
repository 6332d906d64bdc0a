"""One yardstick for both sides: agreement, calibration error, risk-coverage, exact intervals.

Pure functions of arrays. `wrong` and `right` are bool of shape (n,), `score` is float of shape
(n,), high where the model should be trusted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]

_BISECTIONS = 60  # halvings of [0, 1]: below the spacing of doubles
_ROUNDING = 1e-9  # rows; 0.29 of 100 rows is 28.999999999999996 in doubles


def macro_f1(predicted: ArrayLike, actual: ArrayLike, labels: int) -> float:
    """Mean over labels of F1 = 2tp / (2tp + fp + fn); labels absent from both are left out.

    Indices of shape (n,) for a choice, bool of shape (n, labels) for flags.
    """
    said, true = (_marks(np.asarray(side), labels) for side in (predicted, actual))
    hits = (said & true).sum(axis=0)
    total = said.sum(axis=0) + true.sum(axis=0)
    present = total > 0
    return float((2 * hits[present] / total[present]).mean()) if present.any() else 0.0


def calibration_error(confidence: Floats, right: Bools, bins: int = 15) -> float:
    """Expected calibration error over bins of equal mass (Nixon et al. 2019, arXiv 1904.01685)."""
    if len(confidence) == 0:
        return 0.0
    order = np.argsort(confidence, kind="stable")
    gaps = [
        len(part) * abs(float(confidence[part].mean()) - float(right[part].mean()))
        for part in np.array_split(order, min(bins, len(order)))
    ]
    return sum(gaps) / len(order)


def risk_coverage(score: Floats, wrong: Bools) -> tuple[Floats, Floats]:
    """Coverage k/n and undetected error (share of all rows answered and wrong) for k = 1..n."""
    order = np.argsort(-np.asarray(score), kind="stable")
    coverage = np.arange(1, len(order) + 1) / len(order)
    return coverage, np.cumsum(wrong[order]) / len(order)


def augrc(score: Floats, wrong: Bools) -> float:
    """Area under the generalised risk-coverage curve (Traub et al. 2024, arXiv 2407.01032)."""
    return float(risk_coverage(score, wrong)[1].mean()) if len(score) else 0.0


def system_accuracy(
    score: Floats, student_right: Bools, teacher_right: Bools, escalation: float
) -> float:
    """Accuracy when the least sure `escalation` share of rows goes to the teacher."""
    order = np.argsort(score, kind="stable")
    escalated = np.zeros(len(order), bool)
    rows = math.floor(escalation * len(order) + _ROUNDING)
    escalated[order[:rows]] = True
    return float(np.where(escalated, teacher_right, student_right).mean())


def binomial_cdf(successes: int, trials: int, probability: float) -> float:
    """P(X <= successes) for X ~ Binomial(trials, probability), exact up to rounding."""
    if successes < 0:
        return 0.0
    if successes >= trials or probability <= 0.0:
        return 1.0
    if probability >= 1.0:
        return 0.0
    counts = np.arange(successes + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    logs = (
        log_factorial[trials]
        - log_factorial[counts]
        - log_factorial[trials - counts]
        + counts * math.log(probability)
        + (trials - counts) * math.log1p(-probability)
    )
    top = logs.max()
    return min(1.0, float(np.exp(logs - top).sum() * math.exp(top)))


def upper_bound(successes: int, trials: int, delta: float) -> float:
    """Exact one-sided upper bound of a probability, level 1 - delta (Clopper and Pearson 1934)."""
    if trials == 0 or successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if binomial_cdf(successes, trials, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def interval(successes: int, trials: int, delta: float = 0.05) -> tuple[float, float]:
    """Exact two-sided interval of a probability, level 1 - delta (Clopper and Pearson 1934)."""
    return (
        1.0 - upper_bound(trials - successes, trials, delta / 2),
        upper_bound(successes, trials, delta / 2),
    )


def betting_p_value(losses: Floats, mean: float, *, delta: float = 0.05) -> float:
    """p-value of "the mean loss is above `mean`", for losses in [0, 1] in the order of their draw.

    One over the most that a gambler has had who bets against it: the hedged capital of
    Waudby-Smith and Ramdas (2024, arXiv 2010.09686), one-sided as in Bates et al. (2021, arXiv
    2101.02703). It is valid whatever `delta` is; the bets are sized to do best at that level.
    """
    if len(losses) == 0:
        return 1.0
    capital = _capital(losses, _bets(losses, delta), mean)
    return min(1.0, math.exp(-max(0.0, float(capital.max()))))


def betting_bound(losses: Floats, delta: float) -> float:
    """Upper bound of the mean of losses in [0, 1], level 1 - delta, by the same bets."""
    if len(losses) == 0:
        return 1.0
    bets, enough = _bets(losses, delta), -math.log(delta)
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if float(_capital(losses, bets, middle).max()) >= enough:
            high = middle
        else:
            low = middle
    return high


def _bets(losses: Floats, delta: float) -> NDArray[np.float64]:
    """The stake on each loss, from those before it: the larger, the less they have varied."""
    losses = np.asarray(losses, np.float64)
    counts = np.arange(2, len(losses) + 2)
    means = (0.5 + np.cumsum(losses)) / counts
    variances = (0.25 + np.cumsum((losses - means) ** 2)) / counts
    before = np.concatenate([[0.25], variances[:-1]])
    stakes: NDArray[np.float64] = np.sqrt(-2.0 * math.log(delta) / (len(losses) * before))
    return np.minimum(1.0, stakes)


def _capital(losses: Floats, bets: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """Logarithm of what the gambler has after each loss, who began with 1."""
    with np.errstate(divide="ignore"):  # all is lost where a loss of 1 meets a full stake at 0
        growth: NDArray[np.float64] = np.log1p(-bets * (np.asarray(losses, np.float64) - mean))
    return np.cumsum(growth)


def _marks(states: NDArray[Any], labels: int) -> Bools:
    return states[:, None] == np.arange(labels) if states.ndim == 1 else states

"""What a certificate of a whole policy promises, by repeats in a world whose truth is known.

A row has one of three labels, one of which is critical (one row in ten). The student is more or
less sure of each; its probabilities are honest but for a distortion that makes it too sure. All
gates are on: a risk rule, critical labels, expected losses, the threshold. The true risks of a
policy are those on a crowd of rows that no certificate has seen.

How many of the repeats may break a promise of 5 %? If each breaks it with probability 5 % or less,
more than the 99.9 % quantile of Binomial(repeats, 5 %) do so in one of a thousand simulations at
most. The seeds are fixed, so a pass stays a pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from gateway.contract.measures import betting_bound, betting_p_value
from gateway.routing import replay
from gateway.routing.replay import Proof, Rows, Step, Targets

REPEATS = 600
DELTA = 0.05
ALLOWED = int(stats.binom.ppf(0.999, REPEATS, DELTA))  # 48
PRIOR = np.array([0.5, 0.4, 0.1])  # the last label is critical
COSTS = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 2.0], [4.0, 4.0, 0.0]])  # (true, said)
LARGEST, BAR = 4.0, 1.0  # units of loss; what a call is worth
RULED = 0.05  # share of rows that a risk rule names
TOO_SURE = 1.6  # factor on the true log-odds
SIGNAL = 2.4  # how far apart the labels are, in standard deviations of the evidence
CROWD = 100_000


def world(draw: np.random.Generator, rows: int) -> Rows:
    """Rows as a policy sees them: scores are what the student believes, labels are what is so."""
    truth = draw.choice(3, rows, p=PRIOR)
    evidence = draw.normal(0.0, 1.0, (rows, 3)) + SIGNAL * np.eye(3)[truth]
    odds = SIGNAL * evidence + np.log(PRIOR)  # the true log-odds, were the student honest
    raised = np.exp(TOO_SURE * (odds - odds.max(axis=1, keepdims=True)))
    believed: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    said = believed.argmax(axis=1)
    expected = (believed[:, :, None] * COSTS).sum(axis=1)[np.arange(rows), said]
    return Rows(
        barred=(draw.random(rows) < RULED) | (expected > BAR),
        score=believed.max(axis=1),
        mass=np.where(said == 2, 0.0, believed[:, 2]),
        labelled=np.ones(rows, bool),
        wrong=said != truth,
        concerned=truth == 2,
        missed=(truth == 2) & (said != 2),
        loss=COSTS[truth, said],
    )


@dataclass(frozen=True)
class Truth:
    """The true risks of a policy."""

    undetected: float
    missed: float
    loss: float


def truth_of(crowd: Rows, step: Step) -> Truth:
    answered = crowd.answered(step, critical=True)
    return Truth(
        undetected=float((crowd.wrong & answered).mean()),
        missed=float((crowd.missed & answered).sum() / crowd.concerned.sum()),
        loss=float(np.where(answered, crowd.loss, 0.0).mean()),
    )


def simulate(targets: Targets, *, rows: int, seed: int) -> list[tuple[Proof, Truth]]:
    """What each repeat that proved something proved, beside what is so."""
    draw = np.random.default_rng(seed)
    crowd = world(np.random.default_rng(seed + 1), CROWD)
    found = []
    for _ in range(REPEATS):
        first, test = replay.parted(world(draw, rows))
        sequence = replay.steps(first, threshold=None, critical=None)
        if (proof := replay.prove(test, sequence, targets)) is not None:
            found.append((proof, truth_of(crowd, proof.step)))
    return found


def test_the_world_leaves_something_to_be_proven() -> None:
    crowd = world(np.random.default_rng(0), CROWD)
    whole = truth_of(crowd, Step(0.0))
    assert whole.undetected == pytest.approx(0.057, abs=0.003)
    assert whole.missed == pytest.approx(0.119, abs=0.01)
    assert whole.loss == pytest.approx(0.103, abs=0.005)
    assert ALLOWED == 48


@pytest.mark.simulation
@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("alpha", "critical", "severity"),
    [
        pytest.param(0.02, 0.9, 3.9, marks=pytest.mark.soak, id="whole policy"),
        pytest.param(0.9, 0.06, 3.9, marks=pytest.mark.soak, id="critical labels"),
        pytest.param(0.9, 0.9, 0.05, marks=pytest.mark.soak, id="severity losses"),
        pytest.param(0.03, 0.06, 0.06, id="all claims"),
    ],
)
def test_each_claim_breaks_its_promise_in_five_percent_of_cases_at_most(
    alpha: float, critical: float, severity: float
) -> None:
    """In the first three only one claim can end the walk, so that it alone is on trial."""
    targets = Targets(alpha, DELTA, critical=critical, severity=severity, largest=LARGEST)
    found = simulate(targets, rows=1_500, seed=round(1000 * alpha))
    assert len(found) > 0.9 * REPEATS  # it is not kept by promising nothing
    assert np.mean([1.0 - proof.escalation for proof, _ in found]) > 0.3
    assert sum(truth.undetected > alpha for _, truth in found) <= ALLOWED
    assert sum(truth.missed > critical for _, truth in found) <= ALLOWED
    assert sum(truth.loss > severity for _, truth in found) <= ALLOWED


@pytest.mark.simulation
@pytest.mark.no_cover
@pytest.mark.parametrize("rare", [0.02, 0.2])
def test_the_bound_on_a_mean_loss_is_above_it_but_for_five_percent_of_cases(rare: float) -> None:
    """Mostly nothing, sometimes all: where a normal approximation would be far too sure."""
    draw = np.random.default_rng(5)
    mean = rare * 0.5  # uniform on [0, 1] in a share of the rows
    losses = [np.where(draw.random(400) < rare, draw.random(400), 0.0) for _ in range(REPEATS)]
    below = sum(betting_bound(each, DELTA) < mean for each in losses)
    assert below <= ALLOWED
    assert sum(betting_p_value(each, mean) <= DELTA for each in losses) <= ALLOWED
    assert np.mean([betting_bound(each, DELTA) for each in losses]) < 2.5 * mean

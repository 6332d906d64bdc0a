"""The correctness score by hand: every signal, the logistic, the steps, and the request's score."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gateway.contract.bundle import open_bundle
from gateway.contract.calibration import Calibration
from gateway.contract.correctness import Evidence, Score, log_odds, signals
from gateway.contract.manifest import (
    Correctness,
    Domain,
    Head,
    HeadCalibration,
    HeadCorrectness,
    HeadKind,
    Manifest,
    Signal,
    Step,
    Task,
)
from tests.factories import tiny_bundle

TASK = Task(
    name="t",
    heads=(
        Head(name="kind", kind=HeadKind.CHOICE, labels=("a", "b", "c")),
        Head(name="marks", kind=HeadKind.FLAGS, labels=("x", "y")),
    ),
)
CALIBRATION = Calibration(
    TASK,
    [
        HeadCalibration(head="kind", temperature=2.0, rows=1),
        HeadCalibration(head="marks", temperature=1.0, rows=1),
    ],
)
# Over its temperature the choice is log 4, log 2, log 2: probabilities 1/2, 1/4, 1/4.
LOGITS = np.array([[2 * math.log(4), 2 * math.log(2), 2 * math.log(2), math.log(3), -math.log(9)]])
LOGITS = LOGITS.astype(np.float32)
EVIDENCE = Evidence(np.array([7]), np.array([2.5], np.float32))


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return open_bundle(tiny_bundle(tmp_path)).manifest


def signal(name: str, weight: float, *, mean: float = 0.0, scale: float = 1.0) -> Signal:
    """A signal of that name."""
    return Signal.model_validate({"name": name, "mean": mean, "scale": scale, "weight": weight})


def read_signals(place: int) -> dict[str, float]:
    """The signals of one head of the one row."""
    readings, _ = CALIBRATION.read(LOGITS)
    z = CALIBRATION.scaled(LOGITS)[place]
    found = signals(TASK.heads[place].kind, z, readings[place], EVIDENCE)
    return {name: float(column[0]) for name, column in found.items()}


def test_the_signals_of_a_choice_are_those_worked_out_by_hand() -> None:
    assert read_signals(0) == pytest.approx(
        {
            "margin": math.log(2),
            "probability": 0.5,
            "entropy": 1.5 * math.log(2),
            "energy": math.log(8),
            "length": math.log(8),
            "distance": 2.5,
        },
        abs=1e-6,
    )


def test_the_signals_of_flags_are_those_worked_out_by_hand() -> None:
    # The probabilities are 3/4 and 1/10: on and off, sure by 3/4 and 9/10.
    entropy = -sum(p * math.log(p) for p in (0.75, 0.25, 0.1, 0.9))
    assert read_signals(1) == pytest.approx(
        {
            "margin": math.log(3),
            "probability": 0.675,
            "entropy": entropy,
            "energy": math.log(4) + math.log(10 / 9),
            "length": math.log(8),
            "distance": 2.5,
        },
        abs=1e-6,
    )


def test_a_score_is_logistic_in_the_standardised_signals() -> None:
    part = HeadCorrectness(
        head="kind",
        bias=1.0,
        signals=(signal("distance", -3.0, mean=2.0, scale=0.5), signal("probability", 2.0)),
    )
    score = Score(CALIBRATION, Correctness(heads=(part, HeadCorrectness(head="marks")), rows=1))
    readings, scores = score.read(LOGITS, EVIDENCE)
    # 1 - 3 (2.5 - 2) / 0.5 + 2 * 0.5 is -1; the flags keep 0.675.
    assert readings[0].confidence[0] == pytest.approx(1 / (1 + math.e))
    assert readings[1].confidence[0] == pytest.approx(0.675)
    assert scores[0] == pytest.approx(0.675 / (1 + math.e))
    plain, _ = CALIBRATION.read(LOGITS)
    np.testing.assert_array_equal(readings[0].probabilities, plain[0].probabilities)
    np.testing.assert_array_equal(readings[0].states, plain[0].states)


def test_steps_are_linear_between_their_knots_and_flat_outside() -> None:
    steps = (Step(score=0.4, right=0.2), Step(score=0.6, right=0.8))

    def told(bias: float) -> float:
        # A weight of 0 leaves the bias alone.
        part = HeadCorrectness(
            head="kind", bias=bias, signals=(signal("margin", 0.0),), steps=steps
        )
        whole = Correctness(heads=(part, HeadCorrectness(head="marks")), rows=1)
        return float(Score(CALIBRATION, whole).read(LOGITS, EVIDENCE)[0][0].confidence[0])

    assert told(0.0) == pytest.approx(0.5)  # the logistic of 0 is half-way between the knots
    assert told(9.0) == pytest.approx(0.8)
    assert told(-9.0) == pytest.approx(0.2)


def test_the_request_score_scales_and_shifts_the_log_odds_of_the_product() -> None:
    heads = (HeadCorrectness(head="kind"), HeadCorrectness(head="marks"))
    whole = Correctness(heads=heads, slope=2.0, bias=math.log(3), rows=1)
    _, scores = Score(CALIBRATION, whole).read(LOGITS, EVIDENCE)
    odds = 0.3375 / 0.6625  # of the product of 1/2 and 0.675
    assert scores[0] == pytest.approx(3 * odds**2 / (1 + 3 * odds**2))


def test_log_odds_are_finite_where_a_score_is_certain() -> None:
    found = log_odds(np.array([0.0, 0.5, 1.0]))
    assert np.isfinite(found).all()
    assert (found[0] < -27, found[1] == 0.0, found[2] > 27) == (True, True, True)


def test_a_row_scores_the_same_alone_and_among_others() -> None:
    random = np.random.default_rng(3)
    names = ("margin", "probability", "entropy", "energy", "distance", "length")
    heads = tuple(
        HeadCorrectness(head=head.name, signals=tuple(signal(name, 0.3) for name in names))
        for head in TASK.heads
    )
    score = Score(CALIBRATION, Correctness(heads=heads, slope=1.3, bias=-0.2, rows=1))
    logits = random.normal(scale=4.0, size=(33, 5)).astype(np.float32)
    lengths, far = random.integers(1, 60, 33), random.random(33).astype(np.float32)
    _, together = score.read(logits, Evidence(lengths, far))
    alone = [
        score.read(logits[row : row + 1], Evidence(lengths[row : row + 1], far[row : row + 1]))[1]
        for row in range(33)
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_large_logits_give_finite_scores() -> None:
    heads = (
        HeadCorrectness(head="kind", signals=(signal("energy", 5.0), signal("entropy", 5.0))),
        HeadCorrectness(head="marks", signals=(signal("energy", 5.0),)),
    )
    score = Score(CALIBRATION, Correctness(heads=heads, slope=2.0, bias=0.0, rows=1))
    logits = np.array([[3e4, -3e4, 0, 3e4, -3e4], [-3e4, -3e4, -3e4, -3e4, -3e4]], np.float32)
    _, scores = score.read(logits, Evidence(np.array([1, 1]), None))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"signals": (signal("margin", 1.0), signal("margin", 2.0))}, "names a signal twice"),
        ({"steps": (Step(score=0.6, right=0.2), Step(score=0.4, right=0.8))}, "do not ascend"),
        ({"steps": (Step(score=0.4, right=0.8), Step(score=0.6, right=0.2))}, "do not ascend"),
        ({"steps": (Step(score=0.4, right=0.2), Step(score=0.4, right=0.8))}, "do not ascend"),
    ],
)
def test_numbers_that_cannot_be_read_are_refused(part: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadCorrectness.model_validate({"head": "kind", **part})


def test_a_manifest_whose_correctness_does_not_fit_it_is_refused(manifest: Manifest) -> None:
    def checked(heads: tuple[HeadCorrectness, ...], domain: Domain | None = None) -> Manifest:
        content = manifest.model_dump() | {
            "correctness": Correctness(heads=heads, rows=1),
            "domain": domain,
        }
        if domain is not None:
            vectors = [each | {"distance": 1.0} for each in content["golden"]["vectors"]]
            content["golden"] |= {"distance_tolerance": 0.1, "vectors": vectors}
        return Manifest.model_validate(content)

    plain = (HeadCorrectness(head="intent"), HeadCorrectness(head="flags"))
    assert checked(plain).correctness
    with pytest.raises(ValueError, match="correctness does not name the heads"):
        checked(plain[::-1])
    far = (HeadCorrectness(head="intent", signals=(signal("distance", 1.0),)), plain[1])
    with pytest.raises(ValueError, match="reads a distance, and there is no domain"):
        checked(far)
    assert checked(far, Domain(dimensions=1, centres=1, rows=1, calibration=1)).domain

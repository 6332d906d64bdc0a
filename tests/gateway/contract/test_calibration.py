"""Logits -> probabilities, labels and confidence, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special

from gateway.contract.calibration import Calibration, sigmoid, softmax
from gateway.contract.manifest import Head, HeadCalibration, HeadKind, Task

TASK = Task(
    name="tickets",
    heads=(
        Head(name="intent", kind=HeadKind.CHOICE, labels=("refund", "login", "other")),
        Head(name="flags", kind=HeadKind.FLAGS, labels=("urgent", "legal")),
    ),
)
LN = math.log


def calibration(intent: float = 1.0, flags: float = 1.0, task: Task = TASK) -> Calibration:
    return Calibration(
        task,
        [
            HeadCalibration(head=head.name, temperature=temperature, rows=1)
            for head, temperature in zip(task.heads, (intent, flags), strict=False)
        ],
    )


def row(*logits: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array([logits], np.float32)


def test_a_choice_is_a_softmax_and_flags_are_sigmoids() -> None:
    (intent, flags), score = calibration().read(row(LN(6), LN(3), LN(1), LN(4), -LN(9)))
    assert intent.probabilities[0] == pytest.approx([0.6, 0.3, 0.1], abs=1e-6)
    assert intent.states.tolist() == [0]
    assert intent.confidence[0] == pytest.approx(0.6, abs=1e-6)
    assert flags.probabilities[0] == pytest.approx([0.8, 0.1], abs=1e-6)
    assert flags.states.tolist() == [[True, False]]
    assert flags.confidence[0] == pytest.approx(0.8 * 0.9, abs=1e-6)
    assert score[0] == pytest.approx(0.6 * 0.8 * 0.9, abs=1e-6)


def test_each_head_is_divided_by_its_own_temperature() -> None:
    # ln 9 / 2 = ln 3 and ln 81 / 4 = ln 3: a sigmoid of 3/4, and 3 against 1 and 1 is 3/5.
    (intent, flags), _ = calibration(2.0, 4.0).read(row(LN(9), 0.0, 0.0, LN(81), -LN(81)))
    assert intent.confidence[0] == pytest.approx(0.6, abs=1e-6)
    assert flags.probabilities[0] == pytest.approx([0.75, 0.25], abs=1e-6)


def test_flags_with_no_label_on_are_sure_when_each_is_surely_off() -> None:
    (_, flags), _ = calibration().read(row(0.0, 0.0, 0.0, -LN(99), -LN(99)))
    assert flags.states.tolist() == [[False, False]]
    assert flags.confidence[0] == pytest.approx(0.99**2, abs=1e-6)


def test_a_flag_at_one_half_is_on_and_equal_choices_give_the_first() -> None:
    (intent, flags), score = calibration().read(row(1.0, 1.0, 1.0, 0.0, 0.0))
    assert intent.states.tolist() == [0]
    assert flags.states.tolist() == [[True, True]]
    assert score[0] == pytest.approx(1 / 3 * 1 / 4, abs=1e-6)


def test_huge_logits_stay_finite() -> None:
    (intent, flags), score = calibration().read(row(1e4, -1e4, 0.0, 1e4, -1e4))
    assert intent.probabilities[0].tolist() == [1.0, 0.0, 0.0]
    assert flags.probabilities[0].tolist() == [1.0, 0.0]
    assert score.tolist() == [1.0]


def test_one_head_alone_scores_with_its_own_confidence() -> None:
    alone = Task(name="t", heads=TASK.heads[:1])
    (intent,), score = calibration(task=alone).read(row(LN(3), 0.0, 0.0))
    assert score.tolist() == intent.confidence.tolist() == [pytest.approx(0.6, abs=1e-6)]


def test_no_rows_give_empty_readings() -> None:
    (intent, flags), score = calibration().read(np.zeros((0, 5), np.float32))
    assert intent.states.shape == score.shape == (0,)
    assert flags.states.shape == (0, 2)


def test_a_calibration_of_another_number_of_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        Calibration(TASK, [HeadCalibration(head="intent", temperature=1.0, rows=0)])


LOGITS = arrays.arrays(
    np.float32, (4, 5), elements=st.floats(-50, 50, width=32, allow_subnormal=False)
)


@given(LOGITS)
def test_probabilities_are_those_of_scipy(
    logits: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    wide = logits.astype(np.float64)
    assert softmax(logits) == pytest.approx(special.softmax(wide, axis=1), abs=1e-6)
    assert sigmoid(logits) == pytest.approx(special.expit(wide), abs=1e-6)


@given(LOGITS, st.floats(0.1, 10))
def test_rows_do_not_change_each_other(
    logits: np.ndarray[tuple[int, int], np.dtype[np.float32]], temperature: float
) -> None:
    together = calibration(temperature, temperature).read(logits)[1]
    alone = [calibration(temperature, temperature).read(logits[[at]])[1][0] for at in range(4)]
    assert together == pytest.approx(alone, abs=1e-6)
    assert (together > 0).all()
    assert (together <= 1).all()

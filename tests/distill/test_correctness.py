"""The fit of the correctness score: what it finds, when it keeps quiet, and that serving agrees."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from distill import correctness
from gateway.contract import measures
from gateway.contract.calibration import Calibration
from gateway.contract.correctness import Evidence, Score, signals
from gateway.contract.manifest import Head, HeadCalibration, HeadKind, Task

KIND = Head(name="kind", kind=HeadKind.CHOICE, labels=("a", "b"))
MARKS = Head(name="marks", kind=HeadKind.FLAGS, labels=("x",))


def calibration(*heads: Head) -> Calibration:
    """Temperatures of 1."""
    parts = [HeadCalibration(head=head.name, temperature=1.0, rows=1) for head in heads]
    return Calibration(Task(name="t", heads=heads), parts)


def drawn(
    rows: int, *, seed: int = 0
) -> tuple[NDArray[np.float32], Evidence, NDArray[np.int64], NDArray[np.bool_]]:
    """Logits that say nothing, and rows that are right the more rarely the farther they are.

    Returns logits (rows, 2), the evidence, gold labels, and which rows are wrong.
    """
    random = np.random.default_rng(seed)
    far = random.uniform(0.0, 4.0, rows)
    logits = np.stack([random.uniform(0.5, 3.0, rows), np.zeros(rows)], axis=1).astype(np.float32)
    wrong = random.random(rows) < 1 / (1 + np.exp(5.0 - 2.0 * far))
    evidence = Evidence(np.full(rows, 9), far.astype(np.float32))
    return logits, evidence, wrong.astype(np.int64), wrong


def test_it_finds_the_signal_that_tells_and_leaves_out_one_that_never_differs() -> None:
    found = correctness.fit(calibration(KIND), *drawn(1500)[:2], (drawn(1500)[2],), seed=0)
    assert found is not None
    assert (found.rows, found.slope, found.bias) == (1500, 1.0, 0.0)
    (head,) = found.heads
    weights = {signal.name: signal.weight for signal in head.signals}
    assert "length" not in weights  # 9 tokens, all of them
    assert min(weights, key=lambda name: weights[name]) == "distance"
    per_unit = next(s.weight / s.scale for s in head.signals if s.name == "distance")
    assert per_unit == pytest.approx(-2.0, abs=0.4)  # as drawn; three standard errors


def test_on_rows_that_it_has_not_seen_it_ranks_and_calibrates_better() -> None:
    logits, evidence, gold, _ = drawn(1500)
    model = calibration(KIND)
    found = correctness.fit(model, logits, evidence, (gold,), seed=0)
    assert found is not None
    fresh, other, _, wrong = drawn(4000, seed=1)
    plain = model.read(fresh)[1]
    scores = Score(model, found).read(fresh, other)[1]
    assert measures.augrc(scores, wrong) < 0.7 * measures.augrc(plain, wrong)
    assert measures.calibration_error(scores, ~wrong) < 0.03
    assert measures.calibration_error(plain, ~wrong) > 0.03


def test_what_serving_computes_is_what_was_fitted() -> None:
    """scikit-learn's own prediction, with the strength that was chosen among those on offer."""
    logits, evidence, gold, wrong = drawn(600)
    model = calibration(KIND)
    found = correctness.fit(model, logits, evidence, (gold,), seed=0)
    assert found is not None
    (head,) = found.heads
    readings, _ = model.read(logits)
    values = signals(KIND.kind, logits, readings[0], evidence)
    table = np.stack(
        [(values[each.name] - each.mean) / each.scale for each in head.signals], axis=1
    )
    np.testing.assert_allclose(table.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(table.std(axis=0), 1.0, atol=1e-9)
    fits = [
        LogisticRegression(C=each, max_iter=1000).fit(table, ~wrong)
        for each in correctness._STRENGTHS
    ]
    said = [each.predict_proba(table)[:, 1] for each in fits]
    scores = Score(model, found).read(logits, evidence)[1]
    assert min(float(np.abs(each - scores).max()) for each in said) < 1e-6


@pytest.mark.parametrize(
    ("rows", "mistakes"), [(199, 60), (600, 9), (600, 591)], ids=["rows", "wrong", "right"]
)
def test_too_little_to_learn_from_leaves_the_calibrated_confidence(
    rows: int, mistakes: int
) -> None:
    logits, evidence, _, _ = drawn(rows)
    gold = (np.arange(rows) < mistakes).astype(np.int64)
    assert correctness.fit(calibration(KIND), logits, evidence, (gold,), seed=0) is None


@pytest.mark.parametrize("seed", [0, 4, 5, 8])  # but for the third, luck alone is on their side
def test_signals_that_predict_no_better_leave_the_calibrated_confidence(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = np.stack([random.normal(0, 2, 400), np.zeros(400)], axis=1).astype(np.float32)
    model = calibration(KIND)
    confidence = model.read(logits)[1]
    wrong = random.random(400) > confidence  # perfectly calibrated already
    gold = np.where(wrong, 1 - logits.argmax(axis=1), logits.argmax(axis=1))
    assert correctness.fit(model, logits, Evidence(np.full(400, 9), None), (gold,), seed=0) is None


@pytest.mark.parametrize(("better", "taken"), [(100, False), (115, False), (120, True)])
def test_a_fit_must_win_by_more_than_a_standard_error(better: int, *, taken: bool) -> None:
    """Of 200 rows some gain 0.09 and the others lose 0.11: one standard error is about 0.007."""
    right = np.ones(200, bool)
    fitted = np.where(np.arange(200) < better, 0.6, 0.4)
    assert correctness._surely_better(fitted, np.full(200, 0.5), right) is taken


def test_one_head_may_have_a_score_and_another_none_and_the_request_has_one() -> None:
    logits, evidence, gold, wrong = drawn(1500)
    sure = np.full((1500, 1), 6.0, np.float32)  # the flag is on, and always rightly
    model = calibration(KIND, MARKS)
    both = np.concatenate([logits, sure], axis=1)
    marks = np.ones((1500, 1), np.float32)
    found = correctness.fit(model, both, evidence, (gold, marks), seed=0)
    assert found is not None
    assert [bool(head.signals) for head in found.heads] == [True, False]
    assert found.slope == pytest.approx(1.0, abs=0.15)  # of scores that were calibrated already
    scores = Score(model, found).read(both, evidence)[1]
    assert float(scores.mean()) == pytest.approx(float((~wrong).mean()), abs=1e-3)


def test_a_monotone_curve_comes_on_top_only_with_rows_enough_and_where_it_predicts_better() -> None:
    def stepped(rows: int) -> int:
        """Right within 1 of the centre, and beyond it by a coin: no logistic curve."""
        logits, evidence, _, _ = drawn(rows)
        far = evidence.distances
        assert far is not None
        wrong = (far > 1.0) & (np.random.default_rng(2).random(rows) < 0.5)
        gold = (wrong.astype(np.int64),)
        found = correctness.fit(calibration(KIND), logits, evidence, gold, seed=0)
        assert found is not None
        return len(found.heads[0].steps)

    assert stepped(2000) == 0
    assert stepped(2001) > 1
    logits, evidence, gold, _ = drawn(2500)
    logistic = correctness.fit(calibration(KIND), logits, evidence, (gold,), seed=0)
    assert logistic is not None
    assert logistic.heads[0].steps == ()  # it is a logistic curve, and a step is none


def test_the_same_rows_give_the_same_numbers() -> None:
    logits, evidence, gold, _ = drawn(600)
    first, second = (
        correctness.fit(calibration(KIND), logits, evidence, (gold,), seed=4) for _ in range(2)
    )
    assert first == second

"""The figures of the routing benchmark, on rows whose figures are known beforehand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import agreement, certificates, page, plots, policies
from benchmarks.corpora import CORPORA
from benchmarks.figures import Curves, Figures
from benchmarks.policies import Way
from benchmarks.trial import Seen, Trial
from gateway.contract.labelled import Labelled
from gateway.errors import DataError
from gateway.routing.policy import EscalationPolicy
from gateway.types import HeadPrediction, Prediction


def prediction(score: float) -> Prediction:
    head = HeadPrediction(
        head="intent", labels=("a",), confidence=score, probabilities=np.ones(1, np.float32)
    )
    return Prediction(heads=(head,), score=score, truncated=False, bundle="b" * 64)


def seen(scores: np.ndarray, agrees: np.ndarray) -> Seen:
    """Rows where the teacher is right, and the student wherever it agrees."""
    n = len(scores)
    return Seen(
        texts=tuple(f"text {row}" for row in range(n)),
        truth=tuple({"intent": ("a",)} for _ in range(n)),
        said=tuple(prediction(float(score)) for score in scores),
        plain=scores,
        distance=np.zeros(n),
        right=agrees,
        teacher_right=np.ones(n, bool),
        agrees=agrees,
    )


def drawn(seed: int, rows: int = 3000) -> Seen:
    """Scores that are true: a row of score s is right with probability s."""
    draw = np.random.default_rng(seed)
    scores = draw.beta(8.0, 0.4, rows)
    return seen(scores, draw.random(rows) < scores)


def test_what_is_certified_agrees_as_often_as_it_is_said_to() -> None:
    rows = drawn(1)
    found = agreement.handled(rows, drawn(2), 0.97, None, seed=3)
    assert 0.5 < found.share < 1.0
    assert found.agreement is not None
    assert found.agreement >= 0.97
    assert found.none == 0.0
    # What the right scores allow: the largest share whose mean score is 97 %.
    best = np.sort(rows.score)[::-1]
    allowed = np.flatnonzero(np.cumsum(best) / np.arange(1, len(best) + 1) >= 0.97)[-1] / len(best)
    assert allowed - 0.15 < found.share <= allowed + 0.02


def test_where_nothing_can_be_certified_nothing_is_handled() -> None:
    draw = np.random.default_rng(4)
    rows = seen(draw.random(400), draw.random(400) < 0.5)  # a score that says nothing
    found = agreement.handled(rows, rows, 0.97, None, seed=5)
    assert (found.share, found.agreement, found.none) == (0.0, None, 1.0)


def test_a_strange_text_is_never_handled() -> None:
    rows = drawn(1)
    strange = replace(
        rows,
        said=tuple(replace(each, familiarity=0.001) for each in rows.said[:1500])
        + rows.said[1500:],
    )
    known = replace(
        strange,
        said=strange.said[:1500]
        + tuple(replace(each, familiarity=0.5) for each in rows.said[1500:]),
    )
    assert agreement.handled(known, drawn(2), 0.97, 0.01, seed=3).share < 0.51
    assert agreement.handled(known, drawn(2), 0.97, None, seed=3).share > 0.51


def test_a_certificate_is_broken_in_few_splits_and_by_a_bad_policy_in_most() -> None:
    rows = drawn(6)
    labelled = [
        Labelled(text=text, fields={}, truth={"intent": ("a",) if right else ("b",)})
        for text, right in zip(rows.texts, rows.right, strict=True)
    ]
    found = certificates.audit(
        EscalationPolicy(threshold=0.0),
        labelled,
        list(rows.said),
        alpha=0.02,
        certify_on=1000,
        seed=7,
    )
    assert (found.splits, found.issued, found.rows) == (200, 200, 800)
    assert found.broken <= 10  # 5 % of 200
    assert found.undetected <= 0.02
    assert 0.0 < found.escalation < 0.5


def test_the_budget_is_kept_on_rows_of_the_same_kind() -> None:
    trial = Trial(
        corpus="banking77",
        seed=0,
        student=None,  # type: ignore[arg-type]  not looked at
        teacher=None,  # type: ignore[arg-type]
        calibration=drawn(8),
        certification=drawn(9),
        test=drawn(10),
        strangers=drawn(11, rows=10),
    )
    policy = policies.within(trial, None)
    share = policies.escalated(policy, trial.certification).mean()
    assert share == pytest.approx(0.1 * 2 / 3, abs=0.001)
    assert policies.escalated(policy, trial.test).mean() < 0.1


def test_an_outcome_counts_who_answered() -> None:
    rows = seen(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
    way = Way("a way", np.array([False, False, False, True]), np.array([True, False]))
    found = policies.outcome(way, rows)
    assert found.escalation == 0.25
    assert found.quality == 0.75  # rows 1 and 3 by the student, row 4 by the teacher
    assert found.undetected == 0.25
    assert found.strangers == 0.5


def test_the_tables_and_plots_hold_all_seeds(tmp_path: Path) -> None:
    curves = Curves(*[(0.0, 0.5, 1.0)] * 5)
    row = policies.Outcome("certified", 0.1, 0.93, 0.02, None)
    found = [
        Figures(
            corpus="banking77",
            seed=seed,
            bundle="b" * 64,
            rows=3079,
            student=0.92 + 0.01 * seed,
            teacher=0.94,
            agreement=0.95,
            ece=0.01,
            augrc=0.009,
            outcomes=(row,),
            handled=(),
            promises=(),
            strange=None,
            curves=curves,
        )
        for seed in range(2)
    ]
    told = page.tables(found)
    assert "| student, accuracy (int8, as served) | 92.50% | 92.00%, 93.00% |" in told
    assert "| certified | 10.00% ± 0.00 | 93.00% ± 0.00 | 2.00% ± 0.00 |  |" in told
    plots.cost_quality(found, tmp_path / "cost-quality.png")
    plots.risk_coverage(found, tmp_path / "risk-coverage.png")
    assert (tmp_path / "cost-quality.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "risk-coverage.png").read_bytes().startswith(b"\x89PNG")
    json.dumps([asdict(each) for each in found])


def test_clinc150_is_one_pool_without_its_strangers(tmp_path: Path) -> None:
    source = tmp_path / "clinc150"
    source.mkdir()
    for name in ("train", "validation", "test", "oos_test"):
        line = json.dumps({"text": f"a text of {name}", "label": "oos" if "oos" in name else "a"})
        (source / f"{name}.jsonl").write_text(f"{line}\n")
    found = CORPORA["clinc150"](source, tmp_path / "work")
    assert (tmp_path / "work" / "clinc150.jsonl").read_text().count("\n") == 2
    assert found.strangers == ("a text of oos_test",)
    assert found.recipe(tmp_path, seed=3).seed == 3


def test_a_folder_without_the_data_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="there is no"):
        CORPORA["banking77"](tmp_path, tmp_path)
    status = command.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert status != 0
    assert "give the folder that holds banking77/ and clinc150/" in capsys.readouterr().err

"""The flywheel's experiment: what is in the log, what each way is taught, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import flywheel
from benchmarks.corpora import Corpus
from benchmarks.flywheel import Encoded, Outcome, Turn
from distill.recipe import DataPlan, HeadPlan
from gateway.contract.manifest import HeadKind
from gateway.errors import DataError


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products wait longer for a second thread than they take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def world(rows: int = 200, tested: int = 100) -> Encoded:
    """Three labels around three corners, near enough to each other to be taken for one another."""
    dice = np.random.default_rng(0)

    def part(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        labels = np.arange(count) % 3
        vectors = np.eye(3)[labels] + dice.normal(0.0, 0.5, (count, 3))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit.astype(np.float32), labels

    vectors, labels = part(rows)
    test_vectors, test_labels = part(tested)
    texts = tuple(f"text {n}" for n in range(rows))
    return Encoded(texts, vectors, labels, test_vectors, test_labels)


def test_each_way_is_taught_its_part_of_the_log() -> None:
    found = flywheel.turn("corners", world(), seed=1, audited=0.5, beside_own=True)
    rows = {each.way: each.rows for each in found.outcomes}
    own = 3 * flywheel.OWN
    assert rows["all traffic"] == 200
    # The first student answers 70 % of 170, and the 51 or so that are left are escalated.
    assert 50 <= rows["escalated alone"] - own <= 52
    assert rows["all alike"] == rows["weighted"] > rows["escalated alone"]
    alone = flywheel.turn("corners", world(), seed=1, audited=0.5, beside_own=False)
    assert [each.rows + own for each in alone.outcomes] == list(rows.values())
    assert found == flywheel.turn("corners", world(), seed=1, audited=0.5, beside_own=True)
    by_way = {each.way: each for each in found.outcomes}
    assert by_way["weighted"] != by_way["all alike"]
    assert min(each.accuracy for each in found.outcomes) > 0.6


def test_the_table_says_what_weights_gain_over_the_same_rows() -> None:
    def of(seed: int, gain: float) -> Turn:
        shares = {"escalated alone": 0.5, "all alike": 0.6, "weighted": 0.6 + gain}
        outcomes = [Outcome(way, 10, share, share, share) for way, share in shares.items()]
        return Turn("corners", seed, 0.05, beside_own=False, first=0.4, outcomes=tuple(outcomes))

    told = flywheel.table([of(0, 0.02), of(1, -0.01)])
    assert "| 5% | no | weighted | 10 | 60.50% | 60.50% | 60.50% |" in told
    assert "weights gain +0.50 points at 5% audited, without the own data (1 of 2 seeds" in told


def test_a_corpus_without_a_test_set_is_refused() -> None:
    plan = DataPlan(
        path=Path("a.csv"), heads={"label": HeadPlan(kind=HeadKind.CHOICE, column="label")}
    )
    with pytest.raises(DataError, match="corners: no CSV with a test set"):
        flywheel.encode(Corpus(name="corners", plan=plan, strangers=()))

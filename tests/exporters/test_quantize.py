"""The search: what is tried, what is refused, and which graph is kept."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from distill.networks.encoder import Encoder, take_layers
from exporters import graph, int8, quantize
from exporters.activations import observe
from gateway.contract.calibration import Calibration
from gateway.contract.manifest import Trial
from gateway.errors import UsageError
from gateway.students.student import Session

ANY = quantize.Gates(label_flips=1.0, confident_flips=1.0)
RECIPES = {
    "fp32",
    "dynamic int8",
    "static int8, full ranges",
    "static int8, 99.99 % ranges",
    "mixed int8, 1 product blockwise",
    "mixed int8, a third of the products blockwise",
    "blockwise int8",
}


def _cost(trial: Trial) -> float:
    assert trial.microseconds_batched is not None
    return trial.microseconds_batched


def _search(
    fp32: bytes, rows: list[list[int]], calibration: Calibration, gates: quantize.Gates
) -> tuple[quantize.Choice, list[str]]:
    said: list[str] = []
    choice = quantize.search(
        fp32,
        representative=rows,
        rows=rows,
        calibration=calibration,
        threshold=0.5,
        gates=gates,
        progress=said.append,
    )
    return choice, said


def test_the_product_with_the_worst_range_is_the_most_sensitive(
    fp32: bytes, rows: list[list[int]]
) -> None:
    ranges = dict(observe(fp32, rows).extremes)
    spoiled = graph.linears(onnx.load_from_string(fp32))[5].input
    ranges[spoiled] = (-1000.0, 1000.0)  # steps of 8 leave nothing of values around 1
    assert quantize.sensitivity(fp32, ranges, rows)[0] == 5


def test_the_search_records_every_way_and_keeps_the_cheapest_that_passes(
    fp32: bytes, rows: list[list[int]], calibration: Calibration
) -> None:
    choice, said = _search(fp32, rows, calibration, ANY)
    assert {trial.recipe for trial in choice.trials} == RECIPES
    (kept,) = [trial for trial in choice.trials if trial.kept]
    assert kept.recipe == choice.recipe
    assert _cost(kept) <= quantize._TIE * min(map(_cost, choice.trials))
    assert kept.batch_invariant == choice.batch_invariant
    assert choice.precision == ("fp32" if choice.recipe == "fp32" else "int8")
    assert said[-1].startswith(f"kept: {choice.recipe}")
    Session(choice.model)


def test_the_most_exact_of_equally_cheap_graphs_is_kept_and_fp32_only_if_none_is_cheaper(
    fp32: bytes,
) -> None:
    def candidate(
        recipe: str, microseconds: float, error: float, *, clear: bool = True
    ) -> quantize._Candidate:
        return quantize._Candidate(
            variant=quantize.Variant(recipe, b""),
            session=Session(fp32),
            label_flips=0.0,
            confident_flips=0.0,
            error=error,
            batch_invariant=False,
            passed=True,
            clear=clear,
            single=[microseconds / 1e6],
        )

    whole = candidate("fp32", 110.0, 0.0)
    fast, near, slow = (
        candidate(name, cost, error)
        for name, cost, error in [("fast", 100, 0.3), ("near", 104, 0.1), ("slow", 106, 0.05)]
    )
    assert quantize._best([whole, fast, near, slow]) is near  # 105 is as good as 100
    assert quantize._best([whole, candidate("slower", 111, 0.1)]) is whole
    doubtful = candidate("doubtful", 50, 0.01, clear=False)
    assert quantize._best([whole, slow, doubtful]) is slow
    assert quantize._best([whole, doubtful]) is doubtful


def test_a_graph_that_batch_mates_change_costs_what_it_costs_alone(
    fp32: bytes, rows: list[list[int]], calibration: Calibration
) -> None:
    strict = quantize.Gates(label_flips=1.0, confident_flips=1.0, batch_score_difference=1e-6)
    choice, _ = _search(fp32, rows, calibration, strict)
    dynamic = next(each for each in choice.trials if each.recipe == "dynamic int8")
    assert not dynamic.batch_invariant
    assert dynamic.passed
    assert dynamic.microseconds_batched == dynamic.microseconds


def test_fp32_is_kept_when_nothing_else_says_the_same(
    network: Encoder, rows: list[list[int]], calibration: Calibration
) -> None:
    torch.manual_seed(1)
    close = take_layers(network, (0, 1)).eval()
    with torch.no_grad():  # labels that differ by less than one step of int8
        close.heads.weight[1:] = close.heads.weight[0] + 1e-4 * torch.randn(2, 16)
        close.heads.bias.zero_()
    choice, _ = _search(graph.export(close), rows, calibration, quantize.Gates())
    assert choice.recipe == "fp32"
    assert choice.precision == "fp32"
    kept = choice.trials[0]
    assert kept.kept
    assert kept.note == "nothing cheaper passed the gates"
    assert all(not trial.passed for trial in choice.trials[1:])
    assert choice.trials[1].note == "changes too many answers"


def test_a_way_that_cannot_be_built_is_a_trial_with_its_reason(
    fp32: bytes, rows: list[list[int]], calibration: Calibration
) -> None:
    said: list[str] = []
    choice = quantize.search(
        fp32,
        representative=[[10**6]],  # no such token: nothing that looks at activations can be built
        rows=rows,
        calibration=calibration,
        threshold=None,
        gates=ANY,
        progress=said.append,
    )
    failed = [trial for trial in choice.trials if trial.note.startswith("not possible")]
    assert len(failed) == 4
    assert not any(trial.passed or trial.kept for trial in failed)
    assert any("not possible" in line for line in said)
    assert {trial.recipe for trial in choice.trials} == RECIPES


def test_numbers_that_are_not_finite_are_refused(
    fp32: bytes, rows: list[list[int]], calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = onnx.load_from_string(int8.blockwise(fp32))
    for each in broken.graph.initializer:
        if each.name == "linear_8_bias":
            each.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), each.name))
    monkeypatch.setattr(quantize, "blockwise", lambda _: broken.SerializeToString())
    choice, _ = _search(fp32, rows, calibration, ANY)
    (failed,) = [trial for trial in choice.trials if trial.recipe == "blockwise int8"]
    assert "not finite" in failed.note


def test_a_search_without_texts_is_refused(fp32: bytes, calibration: Calibration) -> None:
    with pytest.raises(UsageError, match="no texts"):
        _search(fp32, [], calibration, ANY)

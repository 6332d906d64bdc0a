"""What a shadow costs, on a tiny bundle: real gateways, real candidates, a turn of each."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from gateway.contract.bundle import open_bundle
from gateway.students.student import Student
from loadtests.compare.tree import Tree
from loadtests.shadow import __main__ as program
from loadtests.shadow import copies, report, stage
from loadtests.shadow.copies import copied, dragged
from loadtests.shadow.figures import Candidate, Found, Memory, Ratio, Row, Shown, ratio
from tests.acceptance.process import FAIR
from tests.factories import CONFIDENT, UNSURE, tiny_bundle

_TEXTS = [CONFIDENT, UNSURE, "my lawyer says urgent fraud"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def measured(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], dict[str, Any]]:
    """One short round of a gateway without a shadow and of others, as the command says it."""

    def run(variant: str) -> dict[str, Any]:
        texts = tmp_path / "texts.txt"
        texts.write_text("\n".join(_TEXTS))
        given = ["--bundle", str(bundle), "--texts", str(texts), "--variants", variant, "--json"]
        assert program.main([*given, "--seconds", "1", "--rounds", "2", "--within", "0"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert (found["seconds"], found["rounds"]) == (1.0, 1)  # no second one began
        for row in found["rows"]:
            assert row["failed"] == 0
            assert row["requests"] > 0
            assert row["ratios"].keys() == row["latencies"].keys() == {"50", "95", "99"}
        assert found["rows"][0]["ratios"]["95"] == {"value": 1.0, "lower": 1.0, "upper": 1.0}
        return found

    return run


@pytest.mark.acceptance
def test_a_candidate_that_crashes_is_measured_next_to_none(
    measured: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_GATEWAY", FAIR)
    monkeypatch.setattr(stage, "_SETTLED_S", 100.0)  # however slowly it is begun again
    found = measured("crashes")
    rows = [(row["loop"], row["variant"]) for row in found["rows"]]
    assert rows == [(loop, each) for loop in ("open", "closed") for each in ("none", "crashes")]
    none, crashes = found["candidates"]
    assert none["shown"] is none["before"]["candidate"] is None
    for each in (none["before"], crashes["before"], crashes["after"]):
        assert each["gateway"] > 10
    assert crashes["before"]["candidate"] > 10
    assert crashes["shown"]["compared"] > 0
    assert crashes["shown"]["skipped"]["resting"] > 0


@pytest.mark.soak  # the same, but for the candidate
@pytest.mark.acceptance
def test_a_second_gateway_is_measured_next_to_the_first(
    measured: Callable[[str], dict[str, Any]],
) -> None:
    none, again = measured("again")["candidates"]
    assert (none["variant"], again["variant"]) == ("none", "none again")
    assert none["shown"] is again["shown"] is None


def test_the_figures_are_tables_for_people() -> None:
    shown = Shown("running", 1234, {"full": 5, "resting": 0}, {"hung": 0})
    row = Row("slow", "open", 10, 0, 9.5, 800.0, {95: 2.0}, {95: Ratio(1.02, 0.99, 1.05)})
    candidates = [
        Candidate("none", None, Memory(170.0, None), Memory(175.0, None)),
        Candidate("slow", shown, Memory(176.0, 111.0), Memory(181.0, 112.0)),
    ]
    found = Found("bundle", 2, 100.0, 2, 1.0, 3, 10.0, [row], candidates)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.tables(found))
    printed = console.export_text()
    for part in ("1.02 (0.99-1.05)", "0 of 10", "1,234", "full 5", "176 → 181", "111 → 112"):
        assert part in printed


def test_a_run_that_cannot_be_is_a_mistake(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, said in (
        (["--bundle", str(tmp_path / "none")], "there is no bundle"),
        (["--bundle", str(bundle), "--rounds", "0"], "--rounds 0"),
        (["--bundle", str(bundle), "--variants", "sulks"], "there is no variant 'sulks'"),
    ):
        assert program.main(given) == 2
        assert said in capsys.readouterr().err


def test_copies_are_other_bundles_that_answer_the_same(bundle: Path, tmp_path: Path) -> None:
    same = copied(bundle, tmp_path)
    slow, times = dragged(bundle, tmp_path, _TEXTS, times=4.0)
    assert times > 0.0  # how many says no busy machine
    assert _products(slow) > _products(bundle)
    students = [Student(open_bundle(each)) for each in (bundle, same, slow)]
    assert len({each.bundle.id for each in students}) == 3
    first, *others = (each.raw(_TEXTS).logits for each in students)
    for logits in others:
        np.testing.assert_array_equal(logits, first)


def test_a_copy_drags_as_many_products_as_take_so_many_times_as_long(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where each hundred of them takes as long as the student."""
    monkeypatch.setattr(
        copies, "_ratio", lambda one, other, _: 1 + (_products(other) - _products(one)) / 100
    )
    slow, times = dragged(bundle, tmp_path, _TEXTS, times=4.0)
    # The first try has 400 and one each to begin and to end: 5.02 times. 400 x 3 / 4.02 is 298.5.
    assert _products(slow) - _products(bundle) == 299 + 2
    assert times == pytest.approx(4.01)


def _products(bundle: Path) -> int:
    graph = onnx.load_from_string(open_bundle(bundle).model).graph
    return sum(node.op_type == "MatMul" for node in graph.node)


def test_a_ratio_is_that_of_pairs_and_its_interval_of_rounds() -> None:
    assert ratio([2.0, 4.0], [1.0, 2.0]) == Ratio(2.0, 2.0, 2.0)
    # Drawn anew, two pairs of 1 and 4 are 1, 2 or 4 in the geometric mean, a quarter each 1 and 4.
    assert ratio([1.0, 8.0], [1.0, 2.0]) == Ratio(2.0, 1.0, 4.0)


def test_the_memory_and_the_processes_of_a_tree_are_found() -> None:
    tree = Tree(os.getpid())
    assert tree.rss_mb() > 10
    assert tree.running("no command has this word") == []
    assert tree.rss_mb("no command has this word") == 0.0

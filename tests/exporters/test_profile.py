"""`understudy profile`: where the time of one run goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from exporters import int8
from exporters.cli import register
from exporters.profile import profile
from gateway.errors import UsageError
from tests.factories import tiny_bundle


def test_every_node_that_runs_is_counted_by_its_kind(fp32: bytes, rows: list[list[int]]) -> None:
    found = profile(int8.dynamic(fp32), rows, repeats=3)
    nodes = {kind.name: kind.nodes for kind in found.kinds}
    assert nodes["DynamicQuantizeMatMul"] == 9
    assert nodes["Attention"] == 2
    assert nodes["LayerNormalization"] == 5
    spent = [kind.microseconds for kind in found.kinds]
    assert spent == sorted(spent, reverse=True)
    assert found.tokens == 6.0  # the fifth and the sixth of ten texts, by length
    assert found.microseconds > 0.0


def test_without_texts_there_is_nothing_to_profile(fp32: bytes) -> None:
    with pytest.raises(UsageError, match="nothing to run"):
        profile(fp32, [])


def _run(*arguments: str | Path) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)  # as in `understudy`, where profile is one command of many
    register(app)
    result = CliRunner().invoke(app, ["profile", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_bundle_is_profiled_on_its_own_texts_or_on_given_ones(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundles")
    own = _run(bundle)
    assert own.splitlines()[0].split() == ["node", "count", "microseconds", "share"]
    assert "ReduceMax" in own
    texts = tmp_path / "texts.txt"
    texts.write_text("refund fraud\nother\nrefund\n")
    assert "3 texts of 1 tokens (median)" in _run(bundle, "--texts", texts)

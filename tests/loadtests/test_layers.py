"""The cost of each layer: every part of a request is there, and costs something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests import layers
from tests.factories import tiny_bundle


def test_every_part_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(layers, "_TURNS", 1)
    monkeypatch.setattr(layers, "_CALLS", 64)
    assert layers.main(["--bundle", str(tiny_bundle(tmp_path)), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = {part: microseconds for part, _, microseconds in printed["parts"]}
    assert all(printed["decision"][part] > 0 for part in ("confident", "escalated", "student"))
    costs = printed["decision"]
    assert costs["whole"] == costs["escalated"] + costs["reading"]
    assert costs["share"] == costs["whole"] / costs["student"]
    assert {"key", "tokenise", "ONNX Runtime, one text", "policy", "reply"} <= found.keys()
    assert all(microseconds > 0 for microseconds in found.values())
    assert layers.main(["--bundle", str(tmp_path / "none")]) == 2
    assert "there is no bundle" in capsys.readouterr().err


def test_the_parts_are_a_table_for_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(layers, "_TURNS", 1)
    monkeypatch.setattr(layers, "_CALLS", 64)
    texts = tmp_path / "texts.txt"
    texts.write_text("please refund my order\nfraud\n")
    bundle = tiny_bundle(tmp_path)
    assert layers.main(["--bundle", str(bundle), "--texts", str(texts)]) == 0
    printed = capsys.readouterr().out
    assert "tokenise" in printed
    assert "decision with all gates on, p50" in printed


def test_texts_that_the_student_does_not_answer_itself_measure_no_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(layers, "_TURNS", 1)
    monkeypatch.setattr(layers, "_CALLS", 8)
    texts = tmp_path / "texts.txt"
    texts.write_text("hello\n")  # "other", which a risk rule names
    bundle = tiny_bundle(tmp_path)
    assert layers.main(["--bundle", str(bundle), "--texts", str(texts)]) == 2
    assert "the student answers none of the texts itself" in capsys.readouterr().err

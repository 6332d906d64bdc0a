"""Traffic with labels: three forms of a line, and every mistake by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.contract import examples, labelled
from gateway.contract.examples import Example, Label
from gateway.contract.labelled import Labelled
from gateway.errors import DataError
from tests.factories import TASK

TRUTH = {"intent": ("refund",), "flags": ("urgent",)}


def read(folder: Path, *rows: Any) -> list[Labelled]:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in rows))
    return labelled.read(path, TASK)


def test_a_plain_line_has_text_labels_and_fields(tmp_path: Path) -> None:
    row = {"text": "a", "labels": {"intent": "refund", "flags": ["urgent"]}, "fields": {"n": 1}}
    assert read(tmp_path, row) == [Labelled("a", {"n": 1}, TRUTH)]


def test_a_line_without_labels_is_traffic_too(tmp_path: Path) -> None:
    assert read(tmp_path, {"text": "a"}, "", {"text": "b", "labels": {}}) == [
        Labelled("a", {}, None),
        Labelled("b", {}, None),
    ]


def test_an_example_is_read_with_its_propensity(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    example = Example("a", {"intent": "refund", "flags": ("urgent",)}, propensity=0.5)
    examples.write(path, [example])
    assert labelled.read(path, TASK) == [Labelled("a", {}, TRUTH, propensity=0.5)]


def test_an_example_of_an_escalation_says_that_it_was_chosen(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    labels: dict[str, Label] = {"intent": "refund", "flags": ("urgent",)}
    examples.write(path, [Example("a", labels, source="teacher", chosen=True)])
    assert labelled.read(path, TASK) == [Labelled("a", {}, TRUTH, chosen=True)]


def test_an_example_that_a_person_picked_is_chosen_too(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    labels: dict[str, Label] = {"intent": "refund", "flags": ("urgent",)}
    examples.write(path, [Example("a", labels, propensity=None)])
    assert labelled.read(path, TASK) == [Labelled("a", {}, TRUTH, chosen=True)]


def test_a_record_has_the_teachers_labels_and_says_that_it_was_chosen(tmp_path: Path) -> None:
    record = {"text": "a", "route": "teacher", "labels": {"intent": ["other"], "flags": []}}
    taught = {"teacher_labels": {"intent": ["refund"], "flags": ["urgent"]}, "fields": None}
    assert read(tmp_path, record | taught, record | {"teacher_labels": None}) == [
        Labelled("a", {}, TRUTH, chosen=True),
        Labelled("a", {}, None, chosen=True),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: "),
        ({"text": None, "route": "student"}, "line 2: there is no text"),
        ({"text": 1}, "line 2: text: "),
        ({"text": "a", "labels": {"intent": "refund"}}, "the head 'flags' has no label"),
        ({"text": "a", "labels": {"intent": "theft", "flags": []}}, "no label 'theft'"),
        (
            {"text": "a", "labels": {"intent": ["refund", "fraud"], "flags": []}},
            "'intent' has one label, not 2",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, {"text": "fine"}, row)


def test_a_file_without_lines_or_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no line in it"):
        read(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        labelled.read(tmp_path / "nowhere.jsonl", TASK)

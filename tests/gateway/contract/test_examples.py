"""Example lines: what is written is read again, and what is not an example is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.contract import examples
from gateway.contract.examples import Example
from gateway.errors import DataError

FULL = Example(
    text="wo ist mein Geld? \N{EURO SIGN}",
    labels={"intent": "refund", "flags": ("urgent", "legal"), "none": ()},
    fields={"amount": 12.5, "count": 3, "vip": True, "note": "3", "gone": None},
    group="customer 7",
    source="audit",
    propensity=0.02,
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    assert examples.write(path, [FULL, Example("plain")]) == 2
    read = list(examples.read(path))
    assert read == [FULL, Example("plain")]
    assert [type(value) for value in read[0].fields.values()] == [float, int, bool, str, type(None)]


def test_nothing_written_is_nothing_read(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    assert examples.write(path, []) == 0
    assert list(examples.read(path)) == []


def test_the_id_is_a_hash_of_the_text_alone() -> None:
    # printf abc | sha256sum
    assert Example("abc").id == "ba7816bf8f01cfea414140de"
    assert Example("abc", {"intent": "refund"}, group="g").id == Example("abc").id
    assert Example("abd").id != Example("abc").id


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "line 2: not an example"),
        ("{", "line 2: not an example"),
        ("[1]", "schema version None; this version reads 1"),
        ('{"text": "a"}', "schema version None"),
        ('{"schema_version": 2, "text": "a"}', "schema version 2"),
        ('{"schema_version": 1}', "text: .*required"),
        ('{"schema_version": 1, "text": 5}', "text: Input should be a valid string"),
        ('{"schema_version": 1, "text": "a", "labels": {"intent": 5}}', r"labels\.intent"),
        ('{"schema_version": 1, "text": "a", "labels": {"intent": null}}', r"labels\.intent"),
        ('{"schema_version": 1, "text": "a", "labels": {"flags": [1]}}', r"labels\.flags"),
        ('{"schema_version": 1, "text": "a", "fields": {"list": [1]}}', r"fields\.list"),
        ('{"schema_version": 1, "text": "a", "propensity": NaN}', "not an example"),
        ('{"schema_version": 1, "text": "a", "colour": "red"}', "colour: Unexpected"),
    ],
)
def test_a_line_that_is_no_example_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "examples.jsonl"
    examples.write(path, [FULL])
    with path.open("a") as file:
        file.write(line + "\n")
    reader = examples.read(path)
    assert next(reader) == FULL  # what stands before it is whole
    with pytest.raises(DataError, match=message) as refused:
        next(reader)
    assert f"{path}, line 2" in refused.value.message
    assert refused.value.mend

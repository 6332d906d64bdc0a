"""Provenance: the counts and hashes of a run's data, and nothing else of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from distill.data import provenance
from distill.data.deduplicate import Report
from distill.data.sources import Corpus
from distill.data.split import Splits
from gateway.contract.examples import Example
from gateway.contract.manifest import Head, HeadKind, Task

TASK = Task(name="t", heads=(Head(name="category", kind=HeadKind.CHOICE, labels=("a", "b")),))


def row(text: str, label: str, *risks: str) -> Example:
    return Example(text=text, labels={"category": label, "risk": risks})


def described() -> provenance.DataProvenance:
    splits = Splits(
        train=(row("one", "b", "x", "y"), row("two", "a", "x"), row("three", "b")),
        calibration=(row("four", "a"),),
        certification=(),
        test=(row("five", "b"),),
        unlabelled=(Example(text="six"),),
        removed=2,
    )
    corpus = Corpus(examples=(), test=(), task=TASK, sources={"data: t.csv": "ab" * 32})
    report = Report(rows=9, kept=8, conflicts=1)
    return provenance.describe(corpus, report, splits, warnings=("rare",))


def test_rows_and_labels_are_counted_by_part() -> None:
    told = described()
    assert told.files == {"data: t.csv": "ab" * 32}
    assert told.rows == {
        "train": 3, "calibration": 1, "certification": 0, "test": 1, "unlabelled": 1,
    }  # fmt: skip
    assert told.labels["train"] == {"category": {"a": 1, "b": 2}, "risk": {"x": 2, "y": 1}}
    assert told.labels["calibration"] == {"category": {"a": 1}, "risk": {}}
    assert told.labels["unlabelled"] == {}
    assert (told.duplicates, told.conflicts, told.removed) == (1, 1, 2)
    assert told.warnings == ("rare",)


def test_it_is_read_as_it_was_written_and_holds_no_text(tmp_path: Path) -> None:
    told = described()
    told.write(tmp_path / "data.json")
    assert provenance.read(tmp_path / "data.json") == told
    assert "three" not in (tmp_path / "data.json").read_text()


def test_a_file_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert provenance.file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()

"""Provenance: which data a run used, as counts and hashes. It holds no text of anybody."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from distill.data import deduplicate
from distill.data.sources import Corpus
from distill.data.split import Splits
from gateway.contract.examples import Example

LabelCounts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class DataProvenance:
    """What the data was.

    `files` is file -> SHA-256, `rows` part -> rows, `labels` part -> head -> label -> rows.
    """

    files: Mapping[str, str]
    rows: Mapping[str, int]
    labels: Mapping[str, LabelCounts]
    duplicates: int
    conflicts: int
    removed: int
    warnings: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


def describe(
    corpus: Corpus,
    report: deduplicate.Report,
    splits: Splits,
    *,
    warnings: tuple[str, ...] = (),
) -> DataProvenance:
    """Count what is in the splits of a corpus."""
    parts = splits.parts()
    return DataProvenance(
        files=dict(corpus.sources),
        rows={name: len(rows) for name, rows in parts.items()},
        labels={name: _label_counts(rows) for name, rows in parts.items()},
        duplicates=report.duplicates,
        conflicts=report.conflicts,
        removed=splits.removed,
        warnings=warnings,
    )


def read(path: Path) -> DataProvenance:
    """Read what `DataProvenance.write` wrote."""
    content = json.loads(path.read_text())
    return DataProvenance(**content | {"warnings": tuple(content["warnings"])})


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _label_counts(rows: Iterable[Example]) -> LabelCounts:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for head, label in row.labels.items():
            names = [label] if isinstance(label, str) else label
            counts.setdefault(head, Counter()).update(names)
    return {head: dict(sorted(count.items())) for head, count in counts.items()}

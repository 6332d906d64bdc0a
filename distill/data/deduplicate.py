"""Deduplicate: of equal texts, one is kept.

Equal means equal after NFKC, case folding and whitespace folding. Texts that differ only in their
numbers are all kept; `template` lets the split hold them together.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.contract.examples import Example

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")  # an amount, a time or a date is one number


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `conflicts` counts the kept texts whose duplicates had other gold labels."""

    rows: int
    kept: int
    conflicts: int

    @property
    def duplicates(self) -> int:
        """Rows that were left out."""
        return self.rows - self.kept


def folded(text: str) -> str:
    """The form in which two texts are compared."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def template(text: str) -> str:
    """The folded text with every number replaced by 0."""
    return _NUMBER.sub("0", folded(text))


def deduplicate(examples: Iterable[Example]) -> tuple[tuple[Example, ...], Report]:
    """Keep the first of equal texts, or the first that has gold labels where one has."""
    kept: dict[str, Example] = {}
    conflicting: set[str] = set()
    rows = 0
    for example in examples:
        rows += 1
        key = folded(example.text)
        first = kept.setdefault(key, example)
        if not first.labels:
            kept[key] = example if example.labels else first
        elif example.labels and example.labels != first.labels:
            conflicting.add(key)
    return tuple(kept.values()), Report(rows=rows, kept=len(kept), conflicts=len(conflicting))

"""Deduplicate: of equal texts, one is kept.

Equal means equal after NFKC, case folding and whitespace folding. Texts that differ only in their
numbers are all kept; `template` lets the split hold them together.

What is kept has the chance of its text to be observed. The hand-over has joined the chances of all
requests of a text already, of those too that nobody saw (gateway/store/handover.py): to join those
of the rows once more would count the same coins twice, and to join them here alone would leave out
the coins that fell the other way. So rows of one text agree; where they do not, one whose chance is
larger knows of more requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.contract.examples import Example, folded

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


def template(text: str) -> str:
    """The folded text with every number replaced by 0."""
    return _NUMBER.sub("0", folded(text))


def deduplicate(examples: Iterable[Example]) -> tuple[tuple[Example, ...], Report]:
    """Keep the first of equal texts, or the first that has gold labels where one has."""
    kept: dict[str, Example] = {}
    chances: dict[str, float] = {}
    conflicting: set[str] = set()
    rows = 0
    for example in examples:
        rows += 1
        key = folded(example.text)
        first = kept.setdefault(key, example)
        if example.propensity is not None:
            chances[key] = max(chances.get(key, 0.0), example.propensity)
        if not first.labels:
            kept[key] = example if example.labels else first
        elif example.labels and example.labels != first.labels:
            conflicting.add(key)
    found = tuple(
        row if row.propensity == chances.get(key) else replace(row, propensity=chances[key])
        for key, row in kept.items()
    )
    return found, Report(rows=rows, kept=len(kept), conflicts=len(conflicting))

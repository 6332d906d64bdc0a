"""Sources: the files of a recipe -> examples, and the task that their labels make.

Labels are optional, row by row: a row has a label for every head or for none. Those of a table are
gold; those of Example lines may be a teacher's. What cannot be trained on is refused here, before
anything is trained. It refuses to drop or repair rows silently.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Literal

from distill.data import lines, table
from distill.data.deduplicate import deduplicate
from distill.data.lines import Lines
from distill.data.table import Row, Table
from distill.recipe import DataPlan, HeadPlan, Recipe, hint
from gateway.contract.examples import Example, Field, Label
from gateway.contract.manifest import Head, HeadKind, Task
from gateway.errors import DataError

FEWEST = 5  # examples of a class: one for each of the four splits, and one to spare

_SHOWN = 10  # faulty rows or classes that a message names
_LABEL_LIMIT = 200  # characters, the manifest's own limit
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")  # `007` is a name, not a number


@dataclass(frozen=True, slots=True)
class Corpus:
    """All examples of a recipe; `test` is empty unless it has a file of its own.

    `handover` are those that a gateway handed over, and stand apart from `examples`. `labels`:
    whose they are; one label of a teacher makes them a teacher's; None: there are none. `sources`
    is `<key of the recipe>: <file name>` -> SHA-256.
    """

    examples: tuple[Example, ...]
    test: tuple[Example, ...]
    task: Task
    sources: Mapping[str, str]
    handover: tuple[Example, ...] = ()

    @property
    def labels(self) -> Literal["gold", "teacher"] | None:
        """Whose labels the examples have."""
        return whose(self.examples)


def whose(rows: Iterable[Example]) -> Literal["gold", "teacher"] | None:
    """Whose labels rows have; one label of a teacher makes them a teacher's; None: no labels."""
    sources = {row.source for row in rows if row.labels}
    if not sources:
        return None
    return "teacher" if "teacher" in sources else "gold"


def read(recipe: Recipe) -> Corpus:
    """Read the recipe's files. Raises DataError naming file, line, column or class."""
    plan = recipe.data
    paths = {"data": plan.path, "test": plan.test, "unlabelled": plan.unlabelled}
    tables = {key: _open(recipe.resolve(path)) for key, path in paths.items() if path is not None}
    listed = all(head.labels for head in plan.heads.values())
    labelled = _has_labels(tables["data"], plan, optional=listed)
    rows = _examples(tables["data"], plan, labelled=labelled)
    given = whose(rows)
    test = _test_examples(tables.get("test"), plan, needed=given is not None)
    more = _examples(tables["unlabelled"], plan, labelled=False) if "unlabelled" in tables else []
    handed = _handover(recipe)
    traffic = _of_lines(handed, plan, labelled=True) if handed else []
    task = _task(recipe, [*rows, *test, *traffic])
    if given == "gold":
        # Rows that will be left out as duplicates teach nothing. What a teacher hardly ever says is
        # no mistake of a person: its rows are kept, and told where they are not measured.
        kept = deduplicate(rows)[0]
        _check_counts(task if handed is None else _task(recipe, rows), kept, tables["data"].path)
    _check_severity(plan, task)
    files = tables if handed is None else tables | {"handover": handed}
    return Corpus(
        examples=tuple(_in_label_order(row, task) for row in [*rows, *more]),
        test=tuple(_in_label_order(row, task) for row in test),
        task=task,
        sources={f"{key}: {each.path.name}": each.sha256 for key, each in files.items()},
        handover=tuple(_in_label_order(row, task) for row in traffic),
    )


def say_teachings(recipe: Recipe) -> bool:
    """Whether the recipe's data brings a teacher's labels with it. Raises DataError."""
    return lines.teacher_labelled(recipe.resolve(recipe.data.path))


def _handover(recipe: Recipe) -> Lines | None:
    """What the recipe's gateway handed over. Raises DataError where the file is something else."""
    if recipe.data.handover is None:
        return None
    path = recipe.resolve(recipe.data.handover.path)
    if not lines.are_in(path):
        raise DataError(
            f"data.handover: {path}: no Example lines",
            mend="name a file that `understudy handover` has written",
        )
    return lines.read(path)


def _open(path: Path) -> Table | Lines:
    return lines.read(path) if lines.are_in(path) else table.read(path)


def _has_labels(source: Table | Lines, plan: DataPlan, *, optional: bool) -> bool:
    """Whether the file has the label columns: all of them or, where they are optional, none."""
    if isinstance(source, Lines):
        return True
    if optional and not any(head.column in source.columns for head in plan.heads.values()):
        return False
    for name, head in plan.heads.items():
        source.require(head.column, key=f"data.heads.{name}.column")
    return True


def _test_examples(source: Table | Lines | None, plan: DataPlan, *, needed: bool) -> list[Example]:
    if source is None:
        return []
    found = _examples(source, plan, labelled=_has_labels(source, plan, optional=not needed))
    bare = [place for place, each in zip(_places(source), found, strict=True) if not each.labels]
    if needed and bare:
        raise DataError(
            f"{source.path}: no labels on {_some(bare)}",
            mend="label the test rows: quality is measured on them",
        )
    return found


def _places(source: Table | Lines) -> list[str]:
    """Where each row stands, for messages."""
    if isinstance(source, Lines):
        return [f"line {number}" for number in range(1, len(source.examples) + 1)]
    return [row.place for row in source.rows]


def _examples(source: Table | Lines, plan: DataPlan, *, labelled: bool) -> list[Example]:
    if isinstance(source, Lines):
        return _of_lines(source, plan, labelled=labelled)
    source.require(plan.text_column, key="data.text_column")
    if plan.group_column:
        source.require(plan.group_column, key="data.group_column")
    for column in plan.field_columns:
        source.require(column, key="data.field_columns")
    _check_texts(source, plan.text_column)
    numeric = {column for column in plan.field_columns if _is_numeric(source, column)}
    found = []
    for row in source.rows:
        labels = _labels(row, plan.heads, source.path) if labelled else {}
        found.append(
            Example(
                text=str(row.cells[plan.text_column]),
                labels=labels,
                fields=_fields(row, plan.field_columns, numeric, source.path),
                group=_group(row, plan.group_column),
                source="gold" if labels else "unlabelled",
            )
        )
    return found


def _of_lines(source: Lines, plan: DataPlan, *, labelled: bool) -> list[Example]:
    """The lines as they are, with the heads of the plan alone."""
    found = []
    for place, each in zip(_places(source), source.examples, strict=True):
        cells: dict[str, object] = {
            name: list(said) if isinstance(said, tuple) else said
            for name, said in each.labels.items()
        }
        labels = _labels(Row(place, cells), plan.heads, source.path) if labelled else {}
        scores = {
            name: each.scores[head.column]
            for name, head in plan.heads.items()
            if head.column in each.scores
        }
        found.append(replace(each, labels=labels, scores=scores))
    return found


def _check_texts(source: Table, column: str) -> None:
    empty, strange = [], []
    for row in source.rows:
        text = row.cells.get(column)
        if text is None or (isinstance(text, str) and not text.strip()):
            empty.append(row.place)
        elif not isinstance(text, str):
            strange.append(row.place)
    if empty:
        raise DataError(
            f"{source.path}: the column {column!r} is empty on {_some(empty)}",
            mend="write a text there, or remove the rows",
        )
    if strange:
        raise DataError(
            f"{source.path}: the column {column!r} is not text on {_some(strange)}",
            mend="name the column that holds the texts in data.text_column",
        )


def _labels(row: Row, heads: Mapping[str, HeadPlan], path: Path) -> dict[str, Label]:
    """The row's labels: every head's, or none. An empty flags cell says: no flag is set."""
    found = {name: _label(row, name, head, path) for name, head in heads.items()}
    choices = [name for name, head in heads.items() if head.kind is HeadKind.CHOICE]
    if all(found[name] is None for name in choices) and not any(found.values()):
        if not choices and None not in found.values():
            return dict.fromkeys(found, ())
        return {}
    if missing := [name for name, label in found.items() if label is None]:
        raise DataError(
            f"{path}, {row.place}: the head {missing[0]!r} has no label, and others have one",
            mend="label every head of the row or none; no flags set is an empty list or cell",
        )
    return {name: label for name, label in found.items() if label is not None}


def _label(row: Row, name: str, head: HeadPlan, path: Path) -> Label | None:
    cell = row.cells.get(head.column)
    try:
        label = _choice(cell) if head.kind is HeadKind.CHOICE else _flags(cell)
    except ValueError as error:
        raise DataError(
            f"{path}, {row.place}: the column {head.column!r} is no {head.kind} label: {error}",
            mend='a choice is one label; flags are "a|b" or a JSON list of labels',
        ) from error
    for each in (label,) if isinstance(label, str) else label or ():
        if len(each) > _LABEL_LIMIT:
            raise DataError(
                f"{path}, {row.place}: the column {head.column!r} has a label of {len(each)} "
                f"characters, and {_LABEL_LIMIT} are allowed",
                mend=f"name the column that holds the labels in data.heads.{name}.column",
            )
        if head.labels and each not in head.labels:
            raise DataError(
                f"{path}, {row.place}: {each!r} is no label{hint(each, head.labels)}",
                mend=f"mend the row, or add the label to data.heads.{name}.labels",
            )
    return label


def _choice(cell: object) -> str | None:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # a whole number, as tables with gaps store it
    match cell:
        case None:
            return None
        case bool():
            return str(cell).lower()
        case str() | int():
            return str(cell).strip() or None
        case _:
            raise ValueError(f"{cell!r} is not one label")


def _flags(cell: object) -> tuple[str, ...] | None:
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        cell = json.loads(cell)
    elif isinstance(cell, str):
        cell = cell.split("|") if cell.strip() else []
    match cell:
        case None:
            return None
        case list() if all(isinstance(each, str) and each.strip() for each in cell):
            return tuple(dict.fromkeys(each.strip() for each in cell))
        case _:
            raise ValueError(f"{cell!r} is not a list of labels")


def _fields(row: Row, columns: Sequence[str], numeric: set[str], path: Path) -> dict[str, Field]:
    """The row's fields; those without a value are left out."""
    found: dict[str, Field] = {}
    for column in columns:
        match row.cells.get(column):
            case None:
                continue
            case str(value) if not value.strip():
                continue
            case str(value) if column in numeric:
                found[column] = float(value)
            case Decimal() as value:
                found[column] = float(value)
            case str() | int() | float() as value:
                found[column] = value
            case list() | dict():
                raise DataError(
                    f"{path}, {row.place}: the field {column!r} is not one value",
                    mend="a field is a text, a number, true or false",
                )
            case value:
                found[column] = str(value)  # dates and times, in their ISO form
    return found


def _is_numeric(source: Table, column: str) -> bool:
    """Whether a column of an untyped file holds plain numbers, and nothing else."""
    cells = [str(row.cells[column]).strip() for row in source.rows] if not source.typed else []
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(_NUMBER.fullmatch(cell) for cell in filled)


def _group(row: Row, column: str | None) -> str | None:
    cell = row.cells.get(column) if column else None
    return str(cell) if cell not in (None, "") else None


def _task(recipe: Recipe, rows: Sequence[Example]) -> Task:
    heads = []
    for name, head in recipe.data.heads.items():
        labels = head.labels or tuple(sorted(_counts(name, rows)))
        fewest = 2 if head.kind is HeadKind.CHOICE else 1
        if len(labels) < fewest:
            raise DataError(
                f"{recipe.data.path}: the column {head.column!r} has {len(labels)} labels, and the "
                f"head {name!r} needs {fewest}",
                mend=f"add labelled rows, or list all labels in data.heads.{name}.labels",
            )
        heads.append(Head(name=name, kind=head.kind, labels=labels))
    return Task(name=recipe.task, heads=tuple(heads))


def _check_counts(task: Task, rows: Sequence[Example], path: Path) -> None:
    few = []
    for head in task.heads:
        counts = _counts(head.name, rows)
        few += [
            f"{label!r} of the head {head.name!r} ({counts[label]})"
            for label in head.labels
            if counts[label] < FEWEST
        ]
    if few:
        raise DataError(
            f"{path}: fewer than {FEWEST} distinct examples of {_some(few)}",
            mend="add examples, or merge the class with another, or drop it",
        )


def _check_severity(plan: DataPlan, task: Task) -> None:
    for head in task.heads:
        for label in plan.severity.get(head.name, {}):
            if label not in head.labels:
                raise DataError(
                    f"data.severity.{head.name}: no label {label!r}{hint(label, head.labels)}",
                    mend="name labels of the head",
                )


def _in_label_order(example: Example, task: Task) -> Example:
    """Flags in the order of the head's labels, as predictions have them."""
    labels = {
        head.name: said
        if isinstance(said := example.labels[head.name], str)
        else tuple(label for label in head.labels if label in said)
        for head in task.heads
        if head.name in example.labels
    }
    return replace(example, labels=labels)


def _counts(head: str, rows: Iterable[Example]) -> Counter[str]:
    """Label -> rows that have it, for one head."""
    found: Counter[str] = Counter()
    for row in rows:
        label = row.labels.get(head, ())
        found.update([label] if isinstance(label, str) else label)
    return found


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

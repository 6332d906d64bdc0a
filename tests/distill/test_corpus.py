"""The teaching material: one whatever the file's kind, in the teacher's order, labelled by it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet
from rich.console import Console

from distill import corpus, recipe
from distill.corpus import Material, collect
from distill.progress import Narrator
from distill.workspace import Workspace
from gateway.contract import examples
from gateway.contract.examples import Example
from gateway.errors import DataError
from tests.factories import TASK, tiny_bundle

ROWS = 60
COLOURS = ("red", "green", "blue", "gold", "pink", "teal", "grey", "plum", "rust", "sand")
HEADS: dict[str, dict[str, Any]] = {
    "intent": {"kind": "choice", "column": "intent"},
    "flags": {"kind": "flags", "column": "flags"},
}
LISTED = {head.name: {"labels": list(head.labels)} for head in TASK.heads}


def row(number: int) -> dict[str, Any]:
    """A text that the tiny teacher reads right, with its labels; no two differ by numbers only."""
    intent = ("refund", "fraud", "other")[number % 3]
    flags = [flag for flag, every in (("urgent", 4), ("legal", 5)) if number % every == 0]
    words = [COLOURS[number // 10], COLOURS[number % 10], intent]
    words += [{"urgent": "urgent", "legal": "lawyer"}[flag] for flag in flags]
    return {"text": " ".join(words), "intent": intent, "flags": flags}


def write(folder: Path, kind: str, rows: Sequence[Mapping[str, Any]], name: str = "data") -> str:
    """Write rows as a table of that kind; returns the file's name."""
    path = folder / f"{name}.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(rows[0])
            for each in rows:
                cells = each.values()
                table.writerow(["|".join(c) if isinstance(c, list) else c for c in cells])
    elif kind == "jsonl":
        path.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in rows))
    else:
        parquet.write_table(pa.Table.from_pylist([dict(each) for each in rows]), path)
    return path.name


def plan(folder: Path, path: str, **data: Any) -> recipe.Recipe:
    """A recipe on that file."""
    content = {
        "version": 1,
        "task": "tickets",
        "data": {
            "path": path,
            "heads": HEADS,
            "split": {"calibration": 0.1, "certification": 0.2, "test": 0.2},
        }
        | data,
    }
    (folder / recipe.FILE_NAME).write_text(yaml.safe_dump(content, sort_keys=False))
    return recipe.load(folder / recipe.FILE_NAME)


def gather(
    folder: Path, orders: recipe.Recipe, *, teacher: Path | None = None
) -> tuple[Material, str]:
    """Collect, and what was told."""
    said = io.StringIO()
    narrator = Narrator(Console(file=said, width=200))
    return collect(orders, Workspace(folder), narrator, teacher=teacher), said.getvalue()


def everything(material: Material) -> list[Example]:
    return [each for part in material.splits.parts().values() for each in part]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_material_does_not_depend_on_the_files_kind(tmp_path: Path, kind: str) -> None:
    rows = [row(number) for number in range(ROWS)]
    material, _ = gather(tmp_path, plan(tmp_path, write(tmp_path, kind, rows)))
    parts = {name: len(part) for name, part in material.splits.parts().items()}
    assert parts == {
        "train": 30, "calibration": 6, "certification": 12, "test": 12, "unlabelled": 0,
    }  # fmt: skip
    assert material.labels == "gold"
    # Sorted by name, for there is no teacher whose order would be taken.
    assert [head.labels for head in material.task.heads] == [
        ("fraud", "other", "refund"),
        ("legal", "urgent"),
    ]
    found = {each.text: dict(each.labels) for each in everything(material)}
    assert found == {
        each["text"]: {"intent": each["intent"], "flags": tuple(sorted(each["flags"]))}
        for each in rows
    }


def test_a_second_collect_keeps_the_first(tmp_path: Path) -> None:
    orders = plan(tmp_path, write(tmp_path, "jsonl", [row(n) for n in range(ROWS)]))
    first, told = gather(tmp_path, orders)
    assert "train 30, calibration 6, certification 12, test 12" in told
    again, told = gather(tmp_path, orders)
    assert "collect: kept from an earlier start" in told
    assert (again.key, again.splits) == (first.key, first.splits)


def test_duplicates_and_gaps_are_told(tmp_path: Path) -> None:
    rows = [row(number) for number in range(ROWS)]
    strange = [{"text": f"{each} strange", "intent": "strange", "flags": []} for each in COLOURS]
    data = write(tmp_path, "jsonl", [*rows, *rows[:7], *strange[:5]])
    _, told = gather(tmp_path, plan(tmp_path, data))
    assert "7 duplicates left out" in told
    assert "has the label 'strange' of the head 'intent'" in told


def test_labels_stand_in_the_order_of_the_teacher(tmp_path: Path) -> None:
    teacher = tiny_bundle(tmp_path / "bundles", role="teacher")
    data = write(tmp_path, "jsonl", [row(number) for number in range(ROWS)])
    material, _ = gather(tmp_path, plan(tmp_path, data), teacher=teacher)
    assert material.task == TASK
    assert material.labels == "gold"


def test_without_gold_labels_the_teachers_take_their_place(tmp_path: Path) -> None:
    teacher = tiny_bundle(tmp_path / "bundles", role="teacher")
    rows = [row(number) for number in range(ROWS)]
    data = write(tmp_path, "jsonl", [{"text": each["text"]} for each in rows])
    heads = {name: head | LISTED[name] for name, head in HEADS.items()}
    material, _ = gather(tmp_path, plan(tmp_path, data, heads=heads), teacher=teacher)
    assert material.labels == "teacher"
    assert {each.source for each in everything(material)} == {"teacher"}
    found = {each.text: dict(each.labels) for each in everything(material)}
    assert found == {
        each["text"]: {"intent": each["intent"], "flags": tuple(each["flags"])} for each in rows
    }
    files = json.loads(next(tmp_path.glob("runs/data-*/collect/provenance.json")).read_text())[
        "files"
    ]
    assert list(files) == ["data: data.jsonl"]


def test_a_test_file_without_labels_is_labelled_by_the_teacher_too(tmp_path: Path) -> None:
    teacher = tiny_bundle(tmp_path / "bundles", role="teacher")
    texts = [{"text": row(number)["text"]} for number in range(ROWS)]
    heads = {name: head | LISTED[name] for name, head in HEADS.items()}
    orders = plan(
        tmp_path,
        write(tmp_path, "jsonl", texts[:45]),
        test=write(tmp_path, "jsonl", texts[45:], name="test"),
        heads=heads,
    )
    material, _ = gather(tmp_path, orders, teacher=teacher)
    assert {each.text for each in material.splits.test} == {each["text"] for each in texts[45:]}
    assert all(each.labels for each in material.splits.test)


def test_a_test_file_of_its_own_is_not_thinned_by_the_chances_of_other_rows(
    tmp_path: Path,
) -> None:
    def example(number: int) -> Example:
        said = row(number)
        return Example(
            said["text"],
            {"intent": said["intent"], "flags": tuple(said["flags"])},
            source="teacher",
            propensity=0.5 if number % 2 else 1.0,
        )

    examples.write(tmp_path / "handed.jsonl", [example(number) for number in range(45)])
    gold = write(tmp_path, "jsonl", [row(number) for number in range(45, ROWS)], name="test")
    heads = {name: head | LISTED[name] for name, head in HEADS.items()}
    material, _ = gather(tmp_path, plan(tmp_path, "handed.jsonl", test=gold, heads=heads))
    assert len(material.splits.test) == 15
    held_out = len(material.splits.calibration) + len(material.splits.certification)
    assert held_out < 45 - len(material.splits.train)


def test_gold_labels_are_needed_where_there_is_no_teacher(tmp_path: Path) -> None:
    data = write(tmp_path, "jsonl", [{"text": row(number)["text"]} for number in range(ROWS)])
    heads = {name: head | LISTED[name] for name, head in HEADS.items()}
    with pytest.raises(DataError, match="no gold labels") as caught:
        gather(tmp_path, plan(tmp_path, data, heads=heads))
    assert "teacher.bundle" in caught.value.mend


@pytest.mark.parametrize(
    ("heads", "told"),
    [
        ({"topic": HEADS["intent"]}, "'topic' with the labels of the data: it has no such head"),
        ({"intent": HEADS["intent"] | {"kind": "flags"}}, "its head is choice, the recipe says"),
        ({"intent": HEADS["intent"]}, "also answers flags, which the recipe lacks"),
        (
            HEADS | {"intent": HEADS["intent"] | {"labels": ["refund", "fraud", "other", "new"]}},
            "only one of them has new",
        ),
    ],
)
def test_a_teacher_of_another_task_is_refused(
    tmp_path: Path, heads: dict[str, Any], told: str
) -> None:
    teacher = tiny_bundle(tmp_path / "bundles", role="teacher")
    rows = [row(number) for number in range(ROWS)]
    rows += [{"text": f"{each} new", "intent": "new", "flags": []} for each in COLOURS[:5]]
    if "new" not in heads.get("intent", {}).get("labels", ()):
        rows = rows[:ROWS]
    with pytest.raises(DataError, match=told) as caught:
        gather(
            tmp_path, plan(tmp_path, write(tmp_path, "jsonl", rows), heads=heads), teacher=teacher
        )
    assert "teacher.bundle" in caught.value.mend


def test_certification_rows_that_come_in_groups_are_warned_about() -> None:
    alone = [Example(text=f"text {number}") for number in range(4)]
    grouped = [Example(text=f"text {number}", group=f"c-{number // 2}") for number in range(4)]
    assert corpus._group_warnings(alone) == ()
    (warning,) = corpus._group_warnings(grouped)
    assert "the 4 certification rows come from 2 groups" in warning

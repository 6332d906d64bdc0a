"""Sources: what becomes of a person's files, and every reason why they are refused."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from distill import recipe
from distill.data import sources
from distill.data.sources import Corpus
from gateway.contract.manifest import Head, HeadKind
from gateway.errors import DataError

CHOICE: Mapping[str, object] = {"kind": "choice", "column": "category"}
FLAGS: Mapping[str, object] = {"kind": "flags", "column": "risk"}
LISTED: Mapping[str, object] = {**CHOICE, "labels": ["b", "a"]}


def corpus(folder: Path, **data: object) -> Corpus:
    """Read the files of a recipe that stands in `folder`."""
    plan = {"path": "main.csv", "heads": {"category": CHOICE}} | data
    content: dict[str, object] = {"version": 1, "task": "tickets", "data": plan}
    return sources.read(recipe.parse(content, path=folder / "recipe.yaml"))


def mistake(folder: Path, **data: object) -> str:
    with pytest.raises(DataError) as caught:
        corpus(folder, **data)
    assert caught.value.mend
    return caught.value.message


def write_csv(path: Path, header: str, *rows: str) -> None:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def labelled(count: int = 5) -> list[str]:
    """CSV rows `text,category`, `count` of each of a and b."""
    return [f"{label} text {n},{label}" for label in "ba" for n in range(count)]


def write_jsonl(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_labels_are_sorted_and_rows_keep_their_order(tmp_path: Path) -> None:
    write_csv(tmp_path / "main.csv", "text,category", *labelled())
    read = corpus(tmp_path)
    assert read.task.name == "tickets"
    assert read.task.heads == (Head(name="category", kind=HeadKind.CHOICE, labels=("a", "b")),)
    assert [example.text for example in read.examples][:2] == ["b text 0", "b text 1"]
    assert read.examples[0].labels == {"category": "b"}
    assert read.examples[0].source == "gold"
    assert read.test == ()
    content = (tmp_path / "main.csv").read_bytes()
    assert read.sources == {"data: main.csv": hashlib.sha256(content).hexdigest()}


def test_listed_labels_keep_the_order_of_the_list(tmp_path: Path) -> None:
    write_csv(tmp_path / "main.csv", "text,category", *labelled())
    assert corpus(tmp_path, heads={"category": LISTED}).task.heads[0].labels == ("b", "a")


def test_flags_are_read_from_bars_and_lists_in_the_order_of_the_labels(tmp_path: Path) -> None:
    cells = ["", "fraud|refund", '"[""refund"", ""fraud""]"', "[]", " refund | fraud ", "refund"]
    rows = [f"text {n},{cell}" for n, cell in enumerate([*cells, *["fraud|refund"] * 2])]
    write_csv(tmp_path / "main.csv", "text,risk", *rows)
    read = corpus(tmp_path, heads={"risk": FLAGS})
    assert read.task.heads[0].labels == ("fraud", "refund")
    both = ("fraud", "refund")
    assert [row.labels["risk"] for row in read.examples] == [
        (), both, both, (), both, ("refund",), both, both,
    ]  # fmt: skip


def test_a_row_without_any_label_is_unlabelled(tmp_path: Path) -> None:
    rows = [f"{row},refund" for row in labelled()]
    write_csv(tmp_path / "main.csv", "text,category,risk", *rows, "bare,,", "none set,a,")
    read = corpus(tmp_path, heads={"category": CHOICE, "risk": FLAGS})
    assert (read.examples[-2].labels, read.examples[-2].source) == ({}, "unlabelled")
    assert read.examples[-1].labels == {"category": "a", "risk": ()}


def test_a_task_of_flags_alone_tells_none_set_from_unlabelled(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "risk": ["fraud"]} for n in range(5)]
    write_jsonl(tmp_path / "main.jsonl", *rows, {"text": "x", "risk": []}, {"text": "y"})
    read = corpus(tmp_path, path="main.jsonl", heads={"risk": FLAGS})
    assert [row.labels for row in read.examples[-2:]] == [{"risk": ()}, {}]


def test_whole_numbers_and_booleans_are_labels_too(tmp_path: Path) -> None:
    values = [1, 1.0, True, "no "] * 5
    rows = [{"text": f"t{n}", "category": value} for n, value in enumerate(values)]
    write_jsonl(tmp_path / "main.jsonl", *rows)
    assert corpus(tmp_path, path="main.jsonl").task.heads[0].labels == ("1", "no", "true")


def test_a_file_without_labels_is_all_unlabelled_where_labels_are_listed(tmp_path: Path) -> None:
    write_csv(tmp_path / "main.csv", "text", "one", "two")
    write_csv(tmp_path / "test.csv", "text", "three")
    read = corpus(tmp_path, test="test.csv", heads={"category": LISTED})
    assert [row.labels for row in (*read.examples, *read.test)] == [{}, {}, {}]


def test_the_three_files_go_to_their_places(tmp_path: Path) -> None:
    write_csv(tmp_path / "main.csv", "text,category", *labelled())
    write_csv(tmp_path / "test.csv", "text,category", "a test,a", "b test,b")
    write_csv(tmp_path / "more.csv", "text,category", "more,a")
    read = corpus(tmp_path, test="test.csv", unlabelled="more.csv")
    assert len(read.examples) == 11
    assert (read.examples[-1].text, read.examples[-1].labels) == ("more", {})
    assert [row.labels["category"] for row in read.test] == ["a", "b"]
    assert set(read.sources) == {"data: main.csv", "test: test.csv", "unlabelled: more.csv"}


def test_fields_of_csv_become_numbers_where_the_whole_column_is(tmp_path: Path) -> None:
    ends = ["12.5,007,c1"] + [" ,8,"] * 9
    rows = [f"{row},{end}" for row, end in zip(labelled(), ends, strict=True)]
    write_csv(tmp_path / "main.csv", "text,category,amount,code,customer", *rows)
    read = corpus(tmp_path, field_columns=["amount", "code"], group_column="customer")
    assert read.examples[0].fields == {"amount": 12.5, "code": "007"}
    assert read.examples[1].fields == {"code": "8"}
    assert [row.group for row in read.examples[:2]] == ["c1", None]


def test_fields_of_typed_files_keep_their_types(tmp_path: Path) -> None:
    day = dt.date(2024, 5, 1)
    typed = {"price": Decimal("9.5"), "day": day, "vip": True, "text_number": "7", "group": 3}
    rows = [{"text": t, "category": c, **typed} for t, c in (r.split(",") for r in labelled())]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "main.parquet")
    columns = ["price", "day", "vip", "text_number"]
    read = corpus(tmp_path, path="main.parquet", field_columns=columns, group_column="group")
    assert read.examples[0].fields == {
        "price": 9.5, "day": "2024-05-01", "vip": True, "text_number": "7",
    }  # fmt: skip
    assert read.examples[0].group == "3"


def test_a_field_without_a_value_is_left_out(tmp_path: Path) -> None:
    rows = [
        {"text": t, "category": c, "amount": None} for t, c in (r.split(",") for r in labelled())
    ]
    write_jsonl(tmp_path / "main.jsonl", *rows)
    read = corpus(tmp_path, path="main.jsonl", field_columns=["amount"])
    assert read.examples[0].fields == {}


def test_a_field_that_is_not_one_value_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "main.jsonl", {"text": "a", "category": "a", "amount": [1]})
    told = mistake(tmp_path, path="main.jsonl", field_columns=["amount"])
    assert "line 1: the field 'amount' is not one value" in told


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"text_column": "txt"}, "no column 'txt'; did you mean 'text'?"),
        ({"group_column": "customer"}, "no column 'customer'"),
        ({"field_columns": ["amount"]}, "no column 'amount'"),
        ({"heads": {"x": {"kind": "choice", "column": "categry"}}}, "no column 'categry'; did you"),
        ({"heads": {"category": LISTED, "risk": FLAGS}}, "no column 'risk'"),
        ({"path": "none.csv"}, "cannot be read"),
        ({"test": "none.csv"}, "cannot be read"),
        ({"unlabelled": "none.csv"}, "cannot be read"),
        ({"severity": {"category": {"c": 2}}}, "data.severity.category: no label 'c'"),
    ],
)
def test_what_the_recipe_names_must_be_there(
    tmp_path: Path, data: dict[str, object], told: str
) -> None:
    write_csv(tmp_path / "main.csv", "text,category", *labelled())
    assert told in mistake(tmp_path, **data)


def test_empty_texts_are_told_by_row_and_counted(tmp_path: Path) -> None:
    rows = labelled() + [" ,a"] * 12
    write_csv(tmp_path / "main.csv", "text,category", *rows)
    places = ", ".join(f"line {n}" for n in range(12, 22))
    assert f"the column 'text' is empty on {places} and 2 more" in mistake(tmp_path)


def test_texts_that_are_no_text_are_told_by_row(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "main.jsonl", {"text": "a", "category": "a"}, {"text": 7})
    told = mistake(tmp_path, path="main.jsonl")
    assert "the column 'text' is not text on line 2" in told


def test_a_small_class_is_told_with_its_count(tmp_path: Path) -> None:
    write_csv(tmp_path / "main.csv", "text,category", *labelled(), "x,c", "y,c", "z,d")
    told = mistake(tmp_path)
    assert "fewer than 5 distinct examples of 'c' of the head 'category' (2), 'd' of" in told


def test_test_rows_do_not_make_a_class_large_enough(tmp_path: Path) -> None:
    write_csv(tmp_path / "main.csv", "text,category", *labelled(), "x,c")
    write_csv(tmp_path / "test.csv", "text,category", *[f"t{n},c" for n in range(9)])
    assert "'c' of the head 'category' (1)" in mistake(tmp_path, test="test.csv")


def test_equal_texts_count_as_one_example(tmp_path: Path) -> None:
    """Five rows of c, of which three fold to one text: three are left."""
    rows = ["Same  text,c", "same text,c", "SAME TEXT,c", "x,c", "y,c"]
    write_csv(tmp_path / "main.csv", "text,category", *labelled(), *rows)
    assert "'c' of the head 'category' (3)" in mistake(tmp_path)


def test_a_flag_is_a_class_too(tmp_path: Path) -> None:
    rows = [f"t{n},fraud" for n in range(5)]
    write_csv(tmp_path / "main.csv", "text,risk", *rows, "x,legal")
    assert "'legal' of the head 'risk' (1)" in mistake(tmp_path, heads={"risk": FLAGS})


@pytest.mark.parametrize(
    ("heads", "row", "told"),
    [
        ({"category": CHOICE, "risk": FLAGS}, ["a", None], "line 11: the head 'risk' has no label"),
        ({"category": CHOICE, "risk": FLAGS}, [None, ["x"]], "the head 'category' has no label"),
        ({"category": CHOICE}, [["a"], None], "no choice label: ['a'] is not one label"),
        ({"category": CHOICE}, [1.5, None], "no choice label: 1.5 is not one label"),
        ({"category": CHOICE}, ["a" * 201, None], "has a label of 201 characters"),
        ({"category": LISTED}, ["bb", None], "line 11: 'bb' is no label; did you mean 'b'?"),
        ({"risk": FLAGS}, ["a", "x||y"], "no flags label"),
        ({"risk": FLAGS}, ["a", '["x"'], "no flags label"),
        ({"risk": FLAGS}, ["a", "[1]"], "no flags label: [1] is not a list of labels"),
        ({"risk": FLAGS}, ["a", {"x": True}], "no flags label"),
        ({"risk": FLAGS}, ["a", ["x", ""]], "no flags label"),
    ],
)
def test_a_malformed_label_is_told_with_its_row(
    tmp_path: Path, heads: dict[str, object], row: list[object], told: str
) -> None:
    rows = [{"text": f"t{n}", "category": "ab"[n % 2], "risk": ["x"]} for n in range(10)]
    odd = {"text": "odd", "category": row[0], "risk": row[1]}
    write_jsonl(tmp_path / "main.jsonl", *rows, odd)
    assert told in mistake(tmp_path, path="main.jsonl", heads=heads)


def test_a_head_needs_labels_to_choose_from(tmp_path: Path) -> None:
    write_csv(tmp_path / "main.csv", "text,category,risk", *[f"t{n},a," for n in range(5)])
    told = mistake(tmp_path)
    assert "the column 'category' has 1 labels, and the head 'category' needs 2" in told
    told = mistake(tmp_path, heads={"risk": FLAGS})
    assert "the column 'risk' has 0 labels, and the head 'risk' needs 1" in told


def test_a_listed_label_without_examples_is_told(tmp_path: Path) -> None:
    write_csv(tmp_path / "main.csv", "text,category", *labelled())
    head = {**CHOICE, "labels": ["a", "b", "c"]}
    assert "'c' of the head 'category' (0)" in mistake(tmp_path, heads={"category": head})


def test_test_rows_need_gold_labels_where_there_are_any(tmp_path: Path) -> None:
    write_csv(tmp_path / "main.csv", "text,category", *labelled())
    write_csv(tmp_path / "test.csv", "text,category", "x,a", "y,")
    assert "no labels on line 3" in mistake(tmp_path, test="test.csv")
    write_csv(tmp_path / "test.csv", "text", "x")
    assert "no column 'category'" in mistake(tmp_path, test="test.csv")

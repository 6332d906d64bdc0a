"""Tables: three formats give the same rows, and what cannot be read is told with its line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from distill.data import table
from gateway.errors import DataError


def test_the_three_formats_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nhello,x\nbye,y\n")
    (tmp_path / "a.jsonl").write_text('{"text":"hello","label":"x"}\n{"text":"bye","label":"y"}\n')
    cells = [{"text": "hello", "label": "x"}, {"text": "bye", "label": "y"}]
    parquet.write_table(pa.Table.from_pylist(cells), tmp_path / "a.PARQUET")
    for name, places in [
        ("a.csv", ["line 2", "line 3"]),
        ("a.jsonl", ["line 1", "line 2"]),
        ("a.PARQUET", ["row 1", "row 2"]),
    ]:
        read = table.read(tmp_path / name)
        assert [row.cells for row in read.rows] == cells
        assert [row.place for row in read.rows] == places
        assert read.columns == ("text", "label")
        assert read.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert read.typed == (name != "a.csv")


def test_csv_with_a_mark_quotes_blank_lines_and_long_cells_is_read(tmp_path: Path) -> None:
    long = "word " * 50_000  # above csv's own limit of 131,072 characters
    content = f'\ufefftext, label\r\n"a, ""b""\r\nc",x\r\n\r\n{long},y\r\n'
    (tmp_path / "a.csv").write_bytes(content.encode())
    read = table.read(tmp_path / "a.csv")
    assert read.columns == ("text", "label")
    assert [row.cells["text"] for row in read.rows] == ['a, "b"\r\nc', long]
    assert [row.place for row in read.rows] == ["line 3", "line 5"]


def test_json_lines_keep_types_gaps_and_line_separators_in_texts(tmp_path: Path) -> None:
    content = '{"text":"a\u2028b","n":1}\n\n{"text":"c","more":[1]}\n'
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    read = table.read(tmp_path / "a.jsonl")
    assert [row.cells for row in read.rows] == [
        {"text": "a\u2028b", "n": 1},
        {"text": "c", "more": [1]},
    ]
    assert read.columns == ("text", "n", "more")
    assert read.rows[1].place == "line 3"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"x", "files of the kind '.txt' are not read"),
        ("a", b"x", "files of the kind 'without extension' are not read"),
        ("a.csv", b"", "holds no rows"),
        ("a.csv", b"text,label\n", "holds no rows"),
        ("a.jsonl", b"\n", "holds no rows"),
        ("a.csv", b"text,text\na,b\n", "two columns are named 'text'"),
        ("a.csv", b"text,label\na,b\na,b,c\n", "line 3: 3 cells, and the header has 2"),
        ("a.csv", b"text,label\na\n", "line 2: 1 cells, and the header has 2"),
        ("a.csv", b'text,label\n"a"b,c\n', "line 2: not CSV"),
        ("a.csv", b"text,label\na,b\ncaf\xe9,b\n", "line 3: not UTF-8: byte 0xe9"),
        ("a.jsonl", b'{"text":"a"}\n{"text":"caf\xe9"}\n', "line 2: not UTF-8"),
        ("a.jsonl", b'{"text":"a"}\n{"text":\n', "line 2: not JSON"),
        ("a.jsonl", b'["a"]\n', "line 1: not a JSON object"),
        ("a.parquet", b"PAR1 and no more", "not a readable Parquet file"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        table.read(tmp_path / name)
    assert str(tmp_path / name) in caught.value.message
    assert told in caught.value.message
    assert caught.value.mend


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        table.read(tmp_path / "none.csv")


def test_a_parquet_file_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    content = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    parquet.write_table(content, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns are named 'text'"):
        table.read(tmp_path / "a.parquet")


def test_a_missing_column_names_the_nearest_and_those_present(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nhello,x\n")
    with pytest.raises(DataError) as caught:
        table.read(tmp_path / "a.csv").require("lable", key="data.heads.x.column")
    assert "no column 'lable'; did you mean 'label'?" in caught.value.message
    assert "text, label: name one in data.heads.x.column" in caught.value.mend

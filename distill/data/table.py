"""A table: rows of named cells, read from CSV, JSON lines or Parquet.

The bytes that are hashed are the bytes that are read. It refuses to know what a column means.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa
from pyarrow import parquet

from distill.recipe import hint
from gateway.errors import DataError

_CELL_LIMIT = 2**27  # characters; csv's own 131,072 is less than a long document


@dataclass(frozen=True, slots=True)
class Row:
    """Cells by column, and the row's place in the file (`line 7`, `row 7`) for messages."""

    place: str
    cells: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Table:
    """A whole file. `typed`: numbers are numbers already, as they are not in CSV."""

    path: Path
    sha256: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    typed: bool

    def require(self, column: str, *, key: str) -> None:
        """Raise DataError unless there is such a column; `key` is where the recipe names it."""
        if column not in self.columns:
            near = hint(column, self.columns)
            raise DataError(
                f"{self.path}: no column {column!r}{near}",
                mend=f"the file has the columns {', '.join(self.columns)}: name one in {key}",
            )


def read(path: Path) -> Table:
    """Read a file by its extension. Raises DataError with the line where something is wrong."""
    readers = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: files of the kind {path.suffix or 'without extension'!r} are not read",
            mend=f"save it as one of {', '.join(readers)}",
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}",
            mend="name a file; paths of a recipe start at the recipe's folder",
        ) from error
    rows = tuple(reader(raw, path))
    if not rows:
        raise DataError(f"{path}: holds no rows", mend="name a file with data in it")
    columns = tuple(dict.fromkeys(column for row in rows for column in row.cells))
    sha256 = hashlib.sha256(raw).hexdigest()
    return Table(path, sha256, columns, rows, typed=reader is not _csv)


def _csv(raw: bytes, path: Path) -> Iterator[Row]:
    csv.field_size_limit(_CELL_LIMIT)
    reader = csv.reader(io.StringIO(_text(raw, path), newline=""), strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        _check_distinct(columns, path)
        for cells in reader:
            if cells and len(cells) != len(columns):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, and the header has "
                    f"{len(columns)}",
                    mend='separate cells by commas, and put text that has commas in "quotes"',
                )
            if cells:
                yield Row(f"line {reader.line_num}", dict(zip(columns, cells, strict=True)))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not CSV: {error}",
            mend='put text that has commas, quotes or line ends in "quotes", a quote doubled',
        ) from error


def _json_lines(raw: bytes, path: Path) -> Iterator[Row]:
    for number, line in enumerate(io.StringIO(_text(raw, path)), 1):
        if not line.strip():
            continue
        try:
            cells = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not JSON: {error.msg}", mend="write one object a line"
            ) from error
        if not isinstance(cells, dict):
            raise DataError(
                f"{path}, line {number}: not a JSON object", mend="write one object a line"
            )
        yield Row(f"line {number}", cells)


def _parquet(raw: bytes, path: Path) -> Iterator[Row]:
    try:
        file = parquet.ParquetFile(pa.BufferReader(raw))
        _check_distinct(file.schema_arrow.names, path)
        rows = file.read().to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file: {error}", mend="write the file again"
        ) from error
    for number, cells in enumerate(rows, 1):
        yield Row(f"row {number}", cells)


def _text(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: not UTF-8: byte 0x{raw[error.start]:02x}",
            mend="save the file as UTF-8",
        ) from error


def _check_distinct(columns: list[str], path: Path) -> None:
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise DataError(f"{path}: two columns are named {twice[0]!r}", mend="rename one of them")

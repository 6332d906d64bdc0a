"""Tensors of the Open Inference Protocol: texts in, labels and scores out, as JSON or as bytes.

The binary tensor data extension puts the elements of a tensor behind the JSON: a BYTES element is
its length (4 bytes, little-endian) and its bytes, an FP32 element 4 bytes. Every length is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.api import asked
from gateway.contract.manifest import Head, HeadKind
from gateway.errors import Invalid, TooLarge
from gateway.settings import ServerSettings
from gateway.types import Answer, Instance

BYTES = "BYTES"
FP32 = "FP32"
SIZE = "binary_data_size"

_LENGTH = struct.Struct("<I")  # of one BYTES element
_TENSOR = '{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["..."]}'


@dataclass(frozen=True, slots=True)
class Column:
    """One output tensor: a value for each answer. What nobody answered is "" and 0."""

    name: str
    datatype: str
    value: Callable[[Answer], Any]

    def tensor(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The tensor as JSON."""
        return self._about(answers) | {"data": [self.value(answer) for answer in answers]}

    def binary(self, answers: Sequence[Answer]) -> tuple[dict[str, Any], bytes]:
        """The tensor's JSON without its data, and the data."""
        values = [self.value(answer) for answer in answers]
        if self.datatype == FP32:
            data = struct.pack(f"<{len(values)}f", *values)
        else:
            raw = [value.encode() for value in values]
            data = b"".join(_LENGTH.pack(len(each)) + each for each in raw)
        return self._about(answers) | {"parameters": {SIZE: len(data)}}, data

    def _about(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": [len(answers)]}


def columns(heads: Sequence[Head]) -> dict[str, Column]:
    """The outputs of a task by name. A head that is called like one of ours stands in its place."""
    ours = (
        *(
            Column(f"confidence.{head.name}", FP32, _confidence(place))
            for place, head in enumerate(heads)
        ),
        Column("score", FP32, _score),
        Column("route", BYTES, lambda answer: str(answer.route)),
        Column("reason", BYTES, lambda answer: str(answer.decision.reason)),
    )
    found = {
        head.name: Column(head.name, BYTES, _labels(place, head))
        for place, head in enumerate(heads)
    }
    for column in ours:
        found.setdefault(column.name, column)
    return found


def texts(tensor: Any, rest: bytes | None, limits: ServerSettings) -> list[Instance]:
    """The instances of an input tensor; `rest` is what stands behind the JSON, if anything may.

    Raises Invalid or TooLarge.
    """
    if type(tensor) is not dict or tensor.get("datatype") != BYTES:
        raise Invalid("inputs[0]: not a tensor of datatype BYTES", mend=f"send {_TENSOR}")
    rows = _rows(tensor.get("shape"))
    if rows > limits.max_inputs:
        raise TooLarge(
            f"inputs[0].shape: {rows} texts, {limits.max_inputs} are allowed",
            mend="send them in several requests",
        )
    parameters = tensor.get("parameters") or {}
    size = parameters.get(SIZE) if type(parameters) is dict else None
    if size is None:
        if rest:
            raise Invalid(
                f"inputs[0]: {len(rest)} bytes stand behind the JSON and belong to no tensor",
                mend=f"name their number in parameters.{SIZE}",
            )
        found = _flat(tensor.get("data"))
    else:
        found = _elements(_claimed(tensor, size, rest))
    if len(found) != rows:
        raise Invalid(
            f"inputs[0]: {len(found)} elements, the shape says {rows}",
            mend="send as many as the shape says",
        )
    return asked.instances(found, "inputs[0].data", limits)


def _rows(shape: Any) -> int:
    """The number of texts of a shape [n] or [n, 1]."""
    if (
        type(shape) is not list
        or len(shape) not in (1, 2)
        or any(type(each) is not int or each < 1 for each in shape)
        or shape[1:] not in ([], [1])
    ):
        raise Invalid("inputs[0].shape: not [n] or [n, 1]", mend="send one text a row")
    rows: int = shape[0]
    return rows


def _flat(data: Any) -> list[Any]:
    """The elements of JSON data, which may be nested as the shape is."""
    if type(data) is not list:
        raise Invalid("inputs[0].data: not a list", mend=f"send {_TENSOR}")
    return [each[0] if type(each) is list and len(each) == 1 else each for each in data]


def _claimed(tensor: Mapping[str, Any], size: Any, rest: bytes | None) -> bytes:
    """The bytes behind the JSON, if they are just what the tensor claims."""
    if "data" in tensor:
        raise Invalid("inputs[0].data: the tensor also has binary data", mend="send one of them")
    if rest is None:
        raise Invalid(
            f"inputs[0].parameters.{SIZE}: the request has no binary part",
            mend="send the length of the JSON in the header Inference-Header-Content-Length",
        )
    if size != len(rest):
        raise Invalid(
            f"inputs[0].parameters.{SIZE}: {str(size)[:20]} bytes, {len(rest)} are there",
            mend="send just the bytes of the one input tensor behind the JSON",
        )
    return rest


def _elements(data: bytes) -> list[str]:
    """The elements of a BYTES tensor, each of them UTF-8."""
    found: list[str] = []
    place = 0
    while place < len(data):
        start = place + _LENGTH.size
        if start > len(data):
            raise _cut(len(found))
        place = start + _LENGTH.unpack_from(data, place)[0]
        if place > len(data):
            raise _cut(len(found))
        try:
            found.append(data[start:place].decode())
        except UnicodeDecodeError as error:
            raise Invalid(
                f"inputs[0].data[{len(found)}]: not UTF-8", mend="send text as UTF-8"
            ) from error
    return found


def _cut(number: int) -> Invalid:
    return Invalid(
        f"inputs[0].data[{number}]: it goes beyond the tensor's end",
        mend="send each element as its length in 4 bytes, little-endian, and its bytes",
    )


def _score(answer: Answer) -> float:
    return answer.prediction.score if answer.prediction else 0.0


def _confidence(place: int) -> Callable[[Answer], float]:
    def value(answer: Answer) -> float:
        return answer.prediction.heads[place].confidence if answer.prediction else 0.0

    return value


def _labels(place: int, head: Head) -> Callable[[Answer], str]:
    """A choice's label, or the list of flags as JSON."""
    choice = head.kind is HeadKind.CHOICE

    def value(answer: Answer) -> str:
        if answer.prediction is None:
            return ""
        labels = answer.prediction.heads[place].labels
        return labels[0] if choice else orjson.dumps(labels).decode()

    return value

"""What an ONNX file is made of, read from its bytes without any ONNX library.

A reader of protobuf's wire format that knows only the fields which matter here. It refuses what
could reach out of the file (external data, in every place a tensor may stand), what onnxruntime
does not bring along (operators of other domains), and what is too large to be a student. It never
copies a tensor, and it judges no numerics: the rehearsal does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.errors import BundleExternalData, BundleGraph, BundleOperator

_FIELDS = 5_000_000  # of all messages: a student of 6 layers has about 50,000
_NODES = 50_000  # a student of 6 layers has about 500
_DEPTH = 8  # graphs in graphs: branches and loops of an export nest two or three deep
_ELEMENTS = 2**31  # of one tensor; more does not fit in one ONNX file
_DOMAINS = frozenset({b"", b"ai.onnx", b"com.microsoft"})
_DOMAIN_FAMILY = b"ai.onnx."
_REBUILD = "export the model again as one self-contained file of standard operators"

_FLAT = b"ORTM"  # onnxruntime takes a file with this mark for its own format, whatever else it is

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 are groups, long gone

# Field numbers of onnx.proto3 -> what stands there. Each message is walked by its table.
_MODEL = {7: "graph", 8: "opset", 20: "training", 25: "function"}
_FUNCTION = {7: "node", 9: "opset", 10: "domain", 11: "attribute"}
_GRAPH = {1: "node", 5: "tensor", 15: "sparse"}
_NODE = {5: "attribute", 7: "domain"}
_ATTRIBUTE = {
    5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse",
}  # fmt: skip
_SPARSE = {1: "tensor", 2: "tensor"}
_OPSET = {1: "domain"}
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "function": _FUNCTION,
    "graph": _GRAPH,
    "node": _NODE,
    "attribute": _ATTRIBUTE,
    "sparse": _SPARSE,
    "opset": _OPSET,
}
_DIMS, _EXTERNAL_DATA, _DATA_LOCATION = 1, 13, 14  # fields of a tensor


@dataclass(frozen=True, slots=True)
class Structure:
    """What was counted, subgraphs and functions included."""

    nodes: int
    tensors: int
    depth: int


def structure(model: bytes, *, where: str) -> Structure:
    """Look through a whole ONNX file; `where` names it in messages.

    Raises BundleGraph, BundleExternalData or BundleOperator.
    """
    return _Reader(model, where).read()


class _Reader:
    """One pass over one file. Messages that wait stand in a list, so that nesting costs no stack.

    A message that is written in parts is merged by protobuf; here each part is looked at.
    """

    def __init__(self, model: bytes, where: str) -> None:
        self._bytes = model
        self._where = where
        self._left = _FIELDS
        self._nodes = 0
        self._tensors = 0
        self._deepest = 0

    def read(self) -> Structure:
        if self._bytes[4:8] == _FLAT:
            raise self._refusal("it is of onnxruntime's own format, which nobody looks through")
        graphs = 0
        waiting: list[tuple[Mapping[int, str], int, int, int]] = [(_MODEL, 0, len(self._bytes), 0)]
        while waiting:
            table, start, end, depth = waiting.pop()
            for number, kind, first, last in self._fields(start, end):
                role = table.get(number)
                if role is None or kind != _BYTES:
                    continue
                graphs += role == "graph"
                deeper = depth + (role == "graph")
                if self._look(role, first, last, deeper):
                    waiting.append((_MESSAGES[role], first, last, deeper))
        if not graphs:
            raise self._refusal("it holds no graph")
        return Structure(self._nodes, self._tensors, self._deepest)

    def _look(self, role: str, first: int, last: int, depth: int) -> bool:
        """Judge what a message is; true: what it holds is to be looked at too."""
        if role == "tensor":
            self._tensor(first, last)
            return False
        if role == "domain":
            self._domain(self._bytes[first:last])
            return False
        if role == "training":
            raise self._refusal("it holds a training graph")
        if role == "node":
            self._nodes += 1
            if self._nodes > _NODES:
                raise self._refusal(f"more than {_NODES} nodes")
        if depth > _DEPTH:
            raise self._refusal(f"graphs in graphs, more than {_DEPTH} deep")
        self._deepest = max(self._deepest, depth)
        return True

    def _domain(self, domain: bytes) -> None:
        if domain in _DOMAINS or domain.startswith(_DOMAIN_FAMILY):
            return
        shown = domain[:60].decode("utf-8", "replace")
        raise BundleOperator(f"{self._where}: operators of the domain {shown!r}", mend=_REBUILD)

    def _tensor(self, start: int, end: int) -> None:
        self._tensors += 1
        elements = 1
        for number, kind, first, last in self._fields(start, end):
            elsewhere = number == _DATA_LOCATION and kind == _VARINT and self._bytes[first] != 0
            if elsewhere or number == _EXTERNAL_DATA:
                raise BundleExternalData(
                    f"{self._where}: a tensor whose numbers lie in another file", mend=_REBUILD
                )
            if number == _DIMS:
                elements *= self._product(first, last, packed=kind == _BYTES)
        if not 0 <= elements <= _ELEMENTS:
            raise self._refusal(f"a tensor of more than {_ELEMENTS} elements")

    def _product(self, first: int, last: int, *, packed: bool) -> int:
        """The product of the lengths in a field, which holds one of them or several."""
        product = 1
        while first < last:
            value, first = self._varint(first, last)
            product = min(product * value, _ELEMENTS + 1)  # a negative length is a very large one
            if not packed:
                break
        return product

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(field number, wire type, where its value starts, where it ends) of one message."""
        place = start
        while place < end:
            self._left -= 1
            if self._left < 0:
                raise self._refusal(f"more than {_FIELDS} fields")
            tag, place = self._varint(place, end)
            kind = tag & 7
            if kind == _VARINT:
                _, stop = self._varint(place, end)
            elif kind == _FIXED64:
                stop = place + 8
            elif kind == _FIXED32:
                stop = place + 4
            elif kind == _BYTES:
                size, place = self._varint(place, end)
                stop = place + size
            else:
                raise self._refusal("not ONNX")
            if stop > end or not tag >> 3:
                raise self._refusal("not ONNX, or cut off")
            yield tag >> 3, kind, place, stop
            place = stop

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        """A number of at most ten bytes, and where it ends."""
        value = shift = 0
        while place < end and shift < 70:
            byte = self._bytes[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, place
            shift += 7
        raise self._refusal("not ONNX, or cut off")

    def _refusal(self, why: str) -> BundleGraph:
        return BundleGraph(f"{self._where}: {why}", mend=_REBUILD)

"""Attention, written as products, softmax and turned axes, as the one node that ONNX has for it.

onnxruntime runs that node for all heads at once and turns no axis in between. Only attention
without a mask is looked for (`exporters.unmasked`); any other stays as it is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, NodeProto, helper, numpy_helper

from exporters.wiring import makers, put, readers, weights

_HEADS_FIRST = [0, 2, 1, 3]  # (rows, tokens, heads, size) -> (rows, heads, tokens, size) and back
_TOKENS_LAST = [0, 2, 3, 1]  # the same for keys, which the product wants turned


@dataclass(frozen=True, slots=True)
class _Split:
    """(rows, tokens, hidden) that was cut into heads."""

    whole: str
    heads: int


def fuse(proto: ModelProto) -> None:
    """Put one node where attention ends, in place. Nodes that nobody reads any more stay."""
    search = _Search(proto)
    found = {}
    for node in proto.graph.node:
        if node.op_type == "Softmax" and (attention := search.around(node)) is not None:
            found[attention.output[0]] = attention
    put(proto, [found.get(node.output[0], node) for node in proto.graph.node])


class _Search:
    def __init__(self, proto: ModelProto) -> None:
        self._makers = makers(proto)
        self._readers = readers(proto)
        self._weights = weights(proto)

    def around(self, softmax: NodeProto) -> NodeProto | None:
        """The node that does what is done around this softmax, if that is attention."""
        scores = self._makers.get(softmax.input[0])
        mixed = self._next(softmax, "MatMul")
        turned = self._next(mixed, "Transpose")
        joined = self._next(turned, "Reshape")
        if scores is None or scores.op_type != "MatMul" or not (mixed and turned and joined):
            return None
        query = self._split(scores.input[0], _HEADS_FIRST)
        key = self._split(scores.input[1], _TOKENS_LAST)
        value = self._split(mixed.input[1], _HEADS_FIRST)
        if query is None or key is None or value is None or _order(turned) != _HEADS_FIRST:
            return None
        return helper.make_node(
            "Attention",
            [query.whole, key.whole, value.whole],
            [joined.output[0]],
            q_num_heads=query.heads,
            kv_num_heads=key.heads,
            scale=1.0,  # it is in the weights of the query
        )

    def _next(self, node: NodeProto | None, kind: str) -> NodeProto | None:
        """The only reader of a node, if it is of this kind."""
        if node is None:
            return None
        reading = self._readers[node.output[0]]
        return reading[0] if len(reading) == 1 and reading[0].op_type == kind else None

    def _split(self, name: str, order: list[int]) -> _Split | None:
        turned = self._makers.get(name)
        if turned is None or _order(turned) != order:
            return None
        cut = self._makers.get(turned.input[0])
        if cut is None or cut.op_type != "Reshape" or cut.input[1] not in self._weights:
            return None
        shape = numpy_helper.to_array(self._weights[cut.input[1]])
        return _Split(cut.input[0], int(shape[2])) if len(shape) == 4 and shape[2] > 0 else None


def _order(node: NodeProto) -> list[int] | None:
    """How a Transpose turns the axes; None for any other node."""
    if node.op_type != "Transpose":
        return None
    return next((list(each.ints) for each in node.attribute if each.name == "perm"), None)

"""A graph without its attention mask: what it computes where every token is real.

Rows of one length need no padding and so no mask, and rows of several lengths are cheaper apart
than padded. It follows the mask, taken as 1 everywhere, through the graph: what only scales, shifts
or counts with it is computed here, once. A graph that does more with its mask is left as it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from onnx import ModelProto, NodeProto, helper, numpy_helper

from exporters.wiring import put, weights
from gateway.students.student import INPUTS

_IDS, _MASK = INPUTS
_TOKENS = 1  # the axis of the tokens, in ids, mask and states
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
}
_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}  # as the right operand
_EITHER_SIDE = {"Add", "Mul"}


def unmask(proto: ModelProto) -> bool:
    """Take the mask out, in place, and say whether that was possible.

    It needs the shapes that torch's exporter writes beside the nodes. Nodes that nobody reads any
    more stay.
    """
    graph = _Followed(proto)
    if not all(map(graph.take, proto.graph.node)):
        return False
    put(proto, graph.nodes)
    for place, each in enumerate(proto.graph.input):
        if each.name == _MASK:
            del proto.graph.input[place]
            break
    return True


class _Followed:
    """A graph of which the nodes are taken one after the other, in the order they run.

    `nodes` are those that remain. `take` says false at a node that the mask makes do what cannot be
    known here.
    """

    def __init__(self, proto: ModelProto) -> None:
        self.nodes: list[NodeProto] = []
        self._values = {_MASK: 1.0}  # tensors that hold one number everywhere
        self._counts: set[str] = set()  # sums of ones over the tokens
        self._same: dict[str, str] = {}  # values that are another value, unchanged
        self._weights = weights(proto)
        self._outputs = {each.name for each in proto.graph.output}
        self._shapes = {
            each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
            for each in [*proto.graph.value_info, *proto.graph.output]
        }

    def take(self, node: NodeProto) -> bool:
        followed = NodeProto.FromString(node.SerializeToString())
        for place, name in enumerate(node.input):
            followed.input[place] = self._same.get(name, name)
        if not any(name in self._values or name in self._counts for name in followed.input):
            self.nodes.append(followed)
            return True
        return self._follow(followed)

    def _follow(self, node: NodeProto) -> bool:
        """A node that reads the mask or what was computed from it."""
        first, out = node.input[0], node.output[0]
        if node.op_type in _ARITHMETIC:
            return self._calculate(node)
        if node.op_type == "Shape" and first == _MASK:
            node.input[0] = _IDS
            self.nodes.append(node)
        elif node.op_type in {"Cast", "Unsqueeze"} and first in self._values:
            self._values[out] = self._values[first]
        elif self._sums_tokens(node) and self._values.get(first) == 1.0:
            self._counts.add(out)
        else:
            return False
        return True

    def _calculate(self, node: NodeProto) -> bool:
        left, right = (self._number(name) for name in node.input)
        neutral, out = _NEUTRAL[node.op_type], node.output[0]
        if left is not None and right is not None:
            self._values[out] = _ARITHMETIC[node.op_type](left, right)
            return True
        if right == neutral:
            return self._unchanged(node.input[0], out)
        if left == neutral and node.op_type in _EITHER_SIDE:
            return self._unchanged(node.input[1], out)
        return node.op_type == "Div" and self._mean(node)

    def _number(self, name: str) -> float | None:
        if name in self._weights and not self._weights[name].dims:
            return float(numpy_helper.to_array(self._weights[name]))
        return self._values.get(name)

    def _unchanged(self, source: str, out: str) -> bool:
        """Whether `out` is `source` itself, and not spread over more rows or tokens."""
        shape = self._shapes.get(out)
        if out in self._outputs or shape is None or shape != self._shapes.get(source):
            return False
        self._same[out] = source
        return True

    def _mean(self, node: NodeProto) -> bool:
        """A sum over the tokens, divided by their number."""
        total = next((each for each in self.nodes if node.input[0] in each.output), None)
        if total is None or node.input[1] not in self._counts or not self._sums_tokens(total):
            return False
        (keep,) = [each.i for each in total.attribute if each.name == "keepdims"] or [1]
        self.nodes.append(
            helper.make_node("ReduceMean", total.input, [node.output[0]], keepdims=keep)
        )
        return True

    def _sums_tokens(self, node: NodeProto) -> bool:
        """Whether it sums over the tokens and nothing else.

        An axis counted from the end is another one in the mask than in the states; no axes are all.
        """
        if node.op_type != "ReduceSum" or len(node.input) < 2 or node.input[1] not in self._weights:
            return False
        axes = numpy_helper.to_array(self._weights[node.input[1]]).tolist()
        return bool(axes == [_TOKENS])

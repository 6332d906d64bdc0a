"""How the nodes of an ONNX graph hang together: who makes a value, who reads it, what is constant.

It knows no operator and computes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper


def weights(proto: ModelProto) -> dict[str, TensorProto]:
    """Every constant, by its name."""
    return {each.name: each for each in proto.graph.initializer}


def makers(proto: ModelProto) -> dict[str, NodeProto]:
    """Value -> the node that computes it; inputs and constants have none."""
    return {name: node for node in proto.graph.node for name in node.output}


def readers(proto: ModelProto) -> dict[str, list[NodeProto]]:
    """Value -> the nodes that read it."""
    found: dict[str, list[NodeProto]] = defaultdict(list)
    for node in proto.graph.node:
        for name in node.input:
            found[name].append(node)
    return found


def constant(proto: ModelProto, name: str, value: NDArray[np.generic]) -> str:
    """Add a constant and return its name."""
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
    return name


def replace(proto: ModelProto, replacements: dict[int, list[NodeProto]]) -> None:
    """Put other nodes where some are, in place; keys are positions in the graph's node list."""
    put(
        proto,
        [
            new
            for place, node in enumerate(proto.graph.node)
            for new in replacements.get(place, [node])
        ],
    )
    drop_unused(proto)


def put(proto: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Make these the graph's nodes, in place."""
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)


def drop_unused(proto: ModelProto) -> None:
    """Remove nodes and constants from which no output is computed."""
    graph = proto.graph
    needed = {out.name for out in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    put(proto, kept[::-1])
    used = [each for each in graph.initializer if each.name in needed]
    if len(used) < len(graph.initializer):
        copies = [TensorProto.FromString(each.SerializeToString()) for each in used]
        del graph.initializer[:]
        graph.initializer.extend(copies)

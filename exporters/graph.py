"""A torch module as one self-contained ONNX graph, and what can be read off such a graph.

It exports, drops what no run needs, and finds the linear layers and embedding tables that
`exporters.quantize` replaces. It never changes a weight and never runs a graph.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor

from exporters.attention import fuse
from exporters.unmasked import unmask
from exporters.wiring import drop_unused, readers, weights
from gateway.contract.manifest import Graph
from gateway.errors import StageFailed
from gateway.students.student import INPUTS, OUTPUTS

Floats = NDArray[np.float32]

OPSET = 23  # the first with Attention as one node; later ones bring nothing that ORT runs faster

SCALE = "_scale"  # end of the names of a quantised graph's scales, which are no parameters

_PARAMETERS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
}
# Two rows with real padding: a size of 1 would be taken for a constant.
_SAMPLE_MASK = ((1, 1, 1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class Counts:
    """What a graph says of itself: sizes for the manifest."""

    opset: int
    parameters: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Linear:
    """`output = input @ weight + bias`; weight is (inputs, outputs). `nodes` compute it now."""

    nodes: tuple[NodeProto, ...]
    input: str
    output: str
    weight: Floats
    bias: Floats | None


@dataclass(frozen=True, slots=True)
class Table:
    """`output = weight[ids]`: an embedding; weight is (rows, hidden)."""

    node: NodeProto
    ids: str
    output: str
    weight: Floats


class PooledClassifier(torch.nn.Module):
    """A Hugging Face sequence classifier as forward(input_ids, attention_mask) -> (logits, pooled).

    `pooled` is the mean of the last hidden states over the real tokens.
    """

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Both inputs are int64 of shape (rows, tokens), the mask 1 on real tokens."""
        said = self.classifier(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        states = said.hidden_states[-1]
        kept = attention_mask[:, :, None].to(states.dtype)
        return said.logits, (states * kept).sum(1) / kept.sum(1)


def export(module: torch.nn.Module, *, opset: int = OPSET) -> bytes:
    """Module with forward(input_ids, attention_mask) -> (logits, pooled), as ONNX bytes.

    Rows and tokens are dynamic, everything is in the one file. Raises StageFailed when torch
    cannot trace the module.
    """
    mask = torch.tensor(_SAMPLE_MASK)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    training = module.training
    module.eval()
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (mask.clone(), mask),  # ids of 0 and 1: every vocabulary has them
                dynamo=True,
                opset_version=opset,
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamic_shapes=(dynamic, dynamic),
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError) as error:
        raise StageFailed(
            f"the model cannot be exported to ONNX: {str(error).splitlines()[0]}",
            mend="forward must take (input_ids, attention_mask), give (logits, pooled), and trace",
        ) from error
    finally:
        module.train(training)
    if program is None:
        raise StageFailed("torch gave no ONNX program", mend="use the pinned version of torch")
    return optimise(program.model_proto.SerializeToString())


def optimise(model: bytes) -> bytes:
    """Drop shape plumbing and everything that is not arithmetic: traces, names of files, hints.

    ORT's own fusions happen when a session opens, for the host it opens on; they are not stored.
    """
    proto = onnx.load_from_string(model)
    _fix_reshapes(proto)
    if unmask(proto):
        fuse(proto)
    drop_unused(proto)
    graph = proto.graph
    del graph.value_info[:], graph.metadata_props[:], proto.metadata_props[:], proto.functions[:]
    graph.name, graph.doc_string, proto.doc_string = "understudy", "", ""
    for part in [*graph.node, *graph.input, *graph.output, *graph.initializer]:
        del part.metadata_props[:]
        part.doc_string = ""
    if any(each.external_data for each in graph.initializer):
        raise StageFailed("the graph keeps weights outside its file", mend="export it again")
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def inspect(model: bytes) -> Counts:
    """Read a graph's sizes, quantised or not. Raises StageFailed when it is not one of ours."""
    proto = onnx.load_from_string(model)
    pooled = next((out for out in proto.graph.output if out.name == "pooled"), None)
    sizes = weights(proto)
    table = next((sizes[n.input[0]] for n in _lookups(proto) if n.input[0] in sizes), None)
    if pooled is None or table is None:
        raise StageFailed(
            "the graph has no output `pooled` or no embedding table for input_ids",
            mend="export it with `exporters.graph.export`",
        )
    return Counts(
        opset=next(each.version for each in proto.opset_import if each.domain in {"", "ai.onnx"}),
        parameters=sum(
            math.prod(each.dims)
            for each in proto.graph.initializer
            if each.data_type in _PARAMETERS and each.dims and not each.name.endswith(SCALE)
        ),
        hidden=pooled.type.tensor_type.shape.dim[-1].dim_value,
        vocabulary=table.dims[0],
    )


def describe(
    model: bytes,
    *,
    precision: Literal["fp32", "int8"],
    recipe: str,
    batch_invariant: bool,
    layers: int | None = None,
) -> Graph:
    """What the manifest says of a graph."""
    counts = inspect(model)
    return Graph(
        precision=precision,
        recipe=recipe,
        opset=counts.opset,
        layers=layers,
        hidden=counts.hidden,
        vocabulary=counts.vocabulary,
        parameters=counts.parameters,
        batch_invariant=batch_invariant,
    )


def linears(proto: ModelProto) -> list[Linear]:
    """Every product with a constant matrix, with the bias that is added to it, in graph order."""
    constants = weights(proto)
    read_by = readers(proto)
    found = []
    for node in proto.graph.node:
        if node.op_type not in {"MatMul", "Gemm"} or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        if weight.ndim != 2 or weight.dtype != np.float32:
            continue
        if node.op_type == "Gemm":
            turned = any(each.name == "transB" and each.i for each in node.attribute)
            bias = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else None
            matrix = np.ascontiguousarray(weight.T) if turned else weight
            found.append(Linear((node,), node.input[0], node.output[0], matrix, bias))
        elif (added := _added_bias(node, read_by, constants)) is not None:
            add, bias = added
            found.append(Linear((node, add), node.input[0], add.output[0], weight, bias))
        else:
            found.append(Linear((node,), node.input[0], node.output[0], weight, None))
    return found


def tables(proto: ModelProto) -> list[Table]:
    """Every embedding: a row of a constant matrix for each id."""
    constants = weights(proto)
    return [
        Table(node, node.input[1], node.output[0], numpy_helper.to_array(constants[node.input[0]]))
        for node in proto.graph.node
        if node.op_type == "Gather"
        and node.input[0] in constants
        and len(constants[node.input[0]].dims) == 2
        and constants[node.input[0]].data_type == onnx.TensorProto.FLOAT
        and not any(each.name == "axis" and each.i for each in node.attribute)
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says of itself while it exports: none of it is about the module."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", message="# The axis name")
            yield
    finally:
        logger.setLevel(level)


def _fix_reshapes(proto: ModelProto) -> None:
    """Give a reshape that keeps rows and tokens a constant shape: 0 copies a dimension."""
    shapes = {
        each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]
    }
    constants = weights(proto)
    for place, node in enumerate(proto.graph.node):
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
        if not before or not after:
            continue
        target = [
            _target(size, before[i] if i < len(before) else 0) for i, size in enumerate(after)
        ]
        if target.count(-1) <= 1:
            name = f"shape_{place}"
            proto.graph.initializer.append(
                numpy_helper.from_array(np.array(target, np.int64), name)
            )
            node.input[1] = name
            del node.attribute[:]  # `allowzero`, its only one, would make 0 mean no rows at all


def _target(after: str | int, before: str | int) -> int:
    if isinstance(after, int):
        return after
    return 0 if after == before else -1


def _lookups(proto: ModelProto) -> Iterator[NodeProto]:
    """The gathers that input_ids index."""
    for node in proto.graph.node:
        if node.op_type == "Gather" and node.input[1] == "input_ids":
            yield node


def _added_bias(
    product: NodeProto,
    read_by: dict[str, list[NodeProto]],
    constants: dict[str, onnx.TensorProto],
) -> tuple[NodeProto, Floats] | None:
    """The Add of a constant vector that alone reads a product, with that vector."""
    following = read_by[product.output[0]]
    if len(following) != 1 or following[0].op_type != "Add":
        return None
    add = following[0]
    for name in add.input:
        if name in constants and len(constants[name].dims) == 1:
            return add, numpy_helper.to_array(constants[name])
    return None

"""An fp32 graph -> an int8 graph: how a product, an embedding and an activation become 8 bits.

Weights are symmetric int8, one scale per output; embedding tables have one scale per row. What
differs is how the activations that enter a product become 8 bits:

    dynamic     one scale over the whole batch, at each run: an answer depends on batch mates
    static      one scale per product, found once on representative texts: batch-invariant
    blockwise   one scale per token and block of inputs, at each run: most exact, and slowest

ORT's own quantiser is not used: it also rounds what comes out of products, which costs accuracy and
saves nothing here. The nodes are ORT's (domain com.microsoft), with the bias inside. Which way is
right for a model, `exporters.quantize` finds out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from exporters.activations import Range
from exporters.graph import SCALE, Linear, Table, linears, tables
from exporters.wiring import constant, replace

Floats = NDArray[np.float32]
Scheme = Literal["static", "blockwise", "dynamic"]

_ORT = "com.microsoft"
_LEVELS = 127  # of a symmetric int8 weight; -128 is left out
_STEPS = 255  # of an asymmetric uint8 activation
_TINY = 1e-9  # smallest scale: a row of zeros stays zeros
_BLOCK = 128  # inputs under one scale; measured the fastest of 32, 64, 128, 256
_INT8_ARITHMETIC = 4  # MatMulNBits' accuracy_level that also makes the activations 8 bits


def dynamic(fp32: bytes) -> bytes:
    """Activation scales of the whole batch, at each run."""
    return build(fp32, "dynamic")


def static(fp32: bytes, ranges: Mapping[str, Range], *, blockwise: Sequence[int] = ()) -> bytes:
    """Fixed activation ranges, by the name of a product's input; some products blockwise."""
    return build(fp32, "static", ranges, dict.fromkeys(blockwise, "blockwise"))


def blockwise(fp32: bytes) -> bytes:
    """Activation scales per token and block."""
    return build(fp32, "blockwise")


def build(
    fp32: bytes,
    scheme: Scheme | None,
    ranges: Mapping[str, Range] | None = None,
    others: Mapping[int, Scheme] | None = None,
) -> bytes:
    """Make every table int8, and every product by `scheme`, or as `others` says for its place.

    A scheme of None leaves a product as it is.
    """
    proto = onnx.load_from_string(fp32)
    places = {node.output[0]: place for place, node in enumerate(proto.graph.node)}
    changed: dict[int, list[NodeProto]] = {}
    inputs: dict[str, tuple[str, str, str]] = {}  # quantised activations, shared by their readers
    for number, table in enumerate(tables(proto)):
        changed[places[table.output]] = _int8_table(proto, table, f"table_{number}")
    for number, linear in enumerate(linears(proto)):
        chosen = (others or {}).get(number, scheme)
        if chosen is None:
            continue
        for node in linear.nodes:
            changed[places[node.output[0]]] = []
        changed[places[linear.nodes[0].output[0]]] = _product(
            proto, linear, chosen, f"linear_{number}", ranges or {}, inputs
        )
    replace(proto, changed)
    _loosen_gelu(proto)
    proto.opset_import.append(helper.make_opsetid(_ORT, 1))
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _loosen_gelu(proto: ModelProto) -> None:
    """Use GELU's tanh form: a quarter faster, and off by 5e-4 at most, a fraction of a step."""
    for node in proto.graph.node:
        if node.op_type == "Gelu":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("approximate", "tanh"))


def _product(
    proto: ModelProto,
    linear: Linear,
    scheme: Scheme,
    name: str,
    ranges: Mapping[str, Range],
    inputs: dict[str, tuple[str, str, str]],
) -> list[NodeProto]:
    bias = "" if linear.bias is None else constant(proto, f"{name}_bias", linear.bias)
    if scheme == "blockwise":
        return [_blockwise_product(proto, linear, name, bias)]
    values, scales = _int8(linear.weight, axis=0)
    weight = constant(proto, f"{name}_weight", values)
    scale = constant(proto, f"{name}{SCALE}", scales)
    if scheme != "static":
        return [
            helper.make_node(
                "DynamicQuantizeMatMul",
                [linear.input, weight, scale, "", bias],
                [linear.output],
                domain=_ORT,
            )
        ]
    nodes = []
    if linear.input not in inputs:
        step, zero = _uint8_steps(*ranges[linear.input])
        inputs[linear.input] = (
            f"{name}_input",
            constant(proto, f"{name}_input{SCALE}", step),
            constant(proto, f"{name}_input_zero", zero),
        )
        quantised, step_name, zero_name = inputs[linear.input]
        nodes.append(
            helper.make_node("QuantizeLinear", [linear.input, step_name, zero_name], [quantised])
        )
    quantised, step_name, zero_name = inputs[linear.input]
    nodes.append(
        helper.make_node(
            "MatMulIntegerToFloat",
            [quantised, weight, step_name, scale, zero_name, "", bias],
            [linear.output],
            domain=_ORT,
        )
    )
    return nodes


def _blockwise_product(proto: ModelProto, linear: Linear, name: str, bias: str) -> NodeProto:
    inputs, outputs = linear.weight.shape
    blocks = -(-inputs // _BLOCK)
    padded = np.zeros((outputs, blocks * _BLOCK), np.float32)
    padded[:, :inputs] = linear.weight.T
    values, scales = _int8(padded.reshape(outputs, blocks, _BLOCK), axis=-1)
    unsigned = (values.astype(np.int16) + 128).astype(np.uint8)  # the operator's zero is 128
    return helper.make_node(
        "MatMulNBits",
        [
            linear.input,
            constant(proto, f"{name}_weight", unsigned),
            constant(proto, f"{name}{SCALE}", scales.reshape(outputs, blocks)),
            "",
            "",
            bias,
        ],
        [linear.output],
        domain=_ORT,
        K=inputs,
        N=outputs,
        bits=8,
        block_size=_BLOCK,
        accuracy_level=_INT8_ARITHMETIC,
    )


def _int8_table(proto: ModelProto, table: Table, name: str) -> list[NodeProto]:
    """Gather int8 rows and their scales, and multiply."""
    values, scales = _int8(table.weight, axis=1)
    weight = constant(proto, f"{name}_weight", values)
    scale = constant(proto, f"{name}{SCALE}", scales.reshape(-1, 1))
    return [
        helper.make_node("Gather", [weight, table.ids], [f"{name}_int8"]),
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [scale, table.ids], [f"{name}_scales"]),
        helper.make_node("Mul", [f"{name}_float", f"{name}_scales"], [table.output]),
    ]


def _int8(weight: Floats, *, axis: int) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 and its scales; one scale for the values along `axis`."""
    largest = np.abs(weight).max(axis=axis, keepdims=True)
    scales = np.maximum(largest / _LEVELS, _TINY).astype(np.float32)
    values = np.rint(weight / scales).clip(-_LEVELS, _LEVELS).astype(np.int8)
    return values, scales.reshape(-1)


def _uint8_steps(low: float, high: float) -> tuple[Floats, NDArray[np.uint8]]:
    step = max((high - low) / _STEPS, _TINY)
    return np.array(step, np.float32), np.array(round(-low / step), np.uint8)

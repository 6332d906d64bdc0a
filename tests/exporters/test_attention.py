"""Attention as one node: where it is found, and where it is left as it was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from exporters.attention import fuse
from exporters.wiring import drop_unused
from gateway.students.student import options

HEADS, SIZE = 2, 3


def _written_out() -> ModelProto:
    """Two heads of three, from three inputs, in the nodes that torch's exporter writes."""
    nodes: list[NodeProto] = []
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(helper.make_node("Reshape", [name, "cut"], [f"{name}_cut"]))
        nodes.append(helper.make_node("Transpose", [f"{name}_cut"], [f"{name}_heads"], perm=order))
    nodes += [
        helper.make_node("MatMul", ["q_heads", "k_heads"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v_heads"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "joined"], ["out"]),
    ]
    shape: list[str | int] = ["rows", "tokens", HEADS * SIZE]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "attention",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "qkv"],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
            [
                numpy_helper.from_array(np.array([0, 0, HEADS, SIZE], np.int64), "cut"),
                numpy_helper.from_array(np.array([0, 0, -1], np.int64), "joined"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=10,
    )


def _run(proto: ModelProto) -> Any:
    session = ort.InferenceSession(
        proto.SerializeToString(), options(threads=1), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    given = {name: random.normal(size=(2, 5, 6)).astype(np.float32) for name in "qkv"}
    return session.run(None, given)[0]


def test_one_node_says_what_eleven_said() -> None:
    proto = _written_out()
    before = _run(proto)
    fuse(proto)
    drop_unused(proto)
    (node,) = proto.graph.node
    assert (node.op_type, list(node.input)) == ("Attention", ["q", "k", "v"])
    np.testing.assert_allclose(_run(proto), before, atol=1e-6)


def _order_of(output: str, order: list[int]) -> Callable[[ModelProto], None]:
    def change(proto: ModelProto) -> None:
        (node,) = [each for each in proto.graph.node if each.output[0] == output]
        node.attribute[0].CopyFrom(helper.make_attribute("perm", order))

    return change


def _scaled(proto: ModelProto) -> None:
    proto.graph.node.insert(7, helper.make_node("Abs", ["scores"], ["other"]))
    proto.graph.node[8].input[0] = "other"


def _read_twice(proto: ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Identity", ["shares"], ["seen"]))


def _cut_at_run_time(proto: ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("cut", TensorProto.INT64, [4]))
    del proto.graph.initializer[0]


@pytest.mark.parametrize(
    "change",
    [
        _order_of("q_heads", [0, 2, 3, 1]),
        _order_of("turned", [0, 1, 2, 3]),
        _scaled,
        _read_twice,
        _cut_at_run_time,
    ],
)
def test_what_only_looks_like_attention_stays(change: Callable[[ModelProto], None]) -> None:
    proto = _written_out()
    change(proto)
    before = onnx.ModelProto.FromString(proto.SerializeToString())
    fuse(proto)
    assert proto == before

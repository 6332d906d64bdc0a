"""A graph without its mask, and how a session runs one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from exporters.unmasked import unmask
from exporters.wiring import drop_unused
from gateway.students.student import Session, options

Shape = list[str | int]

SHAPE: Shape = ["rows", "tokens", 2]


def _graph(nodes: Sequence[NodeProto], shapes: dict[str, Shape]) -> ModelProto:
    """`states` (rows, tokens, 2) and a mask in, `out` (rows, 2) out."""
    constants = {
        "one": np.float32(1.0),
        "far": np.float32(-1e4),
        "along": np.array([1], np.int64),
        "last": np.array([2], np.int64),
        "end": np.array([-1], np.int64),
    }
    return helper.make_model(
        helper.make_graph(
            nodes,
            "masked",
            [
                helper.make_tensor_value_info("states", TensorProto.FLOAT, SHAPE),
                helper.make_tensor_value_info(
                    "attention_mask", TensorProto.INT64, ["rows", "tokens"]
                ),
            ],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["rows", 2])],
            [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
            value_info=[
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in shapes.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


REAL = [
    helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
    helper.make_node("Unsqueeze", ["real", "last"], ["kept"]),
]
SHIFT = [
    helper.make_node("Sub", ["one", "kept"], ["padded"]),
    helper.make_node("Mul", ["padded", "far"], ["shift"]),
    helper.make_node("Add", ["states", "shift"], ["shifted"]),
]
MEAN = [
    helper.make_node("Mul", ["kept", "shifted"], ["seen"]),
    helper.make_node("ReduceSum", ["seen", "along"], ["total"], keepdims=0),
    helper.make_node("ReduceSum", ["kept", "along"], ["count"], keepdims=0),
    helper.make_node("Div", ["total", "count"], ["out"]),
]
SHAPES: dict[str, Shape] = {key: [*SHAPE] for key in ["states", "shifted", "seen"]}


def _over(axes: str, counted: str) -> list[NodeProto]:
    """A sum of the states, divided by a sum of the mask, both over these axes."""
    return [
        helper.make_node("ReduceSum", ["states", axes], ["total"], keepdims=0),
        helper.make_node("ReduceSum", [counted, axes], ["count"], keepdims=1),
        MEAN[3],
    ]


def _run(proto: ModelProto, **given: Any) -> Any:
    session = ort.InferenceSession(
        proto.SerializeToString(), options(threads=1), providers=["CPUExecutionProvider"]
    )
    return session.run(None, given)[0]


def test_what_scales_shifts_and_counts_with_the_mask_is_computed_once() -> None:
    proto = _graph([*REAL, *SHIFT, *MEAN], SHAPES)
    states = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    before = _run(proto, states=states, attention_mask=np.ones((2, 3), np.int64))
    assert unmask(proto)
    drop_unused(proto)
    (mean,) = proto.graph.node
    assert (mean.op_type, list(mean.input)) == ("ReduceMean", ["states", "along"])
    assert [each.name for each in proto.graph.input] == ["states"]
    after = _run(proto, states=states)
    assert after.tolist() == before.tolist() == [[2.0, 3.0], [8.0, 9.0]]


@pytest.mark.parametrize(
    ("nodes", "shapes"),
    [
        ([*REAL, *SHIFT, *MEAN], {}),  # without shapes nobody knows what spreads over the rows
        ([*REAL, *SHIFT, *MEAN], SHAPES | {"shifted": [1, "tokens", 2]}),
        ([*REAL, helper.make_node("ReduceMax", ["kept", "along"], ["out"], keepdims=0)], SHAPES),
        ([*REAL, helper.make_node("Mul", ["kept", "states"], ["out"])], SHAPES | {"out": SHAPE}),
        (
            [
                *REAL,
                *SHIFT,
                *MEAN[:1],
                helper.make_node("ReduceSum", ["seen", "last"], ["total"], keepdims=0),
                *MEAN[2:],
            ],
            SHAPES,
        ),
        (
            [*REAL, *SHIFT, *MEAN[:2], helper.make_node("ReduceSum", ["kept"], ["count"]), MEAN[3]],
            SHAPES,
        ),
        ([*REAL, *_over("last", "kept")], SHAPES),
        ([*REAL[:1], *_over("end", "real")], SHAPES),
    ],
    ids=[
        "no shapes",
        "other shapes",
        "another use",
        "an output",
        "other axes",
        "no axes",
        "the hidden axis",
        "the last axis of each",
    ],
)
def test_a_mask_that_does_more_stays(nodes: list[NodeProto], shapes: dict[str, Shape]) -> None:
    proto = _graph(nodes, shapes)
    before = onnx.ModelProto.FromString(proto.SerializeToString())
    assert not unmask(proto)
    assert proto == before


def test_rows_of_any_lengths_get_what_each_gets_alone_in_their_order(
    fp32: bytes, rows: list[list[int]]
) -> None:
    session = Session(fp32)
    assert not session.masked
    assert len(set(map(len, rows))) > 3
    logits, pooled = session.run(rows)
    for place, row in enumerate(rows):
        alone = session.run([row])
        np.testing.assert_allclose(logits[place], alone[0][0], atol=1e-6)
        np.testing.assert_allclose(pooled[place], alone[1][0], atol=1e-6)

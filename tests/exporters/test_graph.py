"""The exported graph: the module's numbers, in one file, at any shape, and nothing else in it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from distill.networks.encoder import Encoder
from exporters import graph, parity
from gateway.errors import StageFailed
from gateway.students.student import INPUTS, OUTPUTS, Session


def test_a_graph_takes_any_rows_and_tokens_and_gives_what_torch_gives(
    network: Encoder, fp32: bytes
) -> None:
    session = Session(fp32)
    assert parity.fp32_difference(network, session) <= 1e-4
    logits, pooled = session.run([[5, 6, 7], [8], [9, 10]])
    assert logits.shape == (3, 3)
    assert pooled.shape == (3, 16)
    with torch.inference_mode():
        ids = torch.tensor([[5, 6, 7], [8, 0, 0], [9, 10, 0]])
        mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
        expected = network(ids, mask)[1].numpy()
    assert np.abs(pooled - expected).max() <= 1e-4


def test_a_graph_is_one_file_without_traces_of_its_making(fp32: bytes) -> None:
    proto = onnx.load_from_string(fp32)
    assert [each.name for each in proto.graph.input] == INPUTS[:1]
    assert [each.name for each in proto.graph.output] == OUTPUTS
    assert not any(each.external_data for each in proto.graph.initializer)
    assert b".py" not in fp32
    assert b"torch.onnx" not in fp32


def test_a_graph_holds_arithmetic_and_little_else(fp32: bytes) -> None:
    kinds = Counter(node.op_type for node in onnx.load_from_string(fp32).graph.node)
    assert kinds == {
        "Shape": 1,  # the number of tokens, and so of positions
        "Slice": 1,
        "Gather": 1,
        "MatMul": 8,  # four a layer
        "Add": 13,  # their biases, two residuals a layer, the positions
        "Gelu": 2,
        "LayerNormalization": 5,
        "Split": 2,
        "Attention": 2,
        "ReduceMean": 1,
        "Gemm": 1,
    }


def test_a_reshape_that_keeps_rows_and_tokens_gets_a_constant_shape() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "tokens", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "tokens", 2, 3])
    last = numpy_helper.from_array(np.array([2, 3], np.int64), "last")
    nodes = [
        helper.make_node("Shape", ["x"], ["kept"], end=2),
        helper.make_node("Concat", ["kept", "last"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"], allowzero=1),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "test", [x], [y], [last]))
    after = onnx.load_from_string(graph.optimise(proto.SerializeToString()))
    (reshape,) = after.graph.node
    assert numpy_helper.to_array(after.graph.initializer[0]).tolist() == [0, 0, 2, 3]
    assert not reshape.attribute


def test_optimising_twice_changes_nothing(fp32: bytes) -> None:
    assert graph.optimise(fp32) == fp32


def test_counts_are_those_of_the_module(network: Encoder, fp32: bytes) -> None:
    counts = graph.inspect(fp32)
    assert counts.opset == graph.OPSET
    assert counts.parameters == sum(each.numel() for each in network.parameters())
    assert counts.hidden == 16
    assert counts.vocabulary == network.shape.vocabulary


def test_every_product_with_weights_is_found_with_its_bias(network: Encoder, fp32: bytes) -> None:
    proto = onnx.load_from_string(fp32)
    found = graph.linears(proto)
    shapes = [each.weight.shape for each in found]
    assert shapes == [(16, 48), (16, 16), (16, 32), (32, 16)] * 2 + [(16, 3)]
    assert all(each.bias is not None for each in found)
    np.testing.assert_array_equal(found[-1].weight, network.heads.weight.detach().numpy().T)
    (table,) = graph.tables(proto)
    np.testing.assert_array_equal(table.weight, network.words.weight.detach().numpy())


def test_a_product_that_others_read_before_its_bias_keeps_its_bias_apart() -> None:
    weight = numpy_helper.from_array(np.eye(2, dtype=np.float32), "weight")
    turned = numpy_helper.from_array(np.array([[1, 2], [3, 4]], np.float32), "turned")
    bias = numpy_helper.from_array(np.ones(2, np.float32), "bias")
    square = numpy_helper.from_array(np.zeros((2, 2), np.float32), "square")
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["added"]),
        helper.make_node("Relu", ["product"], ["other"]),
        helper.make_node("MatMul", ["x", "weight"], ["second"]),
        helper.make_node("Add", ["second", "square"], ["second_added"]),
        helper.make_node("Gemm", ["x", "turned"], ["third"], transB=1),
        helper.make_node("MatMul", ["x", "other"], ["fourth"]),
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "test", [], [], [weight, turned, bias, square])
    )
    first, second, third = graph.linears(proto)
    assert (first.output, first.bias) == ("product", None)
    assert (second.output, second.bias) == ("second", None)
    assert third.bias is None
    assert third.weight.tolist() == [[1, 3], [2, 4]]


def test_export_leaves_the_module_in_its_mode(network: Encoder) -> None:
    network.train()
    try:
        graph.export(network)
        assert network.training
    finally:
        network.eval()


class _Branching(torch.nn.Module):
    def forward(self, ids: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if int(ids.sum()) > 3:  # depends on the data: no graph can hold it
            return ids.float(), ids.float()
        return ids.float() * 2, ids.float()


def test_a_module_that_cannot_be_traced_is_refused_in_one_line() -> None:
    with pytest.raises(StageFailed, match="cannot be exported") as caught:
        graph.export(_Branching())
    assert "\n" not in caught.value.message


def test_a_graph_that_is_not_ours_is_refused() -> None:
    bare = helper.make_model(helper.make_graph([], "bare", [], []))
    with pytest.raises(StageFailed, match="pooled"):
        graph.inspect(bare.SerializeToString())


def test_weights_outside_the_file_are_refused() -> None:
    tensor = numpy_helper.from_array(np.zeros((2, 2), np.float32), "weight")
    external_data_helper.set_external_data(tensor, "elsewhere.bin")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    proto = helper.make_model(helper.make_graph([node], "test", [x], [y], [tensor]))
    with pytest.raises(StageFailed, match="outside"):
        graph.optimise(proto.SerializeToString())

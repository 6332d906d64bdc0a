"""Int8 graphs: how they compute, and how near they stay."""

from __future__ import annotations

import numpy as np
import onnx

from exporters import graph, int8, parity
from exporters.activations import observe
from gateway.students.student import Session


def _operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


def test_weights_and_tables_become_int8_within_half_a_step(fp32: bytes) -> None:
    model = onnx.load_from_string(int8.dynamic(fp32))
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    before = graph.linears(onnx.load_from_string(fp32))[0].weight
    values, scales = weights["linear_0_weight"], weights["linear_0_scale"]
    assert values.dtype == np.int8
    assert scales.shape == (48,)  # one for each output
    assert (np.abs(values * scales - before) <= scales / 2 + 1e-7).all()
    table = graph.tables(onnx.load_from_string(fp32))[0].weight
    values, scales = weights["table_0_weight"], weights["table_0_scale"]
    assert scales.shape == (len(table), 1)
    assert (np.abs(values * scales - table) <= scales / 2 + 1e-7).all()
    assert len(model.SerializeToString()) < len(fp32)


def test_each_scheme_uses_its_own_operator_for_every_product(
    fp32: bytes, rows: list[list[int]]
) -> None:
    ranges = observe(fp32, rows).extremes
    assert _operators(int8.dynamic(fp32)).count("DynamicQuantizeMatMul") == 9
    assert _operators(int8.static(fp32, ranges)).count("MatMulIntegerToFloat") == 9
    assert _operators(int8.blockwise(fp32)).count("MatMulNBits") == 9
    mixed = _operators(int8.static(fp32, ranges, blockwise=[3]))
    assert mixed.count("MatMulIntegerToFloat") == 8
    assert mixed.count("MatMulNBits") == 1


def test_int8_graphs_stay_near_fp32_and_keep_their_sizes(
    fp32: bytes, rows: list[list[int]]
) -> None:
    before = parity.alone(Session(fp32), rows)
    ranges = observe(fp32, rows).extremes
    for model in (
        int8.dynamic(fp32),
        int8.static(fp32, ranges),
        int8.blockwise(fp32),
    ):
        after = parity.alone(Session(model), rows)
        assert 0.0 < np.abs(after - before).max() < 0.05 * np.ptp(before)
        counts = graph.inspect(model)
        assert counts.vocabulary == graph.inspect(fp32).vocabulary
        assert counts.hidden == 16


def test_static_graphs_are_batch_invariant_and_dynamic_ones_are_not(
    fp32: bytes, rows: list[list[int]]
) -> None:
    static = Session(int8.static(fp32, observe(fp32, rows).extremes))
    gap = np.abs(parity.alone(static, rows) - parity.in_batches(static, rows)).max()
    assert gap < 1e-5
    dynamic = Session(int8.dynamic(fp32))
    assert np.abs(parity.alone(dynamic, rows) - parity.in_batches(dynamic, rows)).max() > 1e-4


def test_gelu_takes_its_faster_form_only_in_int8(fp32: bytes) -> None:
    def forms(model: bytes) -> list[bytes]:
        return [
            each.s
            for node in onnx.load_from_string(model).graph.node
            if node.op_type == "Gelu"
            for each in node.attribute
        ]

    assert forms(int8.dynamic(fp32)) == [b"tanh", b"tanh"]
    assert b"tanh" not in forms(fp32)

"""What flows through a graph: the ranges of its products, and single values."""

from __future__ import annotations

import numpy as np
import onnx

from exporters.activations import observe, values
from gateway.students.student import Session


def test_ranges_hold_zero_and_all_that_was_seen(fp32: bytes, rows: list[list[int]]) -> None:
    seen = observe(fp32, rows)
    assert len(seen.extremes) == 9
    for name, (low, high) in seen.extremes.items():
        assert low <= 0.0 <= high
        tight = seen.percentile(90.0)[name]
        assert low <= tight[0] <= 0.0 <= tight[1] <= high
        assert tight != (low, high)


def test_values_are_those_of_each_text_alone(fp32: bytes, rows: list[list[int]]) -> None:
    seen = list(values(onnx.load_from_string(fp32), ["pooled", "logits"], rows[:2]))
    session = Session(fp32)
    for row, (pooled, logits) in zip(rows, seen, strict=False):
        expected = session.run([row])
        np.testing.assert_allclose(logits, expected[0], atol=1e-6)
        np.testing.assert_allclose(pooled, expected[1], atol=1e-6)

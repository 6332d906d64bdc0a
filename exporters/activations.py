"""What flows through a graph on representative texts: what the ranges of int8 rest on.

It runs a graph and looks; it changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from exporters.graph import linears
from exporters.parity import Rows
from gateway.contract.encoding import Ids, pad
from gateway.students.student import INPUTS, options

Floats = NDArray[np.float32]
Range = tuple[float, float]

_KEPT_VALUES = 2_000_000  # activations per product for a percentile: 8 MB, ample for 99.99 %


@dataclass(frozen=True, slots=True)
class Activations:
    """What goes into each product on representative texts: extremes, and a sample of values."""

    extremes: Mapping[str, Range]
    samples: Mapping[str, Floats]

    def percentile(self, share: float) -> dict[str, Range]:
        """Ranges that leave out the (100 - share) percent of the values at each end."""
        return {
            name: (min(0.0, float(low)), max(0.0, float(high)))
            for name, values in self.samples.items()
            for low, high in [np.percentile(values, [100.0 - share, share])]
        }


def observe(fp32: bytes, representative: Rows) -> Activations:
    """Run representative texts, one by one, and look at what goes into each product."""
    proto = onnx.load_from_string(fp32)
    names = sorted({each.input for each in linears(proto)})
    extremes = dict.fromkeys(names, (0.0, 0.0))  # 0 is in every range: GELU and masks give many
    samples: dict[str, list[Floats]] = defaultdict(list)
    budget = max(1, _KEPT_VALUES // len(representative))
    for seen in values(proto, names, representative):
        for name, value in zip(names, seen, strict=True):
            low, high = extremes[name]
            extremes[name] = min(low, float(value.min())), max(high, float(value.max()))
            samples[name].append(value.ravel()[:: 1 + value.size // budget])
    return Activations(
        extremes=extremes,
        samples={name: np.concatenate(parts) for name, parts in samples.items()},
    )


def values(proto: ModelProto, names: Sequence[str], rows: Rows) -> Iterator[list[Floats]]:
    """Run texts one by one and give, for each, the values of these names. Changes `proto`."""
    known = {out.name for out in proto.graph.output}
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names
        if name not in known
    )
    session = ort.InferenceSession(
        proto.SerializeToString(), options(threads=1), providers=["CPUExecutionProvider"]
    )
    for row in rows:
        yield session.run(list(names), feed(session, row))


def feed(session: ort.InferenceSession, row: Sequence[int]) -> dict[str, Ids]:
    """What a graph is given for one text, with a mask where it reads one."""
    given = dict(zip(INPUTS, pad([row]), strict=True))
    return {each.name: given[each.name] for each in session.get_inputs()}

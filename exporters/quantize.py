"""An fp32 graph -> int8 graphs, and the search for the cheapest one that still says the same.

Weights are symmetric int8, one scale per output; embedding tables have one scale per row. What
differs is how the activations that enter a product become 8 bits:

    dynamic     one scale over the whole batch, at each run: an answer depends on batch mates
    static      one scale per product, found once on representative texts: batch-invariant
    blockwise   one scale per token and block of inputs, at each run: most exact, and slowest
    mixed       static, but blockwise for the few products that lose the most

ORT's own quantiser is not used: it also rounds what comes out of products, which costs accuracy and
saves nothing here. The nodes are ORT's (domain com.microsoft), with the bias inside.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from exporters.graph import SCALE, Linear, Table, linears, replace, tables
from exporters.parity import (
    ALIKE,
    Rows,
    alone,
    confident_flips,
    effect_of,
    in_batches,
    label_flips,
)
from gateway.contract.calibration import Calibration
from gateway.contract.encoding import pad
from gateway.contract.manifest import Trial
from gateway.contract.measures import binomial_cdf
from gateway.errors import UsageError
from gateway.students.student import Session

Floats = NDArray[np.float32]
Range = tuple[float, float]
Scheme = Literal["static", "blockwise", "dynamic", "dynamic per tensor"]

_ORT = "com.microsoft"
_LEVELS = 127  # of a symmetric int8 weight; -128 is left out
_STEPS = 255  # of an asymmetric uint8 activation
_TINY = 1e-9  # smallest scale: a row of zeros stays zeros
_BLOCK = 128  # inputs under one scale; measured the fastest of 32, 64, 128, 256
_INT8_ARITHMETIC = 4  # MatMulNBits' accuracy_level that also makes the activations 8 bits
_KEPT_VALUES = 2_000_000  # activations per product for a percentile: 8 MB, ample for 99.99 %
_PROBES = 64  # texts on which the loss of a single product is measured
_TIMED_ROWS = 40  # texts of typical length timed per variant, after a warm-up
_TIE = 1.2  # costs this near are equal, and exactness decides: 60 microseconds buy half the flips
_DOUBT = 0.05  # a gate is broken when the count would be this rare in a graph that keeps it
_TURN = 8  # texts in a row of one variant: often enough in turn, and with a warm cache
_EQUAL_BATCH = 8  # rows of one length in a timed batch, what a busy gateway often has


@dataclass(frozen=True, slots=True)
class Gates:
    """What an exported graph must pass. Shares are of all rows."""

    label_flips: float = 0.005
    confident_flips: float = 0.001  # at or above the threshold nobody looks again
    fp32_difference: float = 1e-4  # of any logit; the order of fp32 sums alone gives 1e-5
    batch_score_difference: float = ALIKE


@dataclass(frozen=True, slots=True)
class Variant:
    """A graph and how it was made."""

    recipe: str
    model: bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """The graph that is kept, and everything that was tried."""

    model: bytes
    recipe: str
    precision: Literal["fp32", "int8"]
    batch_invariant: bool
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class _Activations:
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


@dataclass(slots=True)
class _Candidate:
    """A variant on its way through the search."""

    variant: Variant
    session: Session
    label_flips: float
    confident_flips: float
    error: float  # mean absolute difference of a logit: less noisy than counts of flips
    batch_invariant: bool
    passed: bool
    single: list[float] = field(default_factory=list)  # seconds a text, alone
    batched: list[float] = field(default_factory=list)  # seconds a text, in equal batches

    @property
    def cost(self) -> float:
        """Microseconds a text, served the way that it may be served."""
        ways = [self.single, self.batched] if self.batch_invariant else [self.single]
        return min(map(_microseconds, ways))


@dataclass(frozen=True, slots=True)
class _Yardstick:
    """What every variant is measured against: held-out texts and what fp32 says about them."""

    rows: Rows
    reference: Floats
    calibration: Calibration
    threshold: float | None
    gates: Gates

    def judge(self, variant: Variant) -> _Candidate:
        """Measure what a variant says, alone and among others, against fp32."""
        session = Session(variant.model)
        logits = alone(session, self.rows)
        if not np.isfinite(logits).all():
            raise ValueError("it gives numbers that are not finite")
        effect = effect_of(self.calibration, logits, in_batches(session, self.rows), self.threshold)
        flipped = label_flips(self.calibration, logits, self.reference)
        confident = confident_flips(self.calibration, logits, self.reference, self.threshold)
        return _Candidate(
            variant=variant,
            session=session,
            label_flips=flipped,
            confident_flips=confident,
            error=float(np.abs(logits - self.reference).mean()),
            batch_invariant=effect.invariant(score_difference=self.gates.batch_score_difference),
            passed=self._keeps(flipped, self.gates.label_flips)
            and self._keeps(confident, self.gates.confident_flips),
        )

    def _keeps(self, share: float, gate: float) -> bool:
        """Whether so many flips are no evidence against the gate, by the exact binomial test.

        A few hundred rows count in steps as large as the gate, so that a plain comparison would
        refuse a good graph by chance; the test split then tells the share for certain.
        """
        rows = len(self.rows)
        return 1.0 - binomial_cdf(round(share * rows) - 1, rows, gate) > _DOUBT


def search(
    fp32: bytes,
    *,
    representative: Rows,
    rows: Rows,
    calibration: Calibration,
    threshold: float | None,
    gates: Gates,
    progress: Callable[[str], None],
) -> Choice:
    """Try every way to quantise and keep the cheapest that passes the gates; fp32 always does.

    Of ways that cost the same within a fifth, the one whose logits are nearest to fp32 is kept.

    `representative` sets the ranges, `rows` (held-out texts) measure flips and time. A way
    that cannot be built or run is a trial with its note, not an error.
    """
    if not representative or not rows:
        raise UsageError(
            "the search for an int8 graph got no texts", mend="give it some hundred real texts"
        )
    yardstick = _Yardstick(rows, alone(Session(fp32), rows), calibration, threshold, gates)
    candidates = [yardstick.judge(Variant("fp32", fp32))]
    failures: dict[str, str] = {}
    for recipe, build in _ways(fp32, representative).items():
        try:
            candidate = yardstick.judge(Variant(recipe, build()))
        except Exception as error:  # noqa: BLE001  a way that fails is a result of the search
            failures[recipe] = str(error).splitlines()[0] if str(error) else type(error).__name__
            progress(f"{recipe}: not possible: {failures[recipe]}")
            continue
        candidates.append(candidate)
        progress(
            f"{recipe}: {candidate.label_flips:.2%} of the labels flip, "
            f"{'passed' if candidate.passed else 'refused'}"
        )
    _time(candidates, rows)
    best = _best([each for each in candidates if each.passed])
    progress(f"kept: {best.variant.recipe}, {best.cost:.0f} microseconds a text")
    return Choice(
        model=best.variant.model,
        recipe=best.variant.recipe,
        precision="fp32" if best is candidates[0] else "int8",
        batch_invariant=best.batch_invariant,
        trials=(
            *(_trial(each, kept=each is best) for each in candidates),
            *(_failure(recipe, note) for recipe, note in failures.items()),
        ),
    )


def dynamic(fp32: bytes, *, per_channel: bool) -> bytes:
    """Activation scales of the whole batch, at each run."""
    scheme: Scheme = "dynamic" if per_channel else "dynamic per tensor"
    return _build(fp32, scheme)


def static(fp32: bytes, ranges: Mapping[str, Range], *, blockwise: Sequence[int] = ()) -> bytes:
    """Fixed activation ranges, by the name of a product's input; some products blockwise."""
    return _build(fp32, "static", ranges, dict.fromkeys(blockwise, "blockwise"))


def blockwise(fp32: bytes) -> bytes:
    """Activation scales per token and block."""
    return _build(fp32, "blockwise")


def sensitivity(fp32: bytes, ranges: Mapping[str, Range], probes: Rows) -> list[int]:
    """Products in the order of what they lose when only they are static, the worst first.

    The loss is the mean square change of the logits.
    """
    batches = [probes[start : start + 16] for start in range(0, len(probes), 16)]
    session = Session(fp32)
    before = [session.run(batch)[0] for batch in batches]
    losses = []
    for place in range(len(linears(onnx.load_from_string(fp32)))):
        model = _build(fp32, None, ranges, {place: "static"})
        session = Session(model)
        changes = [
            float(np.square(session.run(batch)[0] - old).sum())
            for batch, old in zip(batches, before, strict=True)
        ]
        losses.append(sum(changes))
    return sorted(range(len(losses)), key=lambda place: -losses[place])


def observe(fp32: bytes, representative: Rows) -> _Activations:
    """Run representative texts, one by one, and look at what goes into each product."""
    proto = onnx.load_from_string(fp32)
    names = sorted({each.input for each in linears(proto)})
    known = {out.name for out in proto.graph.output}
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names
        if name not in known
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    extremes = dict.fromkeys(names, (0.0, 0.0))  # 0 is in every range: GELU and masks give many
    samples: dict[str, list[Floats]] = defaultdict(list)
    budget = max(1, _KEPT_VALUES // len(representative))
    for row in representative:
        ids, mask = pad([row])
        seen = session.run(names, {"input_ids": ids, "attention_mask": mask})
        for name, value in zip(names, seen, strict=True):
            low, high = extremes[name]
            extremes[name] = min(low, float(value.min())), max(high, float(value.max()))
            samples[name].append(value.ravel()[:: 1 + value.size // budget])
    return _Activations(
        extremes=extremes,
        samples={name: np.concatenate(parts) for name, parts in samples.items()},
    )


def _ways(fp32: bytes, representative: Rows) -> dict[str, Callable[[], bytes]]:
    """Recipe -> what builds its graph; what several need is found once, by the first that asks."""
    seen = cache(lambda: observe(fp32, representative))
    worst = cache(lambda: sensitivity(fp32, seen().extremes, representative[:_PROBES]))
    return {
        "dynamic int8, per tensor": lambda: dynamic(fp32, per_channel=False),
        "dynamic int8, per channel": lambda: dynamic(fp32, per_channel=True),
        "static int8, full ranges": lambda: static(fp32, seen().extremes),
        "static int8, 99.99 % ranges": lambda: static(fp32, seen().percentile(99.99)),
        "mixed int8, 1 product blockwise": lambda: static(
            fp32, seen().extremes, blockwise=worst()[:1]
        ),
        "mixed int8, a third of the products blockwise": lambda: static(
            fp32, seen().extremes, blockwise=worst()[: len(worst()) // 3]
        ),
        "blockwise int8": lambda: blockwise(fp32),
    }


def _build(
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
    proto.opset_import.append(helper.make_opsetid(_ORT, 1))
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _product(
    proto: ModelProto,
    linear: Linear,
    scheme: Scheme,
    name: str,
    ranges: Mapping[str, Range],
    inputs: dict[str, tuple[str, str, str]],
) -> list[NodeProto]:
    bias = "" if linear.bias is None else _constant(proto, f"{name}_bias", linear.bias)
    if scheme == "blockwise":
        return [_blockwise_product(proto, linear, name, bias)]
    values, scales = _int8(linear.weight, axis=None if scheme == "dynamic per tensor" else 0)
    weight = _constant(proto, f"{name}_weight", values)
    scale = _constant(proto, f"{name}{SCALE}", scales)
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
            _constant(proto, f"{name}_input{SCALE}", step),
            _constant(proto, f"{name}_input_zero", zero),
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
            _constant(proto, f"{name}_weight", unsigned),
            _constant(proto, f"{name}{SCALE}", scales.reshape(outputs, blocks)),
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
    weight = _constant(proto, f"{name}_weight", values)
    scale = _constant(proto, f"{name}{SCALE}", scales.reshape(-1, 1))
    return [
        helper.make_node("Gather", [weight, table.ids], [f"{name}_int8"]),
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [scale, table.ids], [f"{name}_scales"]),
        helper.make_node("Mul", [f"{name}_float", f"{name}_scales"], [table.output]),
    ]


def _int8(weight: Floats, *, axis: int | None) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 and its scales; one scale for the values along `axis`, None: for all."""
    largest = np.abs(weight).max(axis=axis, keepdims=True)
    scales = np.maximum(largest / _LEVELS, _TINY).astype(np.float32)
    values = np.rint(weight / scales).clip(-_LEVELS, _LEVELS).astype(np.int8)
    return values, scales.reshape(-1) if axis is not None else scales.reshape(())


def _uint8_steps(low: float, high: float) -> tuple[Floats, NDArray[np.uint8]]:
    step = max((high - low) / _STEPS, _TINY)
    return np.array(step, np.float32), np.array(round(-low / step), np.uint8)


def _constant(proto: ModelProto, name: str, value: NDArray[np.generic]) -> str:
    proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def _time(candidates: Sequence[_Candidate], rows: Rows) -> None:
    """Time all candidates in turn on texts of typical length, so that drift hits all alike."""
    typical = _typical(rows)
    for start in range(0, len(typical), _TURN):
        turn = typical[start : start + _TURN]
        for each in candidates:
            _seconds(each.session, turn[:1])  # brings its weights back into the cache
            each.single += [_seconds(each.session, [row]) for row in turn]
            each.batched += [
                _seconds(each.session, [row] * _EQUAL_BATCH) / _EQUAL_BATCH for row in turn
            ]


def _best(passed: Sequence[_Candidate]) -> _Candidate:
    """The cheapest; of those that cost about the same, the most exact.

    fp32, which always passes and is four times the size, only where no int8 graph is cheaper.
    """
    (fp32,) = [each for each in passed if each.variant.recipe == "fp32"]
    cheaper = [each for each in passed if each.cost < fp32.cost] or [fp32]
    within = _TIE * min(each.cost for each in cheaper)
    return min(
        (each for each in cheaper if each.cost <= within),
        key=lambda each: (each.error, each.cost),
    )


def _typical(rows: Rows) -> list[Sequence[int]]:
    """The texts around the median length."""
    ordered = sorted(rows, key=len)
    start = max(0, (len(ordered) - _TIMED_ROWS) // 2)
    return ordered[start : start + _TIMED_ROWS]


def _seconds(session: Session, rows: Rows) -> float:
    start = time.perf_counter()
    session.run(rows)
    return time.perf_counter() - start


def _microseconds(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e6


def _trial(candidate: _Candidate, *, kept: bool) -> Trial:
    note = ""
    if candidate.variant.recipe == "fp32" and kept:
        note = "nothing cheaper passed the gates"
    elif not candidate.passed:
        note = "changes too many answers"
    return Trial(
        recipe=candidate.variant.recipe,
        microseconds=_microseconds(candidate.single),
        microseconds_batched=candidate.cost,
        size=len(candidate.variant.model),
        label_flips=candidate.label_flips,
        confident_flips=candidate.confident_flips,
        batch_invariant=candidate.batch_invariant,
        passed=candidate.passed,
        kept=kept,
        note=note,
    )


def _failure(recipe: str, note: str) -> Trial:
    """A way that could not be built or run."""
    return Trial(recipe=recipe, passed=False, kept=False, note=f"not possible: {note}")

"""The search for the cheapest graph that still says what the fp32 one says.

What is tried is in `_ways`: the schemes of `exporters.int8`, and a mixture of them (static, but
blockwise for the products that lose the most). What is kept is decided by gates on flips, batch
mates and the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from exporters.activations import Range, observe
from exporters.graph import linears
from exporters.int8 import blockwise, build, dynamic, static
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
from gateway.contract.manifest import Trial
from gateway.contract.measures import binomial_cdf
from gateway.errors import UsageError
from gateway.students.student import Session

Floats = NDArray[np.float32]

_PROBES = 64  # texts on which the loss of a single product is measured
_TIMED_ROWS = 40  # texts of typical length timed per variant, after a warm-up
_TIE = 1.05  # costs this near are equal on a shared machine, and exactness decides
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
    clear: bool  # it flips no more labels than the gate says, by plain count
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
            clear=flipped <= self.gates.label_flips,
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

    Of ways that cost about the same, the one whose logits are nearest to fp32 is kept.

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
    for recipe, make in _ways(fp32, representative).items():
        try:
            candidate = yardstick.judge(Variant(recipe, make()))
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


def sensitivity(fp32: bytes, ranges: Mapping[str, Range], probes: Rows) -> list[int]:
    """Products in the order of what they lose when only they are static, the worst first.

    The loss is the mean square change of the logits.
    """
    batches = [probes[start : start + 16] for start in range(0, len(probes), 16)]
    session = Session(fp32)
    before = [session.run(batch)[0] for batch in batches]
    losses = []
    for place in range(len(linears(onnx.load_from_string(fp32)))):
        model = build(fp32, None, ranges, {place: "static"})
        session = Session(model)
        changes = [
            float(np.square(session.run(batch)[0] - old).sum())
            for batch, old in zip(batches, before, strict=True)
        ]
        losses.append(sum(changes))
    return sorted(range(len(losses)), key=lambda place: -losses[place])


def _ways(fp32: bytes, representative: Rows) -> dict[str, Callable[[], bytes]]:
    """Recipe -> what builds its graph; what several need is found once, by the first that asks."""
    seen = cache(lambda: observe(fp32, representative))
    worst = cache(lambda: sensitivity(fp32, seen().extremes, representative[:_PROBES]))
    return {
        "dynamic int8": lambda: dynamic(fp32),
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

    One that passed only for want of evidence is kept where no other is cheaper than fp32; and fp32,
    which always passes and is four times the size, only where no int8 graph is.
    """
    (fp32,) = [each for each in passed if each.variant.recipe == "fp32"]
    cheaper = [each for each in passed if each.cost < fp32.cost]
    choice = [each for each in cheaper if each.clear] or cheaper or [fp32]
    within = _TIE * min(each.cost for each in choice)
    return min(
        (each for each in choice if each.cost <= within),
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
    """The lower quartile: what else the machine does only ever adds."""
    return float(np.quantile(seconds, 0.25)) * 1e6


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

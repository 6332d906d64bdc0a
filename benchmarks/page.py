"""The figures of all seeds as the tables of docs/benchmarks.md: mean and spread, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.figures import Figures


def tables(found: Sequence[Figures]) -> str:
    """One part a data set, each with three tables."""
    names = list(dict.fromkeys(each.corpus for each in found))
    return "\n".join(
        line
        for name in names
        for line in _part(name, [each for each in found if each.corpus == name])
    )


def _part(name: str, some: Sequence[Figures]) -> Iterator[str]:
    yield f"### {name}: {some[0].rows:,} test rows, seeds {', '.join(str(e.seed) for e in some)}"
    yield from ("", "| What | Mean | Of each seed |", "|---|---|---|")
    yield _row("teacher, accuracy", [each.teacher for each in some])
    yield _row("student, accuracy (int8, as served)", [each.student for each in some])
    yield _row("they agree", [each.agreement for each in some])
    yield _row("ECE of the score", [each.ece for each in some], _number)
    yield _row("AUGRC of the score", [each.augrc for each in some], _number)
    for handled in zip(*(each.handled for each in some), strict=True):
        first = handled[0]
        gate = "no domain gate" if first.gate is None else f"domain gate at {first.gate:.0%}"
        told = f"certified agreement {first.target:.0%}, {gate}"
        yield _row(f"{told}: answered by the student", [each.share for each in handled])
        rates = [each.agreement for each in handled if each.agreement is not None]
        if rates:
            yield _row(f"{told}: agreement on other rows", rates)
    strange = [each.strange for each in some if each.strange is not None]
    if strange:
        yield _row("out of scope, AUROC", [each.auroc for each in strange], _number)
        yield _row("out of scope, AUPRC", [each.auprc for each in strange], _number)
        yield _row("out of scope, escalated", [each.escalated for each in strange])
        yield _row("out of scope, by the threshold alone", [each.without for each in strange])
        yield _row("in scope, more by the gate", [each.extra for each in strange])
    yield ""
    yield "| Way to route | Escalated | System accuracy | Answered and wrong | Out of scope, too |"
    yield "|---|---|---|---|---|"
    for outcomes in zip(*(each.outcomes for each in some), strict=True):
        cells = (
            _mean([each.escalation for each in outcomes]),
            _mean([each.quality for each in outcomes]),
            _mean([each.undetected for each in outcomes]),
            _mean([each.strangers for each in outcomes if each.strangers is not None]),
        )
        yield f"| {outcomes[0].name} | {' | '.join(cells)} |"
    yield ""
    yield "| Promise | Tested on | Broken on all rows | On the other rows | Escalated |"
    yield "|---|---|---|---|---|"
    for promises in zip(*(each.promises for each in some), strict=True):
        promise, splits = promises[0], sum(each.splits for each in promises)
        yield (
            f"| undetected error ≤ {promise.alpha:.0%} "
            f"| {promise.rows:,} rows, {splits} re-splits | "
            f"{sum(each.broken for each in promises) / splits:.1%} | "
            f"{sum(each.rest for each in promises) / splits:.1%} | "
            f"{_mean([each.escalation for each in promises])} |"
        )
    yield ""


def _share(value: float) -> str:
    return f"{value:.2%}"


def _number(value: float) -> str:
    return f"{value:.4f}"


def _row(name: str, values: Sequence[float], show: Callable[[float], str] = _share) -> str:
    each = ", ".join(show(one) for one in values)
    return f"| {name} | {show(float(np.mean(values)))} | {each} |"


def _mean(values: Sequence[float]) -> str:
    """Mean and half of the range; nothing where there is nothing."""
    if not values:
        return ""
    half = (max(values) - min(values)) / 2
    return f"{np.mean(values):.2%} ± {half * 100:.2f}"

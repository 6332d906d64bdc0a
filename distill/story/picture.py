"""The picture of the story: what was served, by whom, and what was known of those who came.

Four panels over the same answers. It draws a chronicle and computes nothing but rolling shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from distill.plots import Ink
from distill.story.chronicle import Bound, Chronicle, Event

_SIZE = (10.0, 8.4)  # inches
_DOTS = 130  # an inch
_WINDOW, _EVERY = 400, 25  # answers of a rolling share, and between two points of it
_FONT = 10  # points
_PROVED = "#1f8a4c"  # what went well, beside the house's inks
_BAND = "#f4f6f9"  # every other act
_LANES = {
    "escalation": "leaves more to the\nteacher, by",
    "disagreement": "differs from\nthe teacher",
}
_MARKS = {
    "drift": (Ink.TEACHER, "certificate stale"),
    "crate": (Ink.TEXT, "the crate is sold"),
    "rollback": (Ink.LIMIT, "rollback"),
    "takeover": (_PROVED, "promoted"),
    "reject": (Ink.LIMIT, "rejected"),
}


def draw(chronicle: Chronicle, path: Path) -> None:
    """Write the picture as a PNG."""
    figure = Figure(figsize=_SIZE, layout="constrained", facecolor="white")
    heights = (3.0, 2.0, 1.5, 1.5)
    panels: Sequence[Axes] = figure.subplots(4, 1, sharex=True, height_ratios=heights)
    right, own, *lanes = panels
    found = list(chronicle.rolling(_WINDOW, _EVERY))
    at = [answers for answers, _ in found]
    accuracy = [seen.accuracy for _, seen in found]
    mine = [1.0 - seen.escalated for _, seen in found]
    _line(right, at, accuracy, "right, by gold")
    _line(own, at, mine, "answered by\nthe student")
    own.fill_between(at, mine, color=Ink.STUDENT, alpha=0.15, linewidth=0)
    own.set_ylim(0.0, 1.0)
    low = min(accuracy, default=0.9)
    right.set_ylim(min(0.85, low - 0.03), 1.005)
    for axes, (gate, title) in zip(lanes, _LANES.items(), strict=True):
        _lane(axes, [each for each in chronicle.bounds if each.gate == gate], title)
    for axes in panels:
        _acts(axes, chronicle, named=axes is right)
        _happenings(axes, chronicle.events, named=axes is own)
    panels[-1].set_xlabel("answers", color=Ink.TEXT, fontsize=_FONT)
    panels[-1].set_xlim(0, max(1, chronicle.answers))
    panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    figure.savefig(path, dpi=_DOTS)


def _line(axes: Axes, at: Sequence[int], shares: Sequence[float], title: str) -> None:
    _frame(axes, title)
    axes.plot(at, shares, color=Ink.STUDENT, linewidth=1.6)


def _lane(axes: Axes, bounds: Sequence[Bound], title: str) -> None:
    """Each candidate in its time: what was seen, between its bounds, and the limit."""
    _frame(axes, title)
    for _, mine in groupby(bounds, key=lambda each: each.candidate):
        found = [each for each in mine if each.value is not None]
        if not found:
            continue
        at = [each.answers for each in found]
        passed = found[-1].upper < found[-1].limit
        failed = found[-1].lower > found[-1].limit
        ink = _PROVED if passed else Ink.LIMIT if failed else Ink.CHANCE
        lower, upper = [each.lower for each in found], [each.upper for each in found]
        axes.fill_between(at, lower, upper, color=ink, alpha=0.2, linewidth=0)
        axes.plot(at, [each.value or 0.0 for each in found], color=ink, linewidth=1.4)
        axes.plot(
            at, [each.limit for each in found], color=Ink.LIMIT, linewidth=1.2,
            linestyle=(0, (4, 3)),
        )  # fmt: skip
    if bounds:
        seen = [each.value for each in bounds if each.value is not None]
        limit = max(each.limit for each in bounds)
        axes.set_ylim(min([0.0, *seen]) - 0.05, max([limit, *seen]) + 0.1)


def _frame(axes: Axes, title: str) -> None:
    axes.set_ylabel(title, color=Ink.TEXT, fontsize=_FONT)
    axes.grid(axis="y", color=Ink.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(color=Ink.FRAME, labelcolor=Ink.TEXT, labelsize=_FONT, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(Ink.FRAME)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.6g} %"))
    axes.locator_params(axis="y", nbins=5)


def _acts(axes: Axes, chronicle: Chronicle, *, named: bool) -> None:
    """Every other act stands on a band; the first panel says which."""
    starts = [each for each in chronicle.events if each.kind == "act"]
    ends = [*(each.answers for each in starts), chronicle.answers][1:]
    for number, (act, end) in enumerate(zip(starts, ends, strict=True), 1):
        if number % 2:
            axes.axvspan(act.answers, end, color=_BAND, zorder=0)
        if named:
            axes.annotate(
                f"{number}", xy=((act.answers + end) / 2, 1.01),
                xycoords=("data", "axes fraction"), ha="center", va="bottom",
                color=Ink.TEXT, fontsize=_FONT, fontweight="bold",
            )  # fmt: skip
    if named and starts:
        names = [f"{number} {act.words}" for number, act in enumerate(starts, 1)]
        rows = ["   ".join(names[:4]), "   ".join(names[4:])]
        axes.set_title("\n".join(rows), loc="left", color=Ink.TEXT, fontsize=_FONT, pad=22)


def _happenings(axes: Axes, events: Iterable[Event], *, named: bool) -> None:
    seen: set[str] = set()
    for each in events:
        if each.kind not in _MARKS:
            continue
        ink, name = _MARKS[each.kind]
        label = name if named and name not in seen else None
        seen.add(name)
        axes.axvline(each.answers, color=ink, linewidth=1.2, linestyle=(0, (1, 1.5)), label=label)
    if named and seen:
        axes.legend(
            loc="upper left", bbox_to_anchor=(0.0, 1.22), ncols=len(seen), frameon=False,
            fontsize=_FONT - 1, labelcolor=Ink.TEXT, handlelength=1.4,
        )  # fmt: skip

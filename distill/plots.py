"""The report's figures, each as one inline SVG that takes its colours and its font from the page.

It draws what it is given and refuses to compute: no statistic, no file, no state of pyplot.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from enum import StrEnum

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from distill.evaluate import Curves, Reliability

Point = tuple[float, float]

_WIDE = (4.8, 3.2)  # inches at 72 points: 345 units wide, so that a phone shows 10 pt as 10 px
_SQUARE = (3.4, 3.2)
_FONT = 10  # points
_UNITS = 72  # of an SVG by matplotlib, per inch
_BARE = {"Creator": None, "Date": None, "Format": None, "Type": None}  # no metadata


class Ink(StrEnum):
    """The colours of a plot. The page knows each as a variable, so that dark mode can change it."""

    TEXT = "#3a4350"
    FRAME = "#a9b2bd"
    GRID = "#e5e9ee"
    STUDENT = "#2458d4"
    TEACHER = "#b1580b"
    CHANCE = "#8892a0"
    LIMIT = "#c12f2f"
    PAPER = "#fffffe"  # not plain white, which matplotlib may write by itself


def risk_coverage(curves: Curves, *, alpha: float | None, point: Point | None) -> str:
    """Undetected error against coverage, with the certified limit and the operating point."""
    figure, axes = _canvas("risk-coverage", "answered by the student", "answered and wrong")
    axes.plot(curves.coverage, curves.undetected, color=Ink.STUDENT, label="student")
    if alpha is not None:
        axes.axhline(alpha, color=Ink.LIMIT, linestyle=(0, (5, 3)), label="certified limit")
    _mark(axes, point)
    axes.set_xlim(0.0, 1.02)
    axes.set_ylim(bottom=0.0)
    _percent(axes)
    return _svg(figure, "Undetected error against coverage")


def cost_quality(
    curves: Curves, *, quality: str, student: float, teacher: float, point: Point
) -> str:
    """Quality of the system against the share that is sent to the teacher."""
    figure, axes = _canvas("cost-quality", "sent to the teacher", quality)
    axes.axhline(teacher, color=Ink.TEACHER, linestyle=(0, (5, 3)), label="teacher")
    axes.axhline(student, color=Ink.CHANCE, linestyle=(0, (1, 2)), label="student")
    axes.plot(curves.escalation, curves.random, color=Ink.CHANCE, label="sent at random")
    axes.plot(curves.escalation, curves.system, color=Ink.STUDENT, label="least sure first")
    _mark(axes, point)
    axes.set_xlim(-0.02, 1.02)
    _percent(axes)
    return _svg(figure, f"System {quality} against the share sent to the teacher")


def reliability(diagram: Reliability) -> str:
    """Accuracy against confidence, in bins of equal mass; the diagonal is perfect calibration."""
    figure, axes = _canvas(f"reliability-{diagram.head}", "confidence", "accuracy", size=_SQUARE)
    low = min(*diagram.confidence, *diagram.accuracy, 0.9)  # always leave a tenth to look at
    edges = (max(0.0, low - 0.05), 1.02)
    axes.plot(edges, edges, color=Ink.CHANCE, linestyle=(0, (1, 2)), label="perfect")
    axes.plot(
        diagram.confidence, diagram.accuracy, color=Ink.STUDENT, marker="o", markersize=4,
        label="student",
    )  # fmt: skip
    axes.set_xlim(*edges)
    axes.set_ylim(*edges)
    _percent(axes)
    return _svg(figure, f"Reliability of the head {diagram.head}")


def training_loss(history: Sequence[float]) -> str:
    """Mean training loss per epoch, counted from 1."""
    figure, axes = _canvas("training-loss", "epoch", "mean training loss")
    axes.plot(range(1, len(history) + 1), history, color=Ink.STUDENT, marker="o", markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, len(history) + 0.5)
    axes.set_ylim(0.0, max(*history, 1e-6) * 1.08)
    return _svg(figure, "Mean training loss per epoch")


def _canvas(name: str, x: str, y: str, *, size: tuple[float, float] = _WIDE) -> tuple[Figure, Axes]:
    """An empty figure of the house: light grid, two spines. `name` must be its own in the page."""
    figure = Figure(figsize=size, layout="constrained", label=name)
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=Ink.TEXT, fontsize=_FONT)
    axes.set_ylabel(y, color=Ink.TEXT, fontsize=_FONT)
    axes.grid(color=Ink.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(color=Ink.FRAME, labelcolor=Ink.TEXT, labelsize=_FONT, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(Ink.FRAME)
    axes.locator_params(nbins=6 if size == _WIDE else 5)  # labels that do not touch
    return figure, axes


def _mark(axes: Axes, point: Point | None) -> None:
    if point is not None:
        axes.plot(
            *point, color=Ink.TEXT, marker="o", markersize=8, markeredgecolor=Ink.PAPER,
            markeredgewidth=1.5, linestyle="none", label="operating point", zorder=5,
            clip_on=False,
        )  # fmt: skip


def _percent(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.6g} %"))


def _svg(figure: Figure, title: str) -> str:
    """The figure as an `<svg>` element without ids, fonts and colours of its own."""
    axes = figure.axes[0]
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False,
            fontsize=_FONT, labelcolor=Ink.TEXT, borderaxespad=0.2, handlelength=1.8,
        )  # fmt: skip
    drawn = io.StringIO()
    # The salt makes ids the same in every run and different between the plots of a page.
    salt = str(figure.get_label())
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(drawn, format="svg", metadata=_BARE, transparent=True)
    width, height = figure.get_size_inches() * _UNITS
    return _inline(drawn.getvalue(), box=f"0 0 {width:g} {height:g}", title=title)


def _inline(svg: str, *, box: str, title: str) -> str:
    """Strip what belongs to a stand-alone file, and let the page's style sheet reach in."""
    content = svg[svg.index("<svg") :].partition(">")[2].rpartition("</svg>")[0]
    content = re.sub(r"<style.*?</style>|<metadata.*?</metadata>", "", content, flags=re.DOTALL)
    content = re.sub(r'<g id="[^"]*"', "<g", content)
    content = re.sub(r"font-family: [^;\"]*;? ?", "", content)
    content = re.sub(r"\s*\n\s*", "\n", content).replace("xlink:href", "href")
    for ink in Ink:
        content = content.replace(ink.value, f"var(--{ink.name.lower()})")
    name = html.escape(title)
    head = f'<svg viewBox="{box}" role="img" aria-label="{name}"><title>{name}</title>'
    return f"{head}{content}</svg>"

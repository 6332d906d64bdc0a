"""The figures of all seeds as two plots: means as lines, the spread over the seeds as bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from benchmarks.figures import Curves, Figures

_SHOWN = 0.5  # escalation beyond which all ways come to the same
_SIZE = (10.0, 3.9)  # inches
_OURS, _PLAIN, _RANDOM, _TEACHER = "#2458d4", "#b1580b", "#8892a0", "#2e7d4f"

Doubles = NDArray[np.float64]


def cost_quality(found: Sequence[Figures], path: Path) -> None:
    """Quality of the system against the share that the teacher is asked."""
    figure, panels = _panels(found, "share that the teacher answers", "quality of the system")
    for axes, some in panels:
        curves = [each.curves for each in some]
        student, teacher = (
            float(np.mean([getattr(each, name) for each in some]))
            for name in ("student", "teacher")
        )
        _band(axes, curves, "quality", _OURS, "least sure first, by score")
        _band(axes, curves, "plain_quality", _PLAIN, "by largest probability")
        ends = np.array([0.0, _SHOWN])
        axes.plot(ends, student + (teacher - student) * ends, color=_RANDOM, label="at random")
        axes.axhline(teacher, color=_TEACHER, linestyle=(0, (5, 3)), label="always the teacher")
    _write(figure, path)


def risk_coverage(found: Sequence[Figures], path: Path) -> None:
    """Undetected error against the share that the student answers."""
    figure, panels = _panels(found, "share that the student answers", "answered and wrong")
    for axes, some in panels:
        curves = [each.curves for each in some]
        _band(axes, curves, "undetected", _OURS, "by score", mirrored=True)
        _band(axes, curves, "plain_undetected", _PLAIN, "by largest probability", mirrored=True)
        wrong = 1.0 - float(np.mean([each.student for each in some]))
        axes.plot([0.0, 1.0], [0.0, wrong], color=_RANDOM, label="at random")
        axes.set_xlim(_SHOWN, 1.0)
    _write(figure, path)


def _panels(
    found: Sequence[Figures], x: str, y: str
) -> tuple[Figure, list[tuple[Axes, list[Figures]]]]:
    """One panel a data set, with its figures."""
    names = list(dict.fromkeys(each.corpus for each in found))
    figure = Figure(figsize=_SIZE, layout="constrained")
    panels = []
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), place)
        some = [each for each in found if each.corpus == name]
        axes.set_title(f"{name}, {len(some)} seeds", fontsize=11)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_xlim(0.0, _SHOWN)
        axes.grid(color="#e5e9ee")
        axes.spines[["top", "right"]].set_visible(False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.4g} %"))
        panels.append((axes, some))
    return figure, panels


def _band(
    axes: Axes,
    curves: Sequence[Curves],
    name: str,
    colour: str,
    label: str,
    *,
    mirrored: bool = False,
) -> None:
    x = np.array(curves[0].escalation)
    rows: Doubles = np.array([getattr(each, name) for each in curves])
    x = 1.0 - x if mirrored else x
    axes.fill_between(x, rows.min(axis=0), rows.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, rows.mean(axis=0), color=colour, label=label)


def _write(figure: Figure, path: Path) -> None:
    figure.axes[0].legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)

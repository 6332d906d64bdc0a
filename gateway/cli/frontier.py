"""A frontier, cost against quality: drawn in the terminal's own dots, and as an SVG file. Pure."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_COLUMNS, _LINES = 60, 14  # of the terminal's plot, in characters
_BRAILLE = 0x2800  # the first of Unicode's characters of 2 by 4 dots
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bit by line, column
_MARK = "●"

_WIDTH, _HEIGHT = 640, 400  # units of the SVG
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 48, 56  # its margins
_TICKS = 5
_NARROWEST = 0.01  # of an axis: a hundredth of the requests, or a cent


@dataclass(frozen=True, slots=True)
class Frontier:
    """Points (cost, quality) from cheap to dear, and the policy in question; y is a share."""

    points: Sequence[tuple[float, float]]
    here: tuple[float, float]
    x: str
    y: str

    def spans(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Least and most of each axis, a hundredth apart at least."""
        xs, ys = zip(*self.points, self.here, strict=True)
        return _span(xs), _span(ys)


def terminal(frontier: Frontier) -> str:
    """The plot in characters; where it stands now is a round mark."""
    (left, right), (low, high) = frontier.spans()
    dots = [[0] * _COLUMNS for _ in range(_LINES)]
    for one, other in zip(frontier.points, frontier.points[1:], strict=False):
        for part in range(_COLUMNS):  # a line between two points, as dense as the dots
            x, y = (a + (b - a) * part / _COLUMNS for a, b in zip(one, other, strict=True))
            column = round((x - left) / (right - left) * (2 * _COLUMNS - 1))
            line = round((high - y) / (high - low) * (4 * _LINES - 1))
            dots[line // 4][column // 2] |= _DOTS[line % 4][column % 2]
    drawn = [[chr(_BRAILLE + dot) if dot else " " for dot in line] for line in dots]
    column = round((frontier.here[0] - left) / (right - left) * (_COLUMNS - 1))
    line = round((high - frontier.here[1]) / (high - low) * (_LINES - 1))
    drawn[line][column] = _MARK
    labels = {0: f"{high:.2%}", _LINES - 1: f"{low:.2%}"}
    rows = [f"{labels.get(place, ''):>9} │{''.join(row)}" for place, row in enumerate(drawn)]
    foot = f"{left:.4g}".ljust(_COLUMNS - 8) + f"{right:.4g}".rjust(8)
    return "\n".join([
        f"{frontier.y}  ({_MARK} this policy)",
        *rows,
        f"{'':>9} └{'─' * _COLUMNS}",
        f"{'':>11}{foot}",
        f"{'':>11}{frontier.x:^{_COLUMNS}}",
    ])  # fmt: skip


def svg(frontier: Frontier) -> str:
    """The plot as a file of its own, which follows the reader's light or dark mode."""
    (left, right), (low, high) = frontier.spans()

    def at(point: tuple[float, float]) -> str:
        x = _LEFT + (point[0] - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        y = _TOP + (high - point[1]) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = [_STYLE]
    for tick in range(_TICKS + 1):
        x, y = (
            edge + (other - edge) * tick / _TICKS for edge, other in ((left, right), (low, high))
        )
        across, up = at((x, low)).split(",")[0], at((left, y)).split(",")[1]
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up}" y2="{up}"/>',
            f'<text x="{_LEFT - 8}" y="{up}" dy="4" text-anchor="end">{y:.2%}</text>',
            f'<text x="{across}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{x:.4g}</text>',
        ]
    here_x, here_y = at(frontier.here).split(",")
    title = html.escape(f"{frontier.y} against {frontier.x}")
    parts += [
        f'<polyline points="{" ".join(at(point) for point in frontier.points)}"/>',
        f'<circle cx="{here_x}" cy="{here_y}" r="6"><title>this policy</title></circle>',
        f'<text class="name" x="{_LEFT}" y="24">{html.escape(frontier.y)}</text>',
        f'<text class="name" x="{_LEFT}" y="{_HEIGHT - 12}">{html.escape(frontier.x)}</text>',
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
    return "\n".join([head, f"<title>{title}</title>", *parts, "</svg>", ""])


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return min(low, high - _NARROWEST), high


_STYLE = """<style>
  text { font: 13px system-ui, sans-serif; fill: #3a4350 }
  .name { font-weight: 600 }
  .grid { stroke: #e5e9ee }
  polyline { fill: none; stroke: #2458d4; stroke-width: 2.5; stroke-linejoin: round }
  circle { fill: #b1580b; stroke: #fff; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    svg { background: #14181d } text { fill: #c9d1da } .grid { stroke: #2b333c }
    polyline { stroke: #7aa2ff } circle { fill: #ffa657; stroke: #14181d }
  }
</style>"""

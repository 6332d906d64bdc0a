"""One HTML page on the candidates of a task: the course of their bounds, slices, disagreements.

The page stands alone: style and plots are inside it, it runs no script, and loads nothing. What a
text says is shown as text and never as markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from gateway.shadow.course import Courses, Point
from gateway.shadow.promotion import Gate, Standing
from gateway.shadow.slices import Counts, Slices
from gateway.store.comparisons import Disagreement

_WIDTH, _HEIGHT = 760, 220  # pixels of a plot, with its margins
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 32
_TICKS = 4  # of an axis
_ROOM = 1.15  # the highest value is a little below the top

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1c2430;background:#fff}
h1{font-size:1.5rem}h2{margin-top:2.5rem;border-top:1px solid #d5dbe3;padding-top:1rem}
table{border-collapse:collapse;margin:.6rem 0 1.2rem;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .7rem;border-bottom:1px solid #e6eaf0;text-align:right}
th:first-child,td:first-child,.text{text-align:left}
.passed{color:#1a7f4b}.failed{color:#b3261e}.note{color:#5a6675}
svg{background:#fafbfc;border:1px solid #e6eaf0;margin:.3rem 0 1rem}
svg text{font:11px system-ui,sans-serif;fill:#5a6675}
.band{fill:#4a7bd0;opacity:.18}.value{fill:none;stroke:#2456a8;stroke-width:1.6}
.limit{stroke:#b3261e;stroke-dasharray:5 4}.axis{stroke:#c4ccd6}
"""


@dataclass(frozen=True, slots=True)
class Trialled:
    """What a page shows of a candidate."""

    name: str
    alpha: float  # that it may spend by now
    courses: Courses
    slices: Slices
    worst: tuple[Disagreement, ...]


def page(task: str, candidates: Sequence[Trialled]) -> str:
    """The page of a task's candidates, as HTML."""
    body = "".join(part for each in candidates for part in _candidate(each))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Candidates of {escape(task)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Candidates of {escape(task)}</h1>"
        '<p class="note">Bounds hold at all times together: looking often costs nothing. A gate '
        "has passed when its whole band is below the dashed limit, and failed when it is above."
        f"</p>{body}</body></html>\n"
    )


def _candidate(found: Trialled) -> Iterator[str]:
    yield f"<h2>{escape(found.name)}</h2>"
    yield (
        f'<p class="note">It may spend {found.alpha:.4g} of alpha. Shown is what was seen on the '
        "footing of its last comparison: under the same policy, and beside the same student.</p>"
    )
    yield _findings(found.courses)
    for gate, points in found.courses.items():
        if any(point.finding.pairs for point in points):
            yield f"<h3>{gate.value}</h3>{_plot(points)}"
    yield "<h3>By head</h3>" + _counts("head", {"all": found.slices.whole, **found.slices.heads})
    for kind, values in found.slices.parts.items():
        yield f"<h3>By {escape(kind)}</h3>" + _counts(kind, values)
    if found.worst:
        yield "<h3>Worst disagreements</h3>" + _disagreements(found.worst)


def _findings(courses: Mapping[Gate, Sequence[Point]]) -> str:
    rows = []
    for gate, points in courses.items():
        if not points:
            rows.append(_row([gate.value, "open", "", "", "", "", "0"]))
            continue
        last = points[-1].finding
        marks = {Standing.PASSED: "passed", Standing.FAILED: "failed"}
        standing = f'<span class="{marks.get(last.standing, "")}">{last.standing.value}</span>'
        value = "" if last.value is None else f"{last.value:.4f}"
        numbers = [f"{each:.4f}" for each in (last.lower, last.upper)]
        rows.append(
            _row([gate.value, standing, f"{last.limit:g}", value, *numbers, str(last.pairs)])
        )
    return _table("gate standing limit value lower upper rows", rows)


def _counts(kind: str, parts: Mapping[str, Counts]) -> str:
    rows = [
        _row(
            [
                escape(name),
                str(counts.compared),
                _share(counts.other_than_serving, counts.paired),
                _share(counts.escalated, counts.compared),
                str(counts.with_teacher),
                _share(counts.other_than_teacher, counts.with_teacher),
                _share(counts.serving_other_than_teacher, counts.paired_with_teacher),
            ]
        )
        for name, counts in sorted(parts.items(), key=lambda part: -part[1].compared)
    ]
    columns = (
        f"{kind.replace(' ', '_')} compared differs_from_serving would_escalate with_teacher "
        "differs_from_teacher serving_differs_from_teacher"
    )
    return _table(columns, rows)


def _disagreements(found: Sequence[Disagreement]) -> str:
    rows = [
        _row(
            [
                escape(each.text)
                if each.text is not None
                else '<span class="note">not kept</span>',
                f"{each.score:.3f}",
                *(_labels(said) for said in (each.said, each.serving, each.teacher)),
                f"{datetime.fromtimestamp(each.at, UTC):%Y-%m-%d %H:%M}",
            ]
        )
        for each in found
    ]
    return _table("text score candidate serving teacher at", rows)


def _labels(said: Mapping[str, Sequence[str]] | None) -> str:
    if said is None:
        return ""
    return escape("; ".join(f"{head}: {', '.join(each) or '-'}" for head, each in said.items()))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else ""


def _table(columns: str, rows: Sequence[str]) -> str:
    names = "".join(f"<th>{escape(each.replace('_', ' '))}</th>" for each in columns.split())
    return f"<table><tr>{names}</tr>{''.join(rows)}</table>"


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _plot(points: Sequence[Point]) -> str:
    """A band between the bounds, the value within it, and the limit, over compared requests."""
    shown = [point for point in points if point.finding.pairs]
    limit = shown[0].finding.limit
    # Early bounds are far away; what matters is near the limit and where the value has come to.
    tail = shown[len(shown) // 2 :]
    highest = _ROOM * max(limit, *(point.finding.upper for point in tail))
    lowest = min(0.0, limit, *(point.finding.lower for point in tail))
    farthest = shown[-1].rows

    def across(rows: float) -> float:
        return _LEFT + rows / farthest * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        inside = min(highest, max(lowest, value))
        return _TOP + (highest - inside) / (highest - lowest) * (_HEIGHT - _TOP - _BOTTOM)

    def path(values: Sequence[tuple[int, float]]) -> str:
        return " ".join(f"{across(rows):.1f},{up(value):.1f}" for rows, value in values)

    uppers = [(point.rows, point.finding.upper) for point in shown]
    lowers = [(point.rows, point.finding.lower) for point in reversed(shown)]
    values = [(point.rows, point.finding.value or 0.0) for point in shown]
    ticks = []
    for number in range(_TICKS + 1):
        rows, value = farthest * number / _TICKS, lowest + (highest - lowest) * number / _TICKS
        ticks.append(
            f'<text x="{across(rows):.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{rows:,.0f}'
            f'</text><text x="{_LEFT - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{value:.3f}'
            "</text>"
        )
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="bounds over requests">'
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(lowest):.1f}" '
        f'y2="{up(lowest):.1f}"/><polygon class="band" points="{path(uppers + lowers)}"/>'
        f'<polyline class="value" points="{path(values)}"/>'
        f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(limit):.1f}" '
        f'y2="{up(limit):.1f}"/>{"".join(ticks)}</svg>'
    )

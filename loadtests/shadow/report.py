"""The figures of a run for people: a table of latencies, and one of candidates."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtests.shadow.figures import PERCENTS, Candidate, Found, Memory, Row


def tables(found: Found) -> RenderableType:
    """All of it."""
    heading = (
        f"{found.rate:,.0f} requests/s, and {found.connections} connections that are always busy; "
        f"{found.rounds} rounds of {found.seconds:g} s; {found.cores} cores"
    )
    return Group(Text(heading), _latencies(found), _candidates(found))


def _latencies(found: Found) -> Table:
    table = Table(title="Latency, and as a multiple of the one without a shadow (95 % interval)")
    for name in ("loop", "candidate"):
        table.add_column(name)
    for name in ("p50 ms", "p95 ms", "p99 ms", *(f"p{each} ratio" for each in PERCENTS)):
        table.add_column(name, justify="right")
    for name in ("failed", "requests/s", "CPU µs/req"):
        table.add_column(name, justify="right")
    for row in found.rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    ratios = (row.ratios.get(each) for each in PERCENTS)
    return [
        row.loop,
        row.variant,
        *(f"{row.latencies[each]:.2f}" if each in row.latencies else "-" for each in PERCENTS),
        *(f"{r.value:.2f} ({r.lower:.2f}-{r.upper:.2f})" if r else "-" for r in ratios),
        f"{row.failed} of {row.requests:,}",
        f"{row.per_s:,.0f}",
        f"{row.cpu_us:,.0f}",
    ]


def _candidates(found: Found) -> Table:
    table = Table(title="Candidates")
    for name in ("candidate", "state", "compared", "skipped", "lapsed"):
        table.add_column(name, justify="right" if name == "compared" else "left")
    table.add_column("gateway's memory, MB", justify="right")
    table.add_column("candidate's, MB", justify="right")
    for each in found.candidates:
        table.add_row(each.variant, *_shown(each), *_memory(each.before, each.after))
    return table


def _shown(each: Candidate) -> list[str]:
    if each.shown is None:
        return ["-", "-", "-", "-"]
    shown = each.shown
    return [shown.state, f"{shown.compared:,}", _counts(shown.skipped), _counts(shown.lapses)]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count) or "none"


def _memory(before: Memory, after: Memory) -> list[str]:
    theirs = "-"
    if before.candidate is not None and after.candidate is not None:
        theirs = f"{before.candidate:.0f} → {after.candidate:.0f}"
    return [f"{before.gateway:.0f} → {after.gateway:.0f}", theirs]

"""The live view of the demo: /v1/stats and what the customers saw, as one screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from distill.demo.crowd import Seen

Stats = Mapping[str, Any]

_WIDTH = 24  # characters of a full bar
_ROUTE_STYLES = {
    "student": "green",
    "teacher": "cyan",
    "fallback": "yellow",
    "abstain": "red",
    "all": "bold",
}


def screen(stats: Stats, seen: Seen, *, title: str, hint: str) -> RenderableType:
    """Everything at once. `stats` is the reply of /v1/stats."""
    task = stats["tasks"]["tickets"]
    return Group(
        _header(task, seen, title),
        Columns([_routes(task), _reasons(task)], expand=True, equal=True),
        Columns([_disagreement(task), _money(task)], expand=True, equal=True),
        _latest(seen),
        Text(hint, style="dim", justify="center"),
    )


def line(stats: Stats, seen: Seen) -> str:
    """The same in one line, where there is no terminal."""
    task = stats["tasks"]["tickets"]
    every = task["latency"]["all"]["1m"]
    student = task["latency"]["student"]["1m"]
    return (
        f"  {seen.answered:,} answered, {every['per_second'] or 0:.0f}/s, student p50 "
        f"{_ms(student['p50_ms'])} p95 {_ms(student['p95_ms'])}, escalated "
        f"{_percent(task['escalation']['share'])}, saved {usd(task['cost']['avoided']['known'])}"
    )


def _header(task: Stats, seen: Seen, title: str) -> Panel:
    every = task["latency"]["all"]["1m"]
    right = seen.right / seen.answered if seen.answered else None
    tiles = Table.grid(expand=True)
    for _ in range(5):
        tiles.add_column(justify="center", ratio=1)
    tiles.add_row(
        _tile(f"{seen.answered:,}", "answered"),
        _tile(f"{every['per_second'] or 0:.0f}/s", "requests"),
        _tile(_percent(task["escalation"]["share"]), "escalated"),
        _tile(_percent(right), "right, by gold"),
        _tile(usd(task["cost"]["avoided"]["known"]), "saved"),
    )
    return Panel(tiles, title=f"[bold]{title}[/bold]", box=box.ROUNDED, border_style="green")


def _tile(figure: str, name: str) -> Text:
    return Text.assemble((figure, "bold bright_white"), "\n", (name, "dim"), justify="center")


def _routes(task: Stats) -> Panel:
    table = Table(box=None, expand=True, pad_edge=False)
    table.add_column("route")
    for name in ("requests", "p50", "p95", "p99"):
        table.add_column(name, justify="right")
    for route in ("student", "teacher", "fallback", "abstain", "all"):
        speed = task["latency"][route]["1m"]
        count = task["requests"] if route == "all" else task["routes"][route]
        if not count:
            continue
        table.add_row(
            Text(route, style=_ROUTE_STYLES[route]),
            f"{count:,}",
            _ms(speed["p50_ms"]),
            _ms(speed["p95_ms"]),
            _ms(speed["p99_ms"]),
        )
    return Panel(table, title="by route, last minute", box=box.ROUNDED)


def _reasons(task: Stats) -> Panel:
    table = Table(box=None, expand=True, pad_edge=False, show_header=False)
    table.add_column("reason")
    table.add_column("bar", ratio=1)
    table.add_column("share", justify="right")
    reasons = task["escalation"]["by_reason"]
    top = max((each["requests"] for each in reasons.values()), default=1)
    for reason, found in sorted(reasons.items(), key=lambda pair: -pair[1]["requests"]):
        bar = "█" * max(1, round(_WIDTH * found["requests"] / top))
        table.add_row(reason, Text(bar, style="magenta"), _percent(found["share"]))
    if not reasons:
        table.add_row("nothing yet", "", "")
    return Panel(table, title="why the teacher was asked", box=box.ROUNDED)


def _disagreement(task: Stats) -> Panel:
    table = Table(box=None, expand=True, pad_edge=False)
    table.add_column("head")
    table.add_column("escalated", justify="right")
    table.add_column("audited", justify="right")
    for head, sources in task["disagreement"].items():
        table.add_row(head, *(_compared(sources[source]) for source in ("escalated", "audited")))
    return Panel(table, title="student and teacher differ", box=box.ROUNDED)


def _compared(found: Mapping[str, Any]) -> str:
    if not found["comparisons"]:
        return "none yet"
    return f"{_percent(found['share'])} of {found['comparisons']:,}"


def _money(task: Stats) -> Panel:
    cost = task["cost"]
    table = Table(box=None, expand=True, pad_edge=False, show_header=False)
    table.add_column("what")
    table.add_column("usd", justify="right")
    table.add_row("student, busy time", usd(cost["student"]))
    table.add_row("teacher, escalations", usd(cost["teacher"]["known"]))
    table.add_row("teacher, audits", usd(cost["audits"]["known"]))
    table.add_row(
        Text("not spent", style="bold green"),
        Text(usd(cost["avoided"]["known"]), style="bold green"),
    )
    return Panel(table, title="money, at illustrative prices", box=box.ROUNDED)


def _latest(seen: Seen) -> Panel:
    table = Table(box=None, expand=True, pad_edge=False, show_header=False)
    table.add_column("route", width=9)
    table.add_column("text", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("labels", ratio=1, no_wrap=True, overflow="ellipsis")
    for ticket, reply in seen.latest:
        route = str(reply["route"])
        table.add_row(
            Text(route, style=_ROUTE_STYLES[route]),
            Text(ticket.text),
            Text(_said(reply), style="dim"),
        )
    return Panel(table, title="just now", box=box.ROUNDED)


def _said(reply: Mapping[str, Any]) -> str:
    if reply["labels"] is None:
        return "nobody answered"
    labels: Sequence[object] = list(reply["labels"].values())
    words = [", ".join(each) if isinstance(each, list) else str(each) for each in labels]
    return f"{' · '.join(word for word in words if word)}  ({reply['reason']})"


def usd(micro: int | None) -> str:
    """Micro-USD for people."""
    return "unknown" if micro is None else f"${micro / 1e6:,.4f}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"

"""`understudy drill`: rehearse an outage of the teacher, and see which promises hold.

It starts a gateway of the settings with a fault server in the teacher's place, and touches nothing
that is the user's.
"""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.terminal import AsJson, Config, print_json, print_tables, table
from gateway.cli.texts import lines

if TYPE_CHECKING:
    from gateway.drills.findings import Figures, Findings, Promise

_OUTCOMES = ("teacher", "fallback", "abstain", "error", "lost")


class _Kind(StrEnum):
    """As gateway.drills.findings.Kind, which is not loaded for --help."""

    DOWN = "teacher-down"
    SLOW = "slow"
    GARBAGE = "garbage"
    LIMITED = "rate-limited"
    FLAKY = "flaky"


def drill(
    kind: Annotated[_Kind, typer.Argument(help="What happens to the teacher.")],
    config: Config = Path("understudy.yaml"),
    task: Annotated[str | None, typer.Option(help="Where there are several.")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="One text a line; else those of the student's bundle.")
    ] = None,
    requests: Annotated[int, typer.Option(min=20, help="In each of the three phases.")] = 240,
    rate: Annotated[float, typer.Option(min=1.0, help="Requests a second.")] = 60.0,
    slow_ms: Annotated[float, typer.Option(min=0.0, help="What a slow teacher takes.")] = 2000.0,
    as_json: AsJson = False,
) -> None:
    """Rehearse an outage of the teacher. Status 1: a promise was broken."""
    from gateway import settings as reader
    from gateway.drills.drill import Load, rehearse
    from gateway.drills.findings import Kind, promises

    settings = reader.load(config)
    found = rehearse(
        settings,
        Kind(kind),
        task=task,
        texts=lines(texts) if texts else (),
        load=Load(requests=requests, rate=rate, slow_s=slow_ms / 1000),
    )
    held = promises(found, settings.tasks[found.task])
    if as_json:
        print_json(_document(found, held))
    else:
        _show(found, held)
    if not all(each.kept for each in held):
        raise typer.Exit(1)


def _show(found: Findings, held: Sequence[Promise]) -> None:
    phases = [found.healthy, found.fault, found.recovery]
    rows = zip(*(_column(each, found.healthy) for each in phases), strict=True)
    title = f"Drill {found.kind} of the task {found.task}"
    print_tables(
        table(title, "what healthy fault recovery", map(_row, rows)),
        table("The breaker", "what value", _breaker(found)),
        table("Promises", "kept promise seen", ([p.kept, p.words, p.seen] for p in held)),
    )
    broken = [each for each in held if not each.kept]
    for each in broken:
        print(f"broken: {each.words}: {each.seen}")
    if not broken:
        print("every promise was kept")


def _row(cells: Sequence[tuple[str, Any]]) -> list[Any]:
    """The name once, then the values of the phases."""
    return [cells[0][0], *(value for _, value in cells)]


def _column(figures: Figures, healthy: Figures) -> Iterator[tuple[str, Any]]:
    yield "confident answers", figures.confident_ok
    yield "confident failures", figures.confident_failed
    yield "p95 of them, ms", figures.p95_ms
    yield "p95 to the healthy one", _ratio(figures.p95_ms, healthy.p95_ms)
    for outcome in _OUTCOMES:
        yield f"escalations: {outcome}", figures.outcomes[outcome]
    yield "upstream calls", figures.upstream_calls
    yield "calls per escalation", figures.calls_per_escalation
    yield "what became of them", dict(figures.calls) if len(figures.calls) < 10 else _many(figures)


def _many(figures: Figures) -> str:
    return f"{len(figures.calls)} kinds, ok={figures.calls['ok']}"


def _breaker(found: Findings) -> Iterator[tuple[str, Any]]:
    yield "opened, s from the fault", found.opened_s
    yield "closed, s from recovery", found.closed_s
    yield "garbage taken for an answer", found.garbage_accepted


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _document(found: Findings, held: Sequence[Promise]) -> dict[str, Any]:
    content = _fields(found)
    for name in ("healthy", "fault", "recovery"):
        figures: Figures = content[name]
        content[name] = _fields(figures) | {
            "p95_ratio": _ratio(figures.p95_ms, found.healthy.p95_ms),
            "calls_per_escalation": figures.calls_per_escalation,
        }
    kept = all(each.kept for each in held)
    return content | {"promises": [asdict(each) for each in held], "kept": kept}


def _fields(value: Findings | Figures) -> dict[str, Any]:
    """One level of it: asdict would take a Counter's pairs for things to count."""
    return {each.name: getattr(value, each.name) for each in fields(value)}

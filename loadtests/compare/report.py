"""A comparison for people: tables in the terminal, one plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtests.compare.figures import Comparison, Load, System
from loadtests.tally import Latency

_DPI = 150  # of the plot: sharp on a page, and below 100 KB
_STEADY = 0.25  # drift of the ceiling; quiet virtual machines move by a tenth
_SHOWN = 240  # characters of why a system failed


def tables(comparison: Comparison) -> RenderableType:
    """All figures of a run."""
    steady = [_steady_loads(system) for system in comparison.systems if system.steady]
    heading: list[RenderableType] = [Text(_heading(comparison))]
    if comparison.drift > _STEADY:
        heading.append(Text(_unsteady(comparison), style="bold red"))
    return Group(*heading, _throughput(comparison), *steady, _setups(comparison))


def plot(comparison: Comparison, path: Path) -> None:
    """Throughput and tail latency of each system at each number of connections, as PNG."""
    import matplotlib as mpl  # noqa: PLC0415  only here, and slow to load

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = [system for system in comparison.systems if system.loads]
    figure, (rates, tails) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    width = 0.8 / max(1, len(shown))
    for place, system in enumerate(shown):
        where = [number + (place + 0.5) * width - 0.4 for number in range(len(system.loads) + 1)]
        every = [*system.loads, *([system.many] if system.many else [])]
        rates.bar(where[: len(every)], [each.ratio for each in every], width, label=system.name)
        tails.bar(
            where[: len(system.loads)],
            [each.latency.p99 if each.latency else 0.0 for each in system.loads],
            width,
        )
    labels = [f"{load.connections}" for load in (shown[0].loads if shown else ())]
    rates.axhline(1.0, color="grey", linewidth=0.8, linestyle="--")
    rates.set_xticks(range(len(labels) + 1), [*labels, "32 texts\na request"])
    rates.set_ylabel("texts/s, as a share of the in-process ceiling")
    rates.set_xlabel("connections")
    rates.legend()
    tails.set_xticks(range(len(labels)), labels)
    tails.set_yscale("log")
    tails.set_ylabel("p99, ms")
    tails.set_xlabel("connections")
    figure.suptitle(_heading(comparison))
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _heading(comparison: Comparison) -> str:
    single = [ceiling.single for ceiling in comparison.ceilings]
    batched = [ceiling.batched for ceiling in comparison.ceilings]
    return (
        f"ceiling without HTTP: {_range(single)} texts/s one at a time, {_range(batched)} in "
        f"batches of 32; {comparison.cores} cores, {comparison.texts:,} texts"
    )


def _unsteady(comparison: Comparison) -> str:
    return (
        f"this machine was not quiet: its ceiling moved by {comparison.drift:.0%} during the run, "
        "so that figures of different systems cannot be compared"
    )


def _throughput(comparison: Comparison) -> Table:
    table = Table(title=f"Closed loops of {comparison.seconds:g} s")
    for name in ("system", "load", "texts/s", "of ceiling", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(name, justify="left" if name in {"system", "load"} else "right")
    for name in ("CPU µs/req", "errors", "PSS MB", "right"):
        table.add_column(name, justify="right")
    for system in comparison.systems:
        if system.failure:
            table.add_row(system.name, "not measured", style="red")
            continue
        for place, row in enumerate(_rows(system)):
            table.add_row(*row, end_section=place == len(system.loads))
    return table


def _rows(system: System) -> Iterator[list[str]]:
    right = [f"{each.equal}/{each.answered}" for each in system.agreement]
    loads = [*system.loads, *([system.many] if system.many else [])]
    for place, load in enumerate(loads):
        first = place == 0
        many = load.rows > 1
        checked = right[-1] if many else right[0]
        yield [
            system.name if first else "",
            _load_name(load),
            f"{load.texts_per_s:,.0f}",
            f"{load.ratio:.2f}",
            *_spread(load.latency),
            f"{load.cpu_us:,.0f}",
            str(load.errors),
            f"{system.pss_mb:,.0f}" if first and system.pss_mb is not None else "",
            checked if first or many else "",
        ]


def _load_name(load: Load) -> str:
    if load.rows > 1:
        return f"{load.connections}, {load.rows} texts each"
    return f"{load.connections} connection{'s' if load.connections > 1 else ''}"


def _steady_loads(system: System) -> Table:
    table = Table(title=f"{system.name}: open loops")
    for name in ("rate", "p50 ms", "p95 ms", "p99 ms", "errors", "own time p50 / p99 ms"):
        table.add_column(name, justify="right")
    table.add_column("seen by clients p50 / p99 ms", justify="right")
    for steady in system.steady:
        own = steady.overhead
        table.add_row(
            f"{steady.per_s:,.0f}/s",
            *_spread(steady.latency),
            str(steady.errors),
            _pair(own.inside if own else None),
            _pair(own.outside if own else None),
        )
        if steady.refusal:
            table.caption = f"refused: {steady.refusal}"
    return table


def _setups(comparison: Comparison) -> Table:
    table = Table(title="Set-ups")
    table.add_column("system")
    table.add_column("configuration, or why it was not measured")
    for system in comparison.systems:
        if system.failure:
            table.add_row(system.name, Text(system.failure[:_SHOWN]), style="red")
        else:
            table.add_row(system.name, f"{system.setup}; ready in {system.ready_s:.1f} s")
    return table


def _spread(latency: Latency | None) -> list[str]:
    if latency is None:
        return ["-", "-", "-"]
    return [f"{value:.2f}" for value in (latency.p50, latency.p95, latency.p99)]


def _pair(latency: Latency | None) -> str:
    return f"{latency.p50:.2f} / {latency.p99:.2f}" if latency else "-"


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"

"""`understudy doctor`: what this machine has that matters here."""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.aside import open_aside
from gateway.cli.terminal import Config, print_tables, table
from gateway.errors import SettingsError, UnderstudyError

_SQLITE_SOUND = (3, 51, 3)  # the first version without the WAL-reset fault


def doctor(
    port: Annotated[int, typer.Option(help="To look whether it is free.", min=0, max=65535)] = 8080,
    config: Config = Path("understudy.yaml"),
) -> None:
    """What this machine has that matters here, and whether the certificates of policies hold."""
    findings = [*_findings(port), *_certificates(config)]
    print_tables(table("This machine", "what found advice", findings))
    print("next: understudy check")


def _findings(port: int) -> Iterable[Sequence[Any]]:
    """What, what was found, and advice where it is not as it should be."""
    import platform
    import shutil
    import sqlite3
    from importlib.metadata import version as installed
    from importlib.util import find_spec

    from gateway import cores

    yield "python", platform.python_version(), ""
    yield "cores allowed", cores.available(), ""
    flags = _cpu_flags()
    for flag in ("avx512_vnni", "avx_vnni"):
        yield flag, "yes" if flag in flags else "no", ""
    if not flags & {"avx512_vnni", "avx_vnni"}:
        yield "int8", "slow", "no VNNI: an fp32 bundle may be as fast here"
    yield "onnxruntime", installed("onnxruntime"), ""
    sound = sqlite3.sqlite_version_info >= _SQLITE_SOUND
    advice = "below 3.51.3 a rare WAL reset can lose commits: let one process write the records"
    yield "sqlite", sqlite3.sqlite_version, "" if sound else advice
    free = shutil.disk_usage(Path.cwd()).free
    yield "disk free", f"{free / 2**30:.1f} GiB", "" if free > 2**30 else "records need room"
    taken = _taken(port)
    yield f"port {port}", "taken" if taken else "free", "serve with --port 0" if taken else ""
    for extra, module in (("export", "onnx"), ("distill", "torch"), ("load", "locust")):
        there = find_spec(module) is not None
        advice = "" if there else f"pip install 'understudy[{extra}]'"
        yield f"extra {extra}", "yes" if there else "no", advice


def _certificates(config: Path) -> Sequence[Sequence[Any]]:
    """Of each task whose settings name one: until when it holds, or why it does not."""
    import asyncio

    from gateway.api.stats import serving
    from gateway.settings import Settings, load

    async def look(settings: Settings) -> list[tuple[str, str, str]]:
        found = []
        async with open_aside(settings) as gateway:
            for name, cascade in gateway.tasks.items():
                shown = serving(gateway.settings, cascade)
                if shown is None or settings.tasks[name].policy.certificate is None:
                    continue
                ends = shown.certificate.expires_at if shown.certificate else None
                void = shown.certificate_void
                advice = "everything goes to the teacher: `understudy policy certify`"
                found.append(
                    (f"certificate {name}", void or f"holds until {ends}", advice if void else "")
                )
        return found

    if not config.exists():
        return []
    try:
        settings = load(config)
        if all(task.policy.certificate is None for task in settings.tasks.values()):
            return []
        return asyncio.run(look(settings))
    except UnderstudyError as error:
        return [("settings", error.message, error.mend)]


def _cpu_flags(source: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    try:
        lines = source.read_text().splitlines()
    except OSError:
        return frozenset()  # not Linux: nothing is known
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def _taken(port: int) -> bool:
    from gateway.address import bind
    from gateway.settings import ServerSettings

    try:
        bind(ServerSettings(port=port)).close()
    except SettingsError:
        return True
    return False

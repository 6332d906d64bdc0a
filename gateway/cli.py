"""The `understudy` command: serve, check, look at bundles and records, make keys.

Sub-commands of other packages join by the entry points `understudy.commands`, each a function
`register(app: typer.Typer) -> None`. They are loaded when help or one of them is asked for, never
for the gateway's own commands, so that `understudy serve` imports nothing that only training needs.
"""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from gateway import __version__
from gateway.errors import BundleError, SettingsError, UnderstudyError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from gateway.contract.bundle import Bundle
    from gateway.settings import Settings
    from gateway.store.records import Record

_GROUP = "understudy.commands"
_INSTALL = "pip install 'understudy[distill]'"  # brings what every command needs
_INTERRUPTED = 130  # the exit status of what SIGINT ends
_SQLITE_SOUND = (3, 51, 3)  # the first version without the WAL-reset fault
_PIPE_WIDTH = 160  # columns where nobody says how wide the output is
_Choice = TypeVar("_Choice", bound=StrEnum)


class _Missing(TyperCommand):
    """Stands for commands that could not be loaded: it says what to install."""

    def __init__(self, name: str, error: ImportError) -> None:
        super().__init__(name=name, help=f"Not installed: {_INSTALL}")
        self._error = error

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """Refuse, whatever the arguments are."""
        del info_name, args, parent, extra
        raise _needs(self._error)


class _Commands(TyperGroup):
    """The gateway's own commands, then those that have joined."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, ours first."""
        return list(dict.fromkeys([*super().list_commands(ctx), *_joined()]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; others are only looked for when it is not ours."""
        return super().get_command(ctx, cmd_name) or _joined().get(cmd_name)


app = typer.Typer(
    cls=_Commands,
    name="understudy",
    help="Student-first inference: a small model answers what it is sure of.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: a third of the time goes into boxes otherwise
)
bundles = typer.Typer(help="Look at bundles.", no_args_is_help=True)
app.add_typer(bundles, name="bundle")

Config = Annotated[Path, typer.Option(help="The settings file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@app.callback()
def understudy(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the code an error came from.")
    ] = False,
) -> None:
    """Student-first inference: a small model answers what it is sure of."""


@app.command()
def serve(
    config: Config = Path("understudy.yaml"),
    host: Annotated[str | None, typer.Option(help="Instead of server.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Instead of server.port; 0: a free one.")] = None,
) -> None:
    """Answer requests until a signal comes."""
    from gateway import server

    raise typer.Exit(server.serve(_settings(config, host=host, port=port)))


@app.command()
def check(config: Config = Path("understudy.yaml"), as_json: AsJson = False) -> None:
    """Open everything that the settings name, as `serve` would, and say what would serve."""
    settings = _settings(config)
    tasks = _opened(settings)
    effective = settings.model_dump(mode="json")
    if as_json:
        _print_json({"settings": effective, "tasks": tasks})
        return
    _print(
        _table("Settings", "key value", _flat(effective)),
        *(_table(f"Task {name}", "what value", _flat(found)) for name, found in tasks.items()),
    )
    for name, found in tasks.items():
        print(f"{name}: {_promise(found)}")
    print(f"next: understudy serve --config {config}")


@bundles.command("show")
def show(path: Annotated[Path, typer.Argument()], as_json: AsJson = False) -> None:
    """What a bundle is, how good, how fast, and where it comes from."""
    from gateway.contract.bundle import open_bundle

    bundle = open_bundle(path)
    if as_json:
        about = {"id": bundle.id, "name": bundle.name, "size": bundle.size}
        _print_json(about | {"manifest": bundle.manifest.model_dump(mode="json")})
        return
    _print(*_bundle_tables(bundle))
    print(f"next: understudy bundle verify {path}")


@bundles.command("verify")
def verify(paths: Annotated[list[Path], typer.Argument()]) -> None:
    """Hash every file, and compare the model's numbers on this host with the bundle's own."""
    from gateway.contract.bundle import open_bundle
    from gateway.students.student import Student

    failed: list[BundleError] = []
    for path in paths:
        try:
            bundle = open_bundle(path)
            Student(bundle)
        except BundleError as error:
            failed.append(error)
            _complain(error)
        else:
            vectors = len(bundle.manifest.golden.vectors)
            files = len(bundle.manifest.files)
            print(f"ok  {bundle.name}  {files} files, {vectors} golden vectors")
    if failed:
        raise typer.Exit(failed[0].exit_status)


@app.command()
def records(
    config: Config = Path("understudy.yaml"),
    task: Annotated[str | None, typer.Option(help="Of this task only.")] = None,
    route: Annotated[
        str | None, typer.Option(help="student, teacher, fallback or abstain.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="For example low_confidence.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest stored answers."""
    from gateway.store import records as stored
    from gateway.store.database import open_database
    from gateway.types import Reason, Route

    of_route, of_reason = _one_of(Route, route, "--route"), _one_of(Reason, reason, "--reason")
    path = _settings(config).records.path
    if not path.exists():
        raise SettingsError(
            f"records.path: there are no records at {path}",
            mend="`understudy serve` makes the file",
        )
    engine = open_database(path)
    try:
        found = stored.latest(engine, task, limit, route=of_route, reason=of_reason)
    finally:
        engine.dispose()
    if as_json:
        _print_json([record.to_row() for record in found])
        return
    columns = "at task route reason score labels ms"
    _print(_table(f"{len(found)} records", columns, map(_record_row, found)))


@app.command()
def doctor(
    port: Annotated[int, typer.Option(help="To look whether it is free.", min=0, max=65535)] = 8080,
) -> None:
    """What this machine has that matters here."""
    findings = list(_findings(port))
    _print(_table("This machine", "what found advice", findings))
    print("next: understudy check")


@app.command()
def key(name: Annotated[str, typer.Argument(help="Who will hold it.")]) -> None:
    """Make an API key. It is shown once and stored nowhere."""
    from gateway import document
    from gateway.api.auth import new_key
    from gateway.settings import KeySettings

    fresh, digest = new_key(name)
    content = {"name": name, "sha256": digest}
    document.validate(content, KeySettings, SettingsError, where="key")
    print(f"key, shown only now:\n  {fresh}\n")
    print(f"in understudy.yaml:\n  keys:\n    - name: {name}\n      sha256: {digest}\n")
    print(f"or in the environment:\n  UNDERSTUDY_API_KEYS={name}:{digest}")


@app.command()
def version() -> None:
    """The version of Understudy."""
    print(__version__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit. A person sees what went wrong and what to do, never a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        app(given, prog_name="understudy")
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:
            print("understudy: interrupted", file=sys.stderr)
        raise
    except UnderstudyError as error:
        if debug:
            raise
        _complain(error)
        sys.exit(error.exit_status)
    except ImportError as error:
        if debug:
            raise
        _complain(_needs(error))
        sys.exit(UsageError.exit_status)
    except Exception as error:
        if debug:
            raise
        print(f"understudy: {type(error).__name__}: {error}", file=sys.stderr)
        print("  -> this is a mistake of ours; --debug shows where it happened", file=sys.stderr)
        sys.exit(1)


@functools.cache
def _joined() -> dict[str, Any]:
    """The commands of the other packages, by name."""
    found: dict[str, Any] = {}
    for entry in entry_points(group=_GROUP):
        host = typer.Typer()
        host.callback()(lambda: None)  # so that a lone command keeps its name
        try:
            entry.load()(host)
        except ImportError as error:
            found[entry.name] = _Missing(entry.name, error)
        else:
            found |= typer.main.get_group(host).commands
    return found


def _needs(error: ImportError) -> UsageError:
    return UsageError(f"this command needs {error.name or error}", mend=_INSTALL)


def _settings(config: Path, *, host: str | None = None, port: int | None = None) -> Settings:
    """The settings, with what the command line says in place of the file."""
    from gateway import document
    from gateway.settings import Settings, load

    settings = load(config)
    given = {"host": host, "port": port}
    content = settings.model_dump(exclude_unset=True)
    chosen = {name: value for name, value in given.items() if value is not None}
    content["server"] = content.get("server", {}) | chosen
    return document.validate(content, Settings, SettingsError, where="the command line")


def _opened(settings: Settings) -> dict[str, dict[str, Any]]:
    """Open the gateway with its records aside, so that one that runs is not disturbed."""
    import asyncio
    import tempfile

    from gateway.api.stats import serving
    from gateway.assembly import open_gateway
    from gateway.telemetry import logs

    async def look(aside: Settings) -> dict[str, dict[str, Any]]:
        async with open_gateway(aside) as gateway:
            shown = {name: serving(aside, cascade) for name, cascade in gateway.tasks.items()}
            return {name: each.model_dump() for name, each in shown.items() if each}

    logs.configure("warning", json=False)  # on standard error, away from what is printed
    with tempfile.TemporaryDirectory() as folder:
        path = settings.records.model_copy(update={"path": Path(folder) / "records.db"})
        return asyncio.run(look(settings.model_copy(update={"records": path})))


def _promise(serving: Mapping[str, Any]) -> str:
    """What a task's threshold and certificate come to."""
    if serving["threshold"] is None:
        return "no threshold is certified, so everything goes to the teacher"
    if serving["certificate"] is None:
        return "the threshold is not covered by a certificate, so nothing is guaranteed"
    words: str = serving["certificate"]["words"]
    return words


def _bundle_tables(bundle: Bundle) -> Iterable[Table]:
    from gateway.api.schemas import in_words

    manifest = bundle.manifest
    heads = {head.name: f"{head.kind}: {', '.join(head.labels)}" for head in manifest.task.heads}
    graph = manifest.graph.model_dump(mode="json")
    size = {"id": bundle.id, "role": manifest.role, "bytes": bundle.size}
    yield _table(f"Bundle {bundle.name}", "what value", _flat(size | {"heads": heads} | graph))
    yield _table(
        "Operating points",
        "name threshold coverage certificate",
        (
            (
                point.name,
                point.threshold,
                f"{point.coverage:.1%}",
                in_words(point.certificate) if point.certificate else "none",
            )
            for point in manifest.operating_points
        ),
    )
    reports = manifest.reports
    if quality := reports.evaluation:
        by_head = {each.head: each.model_dump(exclude={"head"}) for each in quality.heads}
        whole = quality.model_dump(exclude={"heads"})
        yield _table("Quality on the test split", "what value", _flat(whole | by_head))
    if reports.parity:
        yield _table("Parity with the trained network", "what value", _flat(dict(reports.parity)))
    if reports.trials:
        columns = ("recipe", "microseconds", "size", "label_flips", "passed", "kept", "note")
        rows = ([getattr(trial, column) for column in columns] for trial in reports.trials)
        yield _table("Trials", " ".join(columns), rows)
    if reports.latency:
        yield _table("Latency of one text", "what value", _flat(dict(reports.latency)))
    yield _table("Provenance", "what value", _flat(manifest.provenance.model_dump()))


def _record_row(record: Record) -> Sequence[Any]:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(record.at, UTC).isoformat(sep=" ", timespec="seconds")
    said = [f"{head}={'+'.join(labels) or '-'}" for head, labels in (record.labels or {}).items()]
    return (
        at,
        record.task,
        record.route,
        record.reason,
        record.score,
        " ".join(said),
        record.stages.total * 1000,
    )


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


def _cpu_flags(source: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    try:
        lines = source.read_text().splitlines()
    except OSError:
        return frozenset()  # not Linux: nothing is known
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def _taken(port: int) -> bool:
    from gateway.server import bind
    from gateway.settings import ServerSettings

    try:
        bind(ServerSettings(port=port)).close()
    except SettingsError:
        return True
    return False


def _one_of(kind: type[_Choice], value: str | None, option: str) -> _Choice | None:
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(kind)
        raise UsageError(
            f"{option} {value!r}: no such one", mend=f"name one of: {known}"
        ) from error


def _complain(error: UnderstudyError) -> None:
    print(f"understudy: {error}", file=sys.stderr)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested mappings -> dotted keys and their values."""
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _table(title: str, columns: str, rows: Iterable[Sequence[Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns.split(), title=title, title_justify="left")
    for row in rows:
        # Text, not str: brackets in a label are no markup.
        table.add_row(*(Text(_cell(value), overflow="fold") for value in row))
    return table


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return ", ".join(_cell(each) for each in value) or "-"
        case dict():
            parts = (f"{name}={_cell(each)}" for name, each in value.items() if each is not None)
            return " ".join(parts) or "-"
        case _:
            return str(value) or "-"


def _print(*tables: Table) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    for table in tables:
        console.print(table, "", sep="\n")


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False, default=str))

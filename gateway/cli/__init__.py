"""The `understudy` command: serve, check, look at bundles and records, make keys.

Sub-commands of other packages join by the entry points `understudy.commands`, each a function
`register(app: typer.Typer) -> None`. They are loaded when help or one of them is asked for, never
for the gateway's own commands, so that `understudy serve` imports nothing that only training needs.
"""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gateway import __version__
from gateway.cli.aside import open_aside
from gateway.cli.bundles import bundles
from gateway.cli.changes import changes
from gateway.cli.doctor import doctor
from gateway.cli.drill import drill
from gateway.cli.handover import handover
from gateway.cli.policy import policy
from gateway.cli.records import records
from gateway.cli.reload import reload
from gateway.cli.shadow import shadow
from gateway.cli.stats import stats
from gateway.cli.students import students
from gateway.cli.terminal import AsJson, Config, complain, flat, print_json, print_tables, table
from gateway.cli.tune import tune
from gateway.errors import SettingsError, UnderstudyError, UsageError

if TYPE_CHECKING:
    from gateway.settings import Settings

_GROUP = "understudy.commands"
_INSTALL = "pip install 'understudy[distill]'"  # brings what every command needs
_INTERRUPTED = 130  # the exit status of what SIGINT ends


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
app.add_typer(bundles, name="bundle")
app.add_typer(students, name="students")
app.add_typer(shadow, name="shadow")
app.add_typer(changes, name="changes")
app.command()(reload)
app.command()(stats)
app.add_typer(records, name="records")
app.command()(handover)
app.add_typer(policy, name="policy")
app.command()(doctor)
app.command()(tune)
app.command()(drill)


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
    replicas: Annotated[
        int | None, typer.Option(help="Instead of server.replicas: processes.", min=1)
    ] = None,
    replica: Annotated[
        int | None, typer.Option(help="Serve this one of them only, from 0.", min=0)
    ] = None,
) -> None:
    """Answer requests until a signal comes."""
    from gateway import cores

    def read() -> Settings:
        found = _settings(config, host=host, port=port, replicas=replicas)
        return found if replica is None else found.shared(cores.available())

    settings = read()
    count = settings.server.replicas
    if replica is not None and replica >= count:
        raise SettingsError(
            f"--replica {replica}: there are {count}, counted from 0",
            mend="give a smaller number, or more --replicas",
        )
    if replica is not None or count == 1:
        from gateway import server

        raise typer.Exit(server.serve(settings, read=read, replica=replica))
    from gateway import replicas as several

    # -P: nothing of the working folder, whatever lies there, is taken for a module.
    command = [sys.executable, "-P", "-m", "gateway", "serve", "--config", str(config)]
    same = ["--host", settings.server.host, "--replicas", str(count)]
    raise typer.Exit(several.serve(settings, [*command, *same]))


@app.command()
def check(config: Config = Path("understudy.yaml"), as_json: AsJson = False) -> None:
    """Open everything that the settings name, as `serve` would, and say what would serve."""
    settings = _settings(config)
    tasks = _opened(settings)
    effective = settings.model_dump(mode="json")
    if as_json:
        print_json({"settings": effective, "tasks": tasks})
        return
    print_tables(
        table("Settings", "key value", flat(effective)),
        *(table(f"Task {name}", "what value", flat(found)) for name, found in tasks.items()),
    )
    for name, found in tasks.items():
        print(f"{name}: {_promise(found)}")
    print(f"next: understudy serve --config {config}")


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Who will hold it.")],
    role: Annotated[str, typer.Option(help="client, or admin: may change what serves.")] = "client",
) -> None:
    """Make an API key. It is shown once and stored nowhere."""
    from gateway import document
    from gateway.api.auth import new_key
    from gateway.settings import KeySettings

    fresh, digest = new_key(name)
    content = {"name": name, "sha256": digest, "role": role}
    document.validate(content, KeySettings, SettingsError, where="key")
    print(f"key, shown only now:\n  {fresh}\n")
    plain = role == "client"
    line, suffix = ("", "") if plain else (f"      role: {role}\n", f":{role}")
    print(f"in understudy.yaml:\n  keys:\n    - name: {name}\n      sha256: {digest}\n{line}")
    print(f"or in the environment:\n  UNDERSTUDY_API_KEYS={name}:{digest}{suffix}")


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
        complain(error)
        sys.exit(error.exit_status)
    except ImportError as error:
        if debug:
            raise
        complain(_needs(error))
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


def _settings(
    config: Path,
    *,
    host: str | None = None,
    port: int | None = None,
    replicas: int | None = None,
) -> Settings:
    """The settings, with what the command line says in place of the file."""
    from gateway import document
    from gateway.settings import Settings, load

    settings = load(config)
    given = {"host": host, "port": port, "replicas": replicas}
    content = settings.model_dump(exclude_unset=True)
    chosen = {name: value for name, value in given.items() if value is not None}
    content["server"] = content.get("server", {}) | chosen
    return document.validate(content, Settings, SettingsError, where="the command line")


def _opened(settings: Settings) -> dict[str, dict[str, Any]]:
    """What would serve, by task."""
    import asyncio

    from gateway.api.stats import serving

    async def look() -> dict[str, dict[str, Any]]:
        async with open_aside(settings) as gateway:
            shown = {name: serving(gateway.settings, each) for name, each in gateway.tasks.items()}
            return {name: each.model_dump() for name, each in shown.items() if each}

    return asyncio.run(look())


def _promise(serving: Mapping[str, Any]) -> str:
    """What a task's threshold and certificate come to."""
    from gateway.types import Reason

    if serving["certificate_void"] is not None:
        return (
            f"the policy's certificate does not hold ({serving['certificate_void']}), "
            "so everything goes to the teacher"
        )
    if serving["student"] == Reason.NO_STUDENT:
        return "there is no student, so everything goes to the teacher"
    if serving["threshold"] is None:
        return "no threshold is certified, so everything goes to the teacher"
    if serving["certificate"] is None:
        return "the threshold is not covered by a certificate, so nothing is guaranteed"
    words: str = serving["certificate"]["words"]
    return words

"""`understudy students`: which bundles a running gateway has, and which of them serves."""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.remote import Admin, Gateways, KeyFile, reach
from gateway.cli.terminal import AsJson, Config, print_json, print_tables, table
from gateway.errors import UsageError

students = typer.Typer(help="See and change who serves, while it serves.", no_args_is_help=True)

_Task = Annotated[str | None, typer.Option(help="May be left out where there is only one.")]

_Why = Annotated[str, typer.Option(help="For the log of changes.")]

_PATH = "/admin/v1/students"
_KINDS = {".zip": "application/zip", ".gz": "application/gzip", ".tgz": "application/gzip"}
_TAR = "application/x-tar"


@students.command("add")
def add(
    path: Annotated[Path, typer.Argument(help="A bundle's folder, or an archive of it.")],
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Send a bundle to the gateways: verified and rehearsed, it is a candidate then."""
    from urllib.parse import quote

    gateways = reach(config, admin, key_file)
    where = _PATH if task is None else f"{_PATH}?task={quote(task)}"
    replies = list(_sent(gateways, where, path))
    if as_json:
        print_json([{"url": url, **reply} for url, reply in replies])
        return
    for url, reply in replies:
        print(f"{url}: {reply['bundle']} is a candidate for {reply['task']}")
    print(f"next: understudy students swap {replies[0][1]['bundle']}")


@students.command("list")
def list_students(
    config: Config = Path("understudy.yaml"),
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """The bundles of every task, and who serves."""
    replies = list(reach(config, admin, key_file).each("GET", _PATH))
    if as_json:
        print_json([{"url": url, **reply} for url, reply in replies])
        return
    print_tables(*(table(url, "task bundle role", _rows(reply["tasks"])) for url, reply in replies))


@students.command("swap")
def swap(
    name: Annotated[str, typer.Argument(help="Of the bundle that is to serve.")],
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    why: _Why = "",
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a bundle serve; the one that serves now stays loaded."""
    body = {"bundle": name, "why": why}
    _change("swap", body, reach(config, admin, key_file), task, as_json=as_json)


@students.command("rollback")
def rollback(
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    why: _Why = "",
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Let the previous bundle serve again."""
    _change("rollback", {"why": why}, reach(config, admin, key_file), task, as_json=as_json)


def _change(
    verb: str, said: Mapping[str, str], gateways: Gateways, task: str | None, *, as_json: bool
) -> None:
    import json
    from urllib.parse import quote

    task = task or _only_task(gateways)
    path = f"{_PATH}/{quote(task, safe='')}/{verb}"
    body = json.dumps(said).encode()
    replies = list(gateways.each("POST", path, body=body, kind="application/json"))
    if as_json:
        print_json([{"url": url, **reply} for url, reply in replies])
        return
    for url, reply in replies:
        again = "" if reply["changed"] else ", as before"
        previous = reply["previous"] or "none"
        print(f"{url}: {reply['serving']} serves {task}{again} (previous: {previous})")


def _only_task(gateways: Gateways) -> str:
    _, reply = next(gateways.each("GET", _PATH))
    names = [each["task"] for each in reply["tasks"]]
    if len(names) != 1:
        raise UsageError("there are several tasks", mend=f"name one of them: {', '.join(names)}")
    return str(names[0])


def _sent(gateways: Gateways, where: str, path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """Send a folder packed, and an archive as it is."""
    import tempfile

    from gateway.contract import archive
    from gateway.contract.bundle import open_bundle

    if not path.is_dir():
        if not path.is_file():
            raise UsageError(f"{path}: not a file or folder", mend="name a bundle or an archive")
        kind = _KINDS.get(path.suffix.lower(), _TAR)
        yield from gateways.each("POST", where, body=path, kind=kind)
        return
    open_bundle(path)  # what is wrong with it is better said before it is sent
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "bundle.tar"
        with packed.open("wb") as file:
            archive.pack(path, file)
        yield from gateways.each("POST", where, body=packed, kind=_TAR)


def _rows(tasks: Sequence[dict[str, Any]]) -> Iterable[Sequence[Any]]:
    for task in tasks:
        for bundle in task["bundles"]:
            yield task["task"], bundle["name"], bundle["role"]

"""`understudy students`: which bundles a running gateway has, and which of them serves."""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.remote import Admin, Gateways, KeyFile, reach
from gateway.cli.terminal import AsJson, Config, print_json, print_tables, table
from gateway.errors import ServingError, UnderstudyError, UsageError

students = typer.Typer(help="See and change who serves, while it serves.", no_args_is_help=True)

_Task = Annotated[str | None, typer.Option(help="May be left out where there is only one.")]

_Why = Annotated[str, typer.Option(help="For the log of changes.")]

_MustSayWhy = Annotated[str, typer.Option("--why", help="For the log of changes.")]

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
    replies = list(send(reach(config, admin, key_file), task, path))
    if as_json:
        print_json([{"url": url, **reply} for url, reply in replies])
        return
    for url, reply in replies:
        said = "is a candidate for" if reply["compared"] else "is added to"
        print(f"{url}: {reply['bundle']} {said} {reply['task']}")
        if reply["note"]:
            print(f"  {reply['note']}")
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
    for url, reply in replies:
        for each in reply["tasks"]:
            for line in _on_the_way(each):
                print(f"{url}: {each['task']}: {line}")


@students.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Of the candidate.")],
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare a candidate no more; its bundle stays in the registry."""
    from urllib.parse import quote

    gateways = reach(config, admin, key_file)
    task = task or _only_task(gateways)
    path = f"/admin/v1/shadow/{quote(task, safe='')}/{quote(name, safe='')}"
    replies = list(gateways.each("DELETE", path))
    if as_json:
        print_json([{"url": url, **reply} for url, reply in replies])
        return
    for url, reply in replies:
        print(f"{url}: {reply['bundle']} is no candidate for {reply['task']} any more")


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
    to_teacher: Annotated[
        bool, typer.Option("--to-teacher", help="Let no student answer, a canary neither.")
    ] = False,
    why: _Why = "",
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """End the canary, or let the previous bundle serve again; promotion is frozen then.

    With --to-teacher the canary ends, and no bundle serves. Every gateway is told, also where
    another one cannot be reached.
    """
    gateways = reach(config, admin, key_file)
    task = task or _only_task(gateways)
    said: dict[str, Any] = {"why": why}
    if to_teacher:
        said["to_teacher"] = True
    else:
        found = gateways.first(_PATH)["tasks"]
        shown = next((each for each in found if each["task"] == task), None)
        going = None if shown is None else (shown["canary"] or {}).get("bundle", shown["serving"])
        # So that no replica which has followed the first one already goes on to the one before.
        said["leaving"] = going
    _change("rollback", said, gateways, task, as_json=as_json, everywhere=True)


@students.command("promote")
def promote(
    name: Annotated[str, typer.Argument(help="Of the candidate.")],
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    override: Annotated[
        bool, typer.Option("--override", help="Though it is not proved; wants --why.")
    ] = False,
    why: _Why = "",
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a candidate that is proved answer a share of the requests, step by step."""
    body = {"bundle": name, "override": override, "why": why}
    _change("promote", body, reach(config, admin, key_file), task, as_json=as_json)


@students.command("approve")
def approve(
    name: Annotated[str, typer.Argument(help="Of the candidate that somebody else proposed.")],
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    why: _Why = "",
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Approve a promotion, as the second person."""
    body = {"bundle": name, "why": why}
    _change("approve", body, reach(config, admin, key_file), task, as_json=as_json)


@students.command("freeze")
def freeze(
    why: _MustSayWhy,
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Let nobody be promoted, and no canary take a further step.

    Every gateway is told, also where another one cannot be reached.
    """
    gateways = reach(config, admin, key_file)
    _change("freeze", {"why": why}, gateways, task, as_json=as_json, everywhere=True)


@students.command("unfreeze")
def unfreeze(
    why: _MustSayWhy,
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Let candidates be promoted again."""
    _change("unfreeze", {"why": why}, reach(config, admin, key_file), task, as_json=as_json)


def _change(
    verb: str,
    said: Mapping[str, Any],
    gateways: Gateways,
    task: str | None,
    *,
    as_json: bool,
    everywhere: bool = False,
) -> None:
    """Tell the gateways in turn; `everywhere`: whatever another one says, and then raise it."""
    import json
    from urllib.parse import quote

    task = task or _only_task(gateways)
    path = f"{_PATH}/{quote(task, safe='')}/{verb}"
    body = json.dumps(said).encode()
    kind, wrong = "application/json", list[UnderstudyError]()
    if everywhere:
        replies, wrong = gateways.all("POST", path, body=body, kind=kind)
    else:
        replies = list(gateways.each("POST", path, body=body, kind=kind))
    if replies:
        _print_changes(replies, task, as_json=as_json)
    if wrong:
        raise _not_everywhere(replies, wrong)


def _not_everywhere(
    replies: Sequence[tuple[str, Any]], wrong: Sequence[UnderstudyError]
) -> UnderstudyError:
    """What went wrong, of several gateways as one error."""
    if not replies and len(wrong) == 1:
        return wrong[0]
    return ServingError(
        "; ".join(each.message for each in wrong),
        mend=f"done at {', '.join(url for url, _ in replies) or 'none of them'}; a gateway that "
        "shares the registry with one of these follows by itself",
    )


def _print_changes(
    replies: Sequence[tuple[str, dict[str, Any]]], task: str, *, as_json: bool
) -> None:
    if as_json:
        print_json([{"url": url, **reply} for url, reply in replies])
        return
    for url, reply in replies:
        again = "" if reply["changed"] else ", as before"
        previous = reply["previous"] or "none"
        print(f"{url}: {reply['serving']} serves {task}{again} (previous: {previous})")
        for line in _on_the_way(reply):
            print(f"  {line}")


def _on_the_way(reply: Mapping[str, Any]) -> Iterable[str]:
    """What else is to be known of a task: its canary, who waits, and what stops all of them."""
    if canary := reply["canary"]:
        where = f"step {canary['step']} of {canary['steps']}"
        yield f"canary: {canary['bundle']} answers {canary['share']:.0%} ({where})"
    if proposal := reply["proposal"]:
        name = proposal["bundle"]
        yield f"proposed by {proposal['by']}: {name}; next: understudy students approve {name}"
    if frozen := reply["frozen"]:
        yield f"promotion is frozen: {frozen['why']}"


def _only_task(gateways: Gateways) -> str:
    names = [each["task"] for each in gateways.first(_PATH)["tasks"]]
    if len(names) != 1:
        raise UsageError("there are several tasks", mend=f"name one of them: {', '.join(names)}")
    return str(names[0])


def send(gateways: Gateways, task: str | None, path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """Send a bundle: a folder packed, an archive as it is. Each gateway's URL and its reply.

    Raises a BundleError, UsageError or ServingError.
    """
    import tempfile
    from urllib.parse import quote

    from gateway.contract import archive
    from gateway.contract.bundle import open_bundle

    where = _PATH if task is None else f"{_PATH}?task={quote(task)}"
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

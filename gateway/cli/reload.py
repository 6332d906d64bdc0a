"""`understudy reload`: let what changed in the settings hold, without a restart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.remote import Admin, KeyFile, reach
from gateway.cli.terminal import AsJson, Config, print_json

_PATH = "/admin/v1/reload"


def reload(
    config: Config = Path("understudy.yaml"),
    why: Annotated[str, typer.Option(help="For the log of changes.")] = "",
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Let the gateways read their settings again, and say what holds now."""
    import json  # noqa: PLC0415  --help then comes in a fraction of a second

    gateways = reach(config, admin, key_file)
    body = json.dumps({"why": why}).encode()
    replies = list(gateways.each("POST", _PATH, body=body, kind="application/json"))
    if as_json:
        print_json([{"url": url, **reply} for url, reply in replies])
        return
    for url, reply in replies:
        _tell(url, reply)


def _tell(url: str, reply: Mapping[str, Any]) -> None:
    print(f"{url}: generation {reply['generation']}, {len(reply['unchanged'])} keys unchanged")
    for key in reply["applied"]:
        print(f"  applied: {key}")
    for key in reply["restart"]:
        print(f"  kept until a restart: {key}")

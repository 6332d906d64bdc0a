"""`understudy reload`: let what changed in the settings hold, without a restart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.cli.remote import Admin, KeyFile, reach
from gateway.cli.terminal import AsJson, Config, print_json


def reload(
    config: Config = Path("understudy.yaml"),
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Let the gateways read their settings again, and say what holds now."""
    replies = list(reach(config, admin, key_file).each("POST", "/admin/v1/reload"))
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

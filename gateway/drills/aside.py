"""The gateway of a drill: the user's settings beside the user's files, in a process of its own.

Records and the registry are in a folder that goes away. Keys are not read, and no teacher is asked
but the one at the URL that is given.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from gateway.contract import certificate
from gateway.errors import ServingError
from gateway.settings import PolicySettings, Settings, environment_without_keys
from gateway.teachers import faults

DATABASE = "records.db"

# For the gateway to be ready: it takes about one, and on a busy machine a hundred. One that cannot
# start ends by itself.
_START_S = 240.0
_STOP_S = 30.0  # for it to drain
_TEACHERS = ("bundle", "scripted", "openai", "oip", "ensemble")  # their kinds: one is replaced
_READY = re.compile(rb"understudy: ready on (http://\S+) ")


def write(settings: Settings, task: str, url: str, folder: Path) -> Path:
    """Write settings of that task alone, beside the user's own; its teacher is asked at `url`."""
    content = settings.model_dump(mode="json", exclude_unset=True)
    mine = content["tasks"][task]
    kept = {key: value for key, value in mine["teacher"].items() if key not in _TEACHERS}
    mine["teacher"] = kept | {"openai": {"url": url, "model": faults.MODEL}}
    mine["audit"] = {"share": 0.0}  # what is asked after the reply is no escalation
    mine.pop("budget", None)  # no money is spent
    _uncertify(mine.get("policy", {}), settings.tasks[task].policy)
    here = {"host": "127.0.0.1", "port": 0, "replicas": 1, "max_connections_per_address": 0}
    document = {
        "version": settings.version,
        "server": content.get("server", {}) | here,
        "tasks": {task: mine},
        # The fields say which request a record is of; they are kept with the text, in this folder.
        "records": {"path": DATABASE, "text": "full"},
        "registry": {"path": "students"},
        "logging": {"level": "warning", "format": "json"},
    }
    path = folder / "understudy.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _uncertify(content: dict[str, Any], policy: PolicySettings) -> None:
    """The certificate's thresholds without the certificate, which is for the real teacher.

    As in service, one that the settings name themselves comes before it.
    """
    if content.pop("certificate", None) is None or policy.certificate is None:
        return
    found = certificate.read(policy.certificate)
    if found is None:
        return
    _put(content, "threshold", found.threshold)
    if found.critical is not None and content.get("critical"):
        _put(content["critical"], "threshold", found.critical.threshold)


def _put(content: dict[str, Any], key: str, value: object) -> None:
    """Put it there, where nothing is."""
    if content.get(key) is None:
        content[key] = value


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[str]:
    """A gateway of those settings in a process of its own, by its URL. Raises ServingError."""
    log = config.with_name("gateway.log")
    # -P: nothing of the working folder, whatever lies there, is taken for a module.
    command = [sys.executable, "-P", "-m", "gateway", "serve", "--config", str(config)]
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environment_without_keys(),
        )
    try:
        yield await _url_of(process, log)
    finally:
        await _end(process)


async def _url_of(process: asyncio.subprocess.Process, log: Path) -> str:
    assert process.stdout is not None  # noqa: S101  it is a pipe
    line = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(_START_S):
            line = await process.stdout.readline()
    found = _READY.match(line)
    if found is None:
        raise _not_started(log)
    return found[1].decode()


def _not_started(log: Path) -> ServingError:
    said = log.read_text(errors="replace").strip().splitlines()
    return ServingError(
        f"the gateway of the drill did not start: {said[-1] if said else 'it said nothing'}",
        mend="`understudy check` says what is wrong with the settings",
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process, in order if it can."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

"""The operator's desk: the commands that a person types at it, and the figures that he reads.

Commands are the real ones, each in a process of its own; figures come from the gateway over HTTP.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson

from gateway import settings
from gateway.errors import StageFailed

_TASK = "tickets"
_TIMEOUT_S = 30.0  # of a look at the gateway
_TAIL = 6  # lines of a command's errors that a message repeats
_VERDICTS = (0, 3, 4)  # exit statuses of `understudy shadow status`: promote, hold, reject
_LOG_ROWS = 200  # of the log of changes: more than a story has


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended: its exit status and what it printed."""

    status: int
    out: str

    def json(self) -> Any:
        """What it printed, where that is JSON."""
        return orjson.loads(self.out)


@dataclass(frozen=True, slots=True)
class Desk:
    """One gateway, as somebody sees it who runs it. `folder` holds its settings."""

    folder: Path
    url: str
    client: httpx2.AsyncClient

    async def types(self, *words: str) -> Ran:
        """Run `understudy` with these words on this gateway's settings. Raises StageFailed."""
        config = ("--config", str(self.folder / settings.FILE))
        return await understudy(*words, *config, log=self.folder / "commands.log")

    async def asks(self, *words: str) -> Ran:
        """The same with a command that wants to know where the gateway listens."""
        return await self.types(*words, "--admin", self.url)

    async def verdict(self, candidate: str) -> tuple[int, Mapping[str, Any]]:
        """What `understudy shadow status` says of a candidate: its exit status, and the figures."""
        ran = await self.asks("shadow", "status", "--candidate", candidate, "--json")
        (found,) = ran.json()["candidates"]
        return ran.status, found

    async def shadow(self) -> Sequence[Mapping[str, Any]]:
        """The candidates, as the gateway sees them now."""
        found = await self._get("/admin/v1/shadow")
        return [each for task in found["tasks"] for each in task["candidates"]]

    async def roles(self) -> Mapping[str, Any]:
        """Who serves, who is a canary, and whether promotion is frozen."""
        found = await self._get("/admin/v1/students")
        roles: Mapping[str, Any] = found["tasks"][0]
        return roles

    async def stats(self) -> Mapping[str, Any]:
        """The figures of the task."""
        found = await self._get("/v1/stats")
        task: Mapping[str, Any] = found["tasks"][_TASK]
        return task

    async def log(self) -> list[Mapping[str, Any]]:
        """The log of changes, the oldest first."""
        ran = await self.types("changes", "list", "--json", "--limit", str(_LOG_ROWS))
        return list(reversed(ran.json()))

    async def _get(self, path: str) -> dict[str, Any]:
        reply = await self.client.get(f"{self.url}{path}", timeout=_TIMEOUT_S)
        found: dict[str, Any] = reply.raise_for_status().json()
        return found


async def understudy(*words: str, log: Path, threads: int | None = None) -> Ran:
    """Run a command to its end; what it says on standard error is added to `log`.

    `threads`: that it may compute with; None: as it likes. Raises StageFailed where it fails.
    """
    environment = settings.environment_without_keys()
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads)}
    with log.open("a") as errors:
        start = errors.tell()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *words,
            stdout=asyncio.subprocess.PIPE, stderr=errors, env=environment,
        )  # fmt: skip
        try:
            out, _ = await process.communicate()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
    status = process.returncode or 0
    if status and not (words[:2] == ("shadow", "status") and status in _VERDICTS):
        whole = await asyncio.to_thread(log.read_text, errors="replace")
        said = " ".join(line.strip() for line in whole[start:].splitlines()[-_TAIL:])
        raise StageFailed(
            f"understudy {' '.join(words)}: {said}",
            mend=f"read {log} for the whole of it",
        )
    return Ran(status, out.decode())

"""The gateway of a demo: `understudy serve` in a process of its own, as a user starts it.

It ends with whoever started it, after its drain.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

from gateway import settings
from gateway.errors import StageFailed

_START_S = 120.0  # for the gateway to be ready: it takes about one, and far more on a busy machine
_STOP_S = 60.0  # for it to drain: above its own limit for requests in flight


@contextmanager
def gateway(folder: Path, *, port: int = 0) -> Iterator[str]:
    """`understudy serve` in a process of its own; yields its address. Port 0: any that is free."""
    command = [sys.executable, "-m", "gateway", "serve"]
    command += ["--config", str(folder / settings.FILE), "--port", str(port)]
    with (
        (folder / "gateway.log").open("w") as log,
        subprocess.Popen(  # noqa: S603  our own command
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            env=settings.environment_without_keys(),
            text=True,
            start_new_session=True,  # so that Ctrl-C reaches the demo alone, which then ends it
        ) as process,
    ):
        try:
            assert process.stdout is not None  # noqa: S101  it was asked for
            if (found := address(process.stdout, within=_START_S)) is None:
                raise StageFailed(
                    "the gateway did not start",
                    mend=f"read {folder / 'gateway.log'} for the reason",
                )
            yield found
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def address(output: Iterable[str], *, within: float) -> str | None:
    """Where the gateway listens, from the line that it prints when it is ready.

    None when the output ends without it, or when it has not come within so many seconds.
    """
    found: SimpleQueue[str | None] = SimpleQueue()

    def look() -> None:
        matches = (re.search(r"ready on (http://\S+)", line) for line in output)
        found.put(next((match[1] for match in matches if match), None))

    # A read cannot be given up; a thread that nobody waits for can.
    threading.Thread(target=look, name="ready-line", daemon=True).start()
    try:
        return found.get(timeout=within)
    except Empty:
        return None

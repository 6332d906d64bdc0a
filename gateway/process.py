"""What each process of a gateway does once: logs, files, interpreter, saying that it is ready."""

from __future__ import annotations

import gc
import resource
import sys

from gateway.settings import Settings
from gateway.telemetry import logs

_FILES = 65_536  # open files, a connection each: more than a gateway can use
# New objects between two garbage collections. What a request makes is freed as it ends, so there is
# little to find; at the usual 700 they took a tenth of a second from every hundredth request.
_COLLECT_AFTER = 20_000
_TURN_S = 0.0005  # after which a thread gives way to the event loop; usually 5 ms, a reply's time


def configure_logs(settings: Settings) -> None:
    """Set up the logs of this process as the settings say."""
    form = settings.logging.format
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    logs.configure(settings.logging.level, json=as_json)


def raise_file_limit() -> None:
    """Let this process open as many files as it may: the usual soft limit of 1024 is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def ease_interpreter() -> None:
    """Let nothing of the interpreter's own hold up the event loop for long.

    What has been imported stays, so no garbage collection looks through it again.
    """
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
    sys.setswitchinterval(_TURN_S)


def say_ready(url: str, tasks: str) -> None:
    """The one line on standard output: requests may be sent."""
    sys.stdout.write(f"understudy: ready on {url} (tasks: {tasks})\n")
    sys.stdout.flush()

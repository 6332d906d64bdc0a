"""What each process of a gateway does once, at its start: logs, files, saying that it is ready."""

from __future__ import annotations

import resource
import sys

from gateway.settings import Settings
from gateway.telemetry import logs

_FILES = 65_536  # open files, a connection each: more than a gateway can use


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


def say_ready(url: str, tasks: str) -> None:
    """The one line on standard output: requests may be sent."""
    sys.stdout.write(f"understudy: ready on {url} (tasks: {tasks})\n")
    sys.stdout.flush()

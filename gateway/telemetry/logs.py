"""How log lines look: one JSON object a line for machines, or coloured text for people.

Lines of every library pass through here. Text of requests is not logged: values under the keys that
would hold it are replaced by their length. Control characters are escaped, so that what a client
sends can neither forge a line nor steer a terminal.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sized

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.errors import SettingsError

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_PRIVATE = frozenset({"text", "texts", "input", "inputs", "body", "fields", "prompt"})
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}


def configure(level: str, *, json: bool) -> None:
    """Set up the logs of this process, on standard error. Raises SettingsError."""
    if level not in LEVELS:
        raise SettingsError(
            f"logging.level: {level!r} is no level", mend=f"use one of {', '.join(LEVELS)}"
        )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        without_text,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_for_machines() if json else _for_people()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Log from this level up, from now on; `level` is one of LEVELS."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]))
    logging.getLogger().setLevel(LEVELS[level])
    # What a migration does is of interest when it fails; otherwise it is five lines at each start.
    logging.getLogger("alembic").setLevel(max(LEVELS[level], logging.WARNING))


def without_text(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace what may be a request's text by its length."""
    for key in _PRIVATE & event.keys():
        value = event[key]
        event[key] = f"[{len(value)} long]" if isinstance(value, Sized) else "[not logged]"
    return event


def escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    r"""Write control characters of every string as \xNN; a stack trace keeps its lines."""
    for key, value in event.items():
        if not isinstance(value, str):
            continue
        if key == "exception":
            event[key] = "\n".join(line.translate(_CONTROLS) for line in value.split("\n"))
        else:
            event[key] = value.translate(_CONTROLS)
    return event


def _for_machines() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _for_people() -> list[Processor]:
    return [
        structlog.processors.format_exc_info,
        escape_controls,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        ),
    ]

"""The `understudy` command in this process, so that heavy libraries are loaded once."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from gateway import cli


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


def understudy(*arguments: object) -> Ran:
    """Run it as a shell would; no command may ever show a traceback."""
    cli._joined.cache_clear()  # another test may have let commands of its own join
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main([str(each) for each in arguments])
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 0
    assert "Traceback" not in err.getvalue()
    return Ran(status, out.getvalue(), err.getvalue())

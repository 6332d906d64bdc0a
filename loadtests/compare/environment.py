"""The virtual environment of a peer: made once from its pinned requirements, and then reused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from gateway.errors import StageFailed

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "peers"  # git ignores it, and `make clean` removes it

_STAMP = ".installed"  # holds the hash of what was installed
_INSTALL_S = 1200.0  # of a slow network; what takes longer has hung
_SHOWN = 300  # characters of pip's last words


def environment(name: str, requirements: Path, folder: Path = FOLDER) -> Path:
    """The `bin` of the peer's environment, made if it is not there or not up to date.

    Raises StageFailed with pip's own last words when something cannot be installed.
    """
    place = folder / name
    stamp = place / _STAMP
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return place / "bin"
    _run(name, [sys.executable, "-m", "venv", "--clear", "--without-pip", str(place)])
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python")]
    install = ["install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
    _run(name, pip + install)
    stamp.write_text(wanted, encoding="ascii")
    return place / "bin"


def _run(name: str, command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603  our own arguments
            command, capture_output=True, text=True, check=False, timeout=_INSTALL_S
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(name, f"not done after {_INSTALL_S:g} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise _failed(name, lines[-1] if lines else f"exit status {done.returncode}")


def _failed(name: str, said: str) -> StageFailed:
    return StageFailed(
        f"{name}: its environment could not be made: {said[:_SHOWN]}",
        mend=f"change loadtests/compare/{name}/requirements.txt, or leave it out with --peers",
    )

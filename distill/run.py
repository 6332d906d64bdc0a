"""The run folder: one training as a row of stages, each of which is done once.

    <name>-<first 12 digits of the hash of its inputs>/
        run.json          inputs, library versions, commit, as they were when the run began
        seconds.json      stage -> wall seconds
        <stage>/          the result of a finished stage
        <stage>.partial/  what an interrupted stage has left to go on from

A stage is finished when its folder has its name, and a rename gives it that name: there is no half.
It refuses to know what a stage does, and to let two processes write one run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from gateway.errors import UsageError

StageEvent = Literal["started", "finished", "kept"]
StageObserver = Callable[[str, StageEvent], None]

# The libraries whose version can change a result.
_LIBRARIES = (
    "understudy", "numpy", "tokenizers", "onnxruntime", "onnx", "onnxscript", "torch",
    "transformers", "accelerate", "safetensors", "scikit-learn", "scipy", "pyarrow",
)  # fmt: skip
_GIT_SECONDS = 10  # a healthy repository answers in milliseconds


class Run:
    """An opened run. It is locked until `close`, or until the process ends."""

    def __init__(
        self,
        folder: Path,
        lock: IO[str],
        *,
        on_stage: StageObserver,
        clock: Callable[[], float],
    ) -> None:
        self.folder = folder
        self._lock = lock
        self._on_stage = on_stage
        self._clock = clock
        self._seconds = _read_seconds(folder / "seconds.json")

    @classmethod
    def open(
        cls,
        parent: Path,
        name: str,
        *,
        inputs: Mapping[str, object],
        on_stage: StageObserver = lambda _stage, _event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Run:
        """Open or begin the run of these inputs (anything that JSON can hold) below `parent`.

        Equal inputs give the same folder, so that a second start goes on where the first ended.
        Raises UsageError when the folder cannot be written or another process is writing it.
        """
        text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        folder = parent / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder)
        except OSError as error:
            raise UsageError(
                f"{folder}: cannot be written: {error.strerror}",
                mend="name a folder for runs that you may write to",
            ) from error
        with ExitStack() as on_error:
            on_error.callback(lock.close)
            run = cls(folder, lock, on_stage=on_stage, clock=clock)
            if not (folder / "run.json").exists():
                beginning = {"inputs": inputs, "versions": run.versions(), "commit": run.commit()}
                _write_json(folder / "run.json", beginning)
            on_error.pop_all()
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write this run."""
        self._lock.close()

    def stage(self, name: str, work: Callable[[Path], None]) -> Path:
        """Do a stage, unless it is done; returns the folder of its result.

        `work` gets a scratch folder. What it writes there outlives an interruption, so that long
        work may leave checkpoints and find them again. What `work` raises goes through.
        """
        result = self.folder / name
        if result.is_dir():
            self._on_stage(name, "kept")
            return result
        scratch = self.folder / f"{name}.partial"
        scratch.mkdir(exist_ok=True)
        self._on_stage(name, "started")
        began = self._clock()
        try:
            work(scratch)
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._clock() - began
            _write_json(self.folder / "seconds.json", self._seconds)
        scratch.rename(result)
        _sync(self.folder)
        self._on_stage(name, "finished")
        return result

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> wall seconds, summed over interruptions; a kill loses those of its process."""
        return dict(self._seconds)

    def versions(self) -> dict[str, str]:
        """Versions of Python and of the installed libraries that can change a result."""
        found = {"python": platform.python_version()}
        for library in _LIBRARIES:
            try:
                found[library] = metadata.version(library)
            except metadata.PackageNotFoundError:
                continue
        return found

    def commit(self) -> str | None:
        """Git commit of the repository around the run, `-dirty` if changed; None outside of one."""
        git = shutil.which("git")
        if git is None:
            return None
        # Without optional locks, so that a training never stands in the way of a person's commit.
        asked = [git, "--no-optional-locks", "-C", str(self.folder)]
        asked += ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            done = subprocess.run(  # noqa: S603  nothing of it comes from outside but the folder
                asked, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()


def _lock(folder: Path) -> IO[str]:
    """Lock the run for this process; the system unlocks it when the process ends, however."""
    file = (folder / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise UsageError(
            f"{folder}: process {owner} is writing this run",
            mend="wait until it ends, or stop it; what it has done is kept",
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _read_seconds(path: Path) -> dict[str, float]:
    try:
        content: dict[str, float] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UsageError(
            f"{path}: not JSON: {error}", mend="remove the file; only the stages' times are lost"
        ) from error
    return content


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a whole file or none."""
    scratch = path.with_name(f".{path.name}.writing")
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

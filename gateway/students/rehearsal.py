"""A bundle is first loaded in a process of its own, where it can do no harm.

    python -P -m gateway.students.rehearsal FOLDER MEMORY_BYTES CPU_SECONDS

opens the bundle there, runs its golden vectors and every length, and prints one JSON object. A
crash, an endless loop and a swollen memory end that process, and become refusals here. It knows
nothing of roles and places: the registry does.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gateway import errors
from gateway.contract.bundle import open_bundle
from gateway.errors import (
    BundleCrashed,
    BundleError,
    BundleGolden,
    BundleMemory,
    BundleMismatch,
    BundleSlow,
)
from gateway.students.student import Student

_MODULE = "gateway.students.rehearsal"
_ROWS = 2  # of one batch: enough to see that rows stand apart
_ENVIRONMENT = frozenset({
    "PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV",
})  # fmt: skip  # what Python and onnxruntime need; whatever else is set there may be a secret
# Threads that nobody needs there each map a stack and an arena: on a large host they alone would
# be more than a rehearsal may take.
_ALONE = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "2",
}  # fmt: skip
_MEND = "build the bundle again; the one that serves goes on"
# What onnxruntime says when it is given no more memory; it has no error of its own for this.
_NO_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "Cannot allocate memory")


@dataclass(frozen=True, slots=True)
class Caps:
    """What a rehearsal may take."""

    # Of address space. Python, onnxruntime and its arenas map 1 GiB at rest, and a model's file is
    # held once as bytes and once as tensors.
    memory_bytes: int = 6 * 2**30
    cpu_s: int = 60  # a student of 100 MB at its longest length takes about one
    wall_s: float = 120.0


def rehearse(folder: Path, *, environment: Mapping[str, str], caps: Caps | None = None) -> None:
    """Load a bundle in a process of its own; blocks until that has ended.

    `environment` is that of the gateway; only what the process needs is handed on. Raises what
    opening raised there, or BundleCrashed, BundleSlow or BundleMemory.
    """
    caps = caps or Caps()
    # -P: nothing of the working folder, whatever lies there, is taken for a module.
    command = [sys.executable, "-P", "-m", _MODULE]
    try:
        done = subprocess.run(  # noqa: S603  our own module
            [*command, str(folder), str(caps.memory_bytes), str(caps.cpu_s)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=caps.wall_s,
            env=handed_on(environment) | _ALONE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BundleSlow(
            f"{folder.name}: the rehearsal took more than {caps.wall_s:g} s", mend=_MEND
        ) from error
    if done.returncode == -signal.SIGXCPU:
        raise BundleSlow(
            f"{folder.name}: the rehearsal took more than {caps.cpu_s} s of a core", mend=_MEND
        )
    _judge(folder.name, done)


def handed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process that runs a bundle, for trial or to serve, is given of the environment."""
    return {name: environment[name] for name in _ENVIRONMENT & environment.keys()}


def warm(student: Student) -> None:
    """Run every length once, alone and in a batch: buffers are made, shapes and numbers checked.

    Raises BundleMismatch or BundleGolden.
    """
    outputs, hidden = student.task.outputs, student.bundle.manifest.graph.hidden
    for length in _lengths(student.bundle.manifest.limits.max_tokens):
        row = [place % student.encoding.vocabulary for place in range(length)]
        for rows in ([row], [row] * _ROWS):
            logits, pooled = student.session.run(rows)
            shapes = logits.shape, pooled.shape
            wanted = (len(rows), outputs), (len(rows), hidden)
            if shapes != wanted:
                raise BundleMismatch(
                    f"model.onnx gives logits and pooled of the shapes {shapes[0]} and "
                    f"{shapes[1]}, not {wanted[0]} and {wanted[1]}",
                    mend=_MEND,
                )
            if not np.isfinite(logits).all():
                raise BundleGolden(
                    f"model.onnx gives a number that is not finite at {length} tokens", mend=_MEND
                )
            far = student.familiarity
            if far is not None and not np.isfinite(far.distances(pooled)).all():
                raise BundleGolden(
                    f"the distance of a text of {length} tokens is not finite", mend=_MEND
                )


def _lengths(longest: int) -> Sequence[int]:
    """One token, then each power of two from 8, and the longest text that the model reads."""
    powers = [2**power for power in range(3, longest.bit_length()) if 2**power < longest]
    return [1, *powers, longest]


def _judge(name: str, done: subprocess.CompletedProcess[bytes]) -> None:
    """Raise what the process said, or that it said nothing."""
    try:
        said: dict[str, Any] = json.loads(done.stdout)
        code, message, mend = said["code"], said["message"], said["mend"]
    except (ValueError, TypeError, KeyError) as error:
        raise BundleCrashed(
            f"{name}: the rehearsal ended with status {done.returncode} and without a word",
            mend=_MEND,
        ) from error
    if code:
        raise _kind(code)(f"{name}: {message}", mend=mend)


def _kind(code: str) -> type[BundleError]:
    known = (each for each in vars(errors).values() if isinstance(each, type))
    kinds = {each.code: each for each in known if issubclass(each, BundleError)}
    return kinds.get(code, BundleError)


def _perform(folder: Path) -> dict[str, str]:
    """In the process of its own: load, run, and say how it went."""
    try:
        warm(Student(open_bundle(folder)))
    except BundleError as error:
        if any(words in error.message for words in _NO_MEMORY):
            return _said(BundleMemory.code, "the model wants more memory than it may have")
        return _said(error.code, error.message, error.mend)
    except MemoryError:
        return _said(BundleMemory.code, "the model wants more memory than it may have")
    except Exception as error:  # noqa: BLE001  whatever a hostile model raises is its own fault
        if any(words in str(error) for words in _NO_MEMORY):
            return _said(BundleMemory.code, "the model wants more memory than it may have")
        return _said(BundleMismatch.code, f"the model cannot be run: {error}")
    return _said("", "")


def _said(code: str, message: str, mend: str = _MEND) -> dict[str, str]:
    return {"code": code, "message": message, "mend": mend}


def _main(folder: str, memory: str, cpu: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu), int(cpu) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    voice = os.dup(sys.stdout.fileno())  # nothing that a library prints gets between the words
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with os.fdopen(voice, "w") as file:
        json.dump(_perform(Path(folder)), file)


if __name__ == "__main__":
    _main(*sys.argv[1:])

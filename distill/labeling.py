"""A teacher -> soft targets for texts: its raw logits, cached so that a killed run goes on.

The teacher is a local bundle, run through the same class that serves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.progress import Advance
from gateway import cores
from gateway.students.student import Student

Floats = NDArray[np.float32]

_CHUNK = 512  # texts between two writes of the cache: some seconds of a teacher's work


def label(teacher: Student, texts: Sequence[str], cache: Path, progress: Advance) -> Floats:
    """The teacher's logits (texts, outputs), in the order of `texts`.

    `cache` is a folder; chunks that it holds already are not asked again. It belongs to one teacher
    and one list of texts, which is for the caller to see to.
    """
    cache.mkdir(parents=True, exist_ok=True)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    logits = np.zeros((len(texts), teacher.task.outputs), np.float32)
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        file = cache / f"logits-{start:08d}.npy"
        if not file.is_file():
            part = read(teacher, [texts[row] for row in rows])
            with (cache / "next.npy").open("wb") as out:
                np.save(out, part)
            (cache / "next.npy").rename(file)
        logits[rows] = np.load(file)
        progress(start + len(rows), len(order))
    return logits


def read(model: Student, texts: Sequence[str]) -> Floats:
    """A model's raw logits for texts, each run alone, on all cores."""
    rows = [each.ids for each in model.encode(texts)]
    logits = np.zeros((len(rows), model.task.outputs), np.float32)
    with ThreadPoolExecutor(cores.available()) as pool:
        for place, part in enumerate(pool.map(lambda row: model.logits([row])[0], rows)):
            logits[place] = part
    return logits

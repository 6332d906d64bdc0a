"""A teacher -> soft targets for texts: its raw logits, cached so that a killed run goes on.

The teacher is a local bundle, run through the same class that serves it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.progress import Advance
from gateway import cores
from gateway.students.student import Raw, Student

Floats = NDArray[np.float32]

_CHUNK = 512  # texts between two writes of the cache: some seconds of a teacher's work


def label(teacher: Student, texts: Sequence[str], cache: Path, progress: Advance) -> Floats:
    """The teacher's logits (texts, outputs), in the order of `texts`.

    `cache` is a folder; chunks that it holds already are not asked again. A chunk is found by the
    hash of the teacher and of its texts, so that another list never gets the answers of this one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    logits = np.zeros((len(texts), teacher.task.outputs), np.float32)
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        chunk = [texts[row] for row in rows]
        file = cache / f"{_name(teacher, chunk)}.npy"
        if not file.is_file():
            part = read(teacher, chunk)
            with (cache / "next.npy").open("wb") as out:
                np.save(out, part)
            (cache / "next.npy").rename(file)
        logits[rows] = np.load(file)
        progress(start + len(rows), len(order))
    return logits


def _name(teacher: Student, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(teacher.bundle.id.encode())
    for text in texts:
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()[:32]


def observe(model: Student, texts: Sequence[str]) -> tuple[Raw, Floats]:
    """What a model gives for texts, each run alone, on all cores; and pooled (texts, hidden)."""
    encoded = model.encode(texts)
    rows = [each.ids for each in encoded]
    logits = np.zeros((len(rows), model.task.outputs), np.float32)
    pooled = np.zeros((len(rows), model.bundle.manifest.graph.hidden), np.float32)
    with ThreadPoolExecutor(cores.available()) as pool:
        for place, said in enumerate(pool.map(lambda row: model.outputs([row]), rows)):
            logits[place], pooled[place] = said[0][0], said[1][0]
    far = model.familiarity
    raw = Raw(
        logits,
        [each.truncated for each in encoded],
        np.array([len(row) for row in rows], np.int64),
        np.concatenate([far.distances(row[np.newaxis]) for row in pooled]) if far else None,
    )
    return raw, pooled


def read(model: Student, texts: Sequence[str]) -> Floats:
    """A model's raw logits for texts, each run alone, on all cores."""
    rows = [each.ids for each in model.encode(texts)]
    logits = np.zeros((len(rows), model.task.outputs), np.float32)
    with ThreadPoolExecutor(cores.available()) as pool:
        for place, part in enumerate(pool.map(lambda row: model.logits([row])[0], rows)):
            logits[place] = part
    return logits

"""What a student learns: the texts, their noisy copies, and what a teacher says of each.

The label stage writes it down once, and the train stage reads it as a TrainingSet. Where no bundle
of a teacher is at hand, what the data's lines say that one has said takes the place of its logits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from distill import beliefs, labeling
from distill.data import augment, chances
from distill.data.sources import whose
from distill.stages.job import Job, ids_of, texts_of
from distill.train import TrainingSet
from gateway.contract.encoding import Encoding
from gateway.contract.examples import Example
from gateway.errors import RecipeError
from gateway.students.student import Student


def label(job: Job, folder: Path) -> None:
    """The teacher's logits for what is learnt, noisy copies included, and for the test rows."""
    if job.teacher is None:
        _believe(job, folder)
        return
    model = Student(job.teacher)
    splits = job.material.splits.parts()
    parts = {name: texts_of(splits[name]) for name in ("train", "unlabelled", "test")}
    parts["copies"] = _copies(job, parts["train"] + parts["unlabelled"])
    texts = [text for part in parts.values() for text in part]
    with job.narrator.bar("the teacher labels") as bar:
        logits = labeling.label(model, texts, folder / "cache", bar)
    start = 0
    for name, part in parts.items():
        np.save(folder / f"{name}.npy", logits[start : start + len(part)])
        start += len(part)
    (folder / "copies.json").write_text(json.dumps(parts["copies"]) + "\n")


def originals_of(job: Job) -> tuple[Example, ...]:
    """What is learnt from; without a teacher's bundle that is what somebody has said something of.

    A bundle labels all of them.
    """
    rows = (*job.material.splits.train, *job.material.splits.unlabelled)
    return rows if job.teacher else tuple(row for row in rows if row.labels or row.scores)


def lesson(job: Job, labelled: Path, encoding: Encoding) -> TrainingSet:
    """What the student learns: the originals, then their copies, round by round."""
    originals = originals_of(job)
    copies: list[str] = json.loads((labelled / "copies.json").read_text())
    copied = [replace(originals[n % len(originals)], text=text) for n, text in enumerate(copies)]
    if job.teacher is None:
        place = np.arange(len(originals) + len(copies)) % len(originals)
        logits = np.load(labelled / "originals.npy")[place]
        scored = np.load(labelled / "scored.npy")[place]
    else:
        copied = [replace(row, labels={}) for row in copied]  # the teacher has labelled them anew
        parts = ("train", "unlabelled", "copies")
        logits = np.concatenate([np.load(labelled / f"{part}.npy") for part in parts])
        scored = None
    rows = (*originals, *copied)
    return TrainingSet(
        job.material.task,
        ids_of(encoding, rows),
        job.gold(rows),
        logits,
        scored,
        chances.weights(rows),
    )


def _believe(job: Job, folder: Path) -> None:
    """The same from what the lines say; nobody can be asked, and a copy is believed its original.

    Beside gold labels the test rows' teacher is what its scores say; where the labels are its own,
    these are what it said.
    """
    task, test, originals = job.material.task, job.material.splits.test, originals_of(job)
    found = beliefs.of(task, originals)
    _check_teaches(job, found)
    np.save(folder / "originals.npy", found.logits)
    np.save(folder / "scored.npy", found.scored)
    if whose(test) == "teacher":
        test = tuple(replace(row, scores={}) for row in test)
    np.save(folder / "test.npy", beliefs.of(task, test).logits)
    (folder / "copies.json").write_text(json.dumps(_copies(job, texts_of(originals))) + "\n")


def _check_teaches(job: Job, found: beliefs.Beliefs) -> None:
    """Refuse losses that none of what is known feeds."""
    losses = {term.name for term in job.recipe.student.training.losses}
    if losses == {"logit_mse"} and not found.scored.any():
        raise RecipeError(
            "student.training.losses has only logit_mse, and the data has labels without scores",
            mend="add kl or cross_entropy, which learn from labels too",
        )


def _copies(job: Job, texts: Sequence[str]) -> list[str]:
    return list(augment.copies(texts, count=job.recipe.student.augment, seed=job.recipe.seed))

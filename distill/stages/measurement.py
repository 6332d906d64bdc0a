"""The evaluate stage: quality, parity and latency of the exported model, run as it will be served.

Its rows are the test split, by which nothing was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from distill import labeling
from distill.certify import Bools, Floats
from distill.data.sources import whose
from distill.draft import Draft
from distill.evaluate import Curves, Opinion, evaluate
from distill.recipe import Recipe
from distill.run import Run
from distill.stages import result
from distill.stages.certificate import Certified
from distill.stages.job import Job, texts_of
from exporters import benchmark, parity
from gateway.contract.calibration import Calibration
from gateway.contract.encoding import Encoding
from gateway.contract.manifest import Evaluation, HeadCalibration, Latency, Parity
from gateway.errors import StageFailed
from gateway.students.student import Raw, Session, Student

_TIMED = 150  # texts of the latency benchmark, each timed three times
_STRANGE = 0.01  # p-value below which the gateway, left to itself, escalates


@dataclass(frozen=True, slots=True)
class Measured:
    """What the evaluate stage found out."""

    evaluation: Evaluation
    curves: Curves
    parity: Parity
    latency: Latency


def evaluate_teacher(job: Job, draft: Draft, found: Certified, trained: Path, folder: Path) -> None:
    """Its quality where it answers every row, and how fast it does."""
    material = job.material
    model = draft.student(found.calibration)
    rows = material.splits.test
    encoded = model.encode(texts_of(rows))
    evaluation, curves = evaluate(
        material.task,
        student=Opinion.of(model.calibration, labeling.read(model, texts_of(rows))),
        teacher=None,
        gold=job.gold(rows),
        threshold=0.0,
        truncated=np.array([each.truncated for each in encoded]),
        lengths=np.array([len(each.ids) for each in encoded]),
        severity=job.recipe.data.severity,
    )
    measured = Measured(
        evaluation=evaluation,
        curves=curves,
        parity=Parity(
            rows=len(rows),
            tokenizer_equal=_same_tokens(trained, draft, texts_of(rows)),
            fp32_max_difference=draft.facts.fp32_difference,
        ),
        latency=benchmark.time_alone(model, texts_of(rows)[:_TIMED]),
    )
    result.write(measured, folder)


def evaluate_student(
    job: Job,
    run: Run,
    draft: Draft,
    found: Certified,
    trained: Path,
    folder: Path,
) -> None:
    """Its quality beside the teacher's, its parity at the certified threshold, its latency."""
    material = job.material
    task, rows = material.task, material.splits.test
    model = found.model(draft, run)
    master = None if job.teacher is None else Student(job.teacher)
    threshold = found.point.threshold if found.point else None
    texts = texts_of(rows)
    raw, _ = labeling.observe(model, texts)
    ids = [each.ids for each in model.encode(texts)]
    student, plain = Opinion(*model.read(raw)), Opinion.of(model.calibration, raw.logits)
    evaluation, curves = evaluate(
        task,
        student=student,
        plain=plain if found.correctness else None,
        teacher=_teachers_opinion(job, master, np.load(trained.parent / "label" / "test.npy")),
        gold=job.gold(rows),
        threshold=threshold,
        truncated=np.array(raw.truncated),
        strange=_strange(model, raw),
        lengths=raw.lengths,
        severity=job.recipe.data.severity,
    )
    measured = Measured(
        evaluation=evaluation.model_copy(update={"labels": whose(rows) or "teacher"}),
        curves=curves,
        parity=parity.measure(
            fp32=Session((run.folder / "export" / "fp32.onnx").read_bytes()),
            served=model,
            rows=ids,
            threshold=_as_plain(threshold, student.scores, plain.scores),
            fp32_difference=draft.facts.fp32_difference,
            tokenizer_equal=_same_tokens(trained, draft, texts),
        ),
        latency=benchmark.compare(model, master, texts[:_TIMED])
        if master
        else benchmark.time_alone(model, texts[:_TIMED]),
    )
    result.write(measured, folder)


def _teachers_opinion(job: Job, master: Student | None, logits: Floats) -> Opinion | None:
    """What the teacher says of the test rows; None where it was never asked about some of them.

    Of one that was asked for all, rows without scores are those of which it said nothing usable.
    Nobody is asked again for rows that a gateway handed over.
    """
    task, rows = job.material.task, job.material.splits.test
    if master is not None:
        return Opinion.of(master.calibration, logits)
    plain = [HeadCalibration(head=head.name, temperature=1.0, rows=0) for head in task.heads]
    opinion = Opinion.of(Calibration(task, plain), logits)
    answered = np.array([bool(row.scores) for row in rows])
    if whose(rows) != "gold" or answered.all():
        return opinion
    asked = job.material.asked is not None and not _is_handed_over(job.recipe)
    return replace(opinion, answered=answered) if asked and answered.any() else None


def _is_handed_over(recipe: Recipe) -> bool:
    """Whether the test rows are a gateway's traffic."""
    plan = recipe.data.handover
    return plan is not None and plan.measure == "traffic" and recipe.data.test is None


def _strange(model: Student, raw: Raw) -> Bools | None:
    if model.familiarity is None or raw.distances is None:
        return None
    return np.asarray(model.familiarity.p_values(raw.distances) < _STRANGE)


def _as_plain(threshold: float | None, scores: Floats, plain: Floats) -> float | None:
    """The threshold on the plain scores that lets as many rows through; None: it lets none.

    Parity compares logits alone, which the calibrated confidence is all of.
    """
    if threshold is None:
        return None
    through = int((scores.astype(np.float64) >= threshold).sum())
    return float(np.sort(plain)[-through]) if through else None


def _same_tokens(trained: Path, draft: Draft, texts: Sequence[str]) -> bool:
    """Whether the tokenizer of the training splits as the draft does. Raises StageFailed if not."""
    tokenizer = Tokenizer.from_file(str(trained / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoding = Encoding(draft.tokenizer, draft.facts.limits)
    same = parity.tokenizers_equal(lambda text: tokenizer.encode(text).ids, encoding, texts)
    if not same:
        raise StageFailed(
            "the exported tokenizer splits text another way than the one of the training",
            mend="remove the run's folder and start again with one version of tokenizers",
        )
    return same

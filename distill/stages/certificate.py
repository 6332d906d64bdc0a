"""The calibrate and certify stages: how far the exported model may be believed.

A teacher gets its temperatures. A student also gets its correctness score, what its texts look
like, and the threshold that is certified on rows that chose none of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill import certify, correctness, familiarity, labeling
from distill.data.sources import whose
from distill.draft import Draft
from distill.familiarity import Fitted
from distill.run import Run
from distill.stages import result
from distill.stages.job import Job, now, texts_of
from gateway.contract.bundle import DOMAIN
from gateway.contract.calibration import Calibration
from gateway.contract.correctness import Evidence
from gateway.contract.manifest import Correctness, Domain, HeadCalibration, OperatingPoint
from gateway.students.student import Student


@dataclass(frozen=True, slots=True)
class Certified:
    """What the calibrate or the certify stage found out."""

    calibration: tuple[HeadCalibration, ...]
    point: OperatingPoint | None
    correctness: Correctness | None = None
    domain: Domain | None = None  # its file stands beside

    def model(self, draft: Draft, run: Run) -> Student:
        """The draft with all that was found, as it would be served."""
        return draft.student(
            self.calibration, correctness=self.correctness, familiar=self.familiar(run)
        )

    def familiar(self, run: Run) -> Fitted | None:
        """What the texts of the run's student look like; None where nobody asked."""
        if self.domain is None:
            return None
        return Fitted(self.domain, (run.folder / "certify" / DOMAIN).read_bytes())


def calibrate_teacher(job: Job, draft: Draft, folder: Path) -> None:
    """One temperature a head; a teacher is asked for all, so that it has no threshold."""
    material = job.material
    rows = material.splits.calibration
    logits = labeling.read(draft.student(), texts_of(rows))
    parts = certify.fit_temperatures(material.task, logits, job.gold(rows))
    result.write(Certified(calibration=parts, point=None), folder)


def certify_student(job: Job, draft: Draft, folder: Path) -> None:
    """The score and the sequence of thresholds on one split, the test of them on another."""
    recipe, material = job.recipe, job.material
    splits, task = material.splits, material.task
    gold = job.gold(splits.calibration)
    raw, pooled = labeling.observe(draft.student(), texts_of(splits.calibration))
    parts = certify.fit_temperatures(task, raw.logits, gold)
    calibration = Calibration(task, parts)
    familiar = _fit_domain(job, draft, calibration, pooled)
    if familiar is not None:
        (folder / DOMAIN).write_bytes(familiar.content)
        raw, _ = labeling.observe(
            draft.student(parts, familiar=familiar), texts_of(splits.calibration)
        )
    trust = None
    if recipe.score.correctness:
        evidence = Evidence(raw.lengths, raw.distances)
        trust = correctness.fit(calibration, raw.logits, evidence, gold, seed=recipe.seed)
    model = draft.student(parts, correctness=trust, familiar=familiar)
    sequence = certify.candidates(model.read(raw)[1])
    tested, _ = labeling.observe(model, texts_of(splits.certification))
    readings, scores = model.read(tested)
    point = certify.certify(
        sequence,
        np.where(tested.truncated, -1.0, scores),  # a cut text is always escalated
        ~certify.all_right(readings, job.gold(splits.certification)),
        alpha=recipe.certificate.alpha,
        delta=recipe.certificate.delta,
        labels=whose(splits.certification) or "teacher",
        issued_at=now(),
    )
    found = Certified(
        calibration=parts,
        point=point,
        correctness=trust,
        domain=familiar.domain if familiar else None,
    )
    result.write(found, folder)


def _fit_domain(
    job: Job, draft: Draft, calibration: Calibration, apart: certify.Floats
) -> Fitted | None:
    """What its texts look like: those that it was taught, ranked among those that it was not."""
    method = job.recipe.score.out_of_domain
    if method == "none":
        return None
    taught = job.material.splits.train[: familiarity.TAUGHT]
    raw, pooled = labeling.observe(draft.student(), texts_of(taught))
    classes = familiarity.classes_of(calibration.read(raw.logits)[0])
    return familiarity.fit(pooled, classes, apart, method=method, seed=job.recipe.seed)

"""From data to sealed bundles, read top to bottom.

    teach:    collect -> train -> export -> calibrate -> evaluate -> seal       an fp32 teacher
    distill:  collect -> label -> train -> export -> certify -> evaluate -> seal  an int8 student

Each stage is a folder of its run and is done once; a killed command goes on where it ended. What a
stage does stands in distill/stages; here stand the order, and what each run is named by. What is
calibrated, certified and evaluated is the exported file, run as it will be served. Where no teacher
bundle is at hand, the student learns what the data's lines say that a teacher has said.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from distill.corpus import Material, collect
from distill.data import sources
from distill.draft import Draft
from distill.progress import Narrator
from distill.recipe import Recipe
from distill.run import Run
from distill.stages import result
from distill.stages.certificate import Certified, calibrate_teacher, certify_student
from distill.stages.export import export_student, export_teacher
from distill.stages.job import Job
from distill.stages.lesson import label
from distill.stages.measurement import evaluate_student, evaluate_teacher
from distill.stages.sealing import seal_bundle
from distill.stages.training import train_student, train_teacher
from distill.workspace import SEALED, TAUGHT, Workspace
from gateway.contract.bundle import Bundle, open_bundle
from gateway.errors import BundleError, BundleMissing, DataError, RecipeError, StageFailed


@dataclass(frozen=True, slots=True)
class Sealed:
    """A bundle that a run has made."""

    bundle: Bundle
    report: Path
    seconds: dict[str, float]


def teach(recipe: Recipe, workspace: Workspace, narrator: Narrator) -> Sealed:
    """Fine-tune a teacher on the recipe's own gold labels and seal it as an fp32 bundle."""
    recipe = recipe.alone()  # it holds what a teacher said
    material = collect(recipe, workspace, narrator, teacher=None)
    if material.labels != "gold":
        raise DataError(
            "the data has a teacher's labels, and a teacher is fine-tuned on gold ones",
            mend="distil a student from them with `understudy distill`",
        )
    job = Job(recipe, workspace, narrator, material, seconds=material.seconds)
    inputs: dict[str, object] = {
        "data": material.key,
        "teacher": recipe.teacher.model_dump(mode="json"),
        "seed": recipe.seed,
    }
    with Run.open(workspace.runs, "teacher", inputs=inputs, on_stage=narrator.stage) as run:
        trained = run.stage("train", partial(train_teacher, job))
        exported = run.stage("export", partial(export_teacher, job, trained))
        draft = Draft.read(exported, role="teacher", task=material.task)
        calibrated = run.stage("calibrate", partial(calibrate_teacher, job, draft))
        found = result.read(Certified, calibrated)
        evaluated = run.stage("evaluate", partial(evaluate_teacher, job, draft, found, trained))
        seal_stage = partial(seal_bundle, job, run, draft, found, evaluated, trained)
        return _sealed(job, run, run.stage("seal", seal_stage))


def distill(recipe: Recipe, workspace: Workspace, narrator: Narrator) -> Sealed:
    """Distil a student from the teacher, certify it and seal it as an int8 bundle.

    The teacher is a bundle, or one that is asked, or one whose answers are in the data already. The
    training is a run of its own, so that another alpha or other gates do not train again.
    """
    place = _teacher_of(recipe, workspace)
    teacher = None if place is None else open_bundle(place)
    asked = recipe.teacher.ask is not None
    material = collect(recipe, workspace, narrator, teacher=place, ask=asked)
    job = Job(recipe, workspace, narrator, material, teacher, material.seconds)
    source = None if teacher is None else workspace.training_of(teacher.id)
    _check_untaught(material, source)
    training_inputs: dict[str, object] = {
        "data": material.key,
        "teacher": None if teacher is None else teacher.id,
        "student": recipe.student.model_dump(mode="json"),
        "starts_from": recipe.teacher.base if teacher is None or source is None else teacher.id,
        "seed": recipe.seed,
    }
    with Run.open(
        workspace.runs, "training", inputs=training_inputs, on_stage=narrator.stage
    ) as run:
        labelled = run.stage("label", partial(label, job))
        trained = run.stage("train", partial(train_student, job, labelled))
        job = replace(job, seconds=job.seconds | run.seconds)
        training = run.folder.name
    inputs: dict[str, object] = {"training": training, "recipe": recipe.hash}
    with Run.open(workspace.runs, "student", inputs=inputs, on_stage=narrator.stage) as run:
        exported = run.stage("export", partial(export_student, job, trained))
        draft = Draft.read(exported, role="student", task=material.task)
        certified = run.stage("certify", partial(certify_student, job, draft))
        found = result.read(Certified, certified)
        measure = partial(evaluate_student, job, run, draft, found, trained)
        evaluated = run.stage("evaluate", measure)
        seal_stage = partial(seal_bundle, job, run, draft, found, evaluated, trained)
        return _sealed(job, run, run.stage("seal", seal_stage))


def _check_untaught(material: Material, training: Path | None) -> None:
    """Refuse a teacher that was taught rows which are now held out: they could certify nothing."""
    if training is None:
        return
    taught = set(json.loads((training / TAUGHT).read_text()))
    parts = material.splits.parts()
    for name in ("calibration", "certification", "test"):
        seen = sum(row.id in taught for row in parts[name])
        if seen:
            raise RecipeError(
                f"the teacher was taught {seen} of the {len(parts[name])} rows that are now "
                f"{name}: data, shares or seed have changed since",
                mend="run `understudy teach` again, then `understudy distill`",
            )


def _teacher_of(recipe: Recipe, workspace: Workspace) -> Path | None:
    """The teacher's bundle; None where one is asked, or has answered in the data already."""
    if recipe.teacher.bundle is not None:
        return recipe.resolve(recipe.teacher.bundle)
    if recipe.teacher.ask is not None or sources.say_teachings(recipe):
        return None
    linked = workspace.linked("teacher")
    if linked is None and recipe.data.handover is not None:
        return None
    if linked is None:
        raise BundleMissing(
            f"there is no teacher at {workspace.bundles / 'teacher'}",
            mend="make one with `understudy teach`, or name one in the recipe: teacher.bundle, or "
            "teacher.ask",
        )
    return linked


def _sealed(job: Job, run: Run, stage: Path) -> Sealed:
    """Open what the seal stage made and let the role's link mean it.

    Not where a student is learnt from a handover beside one that is there: the settings of a
    gateway may name the link, and then its next start would let the new one serve, untested.
    """
    workspace = job.workspace
    name = json.loads((stage / SEALED).read_text())["bundle"]
    try:
        bundle = open_bundle(workspace.bundles / name)
    except BundleError as error:
        raise StageFailed(
            f"the bundle that this run has sealed is not whole any more: {error.message}",
            mend=f"remove {workspace.bundles / name} and {stage}, and run the command again",
        ) from error
    role = bundle.manifest.role
    if job.recipe.data.handover is None or workspace.linked(role) is None:
        workspace.link(role, bundle.path)
    return Sealed(bundle, stage / "report.html", job.seconds | run.seconds)

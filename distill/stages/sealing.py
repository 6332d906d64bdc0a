"""The seal stage: the draft and all that was found out -> a bundle that says where it comes from.

The stage's folder gets the report, and the bundle's name for a command that finds the run done.
"""

from __future__ import annotations

import json
from pathlib import Path

from distill import pretrained, report
from distill.draft import Draft
from distill.recipe import Recipe
from distill.run import Run
from distill.stages import result
from distill.stages.certificate import Certified
from distill.stages.job import Job, now, texts_of
from distill.stages.measurement import Measured
from distill.workspace import SEALED
from exporters import parity, seal
from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.manifest import Graph, Parity, Provenance, Reports
from gateway.telemetry.pricing import Prices

_GOLDEN = 32  # texts of the self-test


def seal_bundle(
    job: Job,
    run: Run,
    draft: Draft,
    found: Certified,
    evaluated: Path,
    trained: Path,
    folder: Path,
) -> None:
    """Seal the bundle among those of the workspace, and write the report of it."""
    recipe, material, teacher = job.recipe, job.material, job.teacher
    measured = result.read(Measured, evaluated)
    familiar = found.familiar(run)
    base = pretrained.find(recipe.teacher.base, recipe.folder)
    path = seal.seal(
        role=draft.role,
        task=material.task,
        limits=draft.facts.limits,
        graph=_proven(draft.facts.graph, measured.parity),
        calibration=found.calibration,
        correctness=found.correctness,
        domain=(familiar.domain, familiar.content) if familiar else None,
        operating_points=(found.point,) if found.point else (),
        model=draft.model,
        tokenizer=draft.tokenizer,
        golden_texts=texts_of(material.splits.train[:_GOLDEN]),
        provenance=Provenance(
            created_at=now(),
            run=run.folder.name,
            seeds=(recipe.seed,),
            data=dict(material.provenance.files),
            rows=dict(material.provenance.rows),
            base_model=base.name,
            base_model_sha256=base.sha256,
            teacher=teacher.id if teacher else material.asked,
            libraries=run.versions(),
            commit=run.commit(),
            stages=job.seconds | run.seconds,
        ),
        reports=Reports(
            evaluation=measured.evaluation,
            parity=measured.parity,
            trials=draft.facts.trials,
            latency=measured.latency,
        ),
        parent=job.workspace.bundles,
    )
    sealed = open_bundle(path)
    _report(job, sealed, measured, trained, folder)
    (folder / SEALED).write_text(json.dumps({"id": sealed.id, "bundle": sealed.name}) + "\n")


def _report(job: Job, sealed: Bundle, measured: Measured, trained: Path, folder: Path) -> None:
    recipe, teacher = job.recipe, job.teacher
    history = json.loads((trained / "history.json").read_text())
    page = report.render(
        report.Report(
            manifest=sealed.manifest,
            bundle=sealed.name,
            size=sealed.size,
            teacher=teacher.manifest if teacher else None,
            teacher_size=teacher.size if teacher else None,
            curves=measured.curves,
            history=tuple(history),
            prices=Prices(
                teacher_usd_per_1000=recipe.prices.teacher_usd_per_1000,
                instance_usd_per_hour=recipe.prices.instance_usd_per_hour,
            ),
            warnings=(
                *job.material.provenance.warnings,
                *_flip_warnings(recipe, measured.parity),
            ),
        )
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _proven(found: Graph, on_test: Parity) -> Graph:
    """The graph; one whose answers depend on batch mates on the test split is never batched."""
    moved = (on_test.batch_label_flips or 0.0) > 0.0
    shifted = (on_test.batch_score_difference or 0.0) > parity.ALIKE
    return found.model_copy(
        update={"batch_invariant": found.batch_invariant and not (moved or shifted)}
    )


def _flip_warnings(recipe: Recipe, found: Parity) -> tuple[str, ...]:
    """What the test split says against the gates that the search has let pass."""
    gates = {
        "labels": (found.label_flips, recipe.gates.label_flips),
        "confident labels": (found.confident_flips, recipe.gates.confident_flips),
    }
    return tuple(
        f"int8 changes {share:.2%} of the {what} of the test split; the recipe's gate is {gate:.2%}"
        for what, (share, gate) in gates.items()
        if share is not None and share > gate
    )

"""From data to sealed bundles, read top to bottom.

    teach:    collect -> train -> export -> calibrate -> evaluate -> seal       an fp32 teacher
    distill:  collect -> label -> train -> export -> certify -> evaluate -> seal  an int8 student

Each stage is a folder of its run and is done once; a killed command goes on where it ended. What is
calibrated, certified and evaluated is the exported file, run as it will be served. Where no teacher
bundle is at hand, the student learns what the data's lines say that a teacher has said.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter
from tokenizers import Tokenizer

from distill import beliefs, certify, correctness, familiarity, labeling, pretrained, report
from distill.certify import Floats, Gold
from distill.corpus import Material, collect
from distill.data import augment, chances, sources
from distill.data.sources import whose
from distill.draft import Draft, Facts
from distill.evaluate import Curves, Opinion, evaluate
from distill.familiarity import Fitted
from distill.networks import encoder
from distill.progress import Narrator
from distill.recipe import Recipe
from distill.run import Run
from distill.train import Epoch, TrainingSet, gold_of, train
from distill.workspace import SEALED, TAUGHT, Workspace
from exporters import benchmark, graph, parity, prune_vocabulary, quantize, seal
from gateway.contract.bundle import DOMAIN, Bundle, open_bundle
from gateway.contract.calibration import Calibration
from gateway.contract.correctness import Evidence
from gateway.contract.encoding import Encoding
from gateway.contract.examples import Example
from gateway.contract.manifest import (
    Correctness,
    Domain,
    Evaluation,
    Graph,
    HeadCalibration,
    InputLimits,
    Latency,
    OperatingPoint,
    Parity,
    Provenance,
    Reports,
)
from gateway.errors import BundleError, BundleMissing, DataError, RecipeError, StageFailed
from gateway.students.student import Raw, Session, Student
from gateway.telemetry.pricing import Prices

Result = TypeVar("Result")

TEACHER_TOKENS = 256  # what MiniLM was trained to read; the student may be given less
_CHARACTERS_A_TOKEN = 16  # far above any language's mean, so that tokens decide what is cut
_REPRESENTATIVE = 400  # texts on which static quantisation sets its ranges
_TIMED = 150  # texts of the latency benchmark, each timed three times
_COMMON_PIECES = 10_000  # of BERT's 30,522: 4 MB of int8 rows, and most words of plain English
_GOLDEN = 32  # texts of the self-test
_STRANGE = 0.01  # p-value below which the gateway, left to itself, escalates


@dataclass(frozen=True, slots=True)
class Sealed:
    """A bundle that a run has made."""

    bundle: Bundle
    report: Path
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Certified:
    """What the certify stage found out."""

    calibration: tuple[HeadCalibration, ...]
    point: OperatingPoint | None
    correctness: Correctness | None = None
    domain: Domain | None = None  # its file stands beside


@dataclass(frozen=True, slots=True)
class Measured:
    """What the evaluate stage found out."""

    evaluation: Evaluation
    curves: Curves
    parity: Parity
    latency: Latency


@dataclass(frozen=True, slots=True)
class _Job:
    """What every stage of a run works with."""

    recipe: Recipe
    workspace: Workspace
    narrator: Narrator
    material: Material
    teacher: Bundle | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # of stages in runs before this one


def teach(recipe: Recipe, workspace: Workspace, narrator: Narrator) -> Sealed:
    """Fine-tune a teacher on the recipe's own gold labels and seal it as an fp32 bundle."""
    recipe = recipe.alone()  # it holds what a teacher said
    material = collect(recipe, workspace, narrator, teacher=None)
    if material.labels != "gold":
        raise DataError(
            "the data has a teacher's labels, and a teacher is fine-tuned on gold ones",
            mend="distil a student from them with `understudy distill`",
        )
    job = _Job(recipe, workspace, narrator, material, seconds=material.seconds)
    inputs: dict[str, object] = {
        "data": material.key,
        "teacher": recipe.teacher.model_dump(mode="json"),
        "seed": recipe.seed,
    }
    with Run.open(workspace.runs, "teacher", inputs=inputs, on_stage=narrator.stage) as run:
        trained = run.stage("train", partial(_train_teacher, job))
        exported = run.stage("export", partial(_export_teacher, job, trained))
        draft = Draft.read(exported, role="teacher", task=material.task)
        found = _read(Certified, run.stage("calibrate", partial(_calibrate, job, draft)))
        evaluated = run.stage("evaluate", partial(_evaluate_teacher, job, draft, found, trained))
        seal_stage = partial(_seal, job, run, draft, found, evaluated, trained)
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
    job = _Job(recipe, workspace, narrator, material, teacher, material.seconds)
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
        labelled = run.stage("label", partial(_label, job))
        trained = run.stage("train", partial(_train_student, job, labelled))
        job = replace(job, seconds=job.seconds | run.seconds)
        training = run.folder.name
    inputs: dict[str, object] = {"training": training, "recipe": recipe.hash}
    with Run.open(workspace.runs, "student", inputs=inputs, on_stage=narrator.stage) as run:
        exported = run.stage("export", partial(_export_student, job, trained))
        draft = Draft.read(exported, role="student", task=material.task)
        found = _read(Certified, run.stage("certify", partial(_certify, job, draft)))
        measure = partial(_evaluate_student, job, trained, run, draft, found)
        evaluated = run.stage("evaluate", measure)
        seal_stage = partial(_seal, job, run, draft, found, evaluated, trained)
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


def _train_teacher(job: _Job, folder: Path) -> None:
    recipe, material = job.recipe, job.material
    plan = recipe.teacher
    base = pretrained.find(plan.base, recipe.folder)
    torch.manual_seed(recipe.seed)
    network = encoder.from_pretrained(
        base.folder, outputs=material.task.outputs, layers=plan.layers
    )
    encoding = Encoding(base.tokenizer, _teacher_limits(network))
    rows = material.splits.train
    data = TrainingSet(material.task, _ids(encoding, rows), _gold(material, rows))
    with job.narrator.bar("training the teacher") as bar:
        history = train(
            network,
            data,
            plan.training,
            seed=recipe.seed,
            checkpoints=folder / "checkpoints",
            progress=bar,
        )
    _keep_training(network, base.tokenizer, history, rows, folder)


def _export_teacher(job: _Job, trained: Path, folder: Path) -> None:
    network = encoder.load(trained)
    model = graph.export(network)
    facts = Facts(
        graph=graph.describe(model, precision="fp32", recipe="fp32", batch_invariant=True),
        limits=_teacher_limits(network),
        fp32_difference=_checked_difference(network, Session(model)),
    )
    tokenizer = (trained / "tokenizer.json").read_bytes()
    Draft("teacher", job.material.task, facts, model, tokenizer).write(folder)


def _checked_difference(network: encoder.Encoder, session: Session) -> float:
    """How far the exported graph is off the module. Raises StageFailed when that is too far."""
    difference = parity.fp32_difference(network, session)
    parity.require_fp32(difference, quantize.Gates().fp32_difference)
    return difference


def _calibrate(job: _Job, draft: Draft, folder: Path) -> None:
    material = job.material
    rows = material.splits.calibration
    logits = labeling.read(draft.student(), _texts(rows))
    parts = certify.fit_temperatures(material.task, logits, _gold(material, rows))
    _write(Certified(calibration=parts, point=None), folder)


def _evaluate_teacher(
    job: _Job, draft: Draft, found: Certified, trained: Path, folder: Path
) -> None:
    material = job.material
    model = draft.student(found.calibration)
    rows = material.splits.test
    encoded = model.encode(_texts(rows))
    evaluation, curves = evaluate(
        material.task,
        student=Opinion.of(model.calibration, labeling.read(model, _texts(rows))),
        teacher=None,
        gold=_gold(material, rows),
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
            tokenizer_equal=_same_tokens(trained, draft, _texts(rows)),
            fp32_max_difference=draft.facts.fp32_difference,
        ),
        latency=benchmark.time_alone(model, _texts(rows)[:_TIMED]),
    )
    _write(measured, folder)


def _label(job: _Job, folder: Path) -> None:
    """The teacher's logits for what is learnt, noisy copies included, and for the test rows."""
    if job.teacher is None:
        _believe(job, folder)
        return
    model = Student(job.teacher)
    splits = job.material.splits.parts()
    parts = {name: _texts(splits[name]) for name in ("train", "unlabelled", "test")}
    parts["copies"] = _copies(job, parts["train"] + parts["unlabelled"])
    texts = [text for part in parts.values() for text in part]
    with job.narrator.bar("the teacher labels") as bar:
        logits = labeling.label(model, texts, folder / "cache", bar)
    start = 0
    for name, part in parts.items():
        np.save(folder / f"{name}.npy", logits[start : start + len(part)])
        start += len(part)
    (folder / "copies.json").write_text(json.dumps(parts["copies"]) + "\n")


def _believe(job: _Job, folder: Path) -> None:
    """The same from what the lines say; nobody can be asked, and a copy is believed its original.

    Beside gold labels the test rows' teacher is what its scores say; where the labels are its own,
    these are what it said.
    """
    task, test, originals = job.material.task, job.material.splits.test, _originals(job)
    found = beliefs.of(task, originals)
    _check_teaches(job, found)
    np.save(folder / "originals.npy", found.logits)
    np.save(folder / "scored.npy", found.scored)
    if whose(test) == "teacher":
        test = tuple(replace(row, scores={}) for row in test)
    np.save(folder / "test.npy", beliefs.of(task, test).logits)
    (folder / "copies.json").write_text(json.dumps(_copies(job, _texts(originals))) + "\n")


def _check_teaches(job: _Job, found: beliefs.Beliefs) -> None:
    """Refuse losses that none of what is known feeds."""
    losses = {term.name for term in job.recipe.student.training.losses}
    if losses == {"logit_mse"} and not found.scored.any():
        raise RecipeError(
            "student.training.losses has only logit_mse, and the data has labels without scores",
            mend="add kl or cross_entropy, which learn from labels too",
        )


def _copies(job: _Job, texts: Sequence[str]) -> list[str]:
    return list(augment.copies(texts, count=job.recipe.student.augment, seed=job.recipe.seed))


def _originals(job: _Job) -> tuple[Example, ...]:
    """What is learnt from; without a teacher's bundle that is what somebody has said something of.

    A bundle labels all of them.
    """
    rows = (*job.material.splits.train, *job.material.splits.unlabelled)
    return rows if job.teacher else tuple(row for row in rows if row.labels or row.scores)


def _lesson(job: _Job, labelled: Path, encoding: Encoding) -> TrainingSet:
    """What the student learns: the originals, then their copies, round by round."""
    originals = _originals(job)
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
        _ids(encoding, rows),
        _gold(job.material, rows),
        logits,
        scored,
        chances.weights(rows),
    )


def _train_student(job: _Job, labelled: Path, folder: Path) -> None:
    recipe = job.recipe
    plan = recipe.student
    originals = _originals(job)
    torch.manual_seed(recipe.seed)
    network, tokenizer = _untrained_student(job)
    if plan.max_tokens > network.shape.positions:
        raise RecipeError(
            f"student.max_tokens is {plan.max_tokens}, and the network it starts from reads "
            f"{network.shape.positions} tokens",
            mend="lower student.max_tokens",
        )
    encoder.keep_positions(network, plan.max_tokens)
    if plan.prune_vocabulary:
        pruned = prune_vocabulary.prune(tokenizer, _texts(originals), common=_COMMON_PIECES)
        encoder.keep_words(network, pruned.kept)
        tokenizer = pruned.tokenizer
    data = _lesson(job, labelled, Encoding(tokenizer, _limits(plan.max_tokens)))
    with job.narrator.bar("training the student") as bar:
        history = train(
            network,
            data,
            plan.training,
            seed=recipe.seed,
            checkpoints=folder / "checkpoints",
            progress=bar,
        )
    _keep_training(network, tokenizer, history, originals, folder)


def _untrained_student(job: _Job) -> tuple[encoder.Encoder, bytes]:
    """Layers of the teacher where its training is at hand, else of the pretrained base."""
    training = None if job.teacher is None else job.workspace.training_of(job.teacher.id)
    if training is not None:
        source, tokenizer = encoder.load(training), (training / "tokenizer.json").read_bytes()
    else:
        base = pretrained.find(job.recipe.teacher.base, job.recipe.folder)
        source = encoder.from_pretrained(base.folder, outputs=job.material.task.outputs)
        tokenizer = base.tokenizer
    layers = job.recipe.student.layers
    if layers[-1] >= source.shape.layers:
        raise RecipeError(
            f"student.layers names layer {layers[-1]}, and what it starts from has the layers 0 to "
            f"{source.shape.layers - 1}",
            mend="name layers that are there",
        )
    return encoder.take_layers(source, layers), tokenizer


def _export_student(job: _Job, trained: Path, folder: Path) -> None:
    """The cheapest int8 graph that answers like the fp32 one, on the calibration split."""
    recipe, material = job.recipe, job.material
    network = encoder.load(trained)
    tokenizer = (trained / "tokenizer.json").read_bytes()
    limits = _limits(recipe.student.max_tokens)
    encoding = Encoding(tokenizer, limits)
    fp32 = graph.export(network)
    session = Session(fp32)
    difference = _checked_difference(network, session)
    rows = material.splits.calibration
    ids, gold = _ids(encoding, rows), _gold(material, rows)
    logits = parity.alone(session, ids)
    calibration = Calibration(material.task, certify.fit_temperatures(material.task, logits, gold))
    readings, scores = calibration.read(logits)
    wrong = ~certify.all_right(readings, gold)
    choice = quantize.search(
        fp32,
        representative=_ids(encoding, material.splits.train[:_REPRESENTATIVE]),
        rows=ids,
        calibration=calibration,
        threshold=certify.plug_in(scores, wrong, recipe.certificate.alpha),
        gates=quantize.Gates(
            label_flips=recipe.gates.label_flips, confident_flips=recipe.gates.confident_flips
        ),
        progress=job.narrator.note,
    )
    facts = Facts(
        graph=graph.describe(
            choice.model,
            precision=choice.precision,
            recipe=choice.recipe,
            batch_invariant=choice.batch_invariant,
        ),
        limits=limits,
        fp32_difference=difference,
        trials=choice.trials,
    )
    (folder / "fp32.onnx").write_bytes(fp32)
    Draft("student", material.task, facts, choice.model, tokenizer).write(folder)


def _certify(job: _Job, draft: Draft, folder: Path) -> None:
    """The score and the sequence of thresholds on one split, the test of them on another."""
    recipe, material = job.recipe, job.material
    splits, task = material.splits, material.task
    gold = _gold(material, splits.calibration)
    raw, pooled = labeling.observe(draft.student(), _texts(splits.calibration))
    parts = certify.fit_temperatures(task, raw.logits, gold)
    calibration = Calibration(task, parts)
    familiar = _fit_domain(job, draft, calibration, pooled)
    if familiar is not None:
        (folder / DOMAIN).write_bytes(familiar.content)
        raw, _ = labeling.observe(
            draft.student(parts, familiar=familiar), _texts(splits.calibration)
        )
    trust = None
    if recipe.score.correctness:
        evidence = Evidence(raw.lengths, raw.distances)
        trust = correctness.fit(calibration, raw.logits, evidence, gold, seed=recipe.seed)
    model = draft.student(parts, correctness=trust, familiar=familiar)
    sequence = certify.candidates(model.read(raw)[1])
    tested, _ = labeling.observe(model, _texts(splits.certification))
    readings, scores = model.read(tested)
    point = certify.certify(
        sequence,
        np.where(tested.truncated, -1.0, scores),  # a cut text is always escalated
        ~certify.all_right(readings, _gold(material, splits.certification)),
        alpha=recipe.certificate.alpha,
        delta=recipe.certificate.delta,
        labels=whose(splits.certification) or "teacher",
        issued_at=_now(),
    )
    found = Certified(
        calibration=parts,
        point=point,
        correctness=trust,
        domain=familiar.domain if familiar else None,
    )
    _write(found, folder)


def _fit_domain(
    job: _Job, draft: Draft, calibration: Calibration, apart: certify.Floats
) -> Fitted | None:
    """What its texts look like: those that it was taught, ranked among those that it was not."""
    method = job.recipe.score.out_of_domain
    if method == "none":
        return None
    taught = job.material.splits.train[: familiarity.TAUGHT]
    raw, pooled = labeling.observe(draft.student(), _texts(taught))
    classes = familiarity.classes_of(calibration.read(raw.logits)[0])
    return familiarity.fit(pooled, classes, apart, method=method, seed=job.recipe.seed)


def _certified(draft: Draft, run: Run, found: Certified) -> Student:
    """The model with all that the certify stage has found."""
    return draft.student(
        found.calibration, correctness=found.correctness, familiar=_familiar(run, found)
    )


def _familiar(run: Run, found: Certified) -> Fitted | None:
    if found.domain is None:
        return None
    return Fitted(found.domain, (run.folder / "certify" / DOMAIN).read_bytes())


def _evaluate_student(
    job: _Job,
    trained: Path,
    run: Run,
    draft: Draft,
    found: Certified,
    folder: Path,
) -> None:
    """On the untouched test split: quality, parity at the certified threshold, latency."""
    material = job.material
    task, rows = material.task, material.splits.test
    model = _certified(draft, run, found)
    master = None if job.teacher is None else Student(job.teacher)
    threshold = found.point.threshold if found.point else None
    texts = _texts(rows)
    raw, _ = labeling.observe(model, texts)
    ids = [each.ids for each in model.encode(texts)]
    student, plain = Opinion(*model.read(raw)), Opinion.of(model.calibration, raw.logits)
    evaluation, curves = evaluate(
        task,
        student=student,
        plain=plain if found.correctness else None,
        teacher=_teachers_opinion(job, master, np.load(trained.parent / "label" / "test.npy")),
        gold=_gold(material, rows),
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
    _write(measured, folder)


def _teachers_opinion(job: _Job, master: Student | None, logits: Floats) -> Opinion | None:
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


def _strange(model: Student, raw: Raw) -> certify.Bools | None:
    if model.familiarity is None or raw.distances is None:
        return None
    return np.asarray(model.familiarity.p_values(raw.distances) < _STRANGE)


def _as_plain(
    threshold: float | None, scores: certify.Floats, plain: certify.Floats
) -> float | None:
    """The threshold on the plain scores that lets as many rows through; None: it lets none.

    Parity compares logits alone, which the calibrated confidence is all of.
    """
    if threshold is None:
        return None
    through = int((scores.astype(np.float64) >= threshold).sum())
    return float(np.sort(plain)[-through]) if through else None


def _seal(
    job: _Job,
    run: Run,
    draft: Draft,
    found: Certified,
    evaluated: Path,
    trained: Path,
    folder: Path,
) -> None:
    recipe, material, teacher = job.recipe, job.material, job.teacher
    measured = _read(Measured, evaluated)
    familiar = _familiar(run, found)
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
        golden_texts=_texts(material.splits.train[:_GOLDEN]),
        provenance=Provenance(
            created_at=_now(),
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


def _report(job: _Job, sealed: Bundle, measured: Measured, trained: Path, folder: Path) -> None:
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


def _sealed(job: _Job, run: Run, stage: Path) -> Sealed:
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


def _keep_training(
    network: encoder.Encoder,
    tokenizer: bytes,
    history: Sequence[Epoch],
    rows: Sequence[Example],
    folder: Path,
) -> None:
    network.save(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    (folder / "history.json").write_text(json.dumps([epoch.loss for epoch in history]) + "\n")
    (folder / TAUGHT).write_text(json.dumps([row.id for row in rows]) + "\n")


def _limits(max_tokens: int) -> InputLimits:
    return InputLimits(max_tokens=max_tokens, max_characters=max_tokens * _CHARACTERS_A_TOKEN)


def _teacher_limits(network: encoder.Encoder) -> InputLimits:
    return _limits(min(TEACHER_TOKENS, network.shape.positions))


def _texts(rows: Sequence[Example]) -> list[str]:
    return [row.text for row in rows]


def _ids(encoding: Encoding, rows: Sequence[Example]) -> list[list[int]]:
    return [each.ids for each in encoding.encode(_texts(rows))]


def _gold(material: Material, rows: Sequence[Example]) -> tuple[Gold, ...]:
    return gold_of(material.task, [row.labels for row in rows])


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _write(content: Certified | Measured, folder: Path) -> None:
    adapter: TypeAdapter[Certified | Measured] = TypeAdapter(type(content))
    (folder / "result.json").write_bytes(adapter.dump_json(content, indent=2))


def _read(kind: type[Result], folder: Path) -> Result:
    return TypeAdapter(kind).validate_json((folder / "result.json").read_bytes())

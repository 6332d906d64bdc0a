"""The export stage: a trained network -> the graph that is served, as a draft of its bundle.

A teacher stays fp32. A student becomes int8 by the cheapest way that keeps its answers; its fp32
graph stays beside the draft, so that parity can be measured on rows that chose nothing.
"""

from __future__ import annotations

from pathlib import Path

from distill import certify
from distill.draft import Draft, Facts
from distill.networks import encoder
from distill.stages.job import Job, ids_of
from distill.stages.limits import input_limits, teacher_limits
from exporters import graph, parity, quantize
from gateway.contract.calibration import Calibration
from gateway.contract.encoding import Encoding
from gateway.students.student import Session

_REPRESENTATIVE = 400  # texts on which static quantisation sets its ranges


def export_teacher(job: Job, trained: Path, folder: Path) -> None:
    """The network as an fp32 graph. Raises StageFailed where that answers otherwise."""
    network = encoder.load(trained)
    model = graph.export(network)
    facts = Facts(
        graph=graph.describe(model, precision="fp32", recipe="fp32", batch_invariant=True),
        limits=teacher_limits(network),
        fp32_difference=_checked_difference(network, Session(model)),
    )
    tokenizer = (trained / "tokenizer.json").read_bytes()
    Draft("teacher", job.material.task, facts, model, tokenizer).write(folder)


def export_student(job: Job, trained: Path, folder: Path) -> None:
    """The cheapest int8 graph that answers like the fp32 one, on the calibration split.

    Raises StageFailed where the fp32 one already answers otherwise than the network.
    """
    recipe, material = job.recipe, job.material
    network = encoder.load(trained)
    tokenizer = (trained / "tokenizer.json").read_bytes()
    limits = input_limits(recipe.student.max_tokens)
    encoding = Encoding(tokenizer, limits)
    fp32 = graph.export(network)
    session = Session(fp32)
    difference = _checked_difference(network, session)
    rows = material.splits.calibration
    ids, gold = ids_of(encoding, rows), job.gold(rows)
    logits = parity.alone(session, ids)
    calibration = Calibration(material.task, certify.fit_temperatures(material.task, logits, gold))
    readings, scores = calibration.read(logits)
    wrong = ~certify.all_right(readings, gold)
    choice = quantize.search(
        fp32,
        representative=ids_of(encoding, material.splits.train[:_REPRESENTATIVE]),
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


def _checked_difference(network: encoder.Encoder, session: Session) -> float:
    """How far the exported graph is off the module. Raises StageFailed when that is too far."""
    difference = parity.fp32_difference(network, session)
    parity.require_fp32(difference, quantize.Gates().fp32_difference)
    return difference

"""CARD.md: what the manifest says, in words for people. It adds nothing and leaves nothing out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.contract.manifest import (
    Evaluation,
    Head,
    HeadKind,
    HeadQuality,
    Latency,
    Manifest,
    OperatingPoint,
    Parity,
    Trial,
)

_LABELS_SHOWN = 100  # of a head; the manifest has them all


def card(manifest: Manifest) -> str:
    """The Markdown card of a bundle."""
    sections = [
        _summary(manifest),
        _task(manifest.task.heads),
        _certificates(manifest.operating_points),
        _quality(manifest.reports.evaluation),
        _calibration(manifest),
        _parity(manifest.reports.parity),
        _latency(manifest.reports.latency),
        _trials(manifest.reports.trials),
        _limits(manifest),
        _provenance(manifest),
        _serving(manifest),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(manifest: Manifest) -> str:
    graph = manifest.graph
    layers = f"{graph.layers} layers, " if graph.layers else ""
    batching = (
        "Its answers do not depend on what else is in a batch."
        if graph.batch_invariant
        else "Batch mates would change its answers, so that it runs one text at a time."
    )
    return (
        f"# {manifest.task.name}: a {manifest.role}\n\n"
        f"A text model of {graph.parameters:,} parameters ({layers}hidden size {graph.hidden}, "
        f"vocabulary {graph.vocabulary:,}), stored as {graph.precision} ({graph.recipe}), "
        f"ONNX opset {graph.opset}. {batching}"
    )


def _task(heads: Iterable[Head]) -> str:
    lines = []
    for head in heads:
        says = "one of" if head.kind is HeadKind.CHOICE else "any of"
        shown = ", ".join(f"`{label}`" for label in head.labels[:_LABELS_SHOWN])
        more = len(head.labels) - _LABELS_SHOWN
        rest = f" and {more} more" if more > 0 else ""
        lines.append(f"- **{head.name}** ({says} {len(head.labels)}): {shown}{rest}")
    return "## What it answers\n\n" + "\n".join(lines)


def _certificates(points: Sequence[OperatingPoint]) -> str:
    if not points:
        text = "It has no certified threshold: every request goes to the teacher."
        return f"## When it answers\n\n{text}"
    return "## When it answers\n\n" + "\n".join(f"- {_certificate(point)}" for point in points)


def _certificate(point: OperatingPoint) -> str:
    if point.threshold is None:
        return f"**{point.name}**: no threshold could be certified; every request is escalated."
    said = (
        f"**{point.name}**: it answers where its score is {point.threshold:.4f} or more. "
        f"Measured: {point.coverage:.1%} of the requests answered, "
        f"{point.undetected_error:.2%} answered and wrong."
    )
    given = point.certificate
    if given is None:
        return f"{said} This is not certified."
    return (
        f"{said} Certified on {given.rows} rows with {given.labels} labels: with confidence "
        f"{1 - given.delta:.0%}, no more than {given.alpha:.2%} of all requests are answered by "
        f"it and wrong ({given.undetected_errors} seen, upper bound {given.upper_bound:.2%}, "
        f"issued {given.issued_at}). This holds for traffic like those rows."
    )


def _quality(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "## Quality\n\nNot measured."
    if evaluation.labels == "teacher":
        return _agreement(evaluation)
    rows = [_quality_row(head) for head in evaluation.heads]
    table = _table(
        ("head", "rows", "accuracy", "macro F1", "agrees with teacher", "ECE", "teacher accuracy"),
        rows,
    )
    lines = [
        f"On {evaluation.rows} rows of the untouched test split, {evaluation.labels} labels",
        f"All heads right: {evaluation.accuracy:.2%}; teacher "
        + _share(evaluation.teacher_accuracy),
        f"With {evaluation.escalation:.1%} escalated: system {evaluation.system_accuracy:.2%}",
        f"Answered by this model and wrong: {evaluation.undetected_error:.2%} of all rows",
        f"With 10 % escalated: system {evaluation.system_accuracy_at_10:.2%}",
        f"AUGRC: {evaluation.augrc:.4f}",
    ]
    if evaluation.severity_weighted_error is not None:
        lines.append(f"Error weighted by severity: {evaluation.severity_weighted_error:.4f}")
    if (worst := evaluation.worst_slice) is not None:
        lines.append(f"Worst slice: {worst.name}, {worst.rows} rows, {worst.accuracy:.2%}")
    return "## Quality\n\n" + "\n".join(f"- {line}" for line in lines) + f"\n\n{table}"


def _agreement(evaluation: Evaluation) -> str:
    """Against a teacher's labels nothing can be called right: only what the teacher says too."""
    lines = [
        f"On {evaluation.rows} rows of the untouched test split, {evaluation.labels} labels",
        f"Agrees with the teacher on all heads: {evaluation.accuracy:.2%}",
        f"With {evaluation.escalation:.1%} escalated: system {evaluation.system_accuracy:.2%}",
        f"Answered by this model, unlike the teacher: {evaluation.undetected_error:.2%}",
        f"AUGRC: {evaluation.augrc:.4f}",
    ]
    if (worst := evaluation.worst_slice) is not None:
        lines.append(f"Worst slice: {worst.name}, {worst.rows} rows, {worst.accuracy:.2%}")
    rows = [
        (
            head.head,
            str(head.rows),
            _share(head.accuracy),
            _share(head.macro_f1),
            "-" if head.ece is None else f"{head.ece:.4f}",
        )
        for head in evaluation.heads
    ]
    table = _table(("head", "rows", "agrees with teacher", "macro F1", "ECE"), rows)
    return "## Quality\n\n" + "\n".join(f"- {line}" for line in lines) + f"\n\n{table}"


def _quality_row(head: HeadQuality) -> tuple[str, ...]:
    return (
        head.head,
        str(head.rows),
        _share(head.accuracy),
        _share(head.macro_f1),
        _share(head.agreement),
        "-" if head.ece is None else f"{head.ece:.4f}",
        _share(head.teacher_accuracy),
    )


def _calibration(manifest: Manifest) -> str:
    lines = [
        f"- **{part.head}**: temperature {part.temperature:.3f}, "
        + (f"fitted on {part.rows} rows" if part.rows else "not fitted: treat scores with care")
        for part in manifest.calibration
    ]
    if (found := manifest.correctness) is not None:
        names = sorted({signal.name for part in found.heads for signal in part.signals})
        lines.append(
            f"- its score is the probability that all heads are right, from {', '.join(names)}, "
            f"fitted on {found.rows} rows"
        )
    if (domain := manifest.domain) is not None:
        knows = "texts out of" if domain.neighbour else "kinds of texts, fitted on"
        lines.append(
            f"- it knows {domain.centres} {knows} {domain.rows} rows, and ranks "
            f"a text's distance to them among {domain.calibration} others"
        )
    return "## Calibration\n\n" + "\n".join(lines)


def _parity(parity: Parity | None) -> str:
    if parity is None:
        return ""
    same = "gives the same ids as" if parity.tokenizer_equal else "DIFFERS from"
    lines = [f"- its tokenizer {same} the one of training"]
    if parity.fp32_max_difference is not None:
        lines.append(f"- fp32 graph against torch: {parity.fp32_max_difference:.1e} on any logit")
    if parity.label_flips is not None:
        lines.append(f"- int8 against fp32: {parity.label_flips:.2%} of the labels differ")
    if parity.confident_flips is not None:
        lines.append(f"- of those at or above the threshold: {parity.confident_flips:.2%}")
    if parity.batch_label_flips is not None:
        lines.append(f"- alone against in a batch: {parity.batch_label_flips:.2%} differ")
    if parity.batch_score_difference is not None:
        lines.append(f"- largest move of a score in a batch: {parity.batch_score_difference:.1e}")
    return f"## Parity\n\nOn {parity.rows} texts:\n\n" + "\n".join(lines)


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return ""
    text = (
        f"One text, tokenise to calibrated answer, one thread: p50 {latency.p50_ms:.2f} ms, "
        f"p95 {latency.p95_ms:.2f} ms"
    )
    if latency.teacher_p50_ms is not None and latency.teacher_p95_ms is not None:
        text += (
            f"; the teacher in the same loop: p50 {latency.teacher_p50_ms:.2f} ms, "
            f"p95 {latency.teacher_p95_ms:.2f} ms"
        )
    return f"## Latency\n\n{text}. {latency.rows} texts on {latency.machine}."


def _trials(trials: Sequence[Trial]) -> str:
    if not trials:
        return ""
    rows = [
        (
            f"**{trial.recipe}**" if trial.kept else trial.recipe,
            _figure(trial.microseconds, ".0f"),
            _figure(trial.microseconds_batched, ".0f"),
            _figure(None if trial.size is None else trial.size / 1e6, ".1f"),
            _figure(trial.label_flips, ".2%"),
            _figure(trial.confident_flips, ".2%"),
            "yes" if trial.batch_invariant else "no",
            trial.note or ("kept" if trial.kept else ""),
        )
        for trial in trials
    ]
    heads = (
        "graph",
        "microseconds alone",
        "as served",
        "MB",
        "labels that differ",
        "of them confident",
        "batch-invariant",
        "",
    )
    return "## Graphs that were tried\n\n" + _table(heads, rows)


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _limits(manifest: Manifest) -> str:
    limits = manifest.limits
    return (
        "## Limits\n\n"
        f"- It reads {limits.max_tokens} tokens and {limits.max_characters:,} characters; longer "
        "text is cut, which every answer says.\n"
        "- What it knows is what its data showed; on other traffic its scores mean less.\n"
        f"- A host must give its {len(manifest.golden.vectors)} golden vectors within "
        f"{manifest.golden.tolerance:.4f}, or it does not start."
    )


def _provenance(manifest: Manifest) -> str:
    origin = manifest.provenance
    facts = [("created", origin.created_at)]
    facts += [
        (name, value)
        for name, value in (
            ("run", origin.run),
            ("seeds", ", ".join(map(str, origin.seeds))),
            ("base model", origin.base_model),
            ("base model SHA-256", origin.base_model_sha256),
            ("teacher", origin.teacher),
            ("commit", origin.commit),
        )
        if value
    ]
    facts += [(f"data {name}", digest) for name, digest in sorted(origin.data.items())]
    facts += [(f"rows of {name}", str(count)) for name, count in sorted(origin.rows.items())]
    facts += [(name, version) for name, version in sorted(origin.libraries.items())]
    facts += [(f"stage {name}", f"{took:.0f} s") for name, took in sorted(origin.stages.items())]
    return "## Provenance\n\n" + "\n".join(f"- {name}: {value}" for name, value in facts)


def _serving(manifest: Manifest) -> str:
    return (
        "## How to serve it\n\n"
        f"Name this folder as the {manifest.role} of the task `{manifest.task.name}` in "
        "understudy.yaml, then run `understudy serve`."
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

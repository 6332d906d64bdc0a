"""What the demo came to: one mapping of figures, and the same as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from distill.demo.crowd import Seen
from distill.pipeline import Sealed
from gateway.contract.manifest import Evaluation, OperatingPoint

Figures = dict[str, Any]

_WINDOW = "1h"  # of the latency figures: longer than any demo with an end


def figures(
    *,
    teacher: Sealed,
    student: Sealed,
    stats: Mapping[str, Any],
    seen: Seen,
    stages: Mapping[str, float],
    first_answer_s: float | None,
) -> Figures:
    """Everything that the demo measured, ready for JSON. Shares are of 1, money is in USD."""
    manifest = student.bundle.manifest
    evaluation, latency = manifest.reports.evaluation, manifest.reports.latency
    if evaluation is None or latency is None:
        raise ValueError("the demo's student has no evaluation")
    task = stats["tasks"]["tickets"]
    return {
        "heads": _heads(evaluation),
        "accuracy": {
            "student": evaluation.accuracy,
            "teacher": evaluation.teacher_accuracy,
            "system": evaluation.system_accuracy,
            "rows": evaluation.rows,
            "escalation": evaluation.escalation,
        },
        "certificate": _certificate(manifest.operating_points[0]),
        "bundle": {
            "student": student.bundle.name,
            "student_bytes": student.bundle.size,
            "teacher": teacher.bundle.name,
            "teacher_bytes": teacher.bundle.size,
            "quantisation": manifest.graph.recipe,
            "label_flips": manifest.reports.parity and manifest.reports.parity.label_flips,
        },
        "one_text_in_process_ms": {
            "student_p50": latency.p50_ms,
            "student_p95": latency.p95_ms,
            "teacher_p50": latency.teacher_p50_ms,
            "teacher_p95": latency.teacher_p95_ms,
        },
        "live": {
            "requests": seen.answered,
            "failed": seen.failed,
            "turned_away": seen.turned_away,
            "right_by_gold": seen.right / seen.answered if seen.answered else None,
            "escalation": task["escalation"],
            "latency_ms": {
                route: {name: speed[_WINDOW][f"{name}_ms"] for name in ("p50", "p95", "p99")}
                for route, speed in task["latency"].items()
                if speed[_WINDOW]["requests"]
            },
            "disagreement": task["disagreement"],
        },
        "cost_usd_per_1000": _cost(task),
        "seconds": {**stages, "to_first_answer": first_answer_s},
    }


def table(found: Figures) -> RenderableType:
    """The figures as a person wants them."""
    return Group(_quality(found), _service(found), _stages(found))


def _heads(evaluation: Evaluation) -> Figures:
    return {
        head.head: {
            "student_accuracy": head.accuracy,
            "teacher_accuracy": head.teacher_accuracy,
            "share_of_teacher": (head.accuracy or 0.0) / (head.teacher_accuracy or 1.0),
            "student_macro_f1": head.macro_f1,
            "teacher_macro_f1": head.teacher_macro_f1,
            "agreement": head.agreement,
            "ece": head.ece,
        }
        for head in evaluation.heads
    }


def _certificate(point: OperatingPoint) -> Figures | None:
    if point.certificate is None:
        return None
    return {
        "threshold": point.threshold,
        "coverage": point.coverage,
        **point.certificate.model_dump(mode="json"),
    }


def _cost(task: Mapping[str, Any]) -> Figures:
    """With the student: teacher, audits and the student's busy time. Without: the teacher alone.

    All are None where nothing was asked or a price is not known.
    """
    cost, requests, paid = task["cost"], task["requests"], task["cost"]["total"]
    calls = (cost["teacher"], cost["avoided"])
    if not requests or paid is None or any(each["unknown"] for each in calls):
        return {"with_student": None, "without_student": None, "saved_share": None}
    without = sum(each["known"] for each in calls)
    return {
        "with_student": paid / requests / 1000,
        "without_student": without / requests / 1000,
        "saved_share": 1 - paid / without if without else None,
    }


def _quality(found: Figures) -> Table:
    shown = _table("Quality on the untouched test split")
    for name in ("", "student", "teacher", "of the teacher", "agreement", "ECE"):
        shown.add_column(name, justify="left" if not name else "right")
    for head, each in found["heads"].items():
        shown.add_row(
            head,
            f"{each['student_accuracy']:.2%}",
            f"{each['teacher_accuracy']:.2%}",
            f"{each['share_of_teacher']:.1%}",
            f"{each['agreement']:.2%}",
            f"{each['ece']:.3f}",
        )
    whole = found["accuracy"]
    shown.add_row(
        "all heads", f"{whole['student']:.2%}", f"{whole['teacher']:.2%}", end_section=True
    )
    shown.add_row(
        Text("system", style="bold green"),
        Text(f"{whole['system']:.2%}", style="bold green"),
        "",
        f"{whole['system'] / whole['teacher']:.1%}",
        f"at {whole['escalation']:.1%} escalated",
    )
    return shown


def _service(found: Figures) -> Table:
    shown = _table("Live traffic")
    shown.add_column("")
    shown.add_column("", justify="right")
    live, cost = found["live"], found["cost_usd_per_1000"]
    shown.add_row("requests answered", f"{live['requests']:,}")
    shown.add_row("failed or turned away", f"{live['failed'] + live['turned_away']:,}")
    for route, speed in live["latency_ms"].items():
        shown.add_row(
            f"{route}: p50 / p95 / p99",
            " / ".join(f"{speed[name]:.2f}" for name in ("p50", "p95", "p99")) + " ms",
        )
    escalation = live["escalation"]
    shown.add_row("escalated", f"{escalation['share'] or 0:.1%}")
    for reason, each in escalation["by_reason"].items():
        shown.add_row(f"  {reason}", f"{each['share']:.1%}")
    shown.add_row("right on all heads, by gold", f"{live['right_by_gold'] or 0:.2%}")
    if cost["with_student"] is not None:
        shown.add_row(
            "USD per 1,000 requests, with / without the student",
            f"{cost['with_student']:.3f} / {cost['without_student']:.3f}",
        )
    if cost["saved_share"] is not None:
        shown.add_row(
            Text("saved", style="bold green"), Text(f"{cost['saved_share']:.1%}", "bold green")
        )
    promise = found["certificate"]
    if promise:
        shown.add_row(
            "certificate: P(answered by the student and wrong)",
            f"<= {promise['alpha']:.0%} with {1 - promise['delta']:.0%} confidence",
        )
    return shown


def _stages(found: Figures) -> Table:
    shown = _table("Wall time")
    shown.add_column("stage")
    shown.add_column("seconds", justify="right")
    for stage, seconds in found["seconds"].items():
        if seconds is not None and seconds >= 0.05:
            shown.add_row(stage.replace("_", " "), f"{seconds:.1f}")
    return shown


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, title_style="bold", title_justify="left")

"""What was measured of a model -> one HTML page, by which an engineer decides to serve it or not.

The page stands alone: style and plots are inside it, and it runs no script. Nothing is measured
here; what is unknown is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from distill import plots
from distill.evaluate import Curves
from gateway.contract.manifest import Certificate, Evaluation, Latency, Manifest, OperatingPoint
from gateway.contract.measures import interval
from gateway.telemetry.pricing import Prices

_ABSENT = "—"  # a table's cell for what was not measured
_SPACE = "\u00a0"  # keeps a number and its unit on one line
# Where the curves are also given as numbers.
_COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_ESCALATIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page tells. `history` is the mean training loss per epoch, sizes are bytes.

    `bundle` is the name of the model's folder; `teacher` is None where the teacher has no bundle,
    and where the model is the teacher itself.
    """

    manifest: Manifest
    bundle: str
    size: int
    teacher: Manifest | None
    teacher_size: int | None
    curves: Curves
    history: tuple[float, ...]
    prices: Prices
    warnings: tuple[str, ...] = ()

    @property
    def evaluation(self) -> Evaluation | None:
        """What was measured on the test split."""
        return self.manifest.reports.evaluation

    @property
    def latency(self) -> Latency | None:
        """What was timed."""
        return self.manifest.reports.latency

    @property
    def certified(self) -> tuple[OperatingPoint, Certificate] | None:
        """The operating point that the gateway takes by default, if it carries a certificate."""
        first = next(iter(self.manifest.operating_points), None)
        point = self.manifest.operating_point("default") or first
        if point is None or point.threshold is None or point.certificate is None:
            return None
        return point, point.certificate


@dataclass(frozen=True, slots=True)
class Verdict:
    """The line on top: may the model serve, on what evidence, and what to do."""

    tone: Literal["plain", "good", "caution", "bad"]
    title: str
    text: str
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the overview."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bill:
    """USD per 1,000 requests, without the student and with it; None: unknown.

    Of the student only busy time at its median is counted, and none where its price is unknown.
    """

    without: Decimal | None
    student: Decimal | None
    escalated: Decimal | None

    @property
    def total(self) -> Decimal | None:
        """With the student."""
        return None if self.escalated is None else self.escalated + (self.student or Decimal(0))

    @property
    def saved(self) -> float | None:
        """Share of the price without the student; negative where the student makes it dearer."""
        if self.total is None or not self.without:
            return None
        return float(1 - self.total / self.without)


def render(report: Report) -> str:
    """The whole page. All text from data, recipes and models is escaped."""
    page = Environment(
        loader=PackageLoader("distill"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, target, count, decimal, usd, milliseconds, size, duration, short, within)
    page.filters.update({each.__name__: each for each in filters})
    curves, evaluation = report.curves, report.evaluation
    return page.get_template("report.html.jinja").render(
        report=report,
        manifest=report.manifest,
        evaluation=evaluation,
        quality=_quality(evaluation),
        verdict=verdict(report),
        tiles=tiles(report),
        bill=bill(report),
        risk_plot=_risk_plot(report),
        cost_plot=_cost_plot(report),
        reliability_plots=[
            (each, plots.reliability(each))
            for each in (*curves.reliability, *([curves.score] if curves.score else []))
            if each.rows
        ],
        loss_plot=plots.training_loss(report.history) if report.history else "",
        risk_rows=_nearest(curves.coverage, _COVERAGES),
        cost_rows=_nearest(curves.escalation, _ESCALATIONS),
    )


def verdict(report: Report) -> Verdict:
    """The verdict in words; good is only a certificate on gold labels that the test bears out.

    A teacher is measured, not judged: it answers what no student may.
    """
    if report.manifest.role == "teacher":
        return _of_teacher(report)
    if report.certified is None:
        return Verdict(
            "bad",
            "Not certified",
            "No threshold could be certified: every request goes to the teacher.",
            (
                (
                    "Label more rows for certification. Without a single error it still takes 149"
                    " rows to certify 2 % with 95 % confidence, and 299 rows to certify 1 %."
                ),
                "Train a better student: the worst slices and the confusions show where it fails.",
                "Or accept a larger undetected error: raise alpha in the recipe.",
            ),
        )
    point, certificate = report.certified
    evaluation = report.evaluation
    answered = 1.0 - evaluation.escalation if evaluation else point.coverage
    wrong, mistakes = (
        ("wrong", _plural(certificate.undetected_errors, "undetected error"))
        if certificate.labels == "gold"
        else ("unlike the teacher", _plural(certificate.undetected_errors, "difference"))
    )
    text = (
        f"The student answers {percent(answered)} of requests itself. "
        f"P(answered and {wrong}) ≤ {target(certificate.alpha)} with "
        f"{target(1 - certificate.delta)} confidence (on {count(certificate.rows)} "
        f"{certificate.labels}-labelled rows: {mistakes}, "
        f"upper bound {percent(certificate.upper_bound)})."
    )
    if advice := _doubts(certificate, evaluation):
        return Verdict("caution", "Certified, with a reservation", text, advice)
    return Verdict("good", "Certified", text)


def tiles(report: Report) -> tuple[Tile, ...]:
    """The overview: quality, size, speed; of a student also what is sent on, and money."""
    if report.manifest.role == "teacher":
        return _teacher_tiles(report)
    return (
        *_quality_tiles(report.evaluation),
        Tile("Bundle size", size(report.size), _larger(report.size, report.teacher_size)),
        _speed_tile(report.latency),
        _cost_tile(bill(report)),
    )


def bill(report: Report) -> Bill:
    """What 1,000 requests cost; the retries, hedges and audits of a live gateway come on top."""
    price, evaluation, latency = (
        report.prices.teacher_usd_per_1000, report.evaluation, report.latency,
    )  # fmt: skip
    return Bill(
        without=price,
        # 1,000 times the median in milliseconds is as many seconds.
        student=report.prices.student_usd(latency.p50_ms) if latency else None,
        escalated=(
            None
            if price is None or evaluation is None
            else price * Decimal(str(evaluation.escalation))
        ),
    )


def percent(share: float | None, digits: int = 1) -> str:
    """A share as per cent. What is not all or nothing is never rounded to all or nothing."""
    if share is None:
        return _ABSENT
    step = 10.0**-digits
    if 0.0 < share * 100 < step / 2:
        return f"<{step:.{digits}f}{_SPACE}%"
    if 100 - step / 2 <= share * 100 < 100:
        return f">{100 - step:.{digits}f}{_SPACE}%"
    return f"{share * 100:.{digits}f}{_SPACE}%"


def target(share: float) -> str:
    """A share that a person chose, with the digits that it was chosen with."""
    return f"{share * 100:g}{_SPACE}%"


def count(number: int | None) -> str:
    """A whole number, thousands apart."""
    return _ABSENT if number is None else f"{number:,}"


def decimal(number: float | None, digits: int = 3) -> str:
    """A number that is no share."""
    return _ABSENT if number is None else f"{number:.{digits}f}"


def usd(amount: Decimal | None) -> str:
    """Money in USD; unknown is unknown, never 0."""
    if amount is None:
        return "unknown"
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4f}"


def milliseconds(time: float | None) -> str:
    """A time of milliseconds, three digits or so."""
    if time is None:
        return _ABSENT
    return f"{time:.{2 if time < 10 else 1}f}{_SPACE}ms"


def size(octets: int | None) -> str:
    """Bytes in decimal megabytes."""
    return _ABSENT if octets is None else f"{octets / 1e6:,.1f}{_SPACE}MB"


def duration(seconds: float) -> str:
    """A wall time."""
    if seconds < 60:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{_SPACE}h {minutes:02}{_SPACE}min"
    return f"{minutes}{_SPACE}min {rest:02}{_SPACE}s"


def short(identity: str | None) -> str:
    """The first 12 digits of a hash, as in folder names."""
    return _ABSENT if identity is None else identity[:12]


def within(share: float, rows: int) -> str:
    """The exact 95 % interval of a share that was counted on so many rows."""
    low, high = interval(round(share * rows), rows)
    return f"{low * 100:.1f} to {high * 100:.1f}{_SPACE}%"


def _of_teacher(report: Report) -> Verdict:
    """What the teacher gets right, by head, and what it is good for."""
    evaluation = report.evaluation
    if evaluation is None:
        text = "Nothing was measured on a test split."
    else:
        heads = ", ".join(f"{each.head} {percent(each.accuracy)}" for each in evaluation.heads)
        text = (
            f"Accuracy by head on {count(evaluation.rows)} {evaluation.labels}-labelled rows of "
            f"the test split: {heads}."
        )
    if all(part.rows for part in report.manifest.calibration):
        text += " Its confidence is calibrated."
    return Verdict("plain", "Teacher", text, ("Next: distil a student from it.",))


def _doubts(certificate: Certificate, evaluation: Evaluation | None) -> tuple[str, ...]:
    """What speaks against taking a certificate at its word."""
    doubts = []
    if certificate.labels == "teacher":
        doubts.append(
            "The labels come from the teacher: this bounds how often the student differs from it,"
            " not how often either is wrong. Label some rows by hand to know that."
        )
    if evaluation is None:
        doubts.append("Nothing was measured on a test split: evaluate the bundle before it serves.")
    elif evaluation.undetected_error > certificate.alpha:
        doubts.append(
            f"On the test split {percent(evaluation.undetected_error, 2)} were answered and wrong,"
            f" above the certified {target(certificate.alpha)}: chance can do this on few rows,"
            " data that are split unevenly do it for sure. Look before promoting."
        )
    return tuple(doubts)


def _quality(evaluation: Evaluation | None) -> str:
    """What being right is called: without gold labels it is only agreement."""
    return "agreement" if evaluation and evaluation.labels == "teacher" else "accuracy"


def _quality_tiles(evaluation: Evaluation | None) -> tuple[Tile, ...]:
    quality = _quality(evaluation)
    names = (
        f"Student {quality}", "Teacher accuracy", f"System {quality}", "Sent to the teacher",
        "Undetected error",
    )  # fmt: skip
    if evaluation is None:
        return tuple(Tile(name, "unknown", "no test split was measured") for name in names)
    spread = f"95{_SPACE}% interval {within(evaluation.accuracy, evaluation.rows)}"
    alone = evaluation.teacher_accuracy is None
    student, teacher, system, sent, undetected = names
    return (
        Tile(student, percent(evaluation.accuracy), spread),
        Tile(teacher, *_teacher_figure(evaluation)),
        Tile(
            system,
            percent(evaluation.system_accuracy),
            "no teacher was measured: the student alone"
            if alone
            else f"{percent(evaluation.system_accuracy_at_10)} if 10{_SPACE}% were sent on",
        ),
        Tile(
            sent,
            percent(evaluation.escalation),
            "the rest the student answers itself"
            if evaluation.escalation < 1
            else "nothing is left to the student",
        ),
        Tile(undetected, percent(evaluation.undetected_error, 2), "of all requests in the test"),
    )


def _teacher_tiles(report: Report) -> tuple[Tile, ...]:
    """What is known of a teacher by itself."""
    evaluation, latency = report.evaluation, report.latency
    quality = Tile("Teacher accuracy", "unknown", "no test split was measured")
    if evaluation is not None:
        spread = f"95{_SPACE}% interval {within(evaluation.accuracy, evaluation.rows)}"
        quality = Tile("Teacher accuracy", percent(evaluation.accuracy), f"all heads; {spread}")
    return (
        quality,
        Tile("Bundle size", size(report.size)),
        Tile("Median time", milliseconds(latency.p50_ms), "one text, one thread")
        if latency
        else Tile("Median time", "unknown", "not timed"),
    )


def _teacher_figure(evaluation: Evaluation) -> tuple[str, str]:
    """The value of the teacher's tile, and its note."""
    if evaluation.labels == "teacher":
        return "unknown", "it is the yardstick: there are no gold labels"
    if evaluation.teacher_accuracy is None:
        return "unknown", "no teacher was measured"
    ahead = (evaluation.teacher_accuracy - evaluation.accuracy) * 100
    place = "above" if ahead >= 0 else "below"
    return percent(evaluation.teacher_accuracy), f"{abs(ahead):.1f} points {place} the student"


def _speed_tile(latency: Latency | None) -> Tile:
    name = "Median time, student"
    if latency is None:
        return Tile(name, "unknown", "not timed")
    if latency.teacher_p50_ms is None:
        return Tile(name, milliseconds(latency.p50_ms), "the teacher was not timed")
    ratio = latency.teacher_p50_ms / latency.p50_ms
    note = f"teacher {milliseconds(latency.teacher_p50_ms)}, {ratio:.1f} times the student"
    return Tile(name, milliseconds(latency.p50_ms), note)


def _cost_tile(costs: Bill) -> Tile:
    name = "Cost per 1,000"
    if costs.without is None:
        return Tile(name, "unknown", "the recipe has no price of the teacher")
    note = f"without the student {usd(costs.without)}"
    if costs.saved is not None:
        word = "saved" if costs.saved >= 0 else "more"
        note += f", {percent(abs(costs.saved))} {word}"
    return Tile(name, usd(costs.total), note)


def _larger(student: int, teacher: int | None) -> str:
    if teacher is None:
        return "the teacher has no bundle here"
    return f"teacher {size(teacher)}, {teacher / student:.1f} times the student"


def _risk_plot(report: Report) -> str:
    if not report.curves.coverage:
        return ""
    alpha = report.certified[1].alpha if report.certified else None
    evaluation = report.evaluation
    point = (
        (1.0 - evaluation.escalation, evaluation.undetected_error)
        if evaluation and report.certified
        else None
    )
    return plots.risk_coverage(report.curves, alpha=alpha, point=point)


def _cost_plot(report: Report) -> str:
    """Nothing where there is no teacher to compare with."""
    evaluation = report.evaluation
    if evaluation is None or evaluation.teacher_accuracy is None or not report.curves.escalation:
        return ""
    return plots.cost_quality(
        report.curves,
        quality=_quality(evaluation),
        student=evaluation.accuracy,
        teacher=evaluation.teacher_accuracy,
        point=(evaluation.escalation, evaluation.system_accuracy),
    )


def _nearest(axis: Sequence[float], wanted: Sequence[float]) -> list[int]:
    """Where on an axis the wanted values stand, as near as it has them."""
    if not axis:
        return []
    places = np.abs(np.subtract.outer(np.asarray(wanted), np.asarray(axis))).argmin(axis=1)
    return sorted(set(places.tolist()))


def _plural(number: int, noun: str) -> str:
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"

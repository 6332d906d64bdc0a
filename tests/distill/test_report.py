"""The report page: the figures it shows, what it says of the unknown, and that it stands alone."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest

from distill.evaluate import Confusion, Curves, Reliability
from distill.report import (
    Report,
    bill,
    count,
    duration,
    milliseconds,
    percent,
    render,
    size,
    target,
    tiles,
    usd,
    verdict,
    within,
)
from gateway.contract.manifest import (
    Certificate,
    Evaluation,
    FileEntry,
    Golden,
    Graph,
    Head,
    HeadCalibration,
    HeadKind,
    HeadQuality,
    InputLimits,
    Latency,
    Manifest,
    OperatingPoint,
    Parity,
    Provenance,
    Reports,
    SliceQuality,
    Task,
    Trial,
)
from gateway.telemetry.pricing import Prices

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "br", "hr", "img", "input", "link"}
HEADS = (
    Head(name="intent", kind=HeadKind.CHOICE, labels=("refund", "invoice", "delivery", "other")),
    Head(name="urgency", kind=HeadKind.CHOICE, labels=("low", "normal", "high")),
    Head(name="risk", kind=HeadKind.FLAGS, labels=("legal", "self_harm")),
)


def make_report(heads: tuple[Head, ...] = HEADS, *, labels: str = "gold") -> Report:
    """A student of three heads and 2,000 test rows; every figure is made up."""
    return Report(
        manifest=make_manifest(heads, labels=labels),
        bundle="tickets-3f9a1c77b0de",
        size=23_140_000,
        teacher=make_manifest(heads, labels=labels, role="teacher", layers=6),
        teacher_size=92_560_000,
        curves=make_curves(heads),
        history=(1.84, 0.91, 0.62, 0.481, 0.4117, 0.3804, 0.3625),
        prices=Prices(Decimal("2.5"), Decimal("0.36")),
    )


def make_manifest(
    heads: tuple[Head, ...], *, labels: str, role: str = "student", layers: int = 2
) -> Manifest:
    """A manifest with everything in it that a report can tell."""
    return Manifest.model_validate(
        {
            "role": role,
            "task": Task(name="tickets", heads=heads),
            "limits": InputLimits(max_tokens=256, max_characters=8000),
            "graph": Graph(
                precision="int8", recipe="dynamic int8, per row", opset=18, layers=layers,
                hidden=384, vocabulary=9000, parameters=7_100_000, batch_invariant=True,
            ),
            "calibration": tuple(
                HeadCalibration(
                    head=each.name, temperature=1.284, rows=1500, ece_before=0.046, ece_after=0.011
                )
                for each in heads
            ),
            "operating_points": (make_point(labels),),
            "files": (FileEntry(name="model.onnx", sha256="a" * 64, size=22_000_000),),
            "tokenizer_sha256": "b" * 64,
            "golden": Golden(tolerance=0.05, vectors=()),
            "provenance": make_provenance(),
            "reports": make_reports(heads, labels),
        }
    )  # fmt: skip


def make_point(labels: str) -> OperatingPoint:
    """9 errors in 1,000 rows: 0.9 %, and at most 1.57 % with 95 % confidence."""
    certificate: dict[str, Any] = {
        "alpha": 0.02, "delta": 0.05, "labels": labels, "rows": 1000, "undetected_errors": 9,
        "upper_bound": 0.0157, "issued_at": "2026-03-02T10:05:00Z",
    }  # fmt: skip
    return OperatingPoint(
        name="default", threshold=0.6312, coverage=0.914, undetected_error=0.009,
        certificate=Certificate.model_validate(certificate),
    )  # fmt: skip


def make_provenance() -> Provenance:
    """Where it came from; the stages took 62 + 871 + 3,725 + 43 seconds."""
    return Provenance(
        created_at="2026-03-02T10:05:00Z",
        run="c0ffee" * 10 + "0123",
        seeds=(7,),
        data={"tickets.jsonl": "d" * 64, "strangers.jsonl": "e" * 64},
        rows={"train": 12_000, "calibration": 1500, "certification": 1000, "test": 2000},
        base_model="all-MiniLM-L6-v2",
        base_model_sha256="f" * 64,
        teacher="9" * 64,
        libraries={"understudy": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.26.0"},
        commit="5" * 40,
        stages={"collect": 62.0, "label": 871.0, "train": 3725.0, "export": 43.0},
    )


def make_reports(heads: tuple[Head, ...], labels: str) -> Reports:
    """Quality, parity, four trials and times: 2.1 ms against 18.9 ms is 9 to 1."""
    evaluation: dict[str, Any] = {
        "rows": 2000,
        "labels": labels,
        "heads": tuple(
            HeadQuality(
                head=each.name, rows=2000, accuracy=0.9615, macro_f1=0.9342, agreement=0.9705,
                ece=0.0112, teacher_accuracy=0.9745, teacher_macro_f1=0.9561,
            )
            for each in heads
        ),
        "accuracy": 0.937,
        "teacher_accuracy": 1.0 if labels == "teacher" else 0.951,
        "system_accuracy": 0.956,
        "escalation": 0.088,
        "undetected_error": 0.0105,
        "system_accuracy_at_10": 0.9575,
        "augrc": 0.00871,
        "severity_weighted_error": 0.0843,
        "worst_slice": SliceQuality(name="intent = other", rows=40, accuracy=0.75),
    }  # fmt: skip
    return Reports(
        evaluation=Evaluation.model_validate(evaluation),
        parity=Parity(
            rows=500, tokenizer_equal=True, fp32_max_difference=0.0000021, label_flips=0.004,
            confident_flips=0.0002, batch_label_flips=0.0, batch_score_difference=0.0,
        ),
        trials=make_trials(),
        latency=Latency(
            machine="x86-64, 2 cores", rows=300, p50_ms=2.1, p95_ms=4.8, teacher_p50_ms=18.9,
            teacher_p95_ms=31.25,
        ),
    )  # fmt: skip


def make_trials() -> tuple[Trial, ...]:
    """Four ways to quantise, of which the third is kept."""
    rows: tuple[tuple[str, int, int, float, float, bool, bool, str], ...] = (
        ("fp32", 5210, 4380, 0.0, 0.0, True, True, ""),
        ("dynamic int8, whole tensor", 1630, 1630, 0.021, 0.0065, False, False, "confident flips"),
        ("dynamic int8, per row", 1702, 1240, 0.004, 0.0002, True, True, ""),
        ("static int8", 1588, 1105, 0.058, 0.0181, True, False, "label flips above 2 %"),
    )
    return tuple(
        Trial(
            recipe=recipe, microseconds=alone, microseconds_batched=batched,
            size=92_000_000 if recipe == "fp32" else 23_000_000, label_flips=flips,
            confident_flips=confident, batch_invariant=invariant, passed=passed,
            kept=recipe.endswith("row"), note=note,
        )
        for recipe, alone, batched, flips, confident, invariant, passed, note in rows
    )  # fmt: skip


def make_curves(heads: tuple[Head, ...]) -> Curves:
    """Smooth curves through the figures of the evaluation, or near them."""
    shares = tuple(place / 100 for place in range(101))
    bins = tuple(0.55 + 0.03 * place for place in range(15))
    return Curves(
        coverage=shares[1:],
        undetected=tuple(0.063 * share**19.45 for share in shares[1:]),
        escalation=shares,
        system=tuple(0.951 - 0.014 * (1 - s) ** 20 + 0.142 * s * (1 - s) ** 6 for s in shares),
        random=tuple(0.937 + 0.014 * share for share in shares),
        reliability=tuple(
            Reliability(
                head=each.name,
                confidence=bins,
                accuracy=tuple(share - 0.1 * (1 - share) for share in bins),
                rows=(133,) * 15,
            )
            for each in heads
        ),
        confusions=(
            Confusion("intent", "invoice", "refund", 14),
            Confusion("intent", "other", "delivery", 9),
            Confusion("urgency", "high", "normal", 7),
        ),
        slices=(
            SliceQuality(name="intent = refund", rows=610, accuracy=0.9623),
            SliceQuality(name="intent = other", rows=40, accuracy=0.75),
            SliceQuality(name="length > 41 tokens", rows=655, accuracy=0.9038),
        ),
    )


def certified_with(report: Report, **changes: Any) -> Report:
    """The same report with a changed evaluation."""
    reports = report.manifest.reports
    assert reports.evaluation is not None
    evaluation = reports.evaluation.model_copy(update=changes)
    return with_reports(report, reports.model_copy(update={"evaluation": evaluation}))


def with_reports(report: Report, reports: Reports) -> Report:
    return replace(report, manifest=report.manifest.model_copy(update={"reports": reports}))


def with_point(report: Report, *points: OperatingPoint) -> Report:
    manifest = report.manifest.model_copy(update={"operating_points": points})
    return replace(report, manifest=manifest)


def uncertified(report: Report) -> Report:
    """A student for which no threshold held: everything is escalated."""
    none = OperatingPoint(
        name="default", threshold=None, coverage=0.0, undetected_error=0.0, certificate=None
    )
    sent = certified_with(report, escalation=1.0, undetected_error=0.0, system_accuracy=0.951)
    return with_point(sent, none)


def shown(page: str) -> str:
    """What a reader sees: no style, no tags, every space a plain one."""
    bare = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", bare).replace("&#39;", "'").split())


def tile(report: Report, name: str) -> tuple[str, str]:
    """Value and note of a tile, every space a plain one."""
    (found,) = (each for each in tiles(report) if each.name == name)
    return found.value.replace("\u00a0", " "), found.note.replace("\u00a0", " ")


def texts(page: str, title: str) -> list[str]:
    """The words in the drawing of that title: axis labels, ticks, legend."""
    (drawing,) = re.findall(rf'<svg[^>]*aria-label="{title}".*?</svg>', page, re.DOTALL)
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing)


class Outline(HTMLParser):
    """Checks nesting while parsing, and gathers ids and what refers to them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: set[str] = set()
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a tag, and look where its attributes point."""
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in {"href", "src", "srcset", "action", "data", "poster"} and value:
                (self.targets.add if value.startswith("#") else self.foreign.append)(value)
            if found := re.search(r"url\((#[^)]+)\)", value or ""):
                self.targets.add(found[1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An SVG element that closes itself."""
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that was opened last, or fail."""
        assert self.open.pop() == tag


def test_the_verdict_says_what_is_certified_in_words() -> None:
    """1 - 0.088 is 91.2 %; the rest stands in the certificate."""
    sentence = (
        "The student answers 91.2 % of requests itself. P(answered and wrong) ≤ 2 % with 95 % "
        "confidence (on 1,000 gold-labelled rows: 9 undetected errors, upper bound 1.6 %)."
    )
    report = make_report()
    assert verdict(report).tone == "good"
    assert sentence in shown(render(report))


def test_the_tiles_show_quality_size_speed_and_cost() -> None:
    """95.1 - 93.7 = 1.4; 92.56 / 23.14 = 4; 18.9 / 2.1 = 9; 2.5 x 0.088 = 0.22."""
    report = make_report()
    assert tile(report, "Student accuracy")[0] == "93.7 %"
    assert tile(report, "Teacher accuracy") == ("95.1 %", "1.4 points above the student")
    assert tile(report, "System accuracy") == ("95.6 %", "95.8 % if 10 % were sent on")
    assert tile(report, "Sent to the teacher")[0] == "8.8 %"
    assert tile(report, "Undetected error")[0] == "1.05 %"
    assert tile(report, "Bundle size") == ("23.1 MB", "teacher 92.6 MB, 4.0 times the student")
    assert tile(report, "Median time, student") == (
        "2.10 ms",
        "teacher 18.9 ms, 9.0 times the student",
    )
    assert tile(report, "Cost per 1,000") == ("$0.2202", "without the student $2.50, 91.2 % saved")
    page = shown(render(report))
    for name in ("Student accuracy 93.7 %", "Median time, student 2.10 ms"):
        assert name in page


def test_the_bill_adds_the_teacher_that_is_asked_and_the_student_that_always_is() -> None:
    """2.5 x 0.088 = 0.22 and 0.36 USD an hour x 2.1 s / 3600 = 0.00021."""
    costs = bill(make_report())
    assert costs.escalated == Decimal("0.22")
    assert costs.student == pytest.approx(Decimal("0.00021"))
    assert costs.total == pytest.approx(Decimal("0.22021"))
    assert costs.saved == pytest.approx(1 - 0.22021 / 2.5)


def test_a_student_that_makes_it_dearer_is_not_said_to_save() -> None:
    """1.00 of a teacher that is always asked, and 0.50 of student on top: half as much again."""
    report = uncertified(replace(make_report(), prices=Prices(Decimal(1), Decimal(3600))))
    report = with_reports(
        report,
        report.manifest.reports.model_copy(
            update={"latency": Latency(machine="m", rows=1, p50_ms=0.5, p95_ms=1.0)}
        ),
    )
    assert tile(report, "Cost per 1,000") == ("$1.50", "without the student $1.00, 50.0 % more")
    assert tile(report, "Median time, student") == ("0.50 ms", "the teacher was not timed")


def test_every_section_shows_its_figures() -> None:
    """Heads, operating point, slices, confusions, trials, parity, stages, provenance."""
    page = shown(render(make_report()))
    for piece in (
        "intent choice 4 96.2 % 0.934 97.0 % 97.5 % 0.956 0.011",
        "risk flags 2 96.2 %",
        "default 0.6312 91.4 % 0.90 % 2 % 95 % 1,000 9 1.57 % gold",
        "intent 1.284 1,500 0.046 0.011",
        "intent = other 40 75.0 %",
        "intent invoice refund 14 0.70 %",
        "Severity-weighted error 0.0843",
        "dynamic int8, whole tensor 1,630 1,630 23.0 MB 2.10 % 0.65 % no no no confident flips",
        "dynamic int8, per row 1,702 1,240 23.0 MB 0.40 % 0.02 % yes yes yes",
        "Largest logit gap, fp32 graph to torch 2.1e-06",
        "1 h 18 min in all",
        "train 1 h 02 min",
        "Recipe c0ffeec0ffee Seeds 7 Base model all-MiniLM-L6-v2",
        "tickets.jsonl dddddddddddd",
        "certification 1,000",
        "torch 2.13.0",
        "300 texts on x86-64, 2 cores",
    ):
        assert piece in page, piece


def test_the_curves_also_stand_in_numbers() -> None:
    """At coverage 1 the error is 6.3 %; at escalation 0 the system is the student, 93.7 %."""
    page = shown(render(make_report()))
    assert "100.0 % 6.30 %" in page
    assert "0.0 % 93.7 % 93.7 %" in page
    assert "Epoch Mean loss 1 1.8400 2 0.9100" in page
    assert "55.0 % 50.5 % 133" in page  # 0.55 - 0.1 x 0.45 = 0.505


def test_slices_come_worst_first_and_many_are_folded() -> None:
    """Of 14 slices the 12 worst are open and 2 are folded."""
    slices = tuple(
        SliceQuality(name=f"slice-{place:02}", rows=100, accuracy=(50 + place) / 100)
        for place in reversed(range(14))
    )
    report = make_report()
    page = shown(render(replace(report, curves=replace(report.curves, slices=slices))))
    assert [int(each) for each in re.findall(r"slice-(\d\d)", page)] == list(range(14))
    assert page.index("slice-11") < page.index("2 more slices") < page.index("slice-12")


def test_the_page_needs_nothing_but_itself() -> None:
    """No script, no address, no reference that leaves the page or leads nowhere."""
    page = render(make_report())
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.foreign == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert outline.targets <= {f"#{each}" for each in outline.ids}
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert "@import" not in page


def test_the_plots_take_their_colours_and_font_from_the_page() -> None:
    """Six drawings of variables only, so that dark mode reaches them; two renders are equal."""
    page = render(make_report())
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 6  # risk, cost, three heads, loss
    for drawing in drawings:
        assert "var(--student)" in drawing
        assert 'role="img"' in drawing
        assert "font-family" not in drawing
        assert set(re.findall(r"(?:fill|stroke): (#\w+)", drawing)) <= {"#000000"}
    assert "prefers-color-scheme: dark" in page
    assert page == render(make_report())


def test_the_plots_mark_the_limit_and_the_operating_point() -> None:
    """Both stand in the legend of a certified student, and not in that of another."""
    risk = "Undetected error against coverage"
    certified = texts(render(make_report()), risk)
    assert {"certified limit", "operating point", "answered and wrong"} <= set(certified)
    bare = texts(render(uncertified(make_report())), risk)
    assert "student" in bare
    assert not {"certified limit", "operating point"} & set(bare)


def test_hostile_text_is_shown_and_never_run() -> None:
    """From labels, slices, notes, warnings, file names and machines alike."""
    head = Head(name="intent", kind=HeadKind.CHOICE, labels=(HOSTILE, "other"))
    report = make_report((head,))
    manifest = report.manifest
    reports = manifest.reports.model_copy(
        update={
            "trials": tuple(
                each.model_copy(update={"note": HOSTILE, "recipe": HOSTILE})
                for each in manifest.reports.trials
            ),
            "latency": Latency(machine=HOSTILE, rows=1, p50_ms=1.0, p95_ms=1.0),
        }
    )
    provenance = manifest.provenance.model_copy(
        update={"data": {HOSTILE: "d" * 64}, "base_model": HOSTILE, "stages": {HOSTILE: 1.0}}
    )
    report = replace(
        report,
        manifest=manifest.model_copy(update={"reports": reports, "provenance": provenance}),
        bundle=HOSTILE,
        warnings=(HOSTILE,),
        curves=replace(
            report.curves,
            confusions=(Confusion("intent", HOSTILE, "other", 3),),
            slices=(SliceQuality(name=f"intent = {HOSTILE}", rows=40, accuracy=0.5),),
        ),
    )
    page = render(report)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 10
    assert "intent = &lt;script&gt;" in page


def test_warnings_of_the_run_stand_on_top() -> None:
    """Before the tiles, and absent when there are none."""
    page = shown(render(replace(make_report(), warnings=("41 rows were dropped.", "Slow disk."))))
    assert page.index("Warnings of the run 41 rows were dropped. Slow disk.") < page.index(
        "Student accuracy"
    )
    assert "of the run" not in shown(render(make_report()))


def test_without_a_certificate_everything_goes_to_the_teacher() -> None:
    """The page says so, says what to do and promises nothing; ln 0.05 / ln 0.98 = 148.3."""
    report = uncertified(make_report())
    said = verdict(report)
    assert said.tone == "bad"
    page = shown(render(report))
    assert "No threshold could be certified: every request goes to the teacher." in page
    assert "takes 149 rows to certify 2 %" in page
    assert "default none — — not certified" in page
    assert "There is no certificate, so nothing is promised" in page
    assert tile(report, "Sent to the teacher") == ("100.0 %", "nothing is left to the student")


def test_a_threshold_without_a_certificate_is_no_certificate() -> None:
    """Nor are no operating points at all."""
    point = make_point("gold").model_copy(update={"certificate": None})
    assert verdict(with_point(make_report(), point)).title == "Not certified"
    assert verdict(with_point(make_report())).title == "Not certified"
    assert "Operating points" not in render(with_point(make_report()))


def test_the_default_operating_point_is_the_one_that_counts() -> None:
    """Another that stands before it is listed, but the gateway does not take it."""
    strict = make_point("gold").model_copy(update={"name": "strict", "certificate": None})
    report = with_point(make_report(), strict, make_point("gold"))
    assert verdict(report).title == "Certified"
    assert verdict(with_point(make_report(), strict)).title == "Not certified"


def test_a_test_split_worse_than_the_certificate_is_a_reservation() -> None:
    """2.1 % on the test split against a limit of 2 %; exactly 2 % is within it."""
    doubtful = verdict(certified_with(make_report(), undetected_error=0.021))
    assert doubtful.tone == "caution"
    assert "2.10\u00a0% were answered and wrong, above the certified 2\u00a0%" in doubtful.advice[0]
    assert verdict(certified_with(make_report(), undetected_error=0.02)).tone == "good"


def test_without_a_teacher_there_is_no_curve_to_compare_with() -> None:
    """The page says what is unknown in place of plot, tile and columns."""
    report = replace(make_report(), teacher=None, teacher_size=None)
    report = certified_with(report, teacher_accuracy=None)
    page = render(report)
    assert "no teacher was measured on the test split" in shown(page)
    assert "Agrees with teacher" not in page
    assert "System accuracy against the share" not in page
    assert tile(report, "Teacher accuracy") == ("unknown", "no teacher was measured")
    assert tile(report, "Bundle size")[1] == "the teacher has no bundle here"
    assert "Bundle 23.1 MB —" in shown(page)


def test_a_teacher_worse_than_the_student_is_said_to_be_below() -> None:
    """90.0 against 93.7 is 3.7 points."""
    report = certified_with(make_report(), teacher_accuracy=0.9)
    assert tile(report, "Teacher accuracy") == ("90.0 %", "3.7 points below the student")


def test_labels_of_the_teacher_mean_agreement_and_nothing_more() -> None:
    """No figure of such a student is called accuracy, and the verdict has a reservation."""
    report = make_report(labels="teacher")
    said = verdict(report)
    assert said.tone == "caution"
    assert "P(answered and unlike the teacher)" in said.text
    assert "9 differences" in said.text
    page = shown(render(report))
    assert "There are no gold labels" in page
    assert "bounds disagreement with the teacher only" in page
    assert tile(report, "Student agreement")[0] == "93.7 %"
    assert tile(report, "Teacher accuracy")[0] == "unknown"
    assert "Teacher macro-F1" not in page


def test_unknown_prices_are_unknown_and_never_nothing() -> None:
    """Without the teacher's price no sum is shown; without the instance's it is left out, aloud."""
    report = replace(make_report(), prices=Prices())
    assert tile(report, "Cost per 1,000")[0] == "unknown"
    page = shown(render(report))
    assert "Without the student unknown" in page
    assert "Saved unknown" in page
    assert "$" not in page
    half = replace(make_report(), prices=Prices(Decimal("2.5")))
    assert tile(half, "Cost per 1,000")[0] == "$0.2200"
    assert "unknown, not counted" in shown(render(half))


@pytest.mark.parametrize("heads", [HEADS[2:], HEADS[:1]], ids=["flags", "one choice"])
def test_a_task_of_one_head_has_one_of_everything(heads: tuple[Head, ...]) -> None:
    """One row of quality and one reliability diagram; flags have no confusions."""
    report = make_report(heads)
    page = render(replace(report, curves=replace(report.curves, confusions=(), slices=())))
    assert page.count('aria-label="Reliability of the head') == 1
    assert "No label of a choice was taken for another." in page
    assert "No slice has rows enough" in page


def test_a_student_of_which_nothing_was_measured_still_has_a_page() -> None:
    """Every figure is unknown, no section is empty, and the verdict has a reservation."""
    report = replace(
        with_reports(make_report(), Reports()),
        curves=Curves((), (), (), (), (), (), (), ()),
        history=(),
    )
    provenance = Provenance(created_at="2026-03-02T10:05:00Z")
    report = replace(report, manifest=report.manifest.model_copy(update={"provenance": provenance}))
    page = render(report)
    assert "<svg" not in page
    assert "Nothing was timed." in page
    assert "None was recorded." in page
    assert "No stage was timed." in page
    assert {each.value for each in tiles(report)} == {"unknown", "23.1\u00a0MB"}
    assert "Nothing was measured on a test split" in verdict(report).advice[0]
    assert "answers 91.4" in verdict(report).text  # the coverage on the certification rows


def test_curves_without_points_are_not_drawn() -> None:
    """A test split without rows gives a page without drawings of it, and one epoch a dot."""
    report = make_report()
    empty = Curves((), (), (), (), (), (), (), ())
    page = render(replace(report, curves=empty, history=(0.5,)))
    assert page.count("<svg") == 1
    assert "1 0.5000" in shown(page)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "—"),
        (0.0, "0.0_%"),
        (1.0, "100.0_%"),
        (0.9996, ">99.9_%"),
        (0.0004, "<0.1_%"),
        (0.0006, "0.1_%"),
        (0.912, "91.2_%"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share: float | None, text: str) -> None:
    """99.96 % is not 100 %, and 0.04 % is not none."""
    assert percent(share) == text.replace("_", "\u00a0")


def test_numbers_have_one_form_each() -> None:
    """Thousands apart, money of four digits below a dollar, times that fit their size."""
    plain = [
        count(1234567),
        count(None),
        target(0.035),
        usd(Decimal("1234.5")),
        usd(Decimal("0.00021")),
        usd(None),
        milliseconds(9.994),
        milliseconds(10.0),
        milliseconds(None),
        size(1_234_500_000),
        duration(59.94),
        duration(125),
        duration(7325),
        within(1.0, 10),  # the lower end is 0.025 ** 0.1 = 0.6915
    ]
    assert [each.replace("\u00a0", " ") for each in plain] == [
        "1,234,567", "—", "3.5 %", "$1,234.50", "$0.0002", "unknown", "9.99 ms", "10.0 ms", "—",
        "1,234.5 MB", "59.9 s", "2 min 05 s", "2 h 02 min", "69.2 to 100.0 %",
    ]  # fmt: skip


def taught() -> Report:
    """A teacher by itself, as `understudy teach` seals it: no teacher above it, no certificate."""
    report = make_report()
    manifest = make_manifest(HEADS, labels="gold", role="teacher", layers=6)
    alone = replace(
        report,
        manifest=manifest.model_copy(update={"operating_points": ()}),
        teacher=None,
        teacher_size=None,
    )
    return certified_with(alone, teacher_accuracy=None, escalation=1.0)


def test_a_teacher_is_measured_and_not_judged() -> None:
    found = verdict(taught())
    assert (found.tone, found.title) == ("plain", "Teacher")
    assert found.text.replace("\u00a0", " ") == (
        "Accuracy by head on 2,000 gold-labelled rows of the test split: intent 96.2 %, "
        "urgency 96.2 %, risk 96.2 %. Its confidence is calibrated."
    )
    assert found.advice == ("Next: distil a student from it.",)


def test_a_teachers_page_says_nothing_of_routing_and_cost() -> None:
    page = render(taught())
    text = shown(page)
    assert "<title>tickets: teacher report</title>" in page
    for absent in (
        "Not certified",
        "goes to the teacher",
        "sent to the teacher",
        "Per 1,000",
        "Operating points",
        "Student",
        'id="routing"',
        "student answers",
    ):
        assert absent not in page
    for present in ("Quality of each head", "Median time 2.10 ms", "no certificate is issued"):
        assert present in text
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.targets <= {f"#{each}" for each in outline.ids}


def test_a_teachers_tiles_are_quality_size_and_speed() -> None:
    assert [each.name for each in tiles(taught())] == [
        "Teacher accuracy",
        "Bundle size",
        "Median time",
    ]
    assert tile(taught(), "Teacher accuracy")[0] == "93.7 %"
    assert tile(taught(), "Bundle size") == ("23.1 MB", "")


def test_a_teacher_that_was_not_measured_is_told_so() -> None:
    bare = with_reports(taught(), Reports())
    assert verdict(bare).text.startswith("Nothing was measured on a test split.")
    assert {each.value for each in tiles(bare)} == {"unknown", "23.1\u00a0MB"}
    assert "Nothing was timed." in shown(render(bare))

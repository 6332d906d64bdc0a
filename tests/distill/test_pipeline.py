"""The whole pipeline on a tiny base: what a bundle says of itself is what it does when served."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from distill import certify, correctness, familiarity, pipeline, recipe
from distill.corpus import Material, collect
from distill.progress import Narrator
from distill.stages import sealing
from distill.stages.limits import TEACHER_TOKENS
from distill.train import gold_of
from distill.workspace import Workspace
from exporters import quantize
from gateway.contract import measures
from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.examples import Example
from gateway.contract.manifest import Correctness, HeadCorrectness, Parity, Signal
from gateway.errors import BundleMissing, RecipeError, StageFailed
from gateway.students.student import Student
from gateway.types import Prediction
from tests.acceptance import shop as shops
from tests.acceptance.shop import Shop

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]

QUIET = Narrator(quiet=True)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return shops.trained(tmp_path_factory)


@pytest.fixture(scope="module")
def teacher(shop: Shop) -> Bundle:
    return open_bundle(shop.workspace.bundles / "teacher")


@pytest.fixture(scope="module")
def student(shop: Shop) -> Bundle:
    return open_bundle(shop.workspace.bundles / "student")


@pytest.fixture(scope="module")
def material(shop: Shop, teacher: Bundle) -> Material:
    return collect(recipe.load(shop.recipe), shop.workspace, QUIET, teacher=teacher.path)


def judged(bundle: Bundle, rows: tuple[Example, ...]) -> tuple[list[Prediction], list[bool]]:
    """What the served student says of each row alone, and whether all heads are right."""
    model = Student(bundle)
    said = [model.predict([row.text])[0] for row in rows]
    right = [
        all(
            each.labels == (gold if isinstance(gold := row.labels[each.head], tuple) else (gold,))
            for each in prediction.heads
        )
        for row, prediction in zip(rows, said, strict=True)
    ]
    return said, right


def test_the_teacher_is_an_fp32_bundle_without_a_threshold(shop: Shop, teacher: Bundle) -> None:
    manifest = teacher.manifest
    assert (manifest.role, manifest.graph.precision) == ("teacher", "fp32")
    assert manifest.operating_points == ()
    assert manifest.limits.max_tokens == TEACHER_TOKENS
    assert [part.rows for part in manifest.calibration] == [45, 45, 45]
    assert manifest.reports.parity
    assert manifest.reports.parity.fp32_max_difference is not None
    assert manifest.reports.parity.fp32_max_difference < 1e-4
    assert manifest.provenance.base_model == (shop.folder / "base").name
    assert manifest.provenance.teacher is None


def test_the_student_says_where_it_comes_from(
    shop: Shop, teacher: Bundle, student: Bundle, material: Material
) -> None:
    found = student.manifest.provenance
    assert found.teacher == teacher.id
    assert found.run
    assert (shop.workspace.runs / found.run / "seal" / "report.html").is_file()
    assert found.seeds == (shops.SEED,)
    assert found.rows == {name: len(rows) for name, rows in material.splits.parts().items()}
    assert found.rows["certification"] == shops.CERTIFIED_ROWS
    assert set(found.data) == {"data: tickets.csv", "unlabelled: traffic.csv"}
    assert {"collect", "label", "train", "export", "certify", "evaluate"} <= found.stages.keys()
    assert found.base_model_sha256 == teacher.manifest.provenance.base_model_sha256


def test_the_student_is_smaller_than_its_teacher(teacher: Bundle, student: Bundle) -> None:
    ours, theirs = student.manifest.graph, teacher.manifest.graph
    assert ours.parameters < theirs.parameters
    assert ours.vocabulary <= theirs.vocabulary
    assert student.manifest.task == teacher.manifest.task


def test_every_way_to_quantise_was_tried_and_one_is_kept(
    student: Bundle, material: Material
) -> None:
    trials = student.manifest.reports.trials
    assert {"fp32", "dynamic int8", "blockwise int8"} <= {t.recipe for t in trials}
    (kept,) = [trial for trial in trials if trial.kept]
    assert kept.passed
    assert kept.recipe == student.manifest.graph.recipe
    # The gate is a test and no comparison: so few rows must be no evidence of too many flips.
    rows = len(material.splits.calibration)
    flips = round((kept.label_flips or 0.0) * rows)
    assert binomtest(flips, rows, quantize.Gates().label_flips, "greater").pvalue > 0.05


def test_its_quality_is_that_of_what_is_served(student: Bundle, material: Material) -> None:
    evaluation = student.manifest.reports.evaluation
    assert evaluation
    _, right = judged(student, material.splits.test)
    assert evaluation.rows == len(right)
    assert evaluation.accuracy == pytest.approx(sum(right) / len(right))


def test_its_certificate_counts_what_is_served(student: Bundle, material: Material) -> None:
    (point,) = student.manifest.operating_points
    assert point.threshold is not None
    assert point.certificate
    said, right = judged(student, material.splits.certification)
    assert any(each.truncated for each in said)  # these are escalated, however high their score
    answered = [each.score >= point.threshold and not each.truncated for each in said]
    undetected = sum(a and not r for a, r in zip(answered, right, strict=True))
    assert point.certificate.undetected_errors == undetected
    assert point.coverage == pytest.approx(sum(answered) / len(answered))
    assert point.certificate.upper_bound <= point.certificate.alpha


def test_its_temperatures_come_from_the_calibration_split(
    student: Bundle, material: Material
) -> None:
    rows = material.splits.calibration
    model = Student(student)
    logits = np.concatenate(
        [model.logits([each.ids]) for each in model.encode([row.text for row in rows])]
    )
    gold = gold_of(material.task, [row.labels for row in rows])
    again = certify.fit_temperatures(material.task, logits, gold)
    assert [part.temperature for part in student.manifest.calibration] == pytest.approx(
        [part.temperature for part in again]
    )


def test_the_report_shows_both_models(shop: Shop, teacher: Bundle, student: Bundle) -> None:
    sealed = pipeline.distill(recipe.load(shop.recipe), shop.workspace, QUIET)
    assert sealed.bundle.id == student.id
    page = sealed.report.read_text()
    for wanted in (student.name, "intent", "urgency", "risk", "certification"):
        assert wanted in page
    assert sealed.seconds["train"] > 0.0
    assert teacher.id[:12] in page


def test_a_second_teach_gives_the_same_bundle(shop: Shop, teacher: Bundle) -> None:
    assert pipeline.teach(recipe.load(shop.recipe), shop.workspace, QUIET).bundle.id == teacher.id


def test_a_student_without_a_teacher_is_told_how_to_get_one(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match="there is no teacher at") as caught:
        pipeline.distill(recipe.load(shop.recipe), Workspace(tmp_path), QUIET)
    assert "understudy teach" in caught.value.mend


def test_a_bundle_that_was_removed_is_missed(shop: Shop, tmp_path: Path, student: Bundle) -> None:
    folder = shop.copy(tmp_path)
    shutil.rmtree(folder / "bundles" / student.name)
    orders = recipe.load(folder / recipe.FILE_NAME)
    with pytest.raises(StageFailed, match="is not whole any more") as caught:
        pipeline.distill(orders, Workspace(folder), QUIET)
    assert str(folder / "runs") in caught.value.mend


def test_layers_that_the_teacher_lacks_are_named(shop: Shop, tmp_path: Path) -> None:
    folder = shop.copy(tmp_path)
    path = folder / recipe.FILE_NAME
    shops.edit(path, {"student": {"layers": [0, 5]}, "teacher": {"layers": 6}})
    with pytest.raises(RecipeError, match="layer 5, and what it starts from has the layers 0 to 2"):
        pipeline.distill(recipe.load(path), Workspace(folder), QUIET)


def test_a_teacher_that_was_taught_rows_which_are_now_held_out_is_refused(
    shop: Shop, tmp_path: Path
) -> None:
    folder = shop.copy(tmp_path)
    path = folder / recipe.FILE_NAME
    shops.edit(path, {"seed": 1})
    with pytest.raises(RecipeError, match=r"the teacher was taught \d+ of the \d+ rows") as caught:
        pipeline.distill(recipe.load(path), Workspace(folder), QUIET)
    assert "understudy teach" in caught.value.mend


@pytest.mark.parametrize(
    ("flips", "difference", "kept"), [(0.0, 0.009, True), (0.001, 0.0, False), (0.0, 0.02, False)]
)
def test_a_graph_that_batch_mates_change_on_the_test_split_is_never_batched(
    student: Bundle,
    flips: float,
    difference: float,
    kept: bool,  # noqa: FBT001  a parameter of the table
) -> None:
    found = student.manifest.graph.model_copy(update={"batch_invariant": True})
    parity = Parity(
        rows=1000,
        tokenizer_equal=True,
        batch_label_flips=flips,
        batch_score_difference=difference,
    )
    assert sealing._proven(found, parity).batch_invariant is kept


def test_the_score_and_the_domain_go_from_their_fit_into_what_is_served(
    shop: Shop, tmp_path: Path, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So small a shop has rows for neither: the bounds are lowered, and the score is given."""
    given = Correctness(
        heads=(
            HeadCorrectness(
                head="intent",
                bias=1.0,
                signals=(Signal(name="distance", mean=10.0, scale=5.0, weight=-1.0),),
            ),
            HeadCorrectness(head="urgency"),
            HeadCorrectness(head="risk"),
        ),
        slope=1.5,
        bias=0.25,
        rows=len(material.splits.calibration),
    )
    monkeypatch.setattr(familiarity, "_LEAST_KNOWN", 20)
    monkeypatch.setattr(correctness, "fit", lambda *_, **__: given)
    folder = shop.copy(tmp_path)
    path = folder / recipe.FILE_NAME
    score, promise = {"out_of_domain": "knn"}, {"alpha": 0.5, "delta": 0.05}
    shops.edit(path, {"certificate": promise, "score": score})
    sealed = pipeline.distill(recipe.load(path), Workspace(folder), QUIET)
    manifest = sealed.bundle.manifest
    assert manifest.correctness == given
    assert manifest.domain is not None
    assert manifest.domain.method == "knn"
    assert manifest.domain.calibration == len(material.splits.calibration)
    assert manifest.domain.rows == len(material.splits.train)
    assert all(vector.distance is not None for vector in manifest.golden.vectors)
    (point,) = manifest.operating_points
    said, right = judged(sealed.bundle, material.splits.certification)
    assert all(each.familiarity is not None for each in said)
    bar = np.inf if point.threshold is None else point.threshold
    answered = [each.score >= bar and not each.truncated for each in said]
    assert point.coverage == pytest.approx(sum(answered) / len(answered))
    undetected = sum(a and not r for a, r in zip(answered, right, strict=True))
    assert point.undetected_error == pytest.approx(undetected / len(right))
    evaluation = manifest.reports.evaluation
    assert evaluation
    tested, correct = judged(sealed.bundle, material.splits.test)
    wrong = ~np.array(correct)
    scores = np.array([each.score for each in tested])
    assert evaluation.augrc == pytest.approx(measures.augrc(scores, wrong))
    plain = Student(sealed.bundle).calibration
    logits = np.concatenate([Student(sealed.bundle).raw([row.text]).logits
                             for row in material.splits.test])  # fmt: skip
    assert evaluation.augrc_plain == pytest.approx(measures.augrc(plain.read(logits)[1], wrong))
    assert evaluation.score_ece == pytest.approx(measures.calibration_error(scores, ~wrong))
    strange = [(each.familiarity or 0.0) < 0.01 for each in tested]
    assert evaluation.out_of_domain == pytest.approx(sum(strange) / len(strange))
    page = sealed.report.read_text()
    assert "What the correctness score adds" in page
    assert "all heads together" in page
    assert "look unlike what the student was taught" in page


def test_a_recipe_may_do_without_score_and_domain(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(familiarity, "_LEAST_KNOWN", 20)
    folder = shop.copy(tmp_path)
    path = folder / recipe.FILE_NAME
    shops.edit(path, {"score": {"correctness": False, "out_of_domain": False}})
    manifest = pipeline.distill(recipe.load(path), Workspace(folder), QUIET).bundle.manifest
    assert (manifest.correctness, manifest.domain) == (None, None)
    assert [entry.name for entry in manifest.files] == ["CARD.md", "model.onnx", "tokenizer.json"]

"""What the demo came to: figures of real bundles and of a real gateway, and the table of them."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import orjson
import pytest
from rich.console import Console

from distill import pipeline, recipe
from distill.demo import summary
from distill.demo.crowd import Seen
from distill.pipeline import Sealed
from distill.progress import Narrator
from tests.acceptance import shop as shops
from tests.conftest import Opener
from tests.factories import CONFIDENT, UNSURE

pytestmark = pytest.mark.slow

STAGES = {"teacher_train": 12.34, "student_seal": 0.01, "gateway_start": 1.5}
SEEN = Seen(sent=5, answered=4, failed=1, right=3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    shop = shops.trained(tmp_path_factory)
    return pipeline.teach(recipe.load(shop.recipe), shop.workspace, Narrator(quiet=True))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    shop = shops.trained(tmp_path_factory)
    return pipeline.distill(recipe.load(shop.recipe), shop.workspace, Narrator(quiet=True))


@pytest.fixture
def stats(serve: Opener) -> dict[str, Any]:
    """The reply of a gateway that answered three texts itself and asked its teacher for one."""
    prices = {"teacher_usd_per_1000": 2.0, "instance_usd_per_hour": 0.0}  # a machine of one's own
    client = serve(tickets={"prices": prices})
    for text in (CONFIDENT, CONFIDENT, CONFIDENT, UNSURE):
        client.post("/v1/predict", json={"input": text}).raise_for_status()
    found: dict[str, Any] = client.get("/v1/stats").json()
    return found


@pytest.fixture
def found(teacher: Sealed, student: Sealed, stats: dict[str, Any]) -> summary.Figures:
    return summary.figures(
        teacher=teacher, student=student, stats=stats, seen=SEEN, stages=STAGES, first_answer_s=20.0
    )


def test_quality_is_that_of_the_bundle(found: summary.Figures, student: Sealed) -> None:
    evaluation = student.bundle.manifest.reports.evaluation
    assert evaluation
    assert list(found["heads"]) == ["intent", "urgency", "risk"]
    for head in evaluation.heads:
        shown = found["heads"][head.head]
        assert shown["student_accuracy"] == head.accuracy
        assert shown["share_of_teacher"] * head.teacher_accuracy == pytest.approx(head.accuracy)
    assert found["accuracy"]["system"] == evaluation.system_accuracy
    assert found["certificate"]["rows"] == shops.CERTIFIED_ROWS
    assert found["bundle"]["student_bytes"] < found["bundle"]["teacher_bytes"]


def test_live_figures_are_those_of_the_gateway_and_the_customers(found: summary.Figures) -> None:
    live = found["live"]
    assert (live["requests"], live["failed"], live["right_by_gold"]) == (4, 1, 0.75)
    assert live["escalation"]["share"] == 0.25
    assert set(live["latency_ms"]) == {"student", "teacher", "all"}  # who answered at all
    assert set(live["latency_ms"]["all"]) == {"p50", "p95", "p99"}


def test_money_is_counted_with_and_without_the_student(found: summary.Figures) -> None:
    # 2 USD for 1,000 calls; one call in four texts is 0.5 USD for 1,000 texts.
    assert found["cost_usd_per_1000"] == {
        "with_student": 0.5,
        "without_student": 2.0,
        "saved_share": 0.75,
    }


def test_seconds_are_those_of_the_stages(found: summary.Figures) -> None:
    assert found["seconds"] == STAGES | {"to_first_answer": 20.0}


def test_everything_can_be_written_as_json(found: summary.Figures) -> None:
    assert orjson.loads(orjson.dumps(found)) == found


def test_the_table_shows_what_a_person_asks(found: summary.Figures) -> None:
    text = drawn(found)
    whole = found["accuracy"]
    for wanted in (
        "Quality on the untouched test split",
        f"{whole['student']:.2%}",
        f"{whole['system']:.2%}",
        "requests answered",
        "low_confidence",
        "75.00%",
        "0.500 / 2.000",
        "75.0%",
        "<= 40% with 95% confidence",
        "gateway start",
        "12.3",
    ):
        assert wanted in text
    assert "student seal" not in text  # 0.01 s is not worth a line


def test_a_gateway_that_nobody_asked_has_no_cost_and_no_speed(
    teacher: Sealed, student: Sealed, serve: Opener
) -> None:
    found = summary.figures(
        teacher=teacher,
        student=student,
        stats=serve().get("/v1/stats").json(),
        seen=Seen(),
        stages={},
        first_answer_s=None,
    )
    assert found["live"]["latency_ms"] == {}
    assert found["live"]["right_by_gold"] is None
    assert set(found["cost_usd_per_1000"].values()) == {None}
    assert "USD per 1,000" not in drawn(found)


def test_unknown_prices_are_no_saving(teacher: Sealed, student: Sealed, serve: Opener) -> None:
    client = serve()
    client.post("/v1/predict", json={"input": CONFIDENT}).raise_for_status()
    found = summary.figures(
        teacher=teacher,
        student=student,
        stats=client.get("/v1/stats").json(),
        seen=SEEN,
        stages={},
        first_answer_s=1.0,
    )
    assert set(found["cost_usd_per_1000"].values()) == {None}
    assert "saved" not in drawn(found)


def test_a_teacher_that_costs_nothing_leaves_nothing_to_save(
    teacher: Sealed, student: Sealed, serve: Opener
) -> None:
    client = serve(tickets={"prices": {"teacher_usd_per_1000": 0, "instance_usd_per_hour": 0}})
    client.post("/v1/predict", json={"input": CONFIDENT}).raise_for_status()
    found = summary.figures(
        teacher=teacher,
        student=student,
        stats=client.get("/v1/stats").json(),
        seen=SEEN,
        stages={},
        first_answer_s=1.0,
    )
    assert found["cost_usd_per_1000"]["without_student"] == 0.0
    assert found["cost_usd_per_1000"]["saved_share"] is None
    assert "0.000 / 0.000" in drawn(found)


def test_a_student_of_which_nothing_is_certified_promises_nothing(
    teacher: Sealed, student: Sealed, stats: dict[str, Any]
) -> None:
    manifest = student.bundle.manifest
    (point,) = manifest.operating_points
    bare = point.model_copy(update={"threshold": None, "certificate": None})
    bundle = replace(
        student.bundle, manifest=manifest.model_copy(update={"operating_points": (bare,)})
    )
    found = summary.figures(
        teacher=teacher,
        student=replace(student, bundle=bundle),
        stats=stats,
        seen=SEEN,
        stages={},
        first_answer_s=1.0,
    )
    assert found["certificate"] is None
    assert "certificate" not in drawn(found)


def test_a_student_that_was_not_evaluated_has_no_summary(
    teacher: Sealed, stats: dict[str, Any]
) -> None:
    manifest = teacher.bundle.manifest
    reports = manifest.reports.model_copy(update={"evaluation": None})
    bundle = replace(teacher.bundle, manifest=manifest.model_copy(update={"reports": reports}))
    with pytest.raises(ValueError, match="no evaluation"):
        summary.figures(
            teacher=teacher,
            student=replace(teacher, bundle=bundle),
            stats=stats,
            seen=SEEN,
            stages={},
            first_answer_s=1.0,
        )


def drawn(found: summary.Figures) -> str:
    console = Console(file=io.StringIO(), record=True, width=140)
    console.print(summary.table(found))
    return console.export_text()

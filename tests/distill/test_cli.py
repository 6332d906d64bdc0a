"""The offline commands: what they print, what they refuse, and what they name as the next step."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill import cli, recipe
from distill.demo import project, show
from gateway import settings
from gateway.contract.bundle import open_bundle
from gateway.contract.manifest import OperatingPoint
from tests.acceptance import shop as shops
from tests.acceptance.command import Ran, understudy
from tests.acceptance.shop import Shop
from tests.factories import tiny_bundle

COLUMNS = ("--label-column", "intent", "--label-column", "risk:flags")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return shops.trained(tmp_path_factory)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    project.write(folder, count=400, seed=0)
    return folder / "tickets.csv"


def init(data: Path, out: Path, *more: str) -> Ran:
    return understudy("init", "tickets", "--data", data, "--out", out, *COLUMNS, *more)


def test_init_writes_a_project_that_can_be_read(data: Path, tmp_path: Path) -> None:
    said = init(data, tmp_path, "--group-column", "customer", "--field-column", "amount")
    assert said.status == 0
    assert said.out.startswith(
        f"wrote {tmp_path / 'recipe.yaml'}\nwrote {tmp_path / 'understudy.yaml'}\n"
    )
    plan = recipe.load(tmp_path / recipe.FILE_NAME)
    assert list(plan.data.heads) == ["intent", "risk"]
    assert plan.data.group_column == "customer"
    assert plan.data.field_columns == ("amount",)
    assert list(settings.load(tmp_path / settings.FILE).tasks) == ["tickets"]


def test_init_names_the_next_commands_without_a_path_where_none_is_needed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = understudy("init", "tickets", "--data", data, *COLUMNS)
    assert said.out.endswith(
        "\nNext: read the two files, then\n"
        "  understudy teach      # only if there is no teacher yet\n"
        "  understudy distill\n"
    )


def test_init_with_a_teacher_needs_no_label_column_and_skips_teaching(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundles", role="teacher")
    texts = tmp_path / "texts.csv"
    texts.write_text("text\nrefund my order\nfraud\n")
    said = understudy(
        "init", "tickets", "--data", texts, "--out", tmp_path / "new", "--teacher", bundle
    )
    assert said.status == 0
    assert "understudy teach" not in said.out
    assert "understudy distill" in said.out
    assert list(recipe.load(tmp_path / "new" / recipe.FILE_NAME).data.heads) == ["intent", "flags"]


def test_init_overwrites_only_when_told(data: Path, tmp_path: Path) -> None:
    init(data, tmp_path)
    again = init(data, tmp_path)
    assert again.status == 2
    assert "--force" in again.err
    assert init(data, tmp_path, "--force").status == 0


def test_init_names_the_column_that_was_meant(data: Path, tmp_path: Path) -> None:
    said = init(data, tmp_path, "--label-column", "urgenzy")
    assert said.status == 2
    assert "no column 'urgenzy'; did you mean 'urgency'?" in said.err
    assert list(tmp_path.iterdir()) == []


def test_an_untrained_project_says_what_it_lacks(data: Path, tmp_path: Path) -> None:
    init(data, tmp_path)
    checked = understudy("check", "--config", tmp_path / "understudy.yaml")
    assert checked.status == 2
    assert f"there is no bundle at {tmp_path / 'bundles' / 'student'}" in checked.err
    distilled = understudy("distill", "--recipe", tmp_path / "recipe.yaml")
    assert distilled.status == 2
    assert "understudy teach" in distilled.err


@pytest.mark.parametrize("command", ["teach", "distill"])
def test_a_recipe_that_is_not_there_is_named(tmp_path: Path, command: str) -> None:
    said = understudy(command, "--recipe", tmp_path / "none.yaml")
    assert said.status == 2
    assert "none.yaml" in said.err


@pytest.mark.slow
def test_teach_prints_the_quality_of_each_head(shop: Shop) -> None:
    manifest = open_bundle(shop.workspace.bundles / "teacher").manifest
    assert manifest.reports.evaluation
    for head in manifest.reports.evaluation.heads:
        assert f"  {head.head}: accuracy {head.accuracy:.2%}" in shop.teach.out
    assert f"teacher: {shop.workspace.bundles / 'tickets-'}" in shop.teach.out


@pytest.mark.slow
def test_distill_prints_what_is_promised_and_how_fast(shop: Shop) -> None:
    manifest = open_bundle(shop.workspace.bundles / "student").manifest
    (point,) = manifest.operating_points
    assert f"  certificate: {cli._promise(point)}\n" in shop.distill.out
    assert f"it answers {point.coverage:.1%} itself" in shop.distill.out
    latency = manifest.reports.latency
    assert latency
    assert f"  one text: student {latency.p50_ms:.2f} ms" in shop.distill.out


@pytest.mark.slow
def test_in_the_projects_own_folder_no_paths_are_needed(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.copy(tmp_path))
    assert understudy("teach").out.endswith("\nNext:  understudy distill\n")
    assert understudy("distill").out.endswith("\nNext:  understudy check, then  understudy serve\n")
    assert understudy("check").status == 0


def test_a_student_that_nothing_is_certified_of_says_so() -> None:
    point = OperatingPoint(
        name="default", threshold=None, coverage=0.0, undetected_error=0.0, certificate=None
    )
    assert "every request will go to the teacher" in cli._promise(point)


@pytest.mark.parametrize(
    ("options", "seconds"), [([], None), (["--once"], 30.0), (["--once", "--seconds", "5"], 5.0)]
)
def test_the_demo_ends_by_itself_only_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], seconds: float | None
) -> None:
    asked: list[tuple[show.Plan, bool, bool]] = []

    def run(plan: show.Plan, *, fresh: bool, as_json: bool) -> None:
        asked.append((plan, fresh, as_json))

    monkeypatch.setattr(show, "run", run)  # the real one trains for minutes
    said = understudy("demo", "--folder", tmp_path, "--rate", "50", "--json", *options)
    assert said.status == 0
    plan = show.Plan(folder=tmp_path, tickets=7500, seed=0, rate=50.0, seconds=seconds)
    assert asked == [(plan, False, True)]

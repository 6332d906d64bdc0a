"""The demo's folder: files that the other rooms read, the same ones for the same seed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from distill import recipe
from distill.data import sources
from distill.demo import project
from distill.demo.tickets import TASK
from gateway import settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("demo")
    project.write(made, count=700, seed=3)
    return made


def test_the_recipe_can_be_followed(folder: Path) -> None:
    plan = recipe.load(folder / recipe.FILE_NAME)
    assert plan.seed == 3
    corpus = sources.read(plan)
    assert {head.name: {*head.labels} for head in corpus.task.heads} == {
        head.name: {*head.labels} for head in TASK.heads
    }
    for head, weights in plan.data.severity.items():
        assert {*weights} <= {*next(each.labels for each in TASK.heads if each.name == head)}


def test_the_settings_can_be_served(folder: Path) -> None:
    found = settings.load(folder / settings.FILE)
    task = found.tasks["tickets"]
    assert task.student.bundle == folder / "bundles" / "student"
    assert task.teacher.bundle == folder / "bundles" / "teacher"
    names = [rule.rule().name for rule in task.policy.rules]
    assert names == ["fraud_or_legal", "dangerous_intent", "names_a_court", "large_amount"]
    plan = recipe.load(folder / recipe.FILE_NAME)
    assert task.prices.model_dump() == plan.prices.model_dump()


def test_a_third_of_the_tickets_is_traffic_that_nobody_has_labelled(folder: Path) -> None:
    counts = {}
    for name in ("tickets.csv", "traffic.csv"):
        with (folder / name).open(newline="") as file:
            counts[name] = sum(1 for _ in csv.DictReader(file))
    assert counts == {"tickets.csv": 455, "traffic.csv": 245}  # 65 % and 35 % of 700


def test_the_same_seed_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["recipe.yaml", "tickets.csv", "traffic.csv", "understudy.yaml"]
    project.write(tmp_path, count=700, seed=3)
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in names)
    project.write(tmp_path, count=700, seed=4)
    assert (tmp_path / "tickets.csv").read_bytes() != (folder / "tickets.csv").read_bytes()


def test_another_recipe_may_be_followed(tmp_path: Path) -> None:
    project.write(tmp_path, count=20, seed=5, recipe="version: 1\nseed: %(seed)d\n")
    assert (tmp_path / recipe.FILE_NAME).read_text() == "version: 1\nseed: 5\n"

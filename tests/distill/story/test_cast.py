"""The cast: each of them has a project, and who knows more has seen all that the others have."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill import recipe
from distill.story import cast
from distill.story.cast import BETTER, EQUAL, FIRST, NEXT, WORSE, School
from distill.story.clerk import HEAD, Clerk
from gateway.contract import examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cast")
    cast.write(made, Clerk(), School(tickets=200, epochs=2, again=1), seed=0)
    return made


def texts(folder: Path, role: str) -> list[str]:
    return [each.text for each in examples.read(folder / role / "log.jsonl")]


def test_each_has_seen_a_part_of_what_the_next_has(folder: Path) -> None:
    worse, first, better = (texts(folder, role) for role in (WORSE, FIRST, BETTER))
    assert (len(worse), len(first), len(better)) == (20, 80, 200)
    assert better[:80] == first
    assert first[:20] == worse
    assert texts(folder, EQUAL) == first
    assert texts(folder, NEXT) == better


def test_each_has_a_recipe_that_can_be_followed(folder: Path) -> None:
    for role in (WORSE, FIRST, EQUAL, BETTER, NEXT):
        found = recipe.load(folder / role / recipe.FILE_NAME)
        assert found.data.heads[HEAD.name].labels == HEAD.labels
        assert found.student.training.epochs == (1 if role == NEXT else 2)
        assert (found.data.handover is not None) == (role == NEXT)


def test_the_equal_one_differs_in_its_pace_alone(folder: Path) -> None:
    first, equal = (recipe.load(folder / role / recipe.FILE_NAME) for role in (FIRST, EQUAL))
    pace = equal.student.training.learning_rate
    assert pace != first.student.training.learning_rate
    training = first.student.training.model_copy(update={"learning_rate": pace})
    student = first.student.model_copy(update={"training": training})
    assert equal.model_copy(update={"folder": first.folder}) == first.model_copy(
        update={"student": student}
    )

"""The values that cross rooms: what they derive."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gateway.types import Cost, HeadPrediction, Prediction


def said(*labels: tuple[str, ...]) -> Prediction:
    return Prediction(
        heads=tuple(
            HeadPrediction(f"head {place}", each, 1.0, np.ones(1, np.float32))
            for place, each in enumerate(labels)
        ),
        score=1.0,
        truncated=False,
        bundle="b",
    )


@pytest.mark.parametrize(
    ("student", "teacher", "total"),
    [(1, 2500, 2501), (0, 0, 0), (None, 2500, None), (1, None, None), (None, None, None)],
)
def test_a_total_is_known_when_every_part_is(
    student: int | None, teacher: int | None, total: int | None
) -> None:
    assert Cost(student=student, teacher=teacher, avoided=7).total == total


def test_two_predictions_agree_when_every_head_says_the_same_labels() -> None:
    assert said(("refund",), ()).agrees(said(("refund",), ()))
    assert not said(("refund",), ()).agrees(said(("refund",), ("urgent",)))
    assert not said(("refund",), ("urgent",)).agrees(said(("fraud",), ("urgent",)))


def test_predictions_of_other_tasks_are_not_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        said(("refund",)).agrees(said(("refund",), ()))


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Cost(1, 2, 3), "student", 0)  # noqa: B010  a frozen attribute

"""A teacher that does as it is told: slow, wrong, flaky or down. For drills, demos and tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np

from gateway.contract.manifest import Head, HeadKind, Task
from gateway.errors import SettingsError, TeacherUnavailable
from gateway.teachers.base import Said
from gateway.types import HeadPrediction, Instance, Prediction


class ScriptedTeacher:
    """Says the same labels to everything, after a delay, and fails every so many calls.

    `labels` names a label for each choice head and a list for each flags head. `fail_every=3` fails
    the 3rd, 6th ... call; 1 is always down; None never fails.
    """

    name = "scripted"

    def __init__(
        self,
        task: Task,
        *,
        labels: Mapping[str, str | tuple[str, ...]],
        delay_s: float = 0.0,
        fail_every: int | None = None,
    ) -> None:
        self.task = task
        self.calls = 0
        self._delay = delay_s
        self._fail_every = fail_every
        if unknown := sorted(labels.keys() - {head.name for head in task.heads}):
            raise SettingsError(
                f"the scripted teacher is told what to say for {unknown[0]!r}, which is no head",
                mend=f"name heads of {', '.join(head.name for head in task.heads)}",
            )
        self._prediction = Prediction(
            heads=tuple(_said(head, labels) for head in task.heads),
            score=1.0,
            truncated=False,
            bundle=self.name,
            asked=task.heads,
        )

    async def answer(self, instance: Instance) -> Said:  # noqa: ARG002
        """Wait, then answer or fail as scripted."""
        self.calls += 1
        turn = self.calls
        await asyncio.sleep(self._delay)
        if self._fail_every is not None and turn % self._fail_every == 0:
            raise TeacherUnavailable("the scripted teacher fails this call, as it was told to")
        return Said(self._prediction)

    async def close(self) -> None:
        """Nothing is held."""


def _said(head: Head, labels: Mapping[str, str | tuple[str, ...]]) -> HeadPrediction:
    said = labels.get(head.name, () if head.kind is HeadKind.FLAGS else head.labels[0])
    chosen = (said,) if isinstance(said, str) else tuple(said)
    if not set(chosen) <= set(head.labels) or (head.kind is HeadKind.CHOICE and len(chosen) != 1):
        raise SettingsError(
            f"the scripted teacher cannot say {said!r} for the head {head.name!r}",
            mend=f"name labels of {', '.join(head.labels)}",
        )
    marks = np.array([label in chosen for label in head.labels], np.float32)
    ordered = tuple(label for label in head.labels if label in chosen)
    return HeadPrediction(head=head.name, labels=ordered, confidence=1.0, probabilities=marks)

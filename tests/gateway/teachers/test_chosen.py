"""A teacher of several, chosen by what the student said: whose answer is shared and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.routing.risk import LabelRule
from gateway.teachers import opinion
from gateway.teachers.base import Said
from gateway.teachers.cache import AnswerCache
from gateway.teachers.ensemble import ChoosingTeacher, Member
from gateway.teachers.guard import Guard
from gateway.types import Instance, Prediction
from tests.factories import TASK

SAME = Instance("hello")
SOON = 30.0  # seconds; far beyond what any call here takes


class Expert:
    """Says one intent, and counts how often it is asked."""

    task = TASK

    def __init__(self, intent: str) -> None:
        self.name = "expert"  # both are called so: the names of members tell them apart
        self.asked = 0
        self._said = Said(hint(intent), cost=1)

    async def answer(self, instance: Instance) -> Said:  # noqa: ARG002
        """Let others come, then say it."""
        self.asked += 1
        await asyncio.sleep(0)
        return self._said

    async def close(self) -> None:
        """Nothing to give back."""


def hint(intent: str) -> Prediction:
    """What a student says of the intent."""
    heads = (opinion.of_labels(TASK.heads[0], [intent]), opinion.of_labels(TASK.heads[1], []))
    return opinion.prediction(TASK, heads, by="student")


def experts() -> tuple[ChoosingTeacher, Expert, Expert]:
    """One for what the student calls fraud, one for all else."""
    fraud, usual = Expert("fraud"), Expert("refund")
    teacher = ChoosingTeacher(
        "first-of-2",
        TASK,
        {"fraud": Member(fraud, timeout_s=SOON), "usual": Member(usual, timeout_s=SOON)},
        skills=[(LabelRule("fraud", "intent", frozenset({"fraud"})), "fraud")],
        default="usual",
    )
    return teacher, fraud, usual


def asked(guard: Guard, hints: Sequence[Prediction | None]) -> list[str]:
    """The same input with each of these hints, all at once -> the intents that were said."""

    async def scene() -> list[str]:
        words = await asyncio.gather(*(guard.answer(SAME, hint=each) for each in hints))
        return [word.prediction.heads[0].labels[0] for word in words]

    return asyncio.run(scene())


def test_the_strongest_at_what_the_student_says_is_asked() -> None:
    teacher, fraud, usual = experts()
    guard = Guard(teacher, timeout_s=SOON, concurrency=4)
    assert asked(guard, [hint("fraud"), hint("other"), None]) == ["fraud", "refund", "refund"]
    assert (fraud.asked, usual.asked) == (1, 2)


def test_without_a_student_a_rule_on_labels_does_not_hold() -> None:
    teacher, _, _ = experts()
    assert asyncio.run(teacher.answer(SAME)).prediction.heads[0].labels == ("refund",)


def test_one_call_is_shared_by_those_for_whom_the_same_member_is_asked() -> None:
    teacher, fraud, usual = experts()
    guard = Guard(teacher, timeout_s=SOON, concurrency=4, coalesce=True)
    hints = [hint("fraud"), hint("other"), hint("refund"), hint("fraud")]
    assert asked(guard, hints) == ["fraud", "refund", "refund", "fraud"]
    assert (fraud.asked, usual.asked) == (1, 1)


def test_an_answer_is_kept_of_the_member_that_gave_it() -> None:
    teacher, fraud, usual = experts()
    cache = AnswerCache(answers=8, ttl_s=SOON)
    guard = Guard(teacher, timeout_s=SOON, concurrency=4, cache=cache)
    for _ in range(2):
        assert asked(guard, [hint("fraud")]) == ["fraud"]
        assert asked(guard, [hint("other")]) == ["refund"]
        assert asked(guard, [hint("refund")]) == ["refund"]
    assert (fraud.asked, usual.asked) == (1, 1)

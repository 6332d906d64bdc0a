"""The scripted teacher does as it is told, and refuses to be told nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.contract.bundle import open_bundle
from gateway.errors import SettingsError, TeacherUnavailable
from gateway.students.student import Student
from gateway.teachers.scripted import ScriptedTeacher
from gateway.types import Instance, Prediction
from tests.factories import TASK, tiny_bundle

ASKED = Instance("hello")
Labels = Mapping[str, str | tuple[str, ...]]


def ask(teacher: ScriptedTeacher, times: int) -> list[Prediction | None]:
    """What it says, call by call; None where it fails."""

    async def work() -> list[Prediction | None]:
        said: list[Prediction | None] = []
        for _ in range(times):
            try:
                said.append((await teacher.answer(ASKED)).prediction)
            except TeacherUnavailable:
                said.append(None)
        await teacher.close()
        return said

    return asyncio.run(work())


def test_it_says_its_labels_surely() -> None:
    teacher = ScriptedTeacher(TASK, labels={"intent": "fraud", "flags": ("legal",)})
    (said,) = ask(teacher, 1)
    assert said is not None
    intent, flags = said.heads
    assert (intent.labels, intent.probabilities.tolist()) == (("fraud",), [0.0, 1.0, 0.0])
    assert (flags.labels, flags.probabilities.tolist()) == (("legal",), [0.0, 1.0])
    assert (said.score, said.bundle, said.truncated) == (1.0, "scripted", False)
    assert intent.confidence == flags.confidence == 1.0


def test_untold_it_says_the_first_choice_and_no_flag() -> None:
    (said,) = ask(ScriptedTeacher(TASK, labels={}), 1)
    assert said is not None
    assert [head.labels for head in said.heads] == [("refund",), ()]


def test_one_flag_may_be_told_by_its_name() -> None:
    (said,) = ask(ScriptedTeacher(TASK, labels={"flags": "legal"}), 1)
    assert said is not None
    assert said.heads[1].labels == ("legal",)


def test_its_flags_stand_in_the_order_of_the_head_whatever_it_was_told(tmp_path: Path) -> None:
    """Else it would never agree with a student that says the same."""
    teacher = ScriptedTeacher(TASK, labels={"intent": "fraud", "flags": ("legal", "urgent")})
    (said,) = ask(teacher, 1)
    assert said is not None
    (student,) = Student(open_bundle(tiny_bundle(tmp_path))).predict(["urgent lawyer fraud"])
    assert said.agrees(student)


@pytest.mark.parametrize(
    ("every", "answered"),
    [
        (None, [True] * 6),
        (3, [True, True, False, True, True, False]),
        (2, [True, False, True, False, True, False]),
        (1, [False] * 6),
    ],
)
def test_it_fails_every_so_many_calls(every: int | None, answered: list[bool]) -> None:
    teacher = ScriptedTeacher(TASK, labels={}, fail_every=every)
    assert [each is not None for each in ask(teacher, 6)] == answered
    assert teacher.calls == 6


def test_a_slow_one_can_be_overtaken_and_cancelled() -> None:
    async def work() -> None:
        teacher = ScriptedTeacher(TASK, labels={}, delay_s=3600.0)
        call = asyncio.create_task(teacher.answer(ASKED))
        await asyncio.sleep(0)
        assert teacher.calls == 1
        assert not call.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(work())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"intent": "fruad"}, "cannot say 'fruad' for the head 'intent'"),
        ({"intent": ("fraud", "refund")}, "for the head 'intent'"),
        ({"intent": ()}, "for the head 'intent'"),
        ({"flags": ("legal", "lgal")}, "for the head 'flags'"),
        ({"intnet": "fraud"}, "for 'intnet', which is no head"),
    ],
)
def test_a_script_that_does_not_fit_the_task_is_refused(labels: Labels, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        ScriptedTeacher(TASK, labels=labels)
    assert refused.value.mend.startswith("name ")

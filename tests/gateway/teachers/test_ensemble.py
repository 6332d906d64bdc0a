"""Several teachers as one: what they say on average, who is chosen, and what a failure costs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import re2

from gateway.errors import (
    SettingsError,
    TeacherError,
    TeacherGarbled,
    TeacherLimited,
    TeacherRefused,
    TeacherUnavailable,
)
from gateway.routing.risk import RangeRule, TextRule
from gateway.teachers import opinion
from gateway.teachers.base import Said
from gateway.teachers.ensemble import ChoosingTeacher, Member, VotingTeacher
from gateway.types import Instance
from tests.factories import TASK
from tests.patience import eventually

SOON = 30.0  # seconds; far beyond what any call here takes
ASKED = Instance("hello")


class Sure:
    """Says one label with one confidence, at one cost; or raises, or hangs."""

    task = TASK

    def __init__(
        self,
        label: str = "other",
        confidence: float = 1.0,
        *,
        cost: int | None = 1,
        error: TeacherError | None = None,
        hangs: bool = False,
    ) -> None:
        self.name = label
        self.asked = 0
        self.cancelled = False
        self.closed = False
        self._hangs = hangs
        self._error = error
        intent, flags = TASK.heads
        heads = [
            opinion.of_labels(intent, [label], confidence),
            opinion.of_labels(flags, ["legal"] if label == "fraud" else []),
        ]
        self._said = Said(opinion.prediction(TASK, heads, by=label), cost=cost)

    async def answer(self, instance: Instance) -> Said:  # noqa: ARG002
        """Do as it was made to."""
        self.asked += 1
        if self._hangs:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled = True
        if self._error is not None:
            raise self._error
        return self._said

    async def close(self) -> None:
        """Note it."""
        self.closed = True


def members(*teachers: Sure, **weights: Mapping[str, float]) -> dict[str, Member]:
    """Members a, b, c ... with their weights."""
    names = "abcdefgh"[: len(teachers)]
    return {
        name: Member(teacher, SOON, weights.get(name, {}))
        for name, teacher in zip(names, teachers, strict=True)
    }


def vote(among: Mapping[str, Member], **more: Any) -> Said:
    """What they say in common."""
    return asyncio.run(VotingTeacher("vote", TASK, among, **more).answer(ASKED))


def test_a_vote_is_the_mean_of_the_probabilities() -> None:
    said = vote(members(Sure("refund", 0.8), Sure("fraud", 0.6))).prediction
    intent, flags = said.heads
    assert intent.probabilities.tolist() == pytest.approx([0.5, 0.35, 0.15])
    assert intent.labels == ("refund",)
    assert flags.probabilities.tolist() == pytest.approx([0.0, 0.5])
    assert flags.labels == ("legal",)  # one half is enough, as it is for a student
    assert said.score == pytest.approx(0.5 * 0.5)
    assert (said.bundle, said.asked) == ("vote", TASK.heads)


def test_weights_count_head_by_head() -> None:
    among = members(Sure("refund", 0.8), Sure("fraud", 0.6), b={"intent": 3.0})
    intent, flags = vote(among).prediction.heads
    assert intent.probabilities.tolist() == pytest.approx([0.35, 0.475, 0.175])
    assert flags.probabilities.tolist() == pytest.approx([0.0, 0.5])


def test_who_has_no_weight_has_no_say() -> None:
    among = members(Sure("refund"), Sure("fraud"), a={"intent": 0.0}, b={"flags": 0.0})
    intent, flags = vote(among).prediction.heads
    assert (intent.labels, flags.labels) == (("fraud",), ())


def test_members_are_asked_side_by_side() -> None:
    """Each waits for the other: one after the other neither would end."""
    both = asyncio.Barrier(2)

    class Waiting(Sure):
        async def answer(self, instance: Instance) -> Said:
            await both.wait()
            return await super().answer(instance)

    among = members(Waiting("refund"), Waiting("refund"))
    work = VotingTeacher("vote", TASK, among).answer(ASKED)
    said = asyncio.run(asyncio.wait_for(work, SOON))
    assert said.prediction.heads[0].labels == ("refund",)


def test_a_member_that_fails_is_left_out() -> None:
    among = members(Sure("refund"), Sure(error=TeacherGarbled("nonsense")), Sure("refund"))
    assert vote(among, quorum=2).prediction.heads[0].probabilities.tolist() == [1.0, 0.0, 0.0]


def test_fewer_than_a_quorum_are_no_answer() -> None:
    among = members(Sure("refund"), Sure(error=TeacherGarbled("nonsense")))
    with pytest.raises(TeacherUnavailable, match=r"too few members of vote .* teacher_garbled"):
        vote(among, quorum=2)


def test_a_head_that_nobody_with_a_say_answered_is_no_answer() -> None:
    down = Sure(error=TeacherUnavailable("down"))
    with pytest.raises(TeacherUnavailable, match="too few"):
        vote(members(Sure("refund"), down, a={"flags": 0.0}))


def test_where_all_refuse_another_try_is_of_no_use() -> None:
    refused = TeacherRefused("no such model", mend="name another")
    with pytest.raises(TeacherRefused) as raised:
        vote(members(Sure(error=refused), Sure(error=refused)))
    assert raised.value.mend == "name another"
    assert not raised.value.lasting
    wrong = Sure(error=TeacherRefused("wrong key", lasting=True))
    with pytest.raises(TeacherRefused) as raised:
        vote(members(wrong, wrong))
    assert raised.value.lasting
    with pytest.raises(TeacherUnavailable):
        vote(members(Sure(error=refused), Sure(error=TeacherUnavailable("down"))))


def test_where_all_are_limited_the_longest_wait_counts() -> None:
    waits = [TeacherLimited("busy", retry_after=wait) for wait in (2.0, None, 7.0)]
    with pytest.raises(TeacherLimited) as raised:
        vote(members(*(Sure(error=error) for error in waits)))
    assert raised.value.retry_after == 7.0
    with pytest.raises(TeacherLimited) as raised:
        vote(members(Sure(error=TeacherLimited("busy"))))
    assert raised.value.retry_after is None


def test_the_cost_is_the_sum_and_unknown_where_one_is() -> None:
    assert vote(members(Sure(cost=3), Sure(cost=4))).cost == 7
    assert vote(members(Sure(cost=3), Sure(cost=None))).cost is None


def test_a_call_that_failed_costs_what_it_says_and_one_that_never_began_nothing() -> None:
    billed = TeacherGarbled("nonsense", cost=5)
    assert vote(members(Sure(cost=3), Sure(error=billed))).cost == 8
    unknown = TeacherGarbled("nonsense")
    assert vote(members(Sure(cost=3), Sure(error=unknown))).cost is None
    never = TeacherUnavailable("full", asked=False)
    assert vote(members(Sure(cost=3), Sure(error=never))).cost == 3
    with pytest.raises(TeacherUnavailable) as raised:
        vote(members(Sure(cost=3), Sure(error=billed)), quorum=2)
    assert (raised.value.cost, raised.value.asked) == (8, True)


def test_a_vote_that_was_begun_nowhere_was_not_begun() -> None:
    never = TeacherUnavailable("full", asked=False)
    with pytest.raises(TeacherUnavailable) as raised:
        vote(members(Sure(error=never)))
    assert (raised.value.asked, raised.value.cost) == (False, 0)


def test_a_vote_that_fails_was_begun_also_where_only_the_others_were_asked() -> None:
    never = TeacherUnavailable("full", asked=False)
    with pytest.raises(TeacherUnavailable) as raised:
        vote(members(Sure(cost=3), Sure(error=never)), quorum=2)
    assert (raised.value.asked, raised.value.cost) == (True, 3)


def test_a_member_that_is_late_is_cancelled_and_left_out() -> None:
    late = Sure("fraud", hangs=True)
    among = {"a": Member(Sure("refund"), SOON), "b": Member(late, 0.01)}
    assert vote(among).prediction.heads[0].labels == ("refund",)
    assert late.cancelled


def test_cancelling_a_vote_cancels_its_members() -> None:
    late = [Sure(hangs=True), Sure(hangs=True)]

    async def scene() -> None:
        vote = asyncio.create_task(VotingTeacher("v", TASK, members(*late)).answer(ASKED))
        await eventually(lambda: all(each.asked for each in late))
        vote.cancel()
        with pytest.raises(asyncio.CancelledError):
            await vote

    asyncio.run(scene())
    assert [each.cancelled for each in late] == [True, True]


def test_a_weight_for_a_head_that_the_task_has_not_is_a_mistake() -> None:
    with pytest.raises(SettingsError, match=r"weights\.a: the task has no head 'topic'"):
        VotingTeacher("v", TASK, members(Sure(), a={"topic": 1.0}))


def test_a_head_without_any_say_is_a_mistake() -> None:
    with pytest.raises(SettingsError, match="nobody has a say on the head 'flags'"):
        VotingTeacher("v", TASK, members(Sure(), a={"flags": 0.0}))


def test_the_one_is_asked_that_is_best_at_the_request() -> None:
    usual, legal, large = Sure("other"), Sure("fraud"), Sure("refund")
    teacher = ChoosingTeacher(
        "first",
        TASK,
        members(usual, legal, large),
        skills=[
            (TextRule("legal", re2.compile("(?i)lawyer")), "b"),
            (RangeRule("large", "amount", above=1000), "c"),
        ],
        default="a",
    )

    def said(text: str, **fields: int) -> str:
        answer = asyncio.run(teacher.answer(Instance(text, fields)))
        return answer.prediction.heads[0].labels[0]

    assert said("hello") == "other"
    assert said("my Lawyer") == "fraud"
    assert said("hello", amount=2000) == "refund"
    assert said("my lawyer", amount=2000) == "fraud"  # the first that holds
    assert (usual.asked, legal.asked, large.asked) == (1, 2, 1)


def test_what_the_chosen_one_fails_to_answer_nobody_answers() -> None:
    among = members(Sure(error=TeacherUnavailable("down")), Sure("refund"))
    teacher = ChoosingTeacher("first", TASK, among, skills=[], default="a")
    with pytest.raises(TeacherUnavailable, match="down"):
        asyncio.run(teacher.answer(ASKED))


def test_closing_closes_every_member_also_where_one_fails_to() -> None:
    class Stuck(Sure):
        async def close(self) -> None:
            raise OSError("stuck")

    last, first = Sure(), Sure()
    among = members(first, Stuck(), last)
    with pytest.raises(OSError, match="stuck"):
        asyncio.run(VotingTeacher("v", TASK, among).close())
    assert (first.closed, last.closed) == (True, True)
    only = Sure()
    asyncio.run(ChoosingTeacher("f", TASK, members(only), skills=[], default="a").close())
    assert only.closed

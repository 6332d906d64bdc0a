"""Several teachers as one: all vote, or the one is asked that is best at such a request.

A vote is the weighted mean of the members' probabilities, head by head: a linear opinion pool
(Stone 1961, The opinion pool). Members are asked side by side; one that fails is left out of the
vote as long as a quorum has answered. The guard stands around the whole and tries again; here
nothing is tried twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import numpy as np

from gateway.contract.manifest import Head, Task
from gateway.errors import (
    SettingsError,
    TeacherError,
    TeacherLimited,
    TeacherRefused,
    TeacherTimeout,
    TeacherUnavailable,
)
from gateway.routing.risk import Rule
from gateway.teachers import opinion
from gateway.teachers.base import Chosen, Said, Teacher
from gateway.types import HeadPrediction, Instance, Prediction


@dataclass(frozen=True, slots=True)
class Member:
    """A teacher in an ensemble. `timeout_s` is for one of its answers.

    `weights` is what its word on a head counts, by the head's name; 1 where none is named, and
    with 0 it has no say.
    """

    teacher: Teacher
    timeout_s: float
    weights: Mapping[str, float] = field(default_factory=dict)

    async def answer(self, instance: Instance) -> Said:
        """Ask it, for no longer than it may take. Raises TeacherError."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self.teacher.answer(instance)
        except TimeoutError as error:
            raise TeacherTimeout(
                f"{self.teacher.name} did not answer in {self.timeout_s:.3g} s"
            ) from error


class VotingTeacher:
    """Asks every member, and says what they say on average.

    The cost is the sum of what the members' calls cost, and unknown where any of them is. An answer
    of fewer than `quorum` members is none, nor is one where nobody with a say on a head is left.
    """

    def __init__(
        self, name: str, task: Task, members: Mapping[str, Member], *, quorum: int = 1
    ) -> None:
        self.task = task
        self.name = name
        self._members = tuple(members.values())
        self._quorum = quorum
        heads = {head.name for head in task.heads}
        for each, member in members.items():
            if unknown := sorted(member.weights.keys() - heads):
                raise SettingsError(
                    f"teacher.ensemble.weights.{each}: the task has no head {unknown[0]!r}",
                    mend=f"name heads of {', '.join(sorted(heads))}",
                )
        for head in task.heads:
            if not any(_weight(member, head) for member in self._members):
                raise SettingsError(
                    f"teacher.ensemble.weights: nobody has a say on the head {head.name!r}",
                    mend="give a member a weight above 0",
                )

    async def answer(self, instance: Instance) -> Said:
        """Ask all side by side. Raises TeacherError when too few are left.

        It is TeacherRefused where trying again is no use, TeacherLimited where all that failed are
        limited, else TeacherUnavailable.
        """
        words = await asyncio.gather(*(self._ask(member, instance) for member in self._members))
        said = [
            (member, each)
            for member, each in zip(self._members, words, strict=True)
            if isinstance(each, Said)
        ]
        if len(said) < self._quorum:
            raise self._too_few(words)
        heads = []
        for place, head in enumerate(self.task.heads):
            votes = [(_weight(member, head), each.prediction.heads[place]) for member, each in said]
            if not any(weight for weight, _ in votes):
                raise self._too_few(words)
            heads.append(_pooled(head, votes))
        truncated = any(each.prediction.truncated for _, each in said)
        return Said(
            opinion.prediction(self.task, heads, by=self.name, truncated=truncated),
            cost=_sum(words),
        )

    async def close(self) -> None:
        """Close every member."""
        await close_all(member.teacher for member in self._members)

    async def _ask(self, member: Member, instance: Instance) -> Said | TeacherError:
        try:
            return await member.answer(instance)
        except TeacherError as error:
            return error

    def _too_few(self, words: Sequence[Said | TeacherError]) -> TeacherError:
        """Why there is no vote. It was begun if a member was asked: something may be billed."""
        failed = [each for each in words if isinstance(each, TeacherError)]
        codes = ", ".join(sorted({each.code for each in failed}))
        message = f"too few members of {self.name} answered, and {self._quorum} must: {codes}"
        asked = any(each.asked for each in words)
        error: TeacherError
        refused = [each for each in failed if isinstance(each, TeacherRefused)]
        if len(refused) == len(failed):
            lasting = all(each.lasting for each in refused)
            error = TeacherRefused(message, mend=failed[0].mend, asked=asked, lasting=lasting)
        elif all(isinstance(each, TeacherLimited) for each in failed):
            waits = [each.retry_after for each in failed if isinstance(each, TeacherLimited)]
            known = [wait for wait in waits if wait is not None]
            error = TeacherLimited(message, asked=asked, retry_after=max(known, default=None))
        else:
            error = TeacherUnavailable(message, asked=asked)
        error.cost = _sum(words)
        return error


class ChoosingTeacher:
    """Asks one member for each request: that of the first rule that holds, else the default.

    What a member fails to answer nobody answers: it was chosen because it knows best. A rule may
    look at what the student said; where it said nothing, such a rule does not hold. Nobody is told
    what that was: it only chooses.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        members: Mapping[str, Member],
        *,
        skills: Sequence[tuple[Rule, str]],
        default: str,
    ) -> None:
        self.task = task
        self.name = name
        self._members = members
        self._skills = skills
        self._default = default

    async def answer(self, instance: Instance) -> Said:
        """Ask the member that is best at it, by what is known beforehand. Raises TeacherError."""
        return await self.choose(instance, None).answer(instance)

    def choose(self, instance: Instance, hint: Prediction | None) -> Chosen:
        """The member of the first rule that holds, of the instance and what the student said."""
        found = (name for rule, name in self._skills if rule.holds(instance, hint))
        name = next(found, self._default)
        return Chosen(name, self._members[name].answer)

    async def close(self) -> None:
        """Close every member."""
        await close_all(member.teacher for member in self._members.values())


async def close_all(teachers: Iterable[Teacher]) -> None:
    """Close each of them, also where another one fails to."""
    async with AsyncExitStack() as opened:
        for teacher in teachers:
            opened.push_async_callback(teacher.close)


def _weight(member: Member, head: Head) -> float:
    return member.weights.get(head.name, 1.0)


def _pooled(head: Head, votes: Sequence[tuple[float, HeadPrediction]]) -> HeadPrediction:
    """The weighted mean of what was said of a head; one of the weights is above 0."""
    weights = np.array([weight for weight, _ in votes])
    said = np.stack([each.probabilities for _, each in votes]).astype(np.float64)
    mean = weights @ said / weights.sum()
    return opinion.of_probabilities(head, mean.astype(np.float32))


def _sum(words: Iterable[Said | TeacherError]) -> int | None:
    """What the members' calls cost, in micro-USD; None where one is unknown.

    A call that was not begun cost nothing.
    """
    total = 0
    for word in words:
        cost = word.cost if word.asked else 0
        if cost is None:
            return None
        total += cost
    return total

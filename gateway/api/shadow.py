"""The candidates over HTTP: what was compared, what it proves, and whether one may serve.

It reads, but for one route, which takes a candidate out of the test. Who may ask is decided where
these routes are included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.schemas import problems
from gateway.assembly import Gateway
from gateway.shadow.promotion import Finding
from gateway.shadow.slices import Counts
from gateway.store.comparisons import Disagreement
from gateway.succession.candidacy import Progress
from gateway.types import FieldValue


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FindingReply(_Part):
    """Where one gate stands. The bounds hold at all times together."""

    gate: str
    standing: str = Field(description="passed, failed, open or inconclusive")
    limit: float
    pairs: int = Field(description="rows that say something about it")
    value: float | None = Field(description="their mean; null: none yet")
    lower: float = Field(description="above the limit: failed")
    upper: float = Field(description="below the limit: passed")
    needed: int | None = Field(description="further pairs until it passes; null: never, like this")
    requests: int | None = Field(description="about how many requests of the task bring them")

    @classmethod
    def of(cls, finding: Finding, progress: Progress) -> Self:
        """A finding, as it is shown."""
        return cls(
            gate=finding.gate,
            standing=finding.standing,
            limit=finding.limit,
            pairs=finding.pairs,
            value=finding.value,
            lower=finding.lower,
            upper=finding.upper,
            needed=finding.needed,
            requests=progress.requests(finding),
        )


class VerdictReply(_Part):
    """What may be done with the candidate now, and why."""

    decision: str = Field(description="promote, hold or reject")
    why: str = Field(
        description="proved, refuted, early, uncertified, stopped, unread, open or inconclusive"
    )
    alpha: float = Field(description="what this candidate may spend of it")
    elapsed_s: float = Field(description="that every gate was under test")
    remaining_s: float = Field(description="until the time is up")
    gates: list[FindingReply]


class CountsReply(_Part):
    """Requests of a slice: all that were compared, and those with a teacher's view."""

    compared: int
    other_than_serving: int
    with_teacher: int
    other_than_teacher: int
    serving_other_than_teacher: int
    escalated: int = Field(description="the candidate would have")
    paired: int = Field(description="of compared: who serves answered, and no canary")
    paired_with_teacher: int = Field(description="of with_teacher: the same")


class DisagreementReply(_Part):
    """A request on which the candidate differs. Text and fields: where records keep them."""

    record: str
    at: float
    said: dict[str, list[str]]
    score: float
    serving: dict[str, list[str]] | None
    teacher: dict[str, list[str]] | None
    text: str | None
    fields: dict[str, FieldValue] | None


class AnewReply(_Part):
    """Gates that began anew: what was seen before says nothing of them."""

    because: str = Field(description="what moved")
    gates: list[str]


class CandidateReply(_Part):
    """One candidate: how it does, what was compared, what it proves."""

    name: str
    state: str = Field(description="starting, running, resting or stopped")
    ended: str = Field(description="why it is left alone; empty: it is not")
    began: float = Field(description="seconds since the epoch")
    share: float = Field(description="of the requests, which it is shown")
    void: str | None = Field(
        description="why its certificate does not hold; null: it does, or none is due"
    )
    anew: list[AnewReply] = Field(description="what began anew while it was under test, and why")
    skipped: dict[str, int] = Field(description="requests drawn and not shown to it, by cause")
    lapses: dict[str, int] = Field(description="requests that it said nothing of, by cause")
    verdict: VerdictReply
    whole: CountsReply
    heads: dict[str, CountsReply]
    slices: dict[str, dict[str, CountsReply]] = Field(
        description="kind (length, hour, label.<head>, field.<name>) -> value"
    )
    worst: list[DisagreementReply] = Field(description="the surest disagreements first")

    @classmethod
    def of(cls, progress: Progress) -> Self:
        """A candidate, as it is shown."""
        verdict, slices = progress.verdict, progress.slices
        return cls(
            name=progress.name,
            state=progress.state,
            ended=progress.ended,
            began=progress.began,
            share=progress.share,
            void=progress.void,
            anew=[
                AnewReply(because=because, gates=[gate.value for gate in gates])
                for because, gates in progress.anew.items()
            ],
            skipped=dict(progress.shed),
            lapses={lapse.value: count for lapse, count in progress.lapses.items()},
            verdict=VerdictReply(
                decision=verdict.decision,
                why=verdict.why,
                alpha=verdict.alpha,
                elapsed_s=verdict.elapsed_s,
                remaining_s=verdict.remaining_s,
                gates=[FindingReply.of(each, progress) for each in verdict.findings],
            ),
            whole=_counts(slices.whole),
            heads={head: _counts(each) for head, each in slices.heads.items()},
            slices={
                kind: {value: _counts(each) for value, each in values.items()}
                for kind, values in slices.parts.items()
            },
            worst=[_disagreement(each) for each in progress.worst],
        )


class TaskShadowReply(_Part):
    """The candidates of one task."""

    task: str
    serving: str
    candidates: list[CandidateReply]


class ShadowReply(_Part):
    """The candidates of every task."""

    tasks: list[TaskShadowReply]


class RemovedReply(_Part):
    """A bundle that is compared no more."""

    task: str
    bundle: str


def router(gateway: Gateway, who: Callable[[Request], str]) -> APIRouter:
    """The routes of the shadow; `who` names whoever asks."""
    routes = APIRouter(prefix="/shadow", responses=problems(401, 403, 500))

    @routes.get("", response_model=ShadowReply)
    async def shadow() -> Response:
        """What each candidate has shown by now, and whether it may serve."""
        found = [
            (task, gateway.successions[task].roles.serving, await candidacy.progress())
            for task, candidacy in gateway.candidacies.items()
        ]
        shown = await asyncio.to_thread(_shown, found)  # milliseconds of work: others are served
        return Response(shown, media_type="application/json")

    @routes.delete("/{task}/{bundle}", responses=problems(404))
    async def remove(request: Request, task: str, bundle: str) -> RemovedReply:
        """Compare a candidate no more. Its bundle, and what was counted of it, are kept."""
        known = gateway.cascade(task).task
        await gateway.candidacies[known].remove(bundle, by=who(request))
        return RemovedReply(task=known, bundle=bundle)

    return routes


def _shown(found: Sequence[tuple[str, str, Sequence[Progress]]]) -> str:
    """The reply as JSON: of each task its name, who serves, and what is known of its candidates."""
    reply = ShadowReply(
        tasks=[
            TaskShadowReply(
                task=task,
                serving=serving,
                candidates=[CandidateReply.of(each) for each in candidates],
            )
            for task, serving, candidates in found
        ]
    )
    return reply.model_dump_json()


def _counts(counts: Counts) -> CountsReply:
    return CountsReply(**asdict(counts))


def _disagreement(found: Disagreement) -> DisagreementReply:
    return DisagreementReply(
        record=found.record,
        at=found.at,
        said=_lists(found.said) or {},
        score=found.score,
        serving=_lists(found.serving),
        teacher=_lists(found.teacher),
        text=found.text,
        fields=None if found.fields is None else dict(found.fields),
    )


def _lists(labels: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]] | None:
    return None if labels is None else {head: list(each) for head, each in labels.items()}

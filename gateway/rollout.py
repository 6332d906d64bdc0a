"""The rollout of one task: how a candidate comes to serve, and what stops it.

A candidate that was proved (gateway/shadow/promotion.py), or that somebody takes the blame for,
becomes a canary: it answers a share of the requests, step by step (gateway/shadow/ladder.py), and
in the end all. If it is worse than it may be it goes back by itself; then, and after each rollback,
nobody is promoted until somebody has looked and unfreezes it.

What holds is in roles.json, and every change is a row of the log of changes. The replicas that
share them look there: which of them takes a step does not matter, for one of them is the first.
Nothing here decides whether a candidate is good: the judge does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import structlog

from gateway.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotProved,
    PromotionFrozen,
    UnderstudyError,
)
from gateway.shadow.ladder import Standing
from gateway.shadow.promotion import Decision, Finding, Verdict
from gateway.shadow.promotion import Standing as GateStanding
from gateway.store.changes import Entry, What
from gateway.students.registry import CanaryRole, Frozen, Proposal, Roles
from gateway.students.vacancy import NO_STUDENT
from gateway.succession import Change, Succession

_LOOK_S = 0.5  # between two looks at roles.json: a rollback is everywhere within two seconds
_PAUSE_S = 5.0  # after a look that failed: a bundle that cannot be loaded is not tried all the time
_JUDGE_S = 30.0  # between two looks for a candidate that is proved: its bounds move slowly
_ALARM = "alarm"  # who sends a canary back
_CANARY = "canary"  # who takes its steps
_AUTOMATIC = "automatic"  # who promotes where nobody needs to

_log = structlog.get_logger(__name__)


class Judge(Protocol):
    """Knows what was observed of the candidates of a task."""

    def verdict(self, bundle: str) -> Verdict | None:
        """What may be done with the bundle of that name now; None: it is not under test."""


class Rollout:
    """The way of candidates to serving, in one task. Without a `judge` nobody is proved."""

    def __init__(self, succession: Succession, judge: Judge | None = None) -> None:
        self.judge = judge
        self._succession = succession
        self._task = succession.task
        self._not_before = 0.0  # of the next look, and of the next for who is proved
        self._judge_at = 0.0

    async def promote(self, name: str, *, by: str, why: str = "", override: bool = False) -> Change:
        """Let a candidate begin its steps, or wait for a second person where the settings want one.

        `override`: though it is not proved; then `why` must say something. Raises NotProved,
        PromotionFrozen, Conflict while another canary is on its way, Invalid, and like
        `Succession.swap`.
        """
        held = self._succession
        async with held.attempt(by=by):
            roles = held.roles
            if _on_its_way(name, roles) or _proposed(name, roles, override=override):
                return held.unchanged()
            if override and not why.strip():
                raise Invalid("why: an override without a reason", mend="say why, with `why`")
            self._check_free(roles)
            evidence = self._evidence(name, override=override)
            return await self._promote(name, by=by, why=why, override=override, evidence=evidence)

    async def approve(self, name: str, *, by: str, why: str = "") -> Change:
        """The second person's word: the candidate begins its steps.

        Raises Invalid where nobody has proposed it, Forbidden for the one who did, and like
        `promote`.
        """
        held = self._succession
        async with held.attempt(by=by):
            roles, proposal = held.roles, held.roles.proposal
            if _on_its_way(name, roles):
                return held.unchanged()
            if proposal is None or proposal.bundle != name:
                raise Invalid(
                    f"nobody has proposed to promote {name[:120]!r}",
                    mend="propose it first: understudy students promote",
                )
            if proposal.by == by:
                raise Forbidden(
                    f"{by} has proposed {name}, and cannot approve it too",
                    mend="let somebody with another admin's key approve it",
                )
            self._check_free(roles)
            evidence = self._evidence(name, override=proposal.override)
            await self._begin(name, What.APPROVE, by=by, why=why, evidence=evidence)
            return held.done("promoted", by=by)

    async def freeze(self, *, by: str, why: str) -> Change:
        """From now on nobody is promoted, and a canary takes no further step. Raises Invalid."""
        held = self._succession
        async with held.attempt(by=by):
            _check_why(why)
            if held.roles.frozen is not None:
                return held.unchanged()
            frozen = Frozen(why=why, at=held.clock())
            roles = held.roles.model_copy(update={"frozen": frozen})
            await held.become(roles, self._row(What.FREEZE, by, why=why))
            return held.done("frozen", by=by)

    async def unfreeze(self, *, by: str, why: str) -> Change:
        """Somebody has looked: candidates may be promoted again. Raises Invalid."""
        held = self._succession
        async with held.attempt(by=by):
            _check_why(why)
            if held.roles.frozen is None:
                return held.unchanged()
            evidence = {"was": held.roles.frozen.why}
            roles = held.roles.model_copy(update={"frozen": None})
            await held.become(roles, self._row(What.UNFREEZE, by, why=why, evidence=evidence))
            return held.done("unfrozen", by=by)

    async def look(self) -> None:
        """Follow what other replicas did, and do what is due: a step, a way back, a promotion.

        What goes wrong is logged, and tried again a little later.
        """
        held = self._succession
        now = held.clock()
        if now < self._not_before:
            return
        try:
            if await held.behind() or self._due(now):
                async with held.by_itself() as mine:
                    if mine:
                        await held.catch_up()
                        await self._advance(now)
        except Conflict:
            return  # another replica was faster
        except UnderstudyError as error:
            self._not_before = now + _PAUSE_S
            _log.warning("the roles do not move on", task=self._task, error=error.message)

    def _due(self, now: float) -> bool:
        held = self._succession
        canary, frozen = held.roles.canary, held.roles.frozen
        if canary is not None:
            return held.lookout.why is not None or (frozen is None and self._stands(canary).done)
        automatic = held.settings.promotion.automatic and self.judge is not None
        return automatic and frozen is None and now >= self._judge_at

    async def _advance(self, now: float) -> None:
        held, roles = self._succession, self._succession.roles
        if roles.canary is None:
            if self._due(now):
                self._judge_at = now + _JUDGE_S
                await self._promote_who_is_proved()
        elif (why := held.lookout.why) is not None:
            await held.go_back(by=_ALARM, why=why)
            held.done("rolled_back", by=_ALARM)
        elif roles.frozen is None and self._stands(roles.canary).done:
            await self._step(roles, roles.canary, now)

    def _stands(self, canary: CanaryRole) -> Standing:
        held = self._succession
        ladder, rows = held.settings.promotion.ladder(), held.lookout.rows
        return ladder.standing(canary.step, since=canary.since, rows=rows, now=held.clock())

    async def _step(self, roles: Roles, canary: CanaryRole, now: float) -> None:
        """The next share, or after the last one the serving student's place."""
        held, seen = self._succession, {"rows": self._succession.lookout.rows}
        if self._stands(canary).last:
            taken = await held.succeeded_by(canary.bundle, launched=canary.began)
            row = self._row(
                What.TAKEOVER, _CANARY, old=roles.serving, new=canary.bundle, evidence=seen
            )
            await held.become(taken, row)
            held.done("took_over", by=_CANARY)
            return
        number = canary.step + 1
        share = held.settings.promotion.ladder().step(number).share
        further = canary.model_copy(update={"step": number, "since": now})
        evidence = {"step": number + 1, "share": share, **seen}
        row = self._row(What.STEP, _CANARY, old=roles.serving, new=canary.bundle, evidence=evidence)
        await held.become(roles.model_copy(update={"canary": further}), row)
        held.done("stepped", by=_CANARY)

    async def _promote_who_is_proved(self) -> None:
        held, roles = self._succession, self._succession.roles
        for name in await asyncio.to_thread(held.registry.names):
            verdict = self._verdict(name)
            waits = _on_its_way(name, roles) or _proposed(name, roles, override=False)
            if verdict is None or verdict.decision is not Decision.PROMOTE or waits:
                continue
            evidence = _shown(verdict)
            await self._promote(name, by=_AUTOMATIC, why="", override=False, evidence=evidence)
            return

    async def _promote(
        self, name: str, *, by: str, why: str, override: bool, evidence: Mapping[str, Any]
    ) -> Change:
        """Begin, or wait for a second person."""
        held = self._succession
        what = What.OVERRIDE if override else What.PROMOTE
        if not held.settings.promotion.second_person:
            await self._begin(name, what, by=by, why=why, evidence=evidence)
            return held.done("promoted", by=by)
        await asyncio.to_thread(held.registry.find, name)  # it is there
        proposal = Proposal(bundle=name, by=by, why=why, override=override, at=held.clock())
        waiting = {**evidence, "waits_for": "a second person"}
        row = self._row(what, by, why=why, old=held.roles.serving, new=name, evidence=waiting)
        await held.become(held.roles.model_copy(update={"proposal": proposal}), row)
        return held.done("proposed", by=by)

    async def _begin(
        self, name: str, what: What, *, by: str, why: str, evidence: Mapping[str, Any]
    ) -> None:
        held, now = self._succession, self._succession.clock()
        await asyncio.to_thread(held.registry.find, name)  # it is there
        canary = CanaryRole(bundle=name, step=0, since=now, began=now, by=by)
        share = held.settings.promotion.ladder().step(0).share
        row = self._row(
            what,
            by,
            why=why,
            old=held.roles.serving,
            new=name,
            evidence={**evidence, "step": 1, "share": share},
        )
        begun = held.roles.model_copy(update={"canary": canary, "proposal": None})
        await held.become(begun, row)

    def _check_free(self, roles: Roles) -> None:
        """Raises PromotionFrozen, or Conflict where another canary is on its way."""
        if roles.frozen is not None:
            raise PromotionFrozen(
                f"{self._task}: promotion is frozen: {roles.frozen.why}",
                mend="look into it, then: understudy students unfreeze --why TEXT",
            )
        if roles.canary is not None:
            raise Conflict(
                f"{roles.canary.bundle} is the canary of {self._task} already",
                mend="wait until it serves, or end it: understudy students rollback",
            )

    def _verdict(self, name: str) -> Verdict | None:
        return None if self.judge is None or name == NO_STUDENT else self.judge.verdict(name)

    def _evidence(self, name: str, *, override: bool) -> Mapping[str, Any]:
        """What is known of a candidate, for the log. Raises NotProved."""
        verdict = self._verdict(name)
        if not override and (verdict is None or verdict.decision is not Decision.PROMOTE):
            raise NotProved(
                f"{name[:120]} has not shown that it may serve: {_missing(verdict)}",
                mend="wait for its evidence (understudy shadow status), or take the blame: "
                "--override --why TEXT",
            )
        return {"verdict": None} if verdict is None else _shown(verdict)

    def _row(
        self,
        what: What,
        by: str,
        *,
        why: str = "",
        old: str | None = None,
        new: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Entry:
        return Entry(
            what=what, who=by, task=self._task, old=old, new=new, why=why, evidence=evidence or {}
        )


async def keep_looking(rollouts: Iterable[Rollout]) -> None:
    """Let each of them look, again and again, until it is cancelled."""
    while True:
        for rollout in rollouts:
            try:
                await rollout.look()
            except Exception:  # noqa: BLE001  what nobody foresaw must not end all later looks
                _log.exception("a look at the roles failed")
        await asyncio.sleep(_LOOK_S)


def _on_its_way(name: str, roles: Roles) -> bool:
    return name in {roles.serving, roles.canary and roles.canary.bundle}


def _proposed(name: str, roles: Roles, *, override: bool) -> bool:
    proposal = roles.proposal
    return proposal is not None and (proposal.bundle, proposal.override) == (name, override)


def _check_why(why: str) -> None:
    if not why.strip():
        raise Invalid("why: nothing is said", mend="say why, with `why`")


def _missing(verdict: Verdict | None) -> str:
    """In words what keeps it from being promoted."""
    if verdict is None:
        return "it is not under test"
    if verdict.remaining_s > 0.0 and not _unpassed(verdict):
        return f"the test runs for another {verdict.remaining_s / 3600:.1f} hours"
    gates = "; ".join(
        f"{each.gate} is {each.standing} at {each.upper:.2%} (limit {each.limit:.2%})"
        for each in _unpassed(verdict)
    )
    return f"{verdict.decision}: {gates}"


def _unpassed(verdict: Verdict) -> list[Finding]:
    return [each for each in verdict.findings if each.standing is not GateStanding.PASSED]


def _shown(verdict: Verdict) -> dict[str, Any]:
    return {"verdict": asdict(verdict)}

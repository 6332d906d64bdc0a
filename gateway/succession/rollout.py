"""The rollout of one task: how a candidate comes to serve, and what stops it.

A candidate that was proved (gateway/shadow/promotion.py), or that somebody takes the blame for,
becomes a canary: it answers a share of the requests, step by step (gateway/shadow/ladder.py), and
in the end all. If it is worse than it may be it goes back by itself; then, and after each rollback,
nobody is promoted until somebody has looked and unfreezes it.

What holds is in roles.json, and every change is a row of the log of changes. The replicas that
share them look there: which of them takes a step does not matter, for one of them is the first. A
step counts what all of them have answered; an alarm hears its own replica, and any of them rings.
Nothing here decides whether a candidate is good: the judge does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from types import MappingProxyType
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
from gateway.shadow.promotion import Decision, Finding, Verdict, Why
from gateway.shadow.promotion import Standing as GateStanding
from gateway.store.changes import Entry, What
from gateway.students.registry import CanaryRole, Proposal, Roles
from gateway.students.vacancy import NO_STUDENT
from gateway.succession.change import Basis, Change
from gateway.succession.line import Succession
from gateway.succession.roles import trusted
from gateway.succession.watch import in_numbers

_LOOK_S = 0.5  # between two looks at roles.json: a rollback is everywhere within two seconds
_PAUSE_S = 5.0  # after a look that failed: a bundle that cannot be loaded is not tried all the time
_JUDGE_S = 30.0  # between two looks for a candidate that is proved: its bounds move slowly
_ALARM = "alarm"  # who sends a canary back
_CANARY = "canary"  # who takes its steps
_AUTOMATIC = "automatic"  # who promotes where nobody needs to
NOBODY = "(no key)"  # who changes something where no keys are configured

_log = structlog.get_logger(__name__)


class Judge(Protocol):
    """Knows what was observed of the candidates of a task."""

    async def verdict(self, bundle: str) -> Verdict | None:
        """What may be done with the bundle of that name now; None: it is not under test."""


class Rollout:
    """The way of candidates to serving, in one task. Without a `judge` nobody is proved."""

    def __init__(self, succession: Succession, judge: Judge | None = None) -> None:
        self.judge = judge
        self._succession = succession
        self._task = succession.task
        self._not_before = -math.inf  # of the next try, in ticks, and of the next look for who
        self._judge_at = -math.inf  # is proved
        self._looking = asyncio.Lock()
        self._advancing: asyncio.Task[None] | None = None

    async def promote(self, name: str, *, by: str, why: str = "", override: bool = False) -> Change:
        """Let a candidate begin its steps, or wait for a second person where the settings want one.

        `override`: though it is not proved; then `why` must say something. Raises NotProved,
        PromotionFrozen, Conflict while another canary is on its way, Invalid, and like
        `Succession.swap`.
        """
        held = self._succession
        async with held.attempt(by=by) as basis:
            roles = basis.roles
            if _on_its_way(name, roles) or _proposed(name, roles, override=override):
                return held.unchanged()
            if override and not why.strip():
                raise Invalid("why: an override without a reason", mend="say why, with `why`")
            self._check_free(roles)
            _check_trusted(name, roles, override=override)
            _check_no_other_proposal(roles, by=by)
            evidence = await self._evidence(name, override=override)
            wish = _Wish(name, by=by, why=why, override=override, evidence=evidence)
            return await self._promote(basis, wish)

    async def approve(self, name: str, *, by: str, why: str = "") -> Change:
        """The second person's word: the candidate begins its steps.

        Raises Invalid where nobody has proposed it, Forbidden for the one who did, and like
        `promote`.
        """
        held = self._succession
        async with held.attempt(by=by) as basis:
            roles, proposal = basis.roles, basis.roles.proposal
            if _on_its_way(name, roles):
                return held.unchanged()
            if proposal is None or proposal.bundle != name:
                raise Invalid(
                    f"nobody has proposed to promote {name[:120]!r}",
                    mend="propose it first: understudy students promote",
                )
            _check_second(proposal, by=by)
            self._check_free(roles)
            evidence = await self._evidence(name, override=proposal.override)
            wish = _Wish(name, by=by, why=why, override=proposal.override, evidence=evidence)
            await self._begin(basis, wish, What.APPROVE)
            return held.done("promoted", by=by)

    async def freeze(self, *, by: str, why: str) -> Change:
        """From now on nobody is promoted, and a canary takes no further step. Raises Invalid.

        A proposal that waits is ended by it.
        """
        _check_why(why)
        return await self._succession.freeze(by=by, why=why)

    async def unfreeze(self, *, by: str, why: str) -> Change:
        """Somebody has looked: promotion goes on, and what rang may ring again. Raises Invalid."""
        held = self._succession
        async with held.attempt(by=by) as basis:
            _check_why(why)
            frozen = basis.roles.frozen
            if frozen is None:
                return held.unchanged()
            roles = basis.roles.model_copy(update={"frozen": None})
            row = self._row(What.UNFREEZE, by, why=why, evidence={"was": frozen.why})
            await held.become(basis, roles, row)
            return held.done("unfrozen", by=by)

    async def look(self) -> None:
        """Follow what other replicas did, and send a canary back that an alarm rings for.

        Neither waits for a student to be loaded, nor the alarm for anything that goes wrong. A step
        that is due, or a promotion, is begun aside, but not soon after a failure, which is logged.
        """
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        held = self._succession
        done = [await self._try(each) for each in (held.catch_up, self._heed, held.count)]
        held.pay()
        free = self._advancing is None or self._advancing.done()
        if all(done) and free and held.ticks() >= self._not_before and self._due():
            self._advancing = asyncio.get_running_loop().create_task(self._advance())

    async def _try(self, work: Callable[[], Awaitable[None]]) -> bool:
        try:
            await work()
        except Conflict:
            return False  # another replica was faster
        except UnderstudyError as error:
            self._fail(error)
            return False
        return True

    async def settled(self) -> None:
        """Wait until what the last look has begun is done, and whom it named is loaded."""
        if self._advancing is not None:
            await asyncio.wait({self._advancing})
        await self._succession.settled()

    async def close(self) -> None:
        """End what a look has begun."""
        if self._advancing is not None:
            self._advancing.cancel()
            await asyncio.wait({self._advancing})

    def progress(self) -> Progress | None:
        """How far the canary has come; None: there is none."""
        held = self._succession
        canary, ladder = held.roles.canary, held.settings.promotion.ladder()
        if canary is None:
            return None
        standing = self._stands(canary)
        return Progress(
            bundle=canary.bundle,
            step=min(canary.step + 1, len(ladder)),
            steps=len(ladder),
            share=standing.step.share,
            rows=held.rows,
            remaining_rows=standing.remaining_rows,
            remaining_s=standing.remaining_s,
            since=canary.since,
            began=canary.began,
            by=canary.by,
            absent=held.absent,
        )

    def _fail(self, error: UnderstudyError) -> None:
        if (now := self._succession.ticks()) >= self._not_before:
            self._not_before = now + _PAUSE_S
            _log.warning("the roles do not move on", task=self._task, error=error.message)

    async def _heed(self) -> None:
        """Send the canary back if an alarm rings for it."""
        held = self._succession
        canary, reading = held.roles.canary, held.lookout.ringing
        if canary is not None and reading is not None and (why := held.lookout.why):
            seen = in_numbers(reading)
            await held.roll_back(by=_ALARM, why=why, leaving=canary.bundle, evidence=seen)

    def _due(self) -> bool:
        held = self._succession
        canary, frozen = held.roles.canary, held.roles.frozen
        if canary is not None:
            return frozen is None and held.answers and self._stands(canary).done
        automatic = held.settings.promotion.automatic and self.judge is not None
        return automatic and frozen is None and held.ticks() >= self._judge_at

    async def _advance(self) -> None:
        """Take the step that is due, or begin with who is proved, unless somebody changes it."""
        held = self._succession
        try:
            async with held.by_itself() as mine:
                if not mine or not self._due():
                    return
                basis = await held.stage.basis()
                here, there = held.roles, basis.roles
                if (here.canary, here.frozen) != (there.canary, there.frozen):
                    return  # the next look follows first
                if basis.roles.canary is not None:
                    await self._step(basis, basis.roles.canary)
                else:
                    self._judge_at = held.ticks() + _JUDGE_S
                    await self._promote_who_is_proved(basis)
        except Conflict:
            return  # another replica was faster
        except UnderstudyError as error:
            self._fail(error)

    def _stands(self, canary: CanaryRole) -> Standing:
        held = self._succession
        ladder, rows = held.settings.promotion.ladder(), held.rows
        return ladder.standing(canary.step, since=canary.since, rows=rows, now=held.clock())

    async def _step(self, basis: Basis, canary: CanaryRole) -> None:
        """The next share, or after the last one the serving student's place."""
        held, roles, seen = self._succession, basis.roles, {"rows": self._succession.rows}
        if self._stands(canary).last:
            taken = await held.stage.succeeded_by(basis, canary.bundle, launched=canary.began)
            row = self._row(
                What.TAKEOVER, _CANARY, old=roles.serving, new=canary.bundle, evidence=seen
            )
            await held.become(basis, taken, row)
            held.done("took_over", by=_CANARY)
            return
        number = canary.step + 1
        share = held.settings.promotion.ladder().step(number).share
        further = canary.model_copy(update={"step": number, "since": held.clock()})
        evidence = {"step": number + 1, "share": share, **seen}
        row = self._row(What.STEP, _CANARY, old=roles.serving, new=canary.bundle, evidence=evidence)
        await held.become(basis, roles.model_copy(update={"canary": further}), row)
        held.done("stepped", by=_CANARY)

    async def _promote_who_is_proved(self, basis: Basis) -> None:
        """The first who is; never one that was sent back, and none while a proposal waits."""
        held, roles = self._succession, basis.roles
        if roles.proposal is not None:
            return
        for name in await asyncio.to_thread(held.registry.names):
            verdict = await self._verdict(name)
            if verdict is None or verdict.decision is not Decision.PROMOTE:
                continue
            if _on_its_way(name, roles) or name in roles.sent_back:
                continue
            evidence = _shown(verdict)
            wish = _Wish(name, by=_AUTOMATIC, why="", override=False, evidence=evidence)
            await self._promote(basis, wish)
            return

    async def _promote(self, basis: Basis, wish: _Wish) -> Change:
        """Begin, or wait for a second person."""
        held, roles = self._succession, basis.roles
        what = What.OVERRIDE if wish.override else What.PROMOTE
        if not held.settings.promotion.second_person:
            await self._begin(basis, wish, what)
            return held.done("promoted", by=wish.by)
        await asyncio.to_thread(held.registry.find, wish.name)  # it is there
        proposal = Proposal(
            bundle=wish.name, by=wish.by, why=wish.why, override=wish.override, at=held.clock()
        )
        waiting = {**wish.evidence, "waits_for": "a second person"}
        row = self._row(
            what, wish.by, why=wish.why, old=roles.serving, new=wish.name, evidence=waiting
        )
        await held.become(basis, roles.model_copy(update={"proposal": proposal}), row)
        return held.done("proposed", by=wish.by)

    async def _begin(self, basis: Basis, wish: _Wish, what: What) -> None:
        held, roles, now = self._succession, basis.roles, self._succession.clock()
        await asyncio.to_thread(held.registry.find, wish.name)  # it is there
        canary = CanaryRole(bundle=wish.name, step=0, since=now, began=now, by=wish.by)
        share = held.settings.promotion.ladder().step(0).share
        evidence = {**wish.evidence, "step": 1, "share": share}
        row = self._row(
            what, wish.by, why=wish.why, old=roles.serving, new=wish.name, evidence=evidence
        )
        begun = roles.model_copy(update={"canary": canary, "proposal": None})
        await held.become(basis, trusted(begun, wish.name), row)

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

    async def _verdict(self, name: str) -> Verdict | None:
        if self.judge is None or name == NO_STUDENT:
            return None
        return await self.judge.verdict(name)

    async def _evidence(self, name: str, *, override: bool) -> Mapping[str, Any]:
        """What is known of a candidate, for the log. Raises NotProved."""
        verdict = await self._verdict(name)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a canary has come: `step` counts from 1, and times are seconds since the epoch.

    `rows` are the texts that it has answered in this step, over all replicas. `absent` says in
    words why it does not answer in this one, where it does not.
    """

    bundle: str
    step: int
    steps: int
    share: float
    rows: int
    remaining_rows: int
    remaining_s: float
    since: float
    began: float
    by: str
    absent: str


@dataclass(frozen=True, slots=True)
class _Wish:
    """That a bundle be promoted, and what is known of it."""

    name: str
    _: KW_ONLY
    by: str
    why: str
    override: bool
    evidence: Mapping[str, Any]


async def keep_looking(rollouts: Iterable[Rollout]) -> None:
    """Let each of them look, again and again, until it is cancelled; none waits for another."""
    async with asyncio.TaskGroup() as group:
        for rollout in rollouts:
            group.create_task(_keep_looking(rollout))


async def _keep_looking(rollout: Rollout) -> None:
    while True:
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


def _check_trusted(name: str, roles: Roles, *, override: bool) -> None:
    """Raises NotProved for a bundle that was rolled back: what proved it has been refuted."""
    if name in roles.sent_back and not override:
        raise NotProved(
            f"{name} was rolled back, and its evidence is from before",
            mend="look why (understudy changes list), then take the blame: --override --why TEXT",
        )


def _check_no_other_proposal(roles: Roles, *, by: str) -> None:
    """Raises Conflict where somebody else's proposal waits: it would be lost without a word."""
    waits = roles.proposal
    if waits is not None and waits.by not in {by, _AUTOMATIC}:
        raise Conflict(
            f"{waits.bundle} waits for a second person already: {waits.by} has proposed it",
            mend=f"approve it: understudy students approve {waits.bundle}; or end it: a freeze "
            f"does, and {waits.by} may propose another in its place",
        )


def _check_second(proposal: Proposal, *, by: str) -> None:
    """Raises Forbidden for who has proposed it, and where nobody is known by a key."""
    if by == NOBODY:
        raise Forbidden(
            "without keys nobody can be told from anybody else, and nothing is approved",
            mend="make a key for each admin: understudy key NAME --role admin",
        )
    if proposal.by == by:
        raise Forbidden(
            f"{by} has proposed {proposal.bundle}, and cannot approve it too",
            mend="let somebody with another admin's key approve it",
        )


def _check_why(why: str) -> None:
    if not why.strip():
        raise Invalid("why: nothing is said", mend="say why, with `why`")


_HELD: Mapping[Why, str] = MappingProxyType({
    Why.UNCERTIFIED: "it has no certificate that holds, and would leave everything to the teacher",
    Why.STOPPED: "its processes fail, and it is left alone",
    Why.UNREAD: "what was counted of it before could not be read yet",
})  # fmt: skip


def _missing(verdict: Verdict | None) -> str:
    """In words what keeps it from being promoted."""
    if verdict is None:
        return "it is not under test"
    if (held := _HELD.get(verdict.why)) is not None:
        return held
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

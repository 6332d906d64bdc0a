"""Candidates on live traffic: after the reply each is shown a share of the requests, and compared.

The shadow is an observer. It is offered every answer and takes what it can at once: nothing here is
waited for by whoever answers, and whatever a candidate does (hang, crash, take ten times as long)
costs requests that are not compared, which are counted, and never one that is not answered.

A comparison is complete when the candidate has run and the teacher's view is there, where one is to
come: that of an audit is waited for, for a bounded time. A few answers of the teacher are asked for
a second time, to see how often it contradicts itself.

Which answers are shown is drawn by their ids: each request has a lot of its own, also where a text
comes over and over, so that what is shown is a fair share of the traffic whatever repeats in it.

What a label proves must not depend on how hard the request was. The teacher sees every escalated
request, and of the confident ones a small share, by the uniform coin of the audit. So of the
escalated ones the same share is drawn here, by a lot, and only those count as drawn by chance. Some
audits never come (the teacher has no room, or fails): then the escalated ones after that draw do
not count either, up to the next. Else they would weigh too much, and most candidates escalate them
too, and differ from nobody there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from gateway.errors import TeacherError
from gateway.routing.policy import EscalationPolicy
from gateway.shadow.lot import lot
from gateway.shadow.pairing import Measure, seen
from gateway.shadow.promotion import Footing, Terms, Trial
from gateway.shadow.runner import Run, Runner
from gateway.shadow.slices import Slices
from gateway.teachers.breaker import State as BreakerState
from gateway.teachers.guard import Guard
from gateway.types import (
    Answer,
    Audit,
    Coin,
    Comparison,
    Onlooker,
    Prediction,
    Priority,
    Reason,
    Route,
    Source,
)

_SHOWN, _COUNTED, _AGAIN = "shown", "counted", "again"  # what a lot is drawn for
_WAITING = 1024  # audits that are waited for at once, and answers that wait for one of them
_SPEAKS_S = 3600.0  # after the last answer that may be drawn: then no draw need follow
_TOLD_S = 0.1  # that comparisons are gathered: each commit of the store costs as much as a request
_ASKED_AGAIN = 4  # calls at once: live requests and audits come first

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which requests are compared, how long an audit is waited for, which answers come again."""

    share: float
    double_asked: float = 0.0
    audit_wait_s: float = 30.0


def drawn(answer: str, candidate: str, share: float) -> bool:
    """Whether the candidate is shown the answer of that id, of which it can be told again."""
    return lot(_SHOWN, candidate, answer) < share


class Candidate:
    """A bundle under test: what runs it, what it would escalate, and what it has shown so far.

    `bundle` is its id. `trial` and `slices` are of this process, and of the footing that holds now.
    `beside` gives the policy of the student that serves, where an answer is of that one.
    """

    def __init__(
        self,
        name: str,
        *,
        bundle: str,
        runner: Runner,
        policy: EscalationPolicy,
        measure: Measure,
        trial: Trial,
        slices: Slices,
        beside: Callable[[Answer], EscalationPolicy | None],
    ) -> None:
        self.name = name
        self.bundle = bundle
        self.runner = runner
        self.policy = policy
        self.measure = measure
        self.trial = trial
        self.slices = slices
        self.beside = beside

    def follow(self, policy: EscalationPolicy, measure: Measure) -> None:
        """From now on it is held against these."""
        self.policy = policy
        self.measure = measure

    def begin(self, terms: Terms, footing: Footing, *, now: float) -> None:
        """Begin another trial on that footing, and other slices; who calls keeps those before."""
        self.trial = Trial(terms, began=now, footing=footing)
        self.slices = self.slices.anew()

    def count(self, comparison: Comparison) -> None:
        """What was compared is evidence."""
        pair = self.measure.pair(seen(comparison))
        self.trial.add(pair, at=comparison.answer.at)
        self.slices.add(comparison)


class Shadow:
    """Shows answers to the candidates of one task, and tells the `onlookers` what they said.

    `teacher` gives the guard that stands behind the task now. `uniform` is the audit's share until
    an answer says it. It belongs to one event loop.
    """

    def __init__(
        self,
        task: str,
        *,
        sampling: Sampling,
        teacher: Callable[[], Guard],
        onlookers: Sequence[Onlooker],
        uniform: float = 0.0,
    ) -> None:
        self.task = task
        self.sampling = sampling
        self.candidates: tuple[Candidate, ...] = ()
        self._past: Counter[str] = Counter()  # refused requests, by cause, of runners that are gone
        self._retiring: dict[asyncio.Task[None], Runner] = {}
        self._teacher = teacher
        self._onlookers = tuple(onlookers)
        self._uniform = uniform
        self._draws: dict[str, _Draw] = {}  # by the answer's id, while its audit is awaited
        self._last: _Draw | None = None  # of the uniform coin
        self._drawable_at = 0.0  # when an answer last went out that the coin may draw
        self._asking: set[asyncio.Task[None]] = set()
        self._untold: list[Comparison] = []  # which the onlookers have yet to hear of

    @property
    def skipped(self) -> Counter[str]:
        """Requests that were drawn and not shown, by cause."""
        found = Counter(self._past)
        for runner in (*(each.runner for each in self.candidates), *self._retiring.values()):
            found.update(_refused(runner))
        return found

    def enter(self, candidate: Candidate) -> None:
        """Show it requests from now on."""
        self.candidates = (*self.candidates, candidate)

    def leave(self, name: str) -> Candidate | None:
        """Show it no more, and end its processes. None: it is not here."""
        found = next((each for each in self.candidates if each.name == name), None)
        if found is not None:
            self.candidates = tuple(each for each in self.candidates if each is not found)
            self.retire(found.runner)
        return found

    def retire(self, runner: Runner) -> None:
        """End a runner; what it has refused stays counted, and what waits is counted as it goes."""
        ending = asyncio.get_running_loop().create_task(runner.close())
        self._retiring[ending] = runner
        ending.add_done_callback(self._gone)

    async def retired(self) -> None:
        """Wait until all that are to end have ended."""
        if self._retiring:
            await asyncio.wait(self._retiring)

    def _gone(self, ending: asyncio.Task[None]) -> None:
        self._past.update(_refused(self._retiring.pop(ending)))

    def answered(self, answer: Answer) -> None:
        """Show the answer to the candidates whose lot it is."""
        if answer.audit_uniform:
            self._uniform, self._drawable_at = answer.audit_uniform, answer.at
        share = self.sampling.share
        if not self.candidates or not share:
            return
        itself = answer.student.bundle if answer.student is not None else None
        chosen = [
            each
            for each in self.candidates
            if each.bundle != itself and drawn(answer.id, each.name, share)
        ]
        view = _View(answer, share, self._tell) if chosen else None
        if view is not None and not sum(view.show(each) for each in chosen):
            view = None
        if answer.coin is Coin.UNIFORM or (answer.coin is not None and view is not None):
            self._wait(answer, view)
        elif view is not None:
            self._look(view)

    def audited(self, audit: Audit) -> None:
        """The teacher's view of an answer has come, which comparisons may wait for."""
        self._settle(audit.answer.id, audit)

    def unaudited(self, answer: Answer) -> None:
        """The teacher will not look at this answer, although it was drawn."""
        self._settle(answer.id, None)

    def close(self) -> None:
        """Wait for nothing any more: what the candidates have said is told as it is."""
        for task in self._asking:
            task.cancel()
        for name in list(self._draws):
            self._settle(name, None)
        self._pass_on()

    def _look(self, view: _View) -> None:
        """Whether the teacher's view, where it is there, counts, may depend on the draw before."""
        answer, draw = view.answer, self._last
        if answer.route is not Route.TEACHER or answer.teacher is None:
            view.complete()
            return
        view.teacher, view.source = answer.teacher, Source.ESCALATED
        view.by_chance = answer.auditable and lot(_COUNTED, answer.id) < self._uniform
        if not view.by_chance or draw is None or self._is_over(answer.at):
            self._ask_again(view)
        elif draw.came is not None:
            self._follow(view, draw)
        else:
            draw.others.append(view)
            if len(draw.others) > _WAITING:
                self._settle(draw.name, None)

    def _is_over(self, at: float) -> bool:
        """Whether the last draw says nothing any more: nobody is there whom another could draw."""
        return at - self._drawable_at > _SPEAKS_S

    def _wait(self, answer: Answer, view: _View | None) -> None:
        """Wait for an audit, for so long and no longer."""
        draw = self._draws[answer.id] = _Draw(answer.id, answer.at, view)
        if answer.coin is Coin.UNIFORM:
            self._last = draw
        if len(self._draws) > _WAITING:
            self._settle(answer.id, None)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(self.sampling.audit_wait_s, self._settle, answer.id, None)

    def _settle(self, name: str, audit: Audit | None) -> None:
        """An audit has come, or never will; what has waited for it goes on."""
        draw = self._draws.pop(name, None)
        if draw is None:
            return
        draw.came = audit is not None
        view, others = draw.view, draw.others
        draw.view, draw.others = None, []
        if view is not None and audit is not None:
            view.teacher, view.source = audit.teacher, Source.AUDIT
            view.by_chance = audit.answer.coin is Coin.UNIFORM
            self._ask_again(view)
        elif view is not None:
            view.complete()
        for each in others:
            self._follow(each, draw)

    def _follow(self, view: _View, draw: _Draw) -> None:
        """An escalated request counts as the draw before it does."""
        if draw.came:
            self._ask_again(view)
        else:
            view.by_chance = False
            view.complete()

    def _ask_again(self, view: _View) -> None:
        """Ask the teacher a second time, of a small share of its answers, where it has room."""
        answer, guard = view.answer, self._teacher()
        wanted = (
            self.sampling.double_asked > 0.0
            and lot(_AGAIN, answer.id) < self.sampling.double_asked
            and len(self._asking) < _ASKED_AGAIN
            and not guard.busy
            and guard.state is BreakerState.CLOSED
        )
        if not wanted:
            view.complete()
            return
        asking = asyncio.get_running_loop().create_task(self._second(view, guard))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def _second(self, view: _View, guard: Guard) -> None:
        answer = view.answer
        try:
            said = await guard.answer(
                answer.instance, hint=answer.student, priority=Priority.SHADOW
            )
            view.second = said.prediction
        except TeacherError:
            pass  # it has been asked once, and that is compared
        finally:
            view.complete()

    def _tell(self, candidate: Candidate, comparison: Comparison) -> None:
        if all(each is not candidate for each in self.candidates):
            return  # it has left
        candidate.count(comparison)
        self._untold.append(comparison)
        if len(self._untold) == 1:
            asyncio.get_running_loop().call_later(_TOLD_S, self._pass_on)

    def _pass_on(self) -> None:
        """Tell the onlookers what has come since: they store it together, which costs as one."""
        told, self._untold = self._untold, []
        for comparison in told:
            for onlooker in self._onlookers:
                try:
                    onlooker.compared(comparison)
                except Exception:  # noqa: BLE001  a watcher must not cost the others anything
                    _log.exception(
                        "onlooker_failed", onlooker=type(onlooker).__name__, id=comparison.answer.id
                    )


def _refused(runner: Runner) -> dict[str, int]:
    return {cause.value: count for cause, count in runner.shed.items()}


@dataclass(slots=True)
class _Draw:
    """A confident answer that was drawn for an audit, and whether that came; None: not yet.

    What waits for it is its own view, and those of escalated requests up to the next draw.
    """

    name: str
    at: float
    view: _View | None
    came: bool | None = None
    others: list[_View] = field(default_factory=list)


class _View:
    """One answer while it is compared: what the teacher says, and what each candidate said."""

    __slots__ = (
        "_complete", "_ran", "_share", "_tell",
        "answer", "by_chance", "second", "source", "teacher",
    )  # fmt: skip

    def __init__(
        self, answer: Answer, share: float, tell: Callable[[Candidate, Comparison], None]
    ) -> None:
        self.answer = answer
        self.teacher: Prediction | None = None
        self.second: Prediction | None = None
        self.source: Source | None = None
        self.by_chance = False
        self._share = share
        self._tell = tell
        self._complete = False
        self._ran: list[tuple[Candidate, Run]] = []

    def show(self, candidate: Candidate) -> bool:
        """Have the candidate run it; False: it has no room."""
        text = self.answer.instance.text
        return candidate.runner.offer(text, lambda run: self._heard(candidate, run))

    def complete(self) -> None:
        """Nothing more is known of the answer than what is: whoever has run is compared."""
        self._complete = True
        ran, self._ran = self._ran, []
        self._compare(ran)

    def _heard(self, candidate: Candidate, run: Run) -> None:
        if self._complete:
            self._compare([(candidate, run)])
        else:
            self._ran.append((candidate, run))

    def _compare(self, ran: Iterable[tuple[Candidate, Run]]) -> None:
        for candidate, run in ran:
            try:
                self._tell(candidate, self._comparison(candidate, run))
            except Exception:  # noqa: BLE001  the candidate's process goes on with the next one
                _log.exception("not_compared", candidate=candidate.name, id=self.answer.id)

    def _comparison(self, candidate: Candidate, run: Run) -> Comparison:
        answer, footing = self.answer, candidate.trial.footing
        decision = candidate.policy.decide(answer.instance, run.prediction, now=answer.at)
        beside = candidate.beside(answer)
        its = answer.decision
        if beside is not None:  # as the candidate: strict or void for what traffic does is neither
            its = beside.decide(answer.instance, answer.student, now=answer.at)
        return Comparison(
            answer=answer,
            candidate=candidate.name,
            prediction=run.prediction,
            escalates=decision.escalate,
            propensity=self._share,
            seconds=run.seconds,
            lapse=run.lapse,
            teacher=self.teacher,
            source=self.source,
            second=self.second,
            by_chance=self.by_chance and Reason.REQUESTED not in answer.decision.reasons,
            policy=footing.policy,
            serving=footing.serving,
            serving_policy=footing.serving_policy if beside is not None else None,
            serving_escalates=its.escalate,
        )

"""Ways to route with the same two models: ours, and what people do without it.

Whatever a way has to choose it chooses on rows that it is not measured on. Ours is the gateway's
own policy, which decides row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.trial import Seen, Trial
from distill.certify import plug_in
from gateway.routing.policy import EscalationPolicy
from gateway.types import Instance

ALPHA = 0.02  # undetected error that is allowed; the recipe's own
SERVED = 0.01  # p-value below which a text is out of domain, where the settings say nothing
STRANGE = 0.05  # the same, for those who have many such texts
BUDGET = 0.1  # share of rows in scope that may be escalated

# Not spent on held-out rows: a test set may be harder than they are, and escalate more.
_HELD_BACK = BUDGET / 3

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to route: which rows of the test, and which strangers, go to the teacher."""

    name: str
    test: Bools
    strangers: Bools


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a way, as shares of rows.

    `quality`: who answered was right. `undetected`: the student answered, wrongly. `strangers`:
    escalated ones among texts of no label; None where there are none.
    """

    name: str
    escalation: float
    quality: float
    undetected: float
    strangers: float | None


def ways(trial: Trial, *, seed: int) -> Iterator[Way]:
    """All ways of one trial, ours first."""
    test, strangers = trial.test, trial.strangers
    for name, policy in (
        ("certified, as served", certified(trial)),
        ("within the budget, no domain gate", within(trial, None)),
        ("within the budget, domain gate at 1 %", within(trial, SERVED)),
        ("within the budget, domain gate at 5 %", within(trial, STRANGE)),
    ):
        yield Way(name, escalated(policy, test), escalated(policy, strangers))
    held = trial.certification
    limit = plug_in(held.plain.astype(np.float32), ~held.right, ALPHA)
    bar = np.inf if limit is None else limit
    yield Way("largest probability, plug-in", test.plain < bar, strangers.plain < bar)
    cut = float(np.quantile(held.plain, BUDGET - _HELD_BACK))
    name = "largest probability, within the budget"
    yield Way(name, test.plain < cut, strangers.plain < cut)
    draw = np.random.default_rng(seed)
    yield Way("at random", draw.random(len(test)) < BUDGET, draw.random(len(strangers)) < BUDGET)
    yield Way("always the student", np.zeros(len(test), bool), np.zeros(len(strangers), bool))
    yield Way("always the teacher", np.ones(len(test), bool), np.ones(len(strangers), bool))


def outcome(way: Way, seen: Seen) -> Outcome:
    """What came of a way on the test rows."""
    return Outcome(
        name=way.name,
        escalation=float(way.test.mean()),
        quality=float(np.where(way.test, seen.teacher_right, seen.right).mean()),
        undetected=float((~way.test & ~seen.right).mean()),
        strangers=float(way.strangers.mean()) if len(way.strangers) else None,
    )


def certified(trial: Trial) -> EscalationPolicy:
    """The bundle's own operating point with the domain gate, as the gateway serves it."""
    (point,) = trial.student.manifest.operating_points
    return EscalationPolicy(threshold=point.threshold, min_familiarity=SERVED)


def within(trial: Trial, least: float | None) -> EscalationPolicy:
    """Escalate as much as the budget lets; texts of a p-value below `least` first, if any."""
    seen = trial.certification
    gate = EscalationPolicy(threshold=0.0, min_familiarity=least)
    barred = escalated(gate, seen)
    left = BUDGET - _HELD_BACK - float(barred.mean())
    known = np.sort(seen.score[~barred])
    place = int(max(0.0, left) * len(seen))
    return EscalationPolicy(threshold=float(known[place]), min_familiarity=least)


def escalated(policy: EscalationPolicy, seen: Seen) -> Bools:
    """Which rows the policy sends to the teacher (n,)."""
    return np.array(
        [
            policy.decide(Instance(text), said).escalate
            for text, said in zip(seen.texts, seen.said, strict=True)
        ],
        bool,
    )

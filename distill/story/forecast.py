"""How soon an alarm should ring: its own statistic, run many times on rows of a known rate.

The rates come from whoever knows them, here from gold. What is forecast is the alarm that the
gateway runs (gateway/shadow/alarm.py), with its limit and its bar, from the state that so many calm
rows have left it in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.contract.bundle import Bundle
from gateway.shadow.alarm import Alarm, bets, step
from gateway.shadow.evidence import Kind
from gateway.students.student import Student

_RUNS = 10_000  # then 10 runs lie beyond the 99.9 % quantile
_LEAST_FAMILIAR = 0.01  # below it a text is escalated as strange, as the gateway does by default
_LONGEST = 20_000  # rows after which a run has not rung


@dataclass(frozen=True, slots=True)
class Terms:
    """An alarm on a share: its limit, the bar at which it rings, and the calm rows before."""

    limit: float
    bar: float
    calm_rows: int = 0
    calm_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Rows that were looked at, and how many of them were ones."""

    rows: int
    wrong: int

    @property
    def rate(self) -> float:
        """The share of ones."""
        return self.wrong / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True)
class Delay:
    """Rows until it rings: in half of all runs by `median`, and in 99.9 % of them by `late`.

    None: no sooner than 20,000 rows.
    """

    median: int | None
    late: int | None

    def holds(self, rows: int) -> bool:
        """Whether a delay of so many rows is no later than was to be expected."""
        return self.late is None or rows <= self.late


def delay(terms: Terms, seen: Seen, *, seed: int = 0) -> Delay:
    """The rows that an alarm takes at the rate that was seen. Raises ValueError as an alarm does.

    What was seen of few rows is not known exactly: each run has a rate of its own, as likely as
    these rows make it (a beta distribution, from a uniform one).
    """
    alarm = Alarm(Kind.RATE, terms.limit, apart=terms.bar)  # refuses what is no alarm
    stakes, chance = bets(Kind.RATE, alarm.limit), np.random.default_rng(seed)
    capitals = np.zeros((_RUNS, len(stakes)))
    for _ in range(terms.calm_rows):
        rows = (chance.random((_RUNS, 1)) < terms.calm_rate).astype(np.float64)
        after = step(capitals, stakes, rows - terms.limit)
        rang = after.mean(axis=1) >= terms.bar  # would not be calm: begins anew, as after a reset
        capitals = np.where(rang[:, None], 0.0, after)
    rates = chance.beta(1 + seen.wrong, 1 + seen.rows - seen.wrong, (_RUNS, 1))
    rung = np.full(_RUNS, np.inf)
    waiting = np.arange(_RUNS)
    for number in range(1, _LONGEST + 1):
        rows = (chance.random((len(waiting), 1)) < rates[waiting]).astype(np.float64)
        capitals = step(capitals, stakes, rows - terms.limit)
        rings = capitals.mean(axis=1) >= terms.bar
        rung[waiting[rings]] = number
        waiting, capitals = waiting[~rings], capitals[~rings]
        if not len(waiting):
            break
    return Delay(_quantile(rung, 0.5), _quantile(rung, 0.999))


def audited_error(
    bundle: Bundle, texts: Sequence[str], teacher: Callable[[str], str | None]
) -> Seen:
    """The texts that a student is sure of, and those of them on which the teacher says otherwise.

    Such rows an audit brings. Texts that it would escalate do not count; what is compared is its
    first head.
    """
    student, (point, *_) = Student(bundle), bundle.manifest.operating_points
    sure, wrong = 0, 0
    for text, said in zip(texts, student.predict(texts), strict=True):
        strange = said.familiarity is not None and said.familiarity < _LEAST_FAMILIAR
        if said.truncated or strange or point.threshold is None or said.score < point.threshold:
            continue
        sure += 1
        wrong += said.heads[0].labels != (teacher(text),)
    return Seen(sure, wrong)


def _quantile(rows: np.ndarray[tuple[int], np.dtype[np.float64]], share: float) -> int | None:
    found = float(np.quantile(rows, share, method="higher"))
    return int(found) if np.isfinite(found) else None

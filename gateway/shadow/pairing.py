"""What a compared request says for or against a candidate: a comparison becomes a pair.

What counts is what would be served. A candidate that leaves a request to the teacher differs from
nobody there, and pays for it at the gate of escalations; so does one that fails. The same holds of
the student that serves; what a canary answered is no pair with it. Only rows whose teacher's view
is there by chance say anything of labels, and none says anything where the caller chose who
answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.shadow.promotion import Footing, Pair
from gateway.types import Comparison, Prediction

Labels = Mapping[str, frozenset[str]]  # head -> what was said of it

_NOTHING = Pair()


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of one request, whether it has just been or is read back.

    `labels` of None: the candidate failed; `serving` of None: no student answered. Times are in
    seconds, None: not known. `policy`, `serves` and
    `serving_policy` are those of the comparison. `gold` is what a person says is right.
    """

    labels: Labels | None
    escalates: bool
    seconds: float | None
    serving: Labels | None
    serving_escalates: bool
    serving_seconds: float | None
    teacher: Labels | None
    second: Labels | None
    by_chance: bool
    wished: bool
    policy: str = ""
    serves: str = ""
    serving_policy: str | None = ""
    gold: Labels | None = None

    @property
    def paired(self) -> bool:
        """Whether it was the student that serves which answered, under its policy."""
        return self.serving_policy is not None


@dataclass(frozen=True, slots=True)
class Measure:
    """By what a request is measured: `slow_s` seconds are slow; `critical` labels by their head."""

    slow_s: float
    critical: Labels = field(default_factory=dict)

    def pair(self, sight: Sight) -> Pair:
        """What it says at each gate."""
        if sight.wished:
            return _NOTHING
        differs = serving_differs = teacher_differs = missed = None
        paired = sight.paired
        if sight.by_chance and sight.teacher is not None:
            kept = not sight.escalates
            differs = kept and sight.labels != sight.teacher
            if paired:
                serving_differs = not sight.serving_escalates and sight.serving != sight.teacher
            if sight.second is not None:
                teacher_differs = kept and sight.second != sight.teacher
            missed = self._missed(sight.teacher, sight.labels if kept else None)
        return Pair(
            differs=differs,
            serving_differs=serving_differs,
            teacher_differs=teacher_differs,
            missed=missed,
            escalates=sight.escalates,
            serving_escalates=sight.serving_escalates if paired else None,
            slow=sight.seconds is None or sight.seconds > self.slow_s,
            serving_slow=self._slow(sight.serving_seconds) if paired else None,
        )

    def judged(self, sight: Sight) -> Pair:
        """What a person's word says of both students; an escalated request is the teacher's.

        Where that is not known, it says nothing.
        """
        if sight.wished or not sight.paired or sight.gold is None:
            return _NOTHING
        return Pair(
            right=_right(sight.labels, sight.teacher, sight.gold, escalates=sight.escalates),
            serving_right=_right(
                sight.serving, sight.teacher, sight.gold, escalates=sight.serving_escalates
            ),
        )

    def footing(self, sight: Sight) -> Footing:
        """What it was seen under."""
        return Footing(sight.policy, sight.serves, sight.serving_policy or "", self.slow_s)

    def _slow(self, seconds: float | None) -> bool:
        return seconds is not None and seconds > self.slow_s

    def _missed(self, truth: Labels, said: Labels | None) -> bool | None:
        """Whether a critical label was kept from the teacher; None: there is none to miss."""
        due = {head: truth.get(head, frozenset()) & names for head, names in self.critical.items()}
        if not any(due.values()):
            return None
        return said is not None and any(
            not labels <= said.get(head, frozenset()) for head, labels in due.items()
        )


def _right(
    said: Labels | None, teacher: Labels | None, gold: Labels, *, escalates: bool
) -> bool | None:
    served = teacher if escalates else said
    return None if served is None else served == gold


def labels_of(said: Prediction | None) -> Labels | None:
    """Per head the labels that were said, in no order."""
    return None if said is None else {head.head: frozenset(head.labels) for head in said.heads}


def seen(comparison: Comparison) -> Sight:
    """What was seen of a request that has just been compared."""
    answer = comparison.answer
    return Sight(
        labels=labels_of(comparison.prediction),
        escalates=comparison.escalates,
        seconds=comparison.seconds,
        serving=labels_of(answer.student),
        serving_escalates=comparison.serving_escalates,
        serving_seconds=answer.stages.busy if answer.student is not None else None,
        teacher=labels_of(comparison.teacher),
        second=labels_of(comparison.second),
        by_chance=comparison.by_chance,
        wished=comparison.wished,
        policy=comparison.policy,
        serves=comparison.serving,
        serving_policy=comparison.serving_policy,
    )

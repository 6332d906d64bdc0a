"""The decision to escalate. Pure: no randomness, no I/O; the time is an argument.

The first gate that holds gives the decision's reason; all that hold are kept for the record. A risk
rule also beats a caller who asks for the student: what it names is never the student's to answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from gateway.contract.certificate import Fault, PolicyCertificate
from gateway.routing.risk import Rule, first
from gateway.routing.severity import Critical, Severity
from gateway.types import Decision, Instance, Prediction, Reason, Wish

CRITICAL = "critical"  # the detail where a critical label is too probable

_THRESHOLD_HOLDS = (None, Fault.STALE)  # what a stale certificate names still says who is unsure
_HARD = frozenset({Reason.TRUNCATED, Reason.STUDENT_FAILED, Reason.NO_STUDENT, Reason.HIGH_RISK})


@dataclass(frozen=True, slots=True)
class Warrant:
    """The certificate that a policy is to have, and what keeps it from holding."""

    certificate: PolicyCertificate | None
    fault: Fault | None
    expires: float = math.inf  # seconds since the epoch

    def fault_at(self, now: float) -> Fault | None:
        """Why it does not hold at that time; None: it holds."""
        if self.fault is None and now >= self.expires:
            return Fault.EXPIRED
        return self.fault


class Gate(NamedTuple):
    """One thing that was looked at. `value` against `limit`, where it is a number."""

    reason: Reason
    detail: str
    holds: bool
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class EscalationPolicy:
    """When the teacher is asked.

    The student answers when its score is at or above `threshold`. None means that no threshold is
    certified: then everything is escalated, and so it is where a `warrant` is due and void.
    Below `min_familiarity`, a conformal p-value, a text is out of the student's domain. `absent` is
    what it means that there is no prediction. `promise` is the alpha of the certificate that the
    threshold has: what share of all requests the student may answer wrongly; None: none is made.
    """

    threshold: float | None
    rules: tuple[Rule, ...] = ()
    critical: Critical | None = None
    severity: Severity | None = None
    warrant: Warrant | None = None
    min_familiarity: float | None = None
    absent: Reason = Reason.STUDENT_FAILED
    promise: float | None = None

    @cached_property
    def strict(self) -> EscalationPolicy:
        """The same for traffic that is no longer what the certificate was issued on.

        The certificate bounds errors in the mean over requests like those, of which most are easy.
        How many are easy now nobody knows, so that each answer has to keep the promise alone: by
        its own score it may be wrong with the probability `promise` at most. Without a promise
        there is nothing to keep.
        """
        if self.threshold is None or self.promise is None:
            return self
        return replace(self, threshold=max(self.threshold, 1.0 - self.promise))

    def decide(
        self,
        instance: Instance,
        prediction: Prediction | None,
        wish: Wish = Wish.AUTO,
        *,
        now: float = 0.0,
        stale: bool = False,
    ) -> Decision:
        """Decide on one instance. `prediction` is None when no student has spoken.

        `now`, in seconds since the epoch, is held against the end of the certificate; where it is
        `stale`, of the policy or of the bundle, it is void.
        """
        rule = first(self.rules, instance, prediction) if self.rules else None
        if rule is None and wish is Wish.AUTO and not stale and self._trusts(prediction, now):
            return self._confident  # most requests end here
        gates = self.gates(instance, prediction, wish, now=now, stale=stale)
        held = [gate for gate in gates if gate.holds]
        escalate = wish is not Wish.STUDENT or any(gate.reason in _HARD for gate in held)
        if wish is Wish.STUDENT and escalate:
            held = [gate for gate in held if gate.reason is not Reason.REQUESTED]
        return Decision(
            escalate=escalate,
            reason=held[0].reason,
            reasons=tuple(dict.fromkeys(gate.reason for gate in held)),
            detail=next((gate.detail for gate in held if gate.detail), "") if escalate else "",
            threshold=self.threshold,
        )

    def gates(
        self,
        instance: Instance,
        prediction: Prediction | None,
        wish: Wish = Wish.AUTO,
        *,
        now: float = 0.0,
        stale: bool = False,
    ) -> Iterator[Gate]:
        """Every gate, in the order in which they are looked at."""
        yield Gate(Reason.REQUESTED, "", wish is not Wish.AUTO)
        yield Gate(Reason.TRUNCATED, "", prediction is not None and prediction.truncated)
        yield Gate(self.absent, "", prediction is None)
        for rule in self.rules:
            yield Gate(Reason.HIGH_RISK, rule.name, rule.holds(instance, prediction))
        if prediction is not None:
            fault = self.warrant.fault_at(now) if self.warrant else None
            yield from self._doubts(prediction, fault or (Fault.STALE if stale else None))

    @cached_property
    def _confident(self) -> Decision:
        reason = Reason.CONFIDENT
        return Decision(escalate=False, reason=reason, reasons=(reason,), threshold=self.threshold)

    def _trusts(self, prediction: Prediction | None, now: float) -> bool:
        """Whether no gate holds for what the student says of itself: the same, and no more."""
        return (
            prediction is not None
            and not prediction.truncated
            and self.threshold is not None
            and prediction.score >= self.threshold
            and (self.warrant is None or self.warrant.fault_at(now) is None)
            and (self.critical is None or not self.critical.holds(prediction))
            and (self.min_familiarity is None or not self._strange(prediction))
            and (self.severity is None or not self.severity.holds(prediction))
        )

    def _strange(self, prediction: Prediction) -> bool:
        """Whether the text is not like those that the student knows, or that is not known."""
        familiarity, least = prediction.familiarity, self.min_familiarity
        return least is not None and (familiarity is None or not familiarity >= least)

    def _doubts(self, prediction: Prediction, fault: Fault | None) -> Iterator[Gate]:
        if (critical := self.critical) is not None:
            mass = critical.mass(prediction)
            yield Gate(Reason.SEVERITY, CRITICAL, critical.reached(mass), mass, critical.threshold)
        if (least := self.min_familiarity) is not None:
            strange = self._strange(prediction)
            yield Gate(Reason.OUT_OF_DOMAIN, "", strange, prediction.familiarity, least)
        if (severity := self.severity) is not None:
            gain, head = severity.gain(prediction), severity.dearest(prediction)
            yield Gate(Reason.SEVERITY, head, severity.pays(gain), gain, severity.bar)
        void = fault is not None or self.threshold is None
        yield Gate(Reason.NO_CERTIFICATE, fault or "", void)
        # A score that is not a number is not at or above anything, so it escalates.
        if self.threshold is not None and fault in _THRESHOLD_HOLDS:
            sure = prediction.score >= self.threshold
            yield Gate(Reason.LOW_CONFIDENCE, "", not sure, prediction.score, self.threshold)

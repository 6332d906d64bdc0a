"""The vigil over one task: all that looks at who answers, and on which terms.

The watch looks at the student that serves, the lookout at the canary, the auditor shows a share of
what they were sure of to the teacher, and the served error adds up. They are told here whom to look
at; who is to go, and who comes, is not decided here.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import orjson

from gateway.contract.bundle import Bundle
from gateway.routing.canary import Canary
from gateway.routing.cascade import Cascade
from gateway.routing.policy import EscalationPolicy
from gateway.settings import TaskSettings
from gateway.shadow.audit import Auditor
from gateway.shadow.coins import Coins
from gateway.shadow.lookout import Lookout
from gateway.shadow.served import ServedQuality
from gateway.students.registry import CanaryRole
from gateway.succession.seat import Seat
from gateway.succession.watch import Duty, Ring, Watch
from gateway.types import Instance, Observer


class Vigil:
    """Who looks at one task, of which that `seat` serves; `observers` hear all of it likewise.

    `ring` is called where the student that serves is to go. `file`: where the watch keeps what it
    has seen; None: nowhere.
    """

    def __init__(
        self,
        task: str,
        *,
        settings: TaskSettings,
        seat: Seat,
        quality: ServedQuality,
        observers: Sequence[Observer],
        ring: Ring,
        file: Path | None,
    ) -> None:
        self._task = task
        self._random = random.Random()  # noqa: S311  coins
        self._quality = quality
        self.lookout = Lookout()
        self.watch = Watch(task, ring=ring, file=file, random=self._random)
        told = (*observers, self.lookout, self.watch)
        self.auditor = Auditor(
            teacher=seat.teacher,
            prices=settings.prices.prices(),
            observers=told,
            skipped=quality.skipped,
        )
        self.observers: Sequence[Observer] = (*told, self.auditor)
        self.audit(settings)
        self.serves(seat)

    def audit(self, settings: TaskSettings) -> None:
        """From now on, the served error is of what these settings audit."""
        self._quality.follow(self._task, settings.audit.audited())

    def serves(self, seat: Seat) -> None:
        """Another student serves: the served error is of this one."""
        self._quality.serves(self._task, seat.bundle.id if seat.bundle else None)

    def coins(self, settings: TaskSettings) -> Coins:
        """By which answers are chosen to be audited."""
        return Coins(
            settings.audit.share,
            settings.audit.targeted,
            self._random,
            self._may_audit,
            self._look_closer,
        )

    def watch_over(self, cascade: Cascade, settings: TaskSettings) -> None:
        """Watch the student that serves now, on the terms that hold now."""
        rung = cascade.rung
        warrant = rung.policy.warrant
        certificate = warrant.certificate if warrant else None

        def elsewhere(instance: Instance) -> bool:
            canary = cascade.canary
            return canary is not None and canary.takes(instance)

        self.watch.follow(
            Duty(
                student=rung.bundle.id if rung.bundle else None,
                terms=replace(
                    settings.alarms.terms(rung.policy.critical), policy=_doubts(rung.policy)
                ),
                certificate=str(certificate.issued_at) if certificate else "",
                issued=certificate.issued_at.timestamp()
                if certificate
                else _issued(rung.bundle, settings.student.operating_point),
                policy=_doubts(rung.policy),
                threshold=rung.policy.threshold,
                drift=settings.drift.enabled,
                least=settings.drift.least,
                share=lambda: cascade.coins.share,
                elsewhere=elsewhere,
            )
        )

    def look_out(
        self, canary: Canary | None, role: CanaryRole | None, settings: TaskSettings
    ) -> None:
        """Look at the canary that answers now, on the terms that hold now."""
        policy = canary.rung.policy if canary else None
        terms = settings.promotion.alarm.terms(settings.alarms, policy.critical if policy else None)
        if policy is not None:
            terms = replace(terms, policy=_doubts(policy))
        self.lookout.follow(canary, role.since if role else None, terms)

    def begin_anew(self) -> None:
        """Somebody has looked at what rang: it may ring again."""
        self.watch.begin_anew()
        self.lookout.begin_anew()

    def _may_audit(self) -> bool:
        return self.auditor.ready

    def _look_closer(self) -> bool:
        return self.watch.alert


def _issued(bundle: Bundle | None, operating_point: str) -> float:
    """When a student was certified, or made where it was not, in seconds since the epoch.

    A time that is none is older than anything.
    """
    if bundle is None:
        return 0.0
    point = bundle.manifest.operating_point(operating_point)
    told = bundle.manifest.provenance.created_at
    if point is not None and point.certificate is not None:
        told = point.certificate.issued_at
    try:
        found = datetime.fromisoformat(told)
    except ValueError:
        return 0.0
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _doubts(policy: EscalationPolicy) -> str:
    """SHA-256 of what makes an answer of the student doubtful. Risk rules say that of the text."""
    said = {
        "threshold": policy.threshold,
        "critical": asdict(policy.critical) if policy.critical else None,
        "severity": asdict(policy.severity) if policy.severity else None,
        "min_familiarity": policy.min_familiarity,
    }
    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return hashlib.sha256(orjson.dumps(said, option=options, default=sorted)).hexdigest()

"""Makes the policy that a student answers under, and that of a task without one.

What the settings say of a task is held against what the student's bundle says of itself; where they
contradict each other, the settings are wrong and no policy is made.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

import orjson

from gateway.contract import certificate
from gateway.contract.certificate import Fault, PolicyCertificate
from gateway.contract.manifest import Head, OperatingPoint, Task
from gateway.errors import SettingsError
from gateway.routing import severity
from gateway.routing.net import SafetyNet
from gateway.routing.policy import EscalationPolicy, Warrant
from gateway.routing.risk import Rule
from gateway.routing.severity import Critical, HeadCosts, Severity
from gateway.settings import (
    PolicySettings,
    RuleSettings,
    SeveritySettings,
    TaskSettings,
)
from gateway.students.student import Student
from gateway.types import Reason

_Stamp = tuple[int, int, int] | None  # of a file: inode, nanoseconds of its mtime, bytes

_MICRO = 1_000_000  # micro-USD in a USD
_ESCALATED_AS_STRANGE = 0.01  # share of ordinary texts, where the settings leave it open


def policy_of(
    name: str, settings: TaskSettings, student: Student, *, teacher: str
) -> EscalationPolicy:
    """What the settings say, of this student and the teacher of that name. Raises SettingsError."""
    costs = _severity(name, settings, student.task)
    least = _min_familiarity(name, settings.policy, student)
    wanted = fingerprint(settings.policy, costs, least)
    warrant = _warrant(settings.policy, student, teacher, wanted)
    promised = warrant.certificate if warrant and warrant.fault is None else None
    return EscalationPolicy(
        threshold=_threshold(name, settings, student, promised),
        rules=_rules(name, settings, student.task),
        critical=_critical(name, settings.policy, student.task, promised),
        severity=costs,
        warrant=warrant,
        min_familiarity=least,
        promise=promised.alpha if promised else _promise(settings, student),
    )


def _promise(settings: TaskSettings, student: Student) -> float | None:
    """The alpha of the bundle's certificate; a threshold below the certified one has none."""
    point = student.bundle.manifest.operating_point(settings.student.operating_point)
    if point is None or point.threshold is None or point.certificate is None:
        return None
    chosen = settings.policy.threshold
    return point.certificate.alpha if chosen is None or chosen >= point.threshold else None


def safety_net(
    name: str,
    settings: TaskSettings,
    task: Task,
    *,
    launched: float | None,
    clock: Callable[[], float],
) -> SafetyNet | None:
    """What lies below a student that was launched at that time; None: nothing.

    `launched` and `clock` are in seconds since the epoch; None: it is no new student. Raises
    SettingsError.
    """
    net = settings.promotion.safety_net
    if net is None:
        return None
    for place, rule in enumerate(net.rules):
        where = f"tasks.{name}.promotion.safety_net.rules.{place} ({rule.name})"
        check_labels(rule, task, where=where)
    if launched is None or clock() >= net.until(launched):
        return None
    return SafetyNet(net.share, net.until(launched), net.caught(), clock)


def policy_without_student(name: str, settings: TaskSettings, task: Task) -> EscalationPolicy:
    """What the settings say where there is no student: everything is escalated.

    What could only be held against a student (a threshold, a certificate, a share of strange texts)
    waits for one. Raises SettingsError.
    """
    return EscalationPolicy(
        threshold=None,
        rules=_rules(name, settings, task),
        critical=_critical(name, settings.policy, task, None),
        severity=_severity(name, settings, task),
        absent=Reason.NO_STUDENT,
    )


def fingerprint(policy: PolicySettings, costs: Severity | None, least: float | None) -> str:
    """SHA-256 of all that the settings say of the decision, whatever files it stands in.

    `least` is the familiarity below which a text is strange: what `auto` came to.
    What happens after an escalation is no part of it. Keys at their defaults are none either, so
    that a key which comes to the settings later leaves the certificates from before in force.
    """
    after = {name for name in PolicySettings.model_fields if name.startswith("on_")}
    said = policy.model_dump(
        mode="json",
        exclude_defaults=True,
        exclude={"certificate", "severity", "out_of_domain", *after},
    )
    said["severity"] = asdict(costs) if costs else None
    said["min_familiarity"] = least
    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return hashlib.sha256(orjson.dumps(said, option=options)).hexdigest()


def standing(
    policy: EscalationPolicy,
    settings: PolicySettings,
    *,
    teacher: str,
    now: float,
) -> str:
    """SHA-256 of all by which a policy decides, and of who answers what it leaves.

    `settings` are those that it was made of; `now`, in seconds since the epoch, is held against the
    end of its certificate and of its safety net. What was measured under another one says nothing
    of it.
    """
    nets = [each for each in policy.rules if isinstance(each, SafetyNet)]
    said = {
        "settings": fingerprint(settings, policy.severity, policy.min_familiarity),
        "threshold": policy.threshold,
        "critical": policy.critical.threshold if policy.critical else None,
        "void": policy.warrant.fault_at(now) if policy.warrant else None,
        "absent": policy.absent,
        "nets": [each.share for each in nets if now < each.until],
        "teacher": teacher,
    }
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _rules(name: str, settings: TaskSettings, task: Task) -> tuple[Rule, ...]:
    """The risk rules. Raises SettingsError for one that no answer of this task can ever meet."""
    for place, rule in enumerate(settings.policy.rules):
        check_labels(rule, task, where=f"tasks.{name}.policy.rules.{place} ({rule.name})")
    return tuple(rule.rule() for rule in settings.policy.rules)


def check_labels(rule: RuleSettings, task: Task, *, where: str) -> None:
    """Raises SettingsError for a rule on a head or a label that the student never says."""
    if rule.head is None:
        return
    labels = {head.name: frozenset(head.labels) for head in task.heads}
    if rule.head not in labels:
        raise SettingsError(
            f"{where}: the task has no head {rule.head!r}",
            mend=f"name one of: {', '.join(labels)}",
        )
    if unknown := sorted(set(rule.labels or ()) - labels[rule.head]):
        raise SettingsError(
            f"{where}: the head {rule.head!r} has no label {unknown[0]!r}",
            mend=f"name labels of: {', '.join(sorted(labels[rule.head]))}",
        )


def _severity(name: str, settings: TaskSettings, task: Task) -> Severity | None:
    """The costs of all heads against the price of a call. Raises SettingsError."""
    chosen = settings.policy.severity
    if chosen is None:
        return None
    where = f"tasks.{name}.policy.severity"
    heads = {head.name for head in task.heads}
    if unknown := sorted((chosen.costs.keys() | chosen.teacher.keys()) - heads):
        raise SettingsError(
            f"{where}: the student has no head {unknown[0]!r}",
            mend=f"name one of: {', '.join(sorted(heads))}",
        )
    call = settings.prices.prices().teacher_call
    if call is None:
        raise SettingsError(
            f"{where}: what a call of the teacher costs is not known",
            mend=f"set tasks.{name}.prices.teacher_usd_per_1000",
        )
    return Severity(
        tuple(_costs(head, chosen, where) for head in task.heads),
        bar=float(Decimal(call) / _MICRO / chosen.usd_per_unit),
    )


def _costs(head: Head, chosen: SeveritySettings, where: str) -> HeadCosts:
    given, taught = chosen.costs.get(head.name, {}), chosen.teacher.get(head.name, {})
    right = chosen.right_may_cost
    if isinstance(given, Path):
        return _costs_in(given, _stamp(given), head, tuple(taught.items()), where, right)
    return severity.costs_of(
        head, given, taught, where=f"{where}.{head.name}", right_may_cost=right
    )


# A policy is made anew at each change of who serves, between two requests: a file that is as it was
# is not read again.
@functools.lru_cache(maxsize=64)
def _costs_in(
    path: Path,
    _stamp: _Stamp,
    head: Head,
    taught: tuple[tuple[str, float], ...],
    where: str,
    right_may_cost: bool,  # noqa: FBT001  a key of the cache, as all of them
) -> HeadCosts:
    table = severity.read(path, where=where)
    return severity.costs_of(
        head, table, dict(taught), where=f"{where}.{head.name}", right_may_cost=right_may_cost
    )


@functools.lru_cache(maxsize=64)
def _certificate(path: Path, _stamp: _Stamp) -> PolicyCertificate | None:
    return certificate.read(path)


def _stamp(path: Path) -> _Stamp:
    """What is another where a file was replaced or written; None: it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _critical(
    name: str, policy: PolicySettings, task: Task, promised: PolicyCertificate | None
) -> Critical | None:
    """The labels that must not be missed. Raises SettingsError.

    Without a threshold of the settings or of a certificate it is 0: wherever the student says none
    of them, the teacher is asked.
    """
    chosen = policy.critical
    if chosen is None:
        return None
    threshold = chosen.threshold
    if threshold is None:
        claim = promised.critical if promised else None
        threshold = claim.threshold if claim else 0.0
    where = f"tasks.{name}.policy.critical.labels"
    return severity.critical_of(task.heads, chosen.labels, threshold, where=where)


def _min_familiarity(name: str, policy: PolicySettings, student: Student) -> float | None:
    """The p-value below which a text is strange; None: no text is. Raises SettingsError."""
    chosen, domain = policy.out_of_domain, student.bundle.manifest.domain
    if chosen == "auto":
        return _ESCALATED_AS_STRANGE if domain else None
    if chosen is None:
        return None
    where = f"tasks.{name}.policy.out_of_domain"
    if domain is None:
        raise SettingsError(
            f"{where}: {student.bundle.name} cannot tell which texts are strange to it",
            mend="leave it at auto, or distil a student again, with score.out_of_domain",
        )
    if chosen * (domain.calibration + 1) <= 1.0:
        raise SettingsError(
            f"{where}: no p-value of {student.bundle.name} is below {chosen:g}: it knows the "
            f"distances of {domain.calibration} texts",
            mend=f"set it above {1 / (domain.calibration + 1):.2g}",
        )
    return chosen


def _warrant(policy: PolicySettings, student: Student, teacher: str, wanted: str) -> Warrant | None:
    """The certificate that the settings name, held against what serves. Raises SettingsError.

    A student may have one of its own beside it, so that a canary need not wait for the settings.
    """
    path = policy.certificate
    if path is None:
        return None
    own = path.with_name(f"{path.stem}.{student.bundle.name}{path.suffix}")
    found = _certificate(own, _stamp(own)) or _certificate(path, _stamp(path))
    if found is None:
        return Warrant(None, Fault.MISSING)
    fault = found.fault(student=student.bundle.id, teacher=teacher, policy=wanted)
    return Warrant(found, fault, found.expires_at.timestamp())


def _threshold(
    name: str, settings: TaskSettings, student: Student, promised: PolicyCertificate | None
) -> float | None:
    """The threshold of the settings, else the certified one; None: everything is escalated."""
    if settings.policy.threshold is not None:
        return settings.policy.threshold
    if promised is not None:
        return promised.threshold
    wanted = settings.student.operating_point
    points = student.bundle.manifest.operating_points
    if not points:
        return None  # an uncertified bundle: everything is escalated, and says why
    point: OperatingPoint | None = student.bundle.manifest.operating_point(wanted)
    if point is None:
        raise SettingsError(
            f"tasks.{name}.student.operating_point: {student.bundle.name} has no {wanted!r}",
            mend=f"name one of: {', '.join(each.name for each in points)}",
        )
    return point.threshold if point.certificate else None

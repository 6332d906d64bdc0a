"""A student becomes a rung of its task: workers that run it, and the policy that it answers under.

What the settings say of a task is held against what the student's bundle says of itself; where they
contradict each other, the settings are wrong and nothing is opened.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

import orjson

from gateway.contract import certificate
from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.certificate import Fault, PolicyCertificate
from gateway.contract.examples import Example
from gateway.contract.manifest import Head, OperatingPoint, Task
from gateway.errors import BundleMismatch, SettingsError
from gateway.routing import severity
from gateway.routing.budget import Purse
from gateway.routing.net import SafetyNet
from gateway.routing.policy import EscalationPolicy, Warrant
from gateway.routing.risk import Rule
from gateway.routing.severity import Critical, HeadCosts, Severity
from gateway.settings import (
    ChatSettings,
    EnsembleSettings,
    MemberSettings,
    OipSettings,
    PolicySettings,
    RuleSettings,
    ScriptedSettings,
    SeveritySettings,
    TaskSettings,
    TeacherSettings,
    UpstreamSettings,
    environment_without_keys,
    teacher_key,
)
from gateway.students import tuning
from gateway.students.batching import Batcher
from gateway.students.process import ProcessWorker
from gateway.students.rehearsal import handed_on
from gateway.students.student import Student
from gateway.students.workers import ThreadWorker, Worker
from gateway.teachers.base import Teacher
from gateway.teachers.breaker import Breaker, Limits
from gateway.teachers.bundle import BundleTeacher
from gateway.teachers.cache import AnswerCache
from gateway.teachers.chat import Asking, ChatTeacher
from gateway.teachers.completion import TokenPrices
from gateway.teachers.ensemble import ChoosingTeacher, Member, VotingTeacher
from gateway.teachers.guard import Guard
from gateway.teachers.hedges import HedgeBudget
from gateway.teachers.oip import OipTeacher
from gateway.teachers.prompt import Prompt, TaskCard
from gateway.teachers.retries import RetryBudget
from gateway.teachers.scripted import ScriptedTeacher
from gateway.teachers.upstream import Upstream
from gateway.telemetry.metrics import Metrics
from gateway.types import Reason

_Stamp = tuple[int, int, int] | None  # of a file: inode, nanoseconds of its mtime, bytes

_MEMBERS_SHARE = 0.8  # of a vote's time: the rest is for those who answered to be heard
_DIGITS = 12  # of the fingerprint in an ensemble's name: 48 bits
_MICRO = 1_000_000  # micro-USD in a USD
_SLOW = 0.8  # of a call's timeout: where nobody says what is slow, it is what hardly came in time
_ESCALATED_AS_STRANGE = 0.01  # share of ordinary texts, where the settings leave it open


def open_student(settings: TaskSettings, bundle: Bundle) -> Student:
    """Load a student, to be run as the settings say. Raises BundleMismatch."""
    tuned = tuning.load(settings.student.tuning, bundle)
    threads = settings.student.threads
    return Student(
        bundle,
        threads=tuned.threads if threads == "auto" else threads,
        call_tokens=tuned.call_tokens,
    )


async def open_batcher(
    name: str, settings: TaskSettings, student: Student, metrics: Metrics
) -> Batcher:
    """Start the workers that run a student; `Batcher.ready` waits for them."""
    workers = settings.student.workers
    if workers == "auto":
        workers = tuning.load(settings.student.tuning, student.bundle).workers
    return Batcher(
        student,
        await start_workers(name, settings, student, workers),
        max_rows=settings.student.max_batch,
        max_tokens=settings.student.max_batch_tokens,
        capacity=settings.student.queue,
        longest_wait=settings.student.max_wait_ms / 1000,
        observe=metrics.batched,
    )


async def start_workers(
    name: str, settings: TaskSettings, student: Student, count: int
) -> Sequence[Worker]:
    """So many workers, of the kind that the settings say; all of them, or none."""
    begun: list[Worker] = []
    try:
        for number in range(count):
            worker = _worker(f"{name}-student-{number}", settings, student)
            begun.append(worker)
    except BaseException:
        await Batcher(student, begun).close()  # it is what ends workers in order
        raise
    return begun


def _worker(name: str, settings: TaskSettings, student: Student) -> Worker:
    if settings.student.run_in == "threads":
        return ThreadWorker(student, name=name)
    return ProcessWorker(student, environment=handed_on(environment_without_keys()))


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
        _check_labels(rule, task, where=where)
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


async def open_teacher(
    settings: TeacherSettings,
    task: Task,
    *,
    purse: Purse | None = None,
    metrics: Metrics | None = None,
) -> Guard:
    """The guarded teacher of a task.

    Raises SettingsError, or BundleMismatch when it answers another task; nothing is open then.
    """
    if settings.ensemble is None:
        teacher = await _teacher(settings, task)
    else:
        teacher = await _ensemble(settings.ensemble, task, settings.timeout_s)
    return _guarded(teacher, settings, purse, metrics)


async def _teacher(settings: MemberSettings, task: Task) -> Teacher:
    """A teacher of one kind; that there is one the settings have seen."""
    if settings.bundle is not None:
        student = await asyncio.to_thread(_load, settings.bundle, task)  # it may be large
        return BundleTeacher(student, workers=settings.workers, capacity=settings.concurrency)
    if settings.openai is not None:
        return _chat_teacher(settings.openai, settings, task)
    if settings.oip is not None:
        return _oip_teacher(settings.oip, settings, task)
    script = settings.scripted or ScriptedSettings()
    return ScriptedTeacher(
        task,
        labels=script.labels,
        delay_s=script.delay_ms / 1000,
        fail_every=script.fail_every,
    )


def _load(bundle: Path, task: Task) -> Student:
    """The model of a bundle that answers that task. Raises BundleMismatch."""
    student = Student(open_bundle(bundle))
    if student.task.heads != task.heads:
        raise BundleMismatch(
            f"the teacher {student.bundle.name} answers other heads or labels than the student",
            mend="serve a student with the teacher that it was distilled from",
        )
    return student


async def _ensemble(settings: EnsembleSettings, task: Task, timeout_s: float) -> Teacher:
    """Several teachers as one. In a vote none has so much time that its delay costs the others."""
    longest = timeout_s * (_MEMBERS_SHARE if settings.mode == "vote" else 1.0)
    async with AsyncExitStack() as opened:
        members = {}
        for each, member in settings.members.items():
            teacher = await _teacher(member, task)
            opened.push_async_callback(teacher.close)
            members[each] = Member(
                teacher,
                timeout_s=min(member.timeout_s, longest),
                weights=settings.weights.get(each, {}),
            )
        ensemble = _combined(settings, task, members)
        opened.pop_all()
    return ensemble


def _combined(settings: EnsembleSettings, task: Task, members: Mapping[str, Member]) -> Teacher:
    """The ensemble, named so that another mix of members has another name."""
    said = settings.model_dump(mode="json", exclude={"members"}, exclude_defaults=True)
    who = {name: member.teacher.name for name, member in members.items()}
    digest = hashlib.sha256(orjson.dumps([said, who], option=orjson.OPT_SORT_KEYS)).hexdigest()
    name = f"{settings.mode}-of-{len(members)}@{digest[:_DIGITS]}"
    if settings.default is None:
        return VotingTeacher(name, task, members, quorum=settings.quorum)
    for place, skill in enumerate(settings.skills):
        where = f"teacher.ensemble.skills.{place}.when ({skill.when.name})"
        _check_labels(skill.when, task, where=where)
    skills = [(skill.when.rule(), skill.member) for skill in settings.skills]
    return ChoosingTeacher(name, task, members, skills=skills, default=settings.default)


def _guarded(
    teacher: Teacher, settings: TeacherSettings, purse: Purse | None, metrics: Metrics | None
) -> Guard:
    """The teacher with its guard around it, as the settings say."""
    chosen, kept = settings.breaker, settings.cache
    breaker = Breaker(
        Limits(
            failures=chosen.failures,
            window_s=chosen.window_s,
            calls=chosen.calls,
            error_ratio=chosen.error_ratio,
            slow_ratio=chosen.slow_ratio,
            slow_s=chosen.slow_s or _SLOW * settings.timeout_s,
            open_s=chosen.open_s,
        )
    )
    return Guard(
        teacher,
        timeout_s=settings.timeout_s,
        concurrency=settings.concurrency,
        retries=settings.retries,
        retry_budget=RetryBudget(settings.retry_share),
        breaker=breaker,
        hedges=HedgeBudget(settings.hedge.share) if settings.hedge.enabled else None,
        cache=AnswerCache(answers=kept.answers, ttl_s=kept.ttl_s) if kept.enabled else None,
        coalesce=settings.coalesce,
        purse=purse,
        watch=metrics.watch(teacher.name, lambda: breaker.state) if metrics else None,
    )


def _chat_teacher(chat: ChatSettings, settings: MemberSettings, task: Task) -> ChatTeacher:
    """A chat model that knows the task from its card. Raises SettingsError."""
    card = TaskCard(
        instructions=chat.instructions,
        descriptions=chat.descriptions,
        examples=[Example(each.text, each.labels, each.fields) for each in chat.examples],
    )
    sent = {"temperature": chat.temperature, "max_tokens": chat.max_tokens}
    return ChatTeacher(
        Prompt(task, card),
        _upstream(chat, settings, connections=settings.concurrency * chat.samples),
        asking=Asking(
            model=chat.model,
            structured=chat.structured,
            samples=chat.samples,
            logprobs=chat.logprobs,
            options={name: value for name, value in sent.items() if value is not None} | chat.extra,
        ),
        prices=TokenPrices(
            input_usd_per_million=chat.input_usd_per_million,
            output_usd_per_million=chat.output_usd_per_million,
        ),
    )


def _oip_teacher(oip: OipSettings, settings: MemberSettings, task: Task) -> OipTeacher:
    """A model behind the Open Inference Protocol. Raises SettingsError."""
    return OipTeacher(
        _upstream(oip, settings, connections=settings.concurrency),
        task,
        model=oip.model,
        version=oip.version,
        input_name=oip.input,
        outputs=oip.outputs,
        scores=oip.scores,
    )


def _upstream(where: UpstreamSettings, settings: MemberSettings, *, connections: int) -> Upstream:
    """The way to a server, with its key, if it has one. Raises SettingsError."""
    secret = None if where.key is None else teacher_key(where.key).get_secret_value()
    return Upstream(
        where.url,
        headers={} if secret is None else {"Authorization": f"Bearer {secret}"},
        timeout_s=settings.timeout_s,
        connections=connections,
    )


def _rules(name: str, settings: TaskSettings, task: Task) -> tuple[Rule, ...]:
    """The risk rules. Raises SettingsError for one that no answer of this task can ever meet."""
    for place, rule in enumerate(settings.policy.rules):
        _check_labels(rule, task, where=f"tasks.{name}.policy.rules.{place} ({rule.name})")
    return tuple(rule.rule() for rule in settings.policy.rules)


def _check_labels(rule: RuleSettings, task: Task, *, where: str) -> None:
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

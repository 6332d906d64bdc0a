"""What the gateway has done and with what it serves: /v1/stats and /v1/tasks. It only reads."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from gateway.api.schemas import (
    AccuracyReply,
    AlarmReply,
    BalanceReply,
    BudgetReply,
    CanaryStats,
    CandidateStats,
    CertificateReply,
    IncidentReply,
    MixReply,
    MovementReply,
    RecordCounts,
    ServedErrorReply,
    ServingReply,
    StatsReply,
    TaskLimits,
    TaskReply,
    TasksReply,
    TaskStats,
    WatchReply,
    problems,
)
from gateway.assembly import Gateway
from gateway.contract.certificate import Fault, PolicyCertificate
from gateway.contract.manifest import Certificate
from gateway.routing.budget import Budget
from gateway.routing.cascade import Cascade
from gateway.settings import ServerSettings, Settings
from gateway.shadow.shadow import Candidate
from gateway.store.writer import Account
from gateway.telemetry.metrics import Underway, Validity, Watched


def router(gateway: Gateway) -> APIRouter:
    """The routes that show figures and tasks."""
    routes = APIRouter(responses=problems(401, 500))

    @routes.get("/v1/stats")
    async def stats() -> StatsReply:
        """Speed, routes, escalation, disagreement and cost since the start, by task."""
        await gateway.look_at_budgets()
        return await stats_of(gateway)

    @routes.get("/v1/tasks")
    async def tasks() -> TasksReply:
        """The tasks that are served here, their heads and labels."""
        server = gateway.settings.server
        return TasksReply(
            tasks=[_task(name, cascade, server) for name, cascade in gateway.tasks.items()]
        )

    return routes


async def stats_of(gateway: Gateway) -> StatsReply:
    """The figures of a gateway, and with what each task is served."""
    errors = {name: await _served_error(gateway, name) for name in gateway.tasks}
    shown: dict[str, Any] = gateway.figures.snapshot()
    writer = gateway.writer
    account = writer.records if writer else Account(0, 0, 0)
    return StatsReply(
        uptime_s=shown["uptime_s"],
        draining=gateway.draining,
        records=RecordCounts(
            stored=account.stored,
            dropped=account.dropped,
            waiting=account.waiting,
            degraded=writer is not None and writer.degraded,
        ),
        tasks={
            name: TaskStats(
                serving=serving(
                    gateway.settings, gateway.tasks.get(name), stale=_stale(gateway, name)
                ),
                audits_skipped=gateway.audits_skipped(name),
                budget=_budget(gateway.budgets.get(name)),
                served_error=errors.get(name),
                candidates=_candidates(gateway, name),
                canary=_canary(gateway, name),
                watch=_watch(gateway, name),
                **figures,
            )
            for name, figures in shown["tasks"].items()
        },
    )


async def _served_error(gateway: Gateway, task: str) -> ServedErrorReply | None:
    found = await gateway.shown.served(task)
    return ServedErrorReply.of(found) if found else None


def _candidates(gateway: Gateway, task: str) -> dict[str, CandidateStats]:
    candidacy = gateway.candidacies.get(task)
    if candidacy is None:
        return {}
    return {
        each.name: CandidateStats.of(each, candidacy.decisions.get(each.name))
        for each in candidacy.shadow.candidates
    }


def _canary(gateway: Gateway, task: str) -> CanaryStats | None:
    rollout = gateway.rollouts.get(task)
    found = rollout.progress() if rollout else None
    return CanaryStats(**asdict(found)) if found else None


def canaries(gateway: Gateway) -> dict[str, Underway | None]:
    """How far the canary of each task has come."""
    found = {name: each.progress() for name, each in gateway.rollouts.items()}
    return {
        name: Underway(each.step, each.since, each.rows, bool(each.absent)) if each else None
        for name, each in found.items()
    }


def _budget(budget: Budget | None) -> BudgetReply | None:
    """What is left to a task's teacher; None where nothing is limited."""
    if budget is None or not budget.limits:
        return None
    return BudgetReply(
        requests_per_second=budget.limits.per_second,
        windows={
            window: BalanceReply(
                limit=each.limit, spent=each.spent, reserved=each.reserved, remaining=each.remaining
            )
            for window, each in budget.seen.items()
        },
    )


def serving(
    settings: Settings, cascade: Cascade | None, *, stale: bool = False
) -> ServingReply | None:
    """With what a task is served; None for what is no task of this gateway.

    A certificate that is `stale`, for traffic has moved, promises nothing, whatever it means then.
    """
    if cascade is None:
        return None
    task = settings.tasks[cascade.task]
    warrant = cascade.rung.policy.warrant
    fault = warrant.fault_at(time.time()) if warrant else None
    fault = fault or (Fault.STALE if cascade.stale() else None)
    held = certificate_of(cascade, task.student.operating_point)
    stale = held is not None and (stale or cascade.stale())
    certificate = None if fault or stale else held
    return ServingReply(
        student=cascade.rung.name,
        teacher=cascade.teacher.name,
        operating_point=task.student.operating_point,
        threshold=cascade.policy().threshold,
        certificate=CertificateReply.of(certificate) if certificate else None,
        certificate_void=fault,
        certificate_stale=stale,
        audit_share=task.audit.share,
    )


def certificate_of(
    cascade: Cascade, operating_point: str
) -> Certificate | PolicyCertificate | None:
    """The certificate of the policy, where it has one, else of the threshold in use.

    A threshold lower than the certified one voids the bundle's certificate.
    """
    if (warrant := cascade.rung.policy.warrant) is not None:
        return warrant.certificate
    bundle, threshold = cascade.rung.bundle, cascade.rung.policy.threshold
    point = bundle.manifest.operating_point(operating_point) if bundle else None
    if point is None or point.threshold is None or threshold is None:
        return None
    return point.certificate if threshold >= point.threshold else None


def validities(gateway: Gateway) -> dict[str, Validity]:
    """How the certificate stands of each task that has one, or escalates everything without.

    One that is stale does not hold, though the student may still answer.
    A threshold that the settings name and no certificate covers is somebody's choice, and has none.
    """
    found = {}
    for name, cascade in gateway.tasks.items():
        stale, policy = _stale(gateway, name), cascade.rung.policy
        shown = serving(gateway.settings, cascade, stale=stale)
        if shown is None or cascade.rung.bundle is None:
            continue
        certified = shown.certificate is not None and policy.threshold is not None
        lost = shown.certificate_void or shown.certificate_stale or policy.threshold is None
        if certified or lost:
            expires = policy.warrant.expires if policy.warrant else math.inf
            found[name] = Validity(certified, expires if math.isfinite(expires) else None)
    return found


def _stale(gateway: Gateway, task: str) -> bool:
    """Whether the traffic of a task has moved away from what its student is certified for."""
    succession = gateway.successions.get(task)
    return succession is not None and succession.watch.stale


def watched(gateway: Gateway) -> dict[str, Watched]:
    """What is watched of each task, and how it stands."""
    return {
        name: Watched(
            readings=each.watch.readings(),
            drift=each.watch.drift(),
            stale=each.watch.stale,
            incident=each.roles.frozen is not None,
        )
        for name, each in gateway.successions.items()
    }


def shadowed(gateway: Gateway) -> dict[str, Sequence[Candidate]]:
    """The candidates of each task, as they are compared here."""
    return {name: each.shadow.candidates for name, each in gateway.candidacies.items()}


def _watch(gateway: Gateway, task: str) -> WatchReply | None:
    """The same of one task, in words; None for what is no task of this gateway."""
    succession = gateway.successions.get(task)
    if succession is None:
        return None
    watch, frozen = succession.watch, succession.roles.frozen
    drift = watch.drift()
    return WatchReply(
        alarms={each.stream.value: AlarmReply.of(each) for each in watch.readings()},
        drift={each.signal.value: MovementReply.of(each) for each in drift.movements},
        mix={head: MixReply.of(each) for head, each in drift.mixes.items()},
        accuracy=AccuracyReply.of(drift.accuracy) if drift.accuracy else None,
        certificate_stale=watch.stale,
        audits_doubled=watch.alert,
        incident=IncidentReply(at=frozen.at, why=frozen.why, student=frozen.student)
        if frozen
        else None,
    )


def _task(name: str, cascade: Cascade, server: ServerSettings) -> TaskReply:
    bundle = cascade.rung.bundle
    return TaskReply(
        name=name,
        heads=tuple(cascade.heads),
        bundle=cascade.rung.name,
        limits=TaskLimits(
            max_inputs=server.max_inputs,
            max_body_bytes=server.max_body_bytes,
            max_characters=server.max_characters,
            read_characters=bundle.manifest.limits.max_characters if bundle else None,
            read_tokens=bundle.manifest.limits.max_tokens if bundle else None,
        ),
    )

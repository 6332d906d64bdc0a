"""Opens the teacher of a task, of whatever kind the settings name, with its guard around it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import orjson

from gateway.contract.bundle import open_bundle
from gateway.contract.examples import Example
from gateway.contract.manifest import Task
from gateway.errors import BundleMismatch
from gateway.routing.budget import Purse
from gateway.settings import (
    ChatSettings,
    EnsembleSettings,
    MemberSettings,
    OipSettings,
    ScriptedSettings,
    TeacherSettings,
    UpstreamSettings,
    teacher_key,
)
from gateway.students.student import Student
from gateway.succession.policies import check_labels
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

_MEMBERS_SHARE = 0.8  # of a vote's time: the rest is for those who answered to be heard
_DIGITS = 12  # of the fingerprint in an ensemble's name: 48 bits
_SLOW = 0.8  # of a call's timeout: where nobody says what is slow, it is what hardly came in time


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
        check_labels(skill.when, task, where=where)
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

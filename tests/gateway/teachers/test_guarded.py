"""What the settings say of the guard holds in a gateway that runs, and its metrics show it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import settings
from gateway.assembly import open_gateway
from gateway.errors import SettingsError
from gateway.types import Answer, Instance, Route
from tests.factories import UNSURE, settings_file

PRICES = {"teacher_usd_per_1000": 2.5}  # 2500 micro-USD a call
FOR_GOOD = {"open_s": 3600.0}  # of a breaker: no call of a test comes so late that it may try


@dataclass(frozen=True, slots=True)
class Seen:
    """The answers, request by request, and the metrics of the teacher after them."""

    answers: list[list[Answer]]
    metrics: dict[str, float]

    @property
    def routes(self) -> list[str]:
        """Who answered each of them."""
        return [answer.route.value for answers in self.answers for answer in answers]


def asked(folder: Path, teacher: dict[str, Any], *requests: list[str]) -> Seen:
    """Open a gateway with such a teacher, send it these requests one by one, close it."""
    given: dict[str, Any] = {"scripted": {}} | teacher
    chosen = settings.load(settings_file(folder, teacher=given, tickets={"prices": PRICES}))

    async def work() -> Seen:
        async with open_gateway(chosen) as gateway:
            answers = [
                await gateway.cascade(None).answer([Instance(text) for text in texts])
                for texts in requests
            ]
            text = gateway.metrics.render().decode()
            return Seen(answers, dict(_of_the_teacher(text)))

    return asyncio.run(work())


def _of_the_teacher(text: str) -> list[tuple[str, float]]:
    return [
        (sample.labels.get("outcome", sample.name.removeprefix("understudy_")), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("teacher") == "scripted"
    ]


def test_a_call_that_failed_is_made_again_by_default(tmp_path: Path) -> None:
    teacher = {"scripted": {"fail_every": 2}}
    seen = asked(tmp_path, teacher, [UNSURE], [f"{UNSURE} now"])
    assert seen.routes == ["teacher", "teacher"]
    assert (seen.metrics["ok"], seen.metrics["unavailable"]) == (2, 1)
    assert seen.metrics["teacher_retries_total"] == 1
    costs = [answers[0].cost.teacher for answers in seen.answers]
    assert costs == [2500, 5000]  # who was asked twice may have been billed twice


def test_without_retries_the_student_stands_in(tmp_path: Path) -> None:
    teacher = {"scripted": {"fail_every": 2}, "retries": 0}
    seen = asked(tmp_path, teacher, [UNSURE], [f"{UNSURE} now"])
    assert seen.routes == ["teacher", "fallback"]
    assert seen.metrics["teacher_retries_total"] == 0


def test_whoever_was_asked_twice_in_vain_may_have_been_billed_twice(tmp_path: Path) -> None:
    seen = asked(tmp_path, {"scripted": {"fail_every": 1}}, [UNSURE])
    assert seen.routes == ["fallback"]
    assert seen.answers[0][0].cost.teacher == 5000


def test_a_teacher_that_fails_is_left_alone_and_costs_nothing(tmp_path: Path) -> None:
    teacher = {"scripted": {"fail_every": 1}, "retries": 0, "breaker": {"failures": 3} | FOR_GOOD}
    seen = asked(tmp_path, teacher, *[[f"{UNSURE} {number}"] for number in range(6)])
    assert seen.routes == ["fallback"] * 6
    assert seen.metrics["unavailable"] == 3
    assert seen.metrics["breaker_state"] == 2
    answers = [answers[0] for answers in seen.answers]
    assert [answer.cost.teacher for answer in answers] == [2500] * 3 + [0] * 3
    assert [answer.cost.avoided for answer in answers] == [0] * 6  # nobody answered in its stead
    assert {answer.failure for answer in answers} == {"teacher_unavailable"}


def test_a_slow_teacher_is_left_alone_too(tmp_path: Path) -> None:
    breaker = {"calls": 2, "slow_ratio": 1.0, "slow_s": 0.001} | FOR_GOOD
    teacher = {"scripted": {"delay_ms": 5.0}, "breaker": breaker}
    seen = asked(tmp_path, teacher, *[[f"{UNSURE} {number}"] for number in range(3)])
    assert seen.routes == ["teacher", "teacher", "fallback"]
    assert seen.metrics["breaker_state"] == 2


@pytest.mark.parametrize(("coalesce", "calls"), [(True, 2), (False, 4)])
def test_the_same_text_at_the_same_time_is_asked_once(
    tmp_path: Path, *, coalesce: bool, calls: int
) -> None:
    seen = asked(tmp_path, {"coalesce": coalesce}, [UNSURE] * 3 + [f"{UNSURE} now"])
    assert seen.metrics["ok"] == calls
    assert seen.metrics["teacher_coalesced_total"] == 4 - calls
    assert {answer.route for answer in seen.answers[0]} == {Route.TEACHER}
    costs = [answer.cost for answer in seen.answers[0]]
    assert sum(cost.teacher or 0 for cost in costs) == calls * 2500
    assert sum(cost.avoided or 0 for cost in costs) == (4 - calls) * 2500


@pytest.mark.parametrize(("enabled", "calls"), [(True, 1), (False, 2)])
def test_an_answer_is_kept_where_the_settings_want_it(
    tmp_path: Path, *, enabled: bool, calls: int
) -> None:
    seen = asked(tmp_path, {"cache": {"enabled": enabled}}, [UNSURE], [UNSURE])
    assert seen.metrics["ok"] == calls
    assert seen.metrics["teacher_cache_hits_total"] == 2 - calls
    assert seen.routes == ["teacher", "teacher"]
    second = seen.answers[1][0].cost
    assert (second.teacher, second.avoided) == ((0, 2500) if enabled else (2500, 0))


@pytest.mark.parametrize(
    ("teacher", "key"),
    [
        ({"retries": -1}, "retries"),
        ({"retry_share": 1.5}, "retry_share"),
        ({"breaker": {"failures": 0}}, "breaker.failures"),
        ({"breaker": {"calls": 1025}}, "breaker.calls"),  # more than it remembers
        ({"breaker": {"error_ratio": 0.0}}, "breaker.error_ratio"),
        ({"breaker": {"open_s": 0.0}}, "breaker.open_s"),
        ({"hedge": {"share": 2.0}}, "hedge.share"),
        ({"cache": {"answers": 0}}, "cache.answers"),
        ({"cache": {"size": 5}}, "cache.size"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(
    tmp_path: Path, teacher: dict[str, Any], key: str
) -> None:
    with pytest.raises(SettingsError, match=f"teacher.{key}"):
        asked(tmp_path, teacher)

"""The metrics: their names, labels and values, as /metrics shows them."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.shadow.account import Part
from gateway.shadow.promotion import Decision
from gateway.shadow.rate import Rate
from gateway.shadow.runner import Shed
from gateway.shadow.runner import State as Doing
from gateway.teachers.breaker import State
from gateway.teachers.guard import Event, Outcome
from gateway.telemetry.metrics import CONTENT_TYPE, Metrics
from gateway.telemetry.pricing import Prices
from gateway.types import Bucket, Comparison, Cost, Lapse, Reason, Route, Source
from tests.gateway.telemetry.answers import STAGES, TICKETS, audit, confident, escalated, prediction

# 3.60 USD an hour is 0.001 USD for a busy second.
PRICES = {"tickets": Prices(instance_usd_per_hour=Decimal("3.60"))}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The value of one series in the exposition text."""
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.name == f"understudy_{name}" and sample.labels == labels:
                return float(sample.value)
    return None


def test_the_exposition_is_plain_text_with_the_version() -> None:
    metrics = Metrics([TICKETS], version="1.2.3")
    assert CONTENT_TYPE.startswith("text/plain")
    assert b'understudy_build_info{version="1.2.3"} 1.0' in metrics.render()
    assert b"_created" not in metrics.render()


def test_series_are_there_before_the_first_request() -> None:
    metrics = Metrics([TICKETS])
    labels = {"task": "tickets", "route": "student", "code": "200"}
    assert value(metrics, "requests_total", **labels) == 0


def test_a_confident_answer_counts_its_time_confidence_and_money() -> None:
    metrics = Metrics([TICKETS], prices=PRICES)
    metrics.answered(confident(cost=Cost(1, 0, 2500)))  # 4 ms: 1 queue, 2 student, 1 overhead
    task = {"task": "tickets"}
    assert value(metrics, "requests_total", **task, route="student", code="200") == 1
    assert value(metrics, "request_duration_seconds_sum", **task, route="student") == 0.004
    fast = {"route": "student", "le": "0.004"}
    assert value(metrics, "request_duration_seconds_bucket", **task, **fast) == 1
    fast["le"] = "0.002"
    assert value(metrics, "request_duration_seconds_bucket", **task, **fast) == 0
    assert value(metrics, "overhead_seconds_count", **task) == 1
    assert value(metrics, "overhead_seconds_bucket", **task, le="0.002") == 1
    assert value(metrics, "overhead_seconds_bucket", **task, le="0.0005") == 0
    assert value(metrics, "queue_wait_seconds_sum", **task) == 0.001
    assert value(metrics, "stage_duration_seconds_sum", **task, stage="student") == 0.002
    assert value(metrics, "stage_duration_seconds_count", **task, stage="teacher") == 0
    assert value(metrics, "confidence_sum", **task, head="intent") == 0.9
    assert value(metrics, "confidence_sum", **task, head="risk") == 0.8
    assert value(metrics, "cost_avoided_usd_total", **task) == 0.0025


def test_the_students_busy_time_is_priced_however_short_each_answer_was() -> None:
    metrics = Metrics([TICKETS], prices=PRICES)
    for number in range(10):  # 0.2 ms each: 0.2 micro-USD, which an answer's own cost rounds to 0
        stages = replace(STAGES, busy=0.0002)
        metrics.answered(confident(number, stages=stages, cost=Cost(0, 0, 2500)))
    live = value(metrics, "cost_usd_total", task="tickets", bucket="live")
    assert live == pytest.approx(0.000002)
    assert value(metrics, "cost_unknown_total", task="tickets", bucket="live") == 0


def test_an_escalation_counts_its_reason_the_teacher_and_the_disagreement() -> None:
    metrics = Metrics([TICKETS])
    metrics.answered(escalated(student=prediction("login"), teacher=prediction("refund")))
    task = {"task": "tickets"}
    assert value(metrics, "escalations_total", **task, reason="low_confidence") == 1
    assert value(metrics, "stage_duration_seconds_sum", **task, stage="teacher") == 0.04
    pair = {"pair": "student_teacher", "source": "escalated"}
    assert value(metrics, "comparisons_total", **task, head="intent", **pair) == 1
    assert value(metrics, "disagreements_total", **task, head="intent", **pair) == 1
    assert value(metrics, "disagreements_total", **task, head="risk", **pair) == 0


def test_every_call_of_the_teacher_is_paid_for_by_what_it_was_made_for() -> None:
    prices = {"tickets": Prices(teacher_usd_per_1000=Decimal("2.50"))}
    metrics = Metrics([TICKETS], prices=prices)
    for bucket, cost in ((Bucket.LIVE, 900), (Bucket.RETRY, 0), (Bucket.HEDGE, None)):
        metrics.spent("tickets", bucket, cost)
    metrics.spent("a stranger", Bucket.AUDIT, None)  # of which no price is known
    task = {"task": "tickets"}
    paid = [value(metrics, "cost_usd_total", **task, bucket=bucket) for bucket in Bucket]
    assert paid == pytest.approx(
        [0.0009, 0.0, 0.0, 0.0025, 0.0]
    )  # live, audit, retry, hedge, shadow
    assert value(metrics, "cost_unknown_total", task="other", bucket="audit") == 1


def test_an_audit_is_compared_apart() -> None:
    metrics = Metrics([TICKETS])
    metrics.audited(audit(confident(), prediction(risk=("legal",))))
    task, pair = {"task": "tickets"}, {"pair": "student_teacher", "source": "audit"}
    assert value(metrics, "comparisons_total", **task, head="risk", **pair) == 1
    assert value(metrics, "disagreements_total", **task, head="risk", **pair) == 1
    assert value(metrics, "disagreements_total", **task, head="intent", **pair) == 0


def test_a_candidate_is_compared_with_both_and_its_time_is_the_shadows() -> None:
    prices = {"tickets": Prices(instance_usd_per_hour=Decimal("3.60"))}
    metrics = Metrics([TICKETS], prices=prices)
    metrics.compared(
        Comparison(
            confident(), "tickets-1", prediction("login"), escalates=False, propensity=1.0,
            seconds=0.01, teacher=prediction("login"), source=Source.AUDIT,
            second=prediction("refund"),
        )
    )  # fmt: skip
    failed = Comparison(
        confident(), "tickets-1", None, escalates=True, propensity=1.0, lapse=Lapse.HUNG
    )
    metrics.compared(failed)
    place = {"task": "tickets", "head": "intent"}
    pairs = (("candidate_student", "shadow", 1), ("candidate_teacher", "audit", 0),
             ("teacher_teacher", "audit", 1))  # fmt: skip
    for pair, source, differ in pairs:
        where = {**place, "pair": pair, "source": source}
        assert value(metrics, "comparisons_total", **where) == 1
        assert value(metrics, "disagreements_total", **where) == differ
    assert value(metrics, "shadow_lapses_total", task="tickets", cause="hung") == 1
    # 3.60 USD an hour are 0.001 USD a second.
    paid = value(metrics, "cost_usd_total", task="tickets", bucket="shadow")
    assert paid == pytest.approx(0.00001)


def test_only_candidates_of_now_have_a_verdict() -> None:
    metrics = Metrics([TICKETS])
    metrics.tried("tickets", ["tickets-1", "tickets-2"])
    decisions = {"tickets-1": Decision.REJECT, "tickets-3": Decision.PROMOTE}
    metrics.judged("tickets", decisions)
    shown = metrics.render().decode()
    assert 'understudy_shadow_verdict{candidate="tickets-1",task="tickets"} -1.0' in shown
    assert "tickets-3" not in shown
    metrics.tried("tickets", ["tickets-2"])
    shown = metrics.render().decode()
    assert "tickets-1" not in shown
    assert 'bundle="tickets-2",role="candidate"' in shown


def test_a_fallback_names_the_cause_by_the_code_of_an_error() -> None:
    metrics = Metrics([TICKETS])
    for failure in ("teacher_timeout", "made up"):
        metrics.answered(escalated(student=prediction(), route=Route.FALLBACK, failure=failure))
    name = "escalations_suppressed_total"
    assert value(metrics, name, task="tickets", cause="teacher_timeout") == 1
    assert value(metrics, name, task="tickets", cause="other") == 1


def test_an_abstention_of_a_failed_student_is_counted() -> None:
    metrics = Metrics([TICKETS])
    metrics.answered(escalated(route=Route.ABSTAIN, reason=Reason.STUDENT_FAILED))
    labels = {"task": "tickets", "route": "abstain", "code": "200"}
    assert value(metrics, "requests_total", **labels) == 1
    assert value(metrics, "escalations_total", task="tickets", reason="student_failed") == 1
    assert value(metrics, "queue_wait_seconds_count", task="tickets") == 0


def test_an_unknown_cost_is_counted_and_adds_nothing() -> None:
    metrics = Metrics([TICKETS])
    metrics.answered(confident(cost=Cost(None, 0, None)))
    assert value(metrics, "cost_unknown_total", task="tickets", bucket="live") == 1
    assert value(metrics, "cost_usd_total", task="tickets", bucket="live") == 0
    assert value(metrics, "cost_avoided_usd_total", task="tickets") == 0


def test_a_task_from_outside_makes_no_label() -> None:
    metrics = Metrics([TICKETS])
    metrics.answered(confident(task="evil"))
    metrics.audited(audit(confident(task="evil"), prediction()))
    metrics.refused(404, "evil", "unknown_task")
    assert b"evil" not in metrics.render()
    labels = {"task": "other", "route": "none", "code": "404"}
    assert value(metrics, "requests_total", **labels) == 1
    assert value(metrics, "request_duration_seconds_count", task="other", route="student") == 1


def test_connections_that_are_cut_are_counted_by_cause() -> None:
    metrics = Metrics([TICKETS])
    for cause in ("receipt", "receipt", "send"):
        metrics.cut(cause)
    assert value(metrics, "connections_cut_total", cause="receipt") == 2
    assert value(metrics, "connections_cut_total", cause="send") == 1


def test_a_refusal_for_want_of_room_counts_as_shed() -> None:
    metrics = Metrics([TICKETS])
    metrics.refused(429, "tickets", "overloaded")
    metrics.refused(422, "tickets", "invalid")
    labels = {"task": "tickets", "route": "none"}
    assert value(metrics, "requests_total", **labels, code="429") == 1
    assert value(metrics, "requests_total", **labels, code="422") == 1
    assert value(metrics, "shed_total", reason="overloaded") == 1
    assert value(metrics, "shed_total", reason="invalid") is None


def test_requests_in_flight_come_and_go() -> None:
    metrics = Metrics([TICKETS])
    metrics.entered()
    metrics.entered()
    metrics.left()
    assert value(metrics, "inflight_requests") == 1


def test_batches_are_measured() -> None:
    metrics = Metrics([TICKETS])
    metrics.batched(3, 0.5)
    metrics.batched(5, 0.25)
    assert value(metrics, "batch_size_sum") == 8
    assert value(metrics, "batch_size_bucket", le="4.0") == 1
    assert value(metrics, "batch_duration_seconds_sum") == 0.75


def test_a_new_bundle_takes_the_place_of_the_one_before_it() -> None:
    metrics = Metrics([TICKETS])
    metrics.installed("tickets", "serving", "a" * 64)
    metrics.installed("tickets", "serving", "c" * 64)
    labels = {"task": "tickets", "role": "serving"}
    assert value(metrics, "bundle_info", **labels, bundle="c" * 64) == 1
    assert value(metrics, "bundle_info", **labels, bundle="a" * 64) is None


def test_records_are_read_from_the_writer_when_asked() -> None:
    metrics = Metrics([TICKETS])
    counts = {"stored": 0, "dropped": 0}
    metrics.follow_records(lambda: counts)
    counts |= {"stored": 7, "dropped": 2}
    assert value(metrics, "records_total", result="stored") == 7
    assert value(metrics, "records_total", result="dropped") == 2


def test_the_served_error_is_read_for_all_and_for_each_part_and_absent_until_it_is_known() -> None:
    metrics = Metrics([TICKETS])
    known = Rate(50, 2, 1.5, 0.01, 0.2, void=3, disagreement=0.25, disagreement_upper=0.5)
    parts = [Part("tickets", known), Part("tickets", replace(known, estimate=0.02), head="risk")]
    parts.append(Part("tickets", Rate(7, 0, None, None, None), field="tier", value="gold"))
    metrics.follow_served(lambda: parts)
    names = ("rows", "audits", "void_rows", "error_rate", "error_rate_upper",
             "disagreement_rate", "disagreement_rate_upper")  # fmt: skip

    def shown(**labels: str) -> list[float | None]:
        return [value(metrics, f"served_{name}", task="tickets", **labels) for name in names]

    assert shown() == [50, 2, 3, 1.0, 0.2, 0.25, 0.5]  # an estimate above 1 is shown as a share
    assert shown(head="risk") == [50, 2, 3, 0.02, 0.2, 0.25, 0.5]
    assert shown(field="tier", value="gold") == [7, 0, 0, None, None, None, None]


def test_skipped_audits_are_read_by_cause_when_asked() -> None:
    metrics = Metrics([TICKETS])
    metrics.follow_skips(lambda: {"busy": 3, "failed": 0})
    assert value(metrics, "shadow_skipped_total", cause="busy") == 3
    assert value(metrics, "shadow_skipped_total", cause="failed") == 0


def test_what_a_guard_does_is_counted_by_its_teacher() -> None:
    metrics = Metrics([TICKETS])
    watch = metrics.watch("gpt", lambda: State.CLOSED)
    assert value(metrics, "teacher_attempts_total", teacher="gpt", outcome="garbled") == 0
    for outcome in (Outcome.OK, Outcome.OK, Outcome.GARBLED):
        watch.attempted(outcome)
    watch.noted(Event.RETRY)
    for _ in range(2):
        watch.noted(Event.HEDGE)
    for _ in range(3):
        watch.noted(Event.COALESCED)
    for _ in range(4):
        watch.noted(Event.CACHE_HIT)
    assert value(metrics, "teacher_attempts_total", teacher="gpt", outcome="ok") == 2
    assert value(metrics, "teacher_attempts_total", teacher="gpt", outcome="garbled") == 1
    names = ("retries", "hedges", "coalesced", "cache_hits")
    counts = [value(metrics, f"teacher_{name}_total", teacher="gpt") for name in names]
    assert counts == [1, 2, 3, 4]


def test_of_teachers_with_one_name_the_worst_breaker_is_shown_while_they_last() -> None:
    metrics, states = Metrics([TICKETS]), [State.CLOSED, State.HALF_OPEN]
    first = metrics.watch("gpt", lambda: states[0])
    second = metrics.watch("gpt", lambda: states[1])
    assert value(metrics, "breaker_state", teacher="gpt") == 1
    states[0] = State.OPEN
    assert value(metrics, "breaker_state", teacher="gpt") == 2
    first.closed()
    assert value(metrics, "breaker_state", teacher="gpt") == 1
    second.closed()
    assert value(metrics, "breaker_state", teacher="gpt") is None
    second.closed()  # two students may have shared it


def test_what_waits_for_the_student_is_read_when_asked() -> None:
    metrics, waiting = Metrics([TICKETS]), ["a text"]
    metrics.follow_queue("tickets", lambda: len(waiting))
    waiting.append("another")
    assert value(metrics, "queue_depth", task="tickets") == 2


def test_two_sets_of_metrics_do_not_share_anything() -> None:
    first, second = Metrics([TICKETS]), Metrics([TICKETS])
    first.entered()
    assert value(second, "inflight_requests") == 0


def test_candidates_are_shown_with_their_state_and_what_was_not_compared() -> None:
    def candidate(name: str, state: Doing, compared: int) -> Any:
        shed = {Shed.FULL: 3, Shed.RESTING: 0}
        whole = SimpleNamespace(compared=compared)
        runner = SimpleNamespace(state=state, shed=shed)
        return SimpleNamespace(name=name, runner=runner, slices=SimpleNamespace(whole=whole))

    metrics = Metrics([TICKETS])
    metrics.shadowed({"tickets": [candidate("a", Doing.RUNNING, 7)]})
    metrics.shadowed(
        {"tickets": [candidate("b", Doing.STOPPED, 5), candidate("c", Doing.RESTING, 0)]}
    )
    lines = [line for line in metrics.render().decode().splitlines() if line[:1] != "#"]
    shown = [line for line in lines if line.startswith(_OF_CANDIDATES)]
    assert sorted(shown) == [
        'understudy_shadow_compared_total{candidate="b",task="tickets"} 5.0',
        'understudy_shadow_compared_total{candidate="c",task="tickets"} 0.0',
        'understudy_shadow_shed_total{candidate="b",cause="full",task="tickets"} 3.0',
        'understudy_shadow_shed_total{candidate="b",cause="resting",task="tickets"} 0.0',
        'understudy_shadow_shed_total{candidate="c",cause="full",task="tickets"} 3.0',
        'understudy_shadow_shed_total{candidate="c",cause="resting",task="tickets"} 0.0',
        'understudy_shadow_state{candidate="b",task="tickets"} 0.0',
        'understudy_shadow_state{candidate="c",task="tickets"} 1.0',
    ]


_OF_CANDIDATES = tuple(f"understudy_shadow_{name}" for name in ("state", "compared", "shed"))

"""The streams of a student: which rows each counts, by hand, and how they are kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from gateway.contract.manifest import Head
from gateway.errors import DataError
from gateway.routing.severity import critical_of
from gateway.shadow.alarm import Level
from gateway.shadow.streams import Reading, Stream, Streams, Terms
from gateway.types import Answer, Coin, Reason, Route, Stages
from tests.gateway.telemetry.answers import TICKETS, confident, prediction

ALL = dict.fromkeys(Stream, 0.1)
HEADS: tuple[Head, ...] = TICKETS.heads
CRITICAL = critical_of(HEADS, {"risk": ("legal",)}, 0.5, where="a test")
WHOLE = Terms(limits=ALL, latency_s=0.1, critical=CRITICAL)


def reading(streams: Streams, stream: Stream) -> Reading:
    return next(each for each in streams.readings() if each.stream is stream)


def seen(streams: Streams, stream: Stream) -> tuple[int, float]:
    found = reading(streams, stream)
    return found.rows, found.high


def drawn(coin: Coin | None = Coin.UNIFORM) -> Answer:
    return confident(coin=coin, audit_propensity=0.5)


def at(second: float, *, total: float = 0.01, failed: bool = False) -> Answer:
    """An answer of that time; one that the student failed on is the teacher's."""
    answer = replace(confident(), at=second, stages=Stages(total=total))
    if not failed:
        return answer
    decision = replace(
        answer.decision,
        escalate=True,
        reason=Reason.STUDENT_FAILED,
        reasons=(Reason.STUDENT_FAILED,),
    )
    return replace(answer, route=Route.TEACHER, student=None, decision=decision)


def test_an_audit_of_the_uniform_coin_is_a_row_of_error_and_of_disagreement() -> None:
    streams = Streams(WHOLE)
    streams.audited(drawn(), prediction())
    streams.audited(drawn(), prediction("login"))
    streams.audited(drawn(Coin.TARGETED), prediction("login"))  # no fair sample
    streams.audited(replace(drawn(), prediction=None), prediction("login"))
    for stream in (Stream.ERROR, Stream.DISAGREEMENT):
        assert seen(streams, stream) == (2, 1.0)
    assert reading(streams, Stream.ERROR).mean == 0.5
    assert seen(streams, Stream.CRITICAL) == (0, 0.0)  # the teacher named no critical label
    assert reading(streams, Stream.CRITICAL).mean is None


def test_a_critical_label_that_the_answer_does_not_say_is_missed() -> None:
    streams = Streams(WHOLE)
    said = replace(drawn(), prediction=prediction(risk=("legal",)))
    streams.audited(said, prediction(risk=("legal",)))
    streams.audited(drawn(), prediction(risk=("legal",)))
    assert seen(streams, Stream.CRITICAL) == (2, 1.0)


def test_of_what_is_escalated_the_sampled_are_rows_of_disagreement() -> None:
    streams = Streams(WHOLE)
    escalated = replace(confident(), route=Route.TEACHER, teacher=prediction("login"))
    streams.answered(escalated, sampled=True)
    streams.answered(replace(escalated, teacher=prediction()), sampled=True)
    streams.answered(escalated, sampled=False)
    streams.answered(confident(), sampled=True)  # nobody else has spoken
    assert seen(streams, Stream.DISAGREEMENT) == (2, 1.0)
    assert seen(streams, Stream.ERROR) == (0, 0.0)


def test_all_requests_of_a_second_are_one_row_of_failures_and_of_latency() -> None:
    streams = Streams(WHOLE)
    for answer in (at(7.0), at(7.2, total=0.2), at(7.4), at(7.9, failed=True)):
        streams.answered(answer, sampled=False)
    assert seen(streams, Stream.FAILURES) == (0, 0.0)  # the second is not over
    streams.answered(at(9.0, total=0.2), sampled=False)
    assert seen(streams, Stream.FAILURES) == (1, 0.25)
    assert seen(streams, Stream.LATENCY) == (1, 1 / 3)
    streams.answered(at(11.0, failed=True), sampled=False)
    streams.answered(at(12.0), sampled=False)
    assert seen(streams, Stream.FAILURES) == (3, 1.25)
    assert seen(streams, Stream.LATENCY) == (2, 1 / 3 + 1.0)  # none answered at 11


def test_what_has_no_limit_or_nothing_to_hold_against_it_is_not_watched() -> None:
    bare = Streams(Terms(limits=ALL))
    watched = [each.stream for each in bare.readings()]
    assert watched == [Stream.ERROR, Stream.FAILURES, Stream.DISAGREEMENT]
    assert {each.bar for each in bare.readings()} == {60_000.0}  # 20,000 rows for each of three
    assert Streams(Terms(limits={})).readings() == ()
    assert Streams(Terms(limits={})).loudest is Level.CALM


def test_a_stream_warns_then_rings_and_stays_until_something_else_serves() -> None:
    streams = Streams(Terms(limits={Stream.ERROR: 0.1}, apart=300.0))
    levels = []
    while streams.ringing() is None:
        streams.audited(drawn(), prediction("login"))
        levels.append(streams.loudest)
    # A wrong row pays 1.5 to 6, 3.3 in the mean of seven: 3.3, 17, 78, 384, as for any limit.
    assert levels == [Level.CALM, Level.CALM, Level.WARN, Level.ALARM]
    ringing = streams.ringing()
    assert ringing is not None
    assert (ringing.stream, ringing.rows, ringing.high) == (Stream.ERROR, 4, 4.0)
    streams.audited(drawn(), prediction())
    assert seen(streams, Stream.ERROR) == (4, 4.0)


def test_what_is_saved_goes_on_where_the_limit_is_the_same() -> None:
    streams = Streams(WHOLE)
    for said in ("login", "refund", "login"):
        streams.audited(drawn(), prediction(said))
    kept = json.loads(json.dumps(streams.saved()))
    again = Streams(WHOLE).restore(kept)
    assert again.readings() == streams.readings()
    other = Streams(replace(WHOLE, limits=ALL | {Stream.ERROR: 0.2})).restore(kept)
    assert seen(other, Stream.ERROR) == (0, 0.0)
    assert seen(other, Stream.DISAGREEMENT) == (3, 2.0)


def test_rows_of_another_thing_do_not_go_on_under_the_same_limit() -> None:
    streams = Streams(WHOLE)
    streams.audited(drawn(), prediction("login", risk=("legal",)))
    streams.answered(at(1.0, total=0.2), sampled=False)
    streams.answered(at(2.0), sampled=False)
    kept = json.loads(json.dumps(streams.saved()))
    once = dict.fromkeys(Stream, 1)
    others = critical_of(HEADS, {"intent": ("login",)}, 0.5, where="a test")
    for terms, anew in (
        (replace(WHOLE, latency_s=0.5), {Stream.LATENCY}),
        (replace(WHOLE, critical=others), {Stream.CRITICAL}),
        (replace(WHOLE, critical=replace(CRITICAL, threshold=0.1)), set()),  # the policy says it
        (replace(WHOLE, policy="stricter"), {Stream.ERROR, Stream.CRITICAL}),
    ):
        found = {each.stream: each.rows for each in Streams(terms).restore(kept).readings()}
        assert found == once | dict.fromkeys(anew, 0)


@pytest.mark.parametrize(
    "kept",
    [{"error": {}}, {"error": {"alarm": None}}, {"error": {"alarm": {"limit": 0.1}, "high": "x"}}],
)
def test_what_is_no_state_is_refused(kept: dict[str, object]) -> None:
    with pytest.raises(DataError, match="saved alarm of error"):
        Streams(WHOLE).restore(kept)  # type: ignore[arg-type]


def test_limits_are_met_in_any_numbers() -> None:
    streams = Streams(WHOLE)
    wrong = np.random.default_rng(3).random(500) < 0.05
    for each in wrong:
        streams.audited(drawn(), prediction("login" if each else "refund"))
    assert streams.loudest is Level.CALM  # half of the limit
    assert seen(streams, Stream.ERROR) == (500, float(wrong.sum()))

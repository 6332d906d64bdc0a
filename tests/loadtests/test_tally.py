"""Percentiles, sums and refusals, with figures worked out by hand."""

from __future__ import annotations

from array import array

import orjson
import pytest

from loadtests.tally import Latency, Punctuality, Tally, percentile, result
from loadtests.wire import Reply


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        (range(1, 101), 50, 50),
        (range(1, 101), 95, 95),
        (range(1, 101), 99, 99),
        (range(1, 101), 100, 100),
        ([10, 20, 30, 40], 50, 20),  # half of four is two
        ([10, 20, 30, 40], 51, 30),
        ([10, 20, 30, 40], 95, 40),  # 3.8 of four, so the fourth
        ([7], 1, 7),
        ([7], 99, 7),
    ],
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    values: list[float], percent: float, expected: float
) -> None:
    assert percentile(list(values), percent) == expected


def test_latencies_are_milliseconds_in_any_order() -> None:
    assert Latency.of([0.004, 0.001, 0.002, 0.003]) == Latency(
        count=4, mean=2.5, p50=2.0, p95=4.0, p99=4.0, max=4.0
    )


def test_there_is_no_latency_of_nothing() -> None:
    assert Latency.of([]) is None


def _tally(status: int, *seconds: float, body: bytes = b"{}") -> Tally:
    tally = Tally(sent=len(seconds), planned=len(seconds))
    for each in seconds:
        tally.replied(Reply(status, b"", body), each, each / 2)
    return tally


def test_what_processes_have_counted_adds_up() -> None:
    total = _tally(200, 0.001, 0.003)
    total.wrong, total.ended, total.last_send, total.busiest = 1, 2.0, 1.5, 0.2
    other = _tally(429, 0.002, body=b'{"code": "overloaded"}')
    other.failures["closed"] = 1
    other.sent, other.planned, other.ended, other.last_send, other.busiest = 2, 2, 1.0, 3.0, 0.4
    total.add(other)
    found = result(total, url="u", connections=2, processes=2)
    assert found.statuses == {200: 2, 429: 1}
    assert (found.codes, found.failures) == ({"overloaded": 1}, {"closed": 1})
    assert (found.requests, found.sent, found.succeeded) == (4, 4, 2)
    assert found.errors == 3  # a refusal, a closed connection, a wrong answer
    assert found.seconds == 3.0
    assert found.succeeded_per_s == 0.7
    assert found.latency == Latency.of([0.001, 0.003])
    assert found.by_status[429] == Latency.of([0.002])
    assert found.since_sent[429] == Latency.of([0.001])
    assert total.busiest == 0.4


def test_a_refusal_without_a_problem_document_is_counted_as_such() -> None:
    assert _tally(502, 0.1, body=b"<html>").codes == {"no problem document": 1}


def _punctuality(late: int, of: int, *, busiest: float = 0.1) -> Punctuality:
    """So many sends 6 ms behind schedule, the others 1 ms."""
    tally = Tally(sent=of, late=array("d", [0.006] * late + [0.001] * (of - late)))
    tally.busiest = busiest
    return Punctuality.of(tally, rate=100.0, limit_ms=5.0, allowed_share=0.01)


def test_a_run_with_too_many_late_sends_is_refused_and_says_why() -> None:
    assert _punctuality(3, 200).refusal == (
        "the generator could not hold 100 requests/s: 1.5% of its sends were more than 5 ms behind "
        "schedule, 1.0% are allowed"
    )


def test_a_run_with_just_as_many_late_sends_as_allowed_stands() -> None:
    assert _punctuality(2, 200).refusal == ""


def test_a_run_whose_generator_had_no_time_to_spare_is_refused() -> None:
    assert "at work 97% of the time" in _punctuality(0, 200, busiest=0.97).refusal
    assert _punctuality(0, 200, busiest=0.95).refusal == ""


def test_a_refused_run_shows_no_latency() -> None:
    found = result(
        _tally(200, 0.001), url="u", connections=1, processes=1, punctuality=_punctuality(3, 200)
    )
    assert found.refusal
    assert (found.latency, found.overhead) == (None, None)
    assert (dict(found.by_status), dict(found.since_sent)) == ({}, {})
    assert orjson.loads(found.to_json())["latency"] is None

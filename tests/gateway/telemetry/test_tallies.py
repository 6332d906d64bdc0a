"""Tallies count as prometheus_client does, and show the same text."""

from __future__ import annotations

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from gateway.telemetry.tallies import Counter, Histogram

BOUNDS = (0.00025, 0.5, 1, 30.0)


def shown(collector: Collector) -> str:
    """The text of a scrape."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


@pytest.fixture(autouse=True)
def _plain() -> None:
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


def test_a_histogram_shows_what_the_librarys_own_would() -> None:
    theirs = prometheus_client.Histogram("wait", "Time", ["task"], registry=None, buckets=BOUNDS)
    ours = Histogram("wait", "Time", ["task"], BOUNDS)
    for task, value in [("a", 0.5), ("a", 0.0), ("a", 0.50001), ("b", 31.0), ("a", 1.0)]:
        theirs.labels(task).observe(value)
        ours.labels(task).observe(value)
    assert shown(ours) == shown(theirs)
    assert 'wait_bucket{le="0.5",task="a"} 2.0' in shown(ours)


def test_a_counter_shows_what_the_librarys_own_would() -> None:
    theirs = prometheus_client.Counter("asked", "Count", ["task", "code"], registry=None)
    ours = Counter("asked", "Count", ["task", "code"])
    for family in (theirs, ours):
        family.labels("a", "200").inc()
        family.labels("a", "200").inc(2.5)
        family.labels("b", "429")
    assert shown(ours) == shown(theirs)
    assert 'asked_total{code="200",task="a"} 3.5' in shown(ours)


def test_what_has_no_labels_is_there_from_the_start() -> None:
    counter, histogram = Counter("asked", "Count", []), Histogram("wait", "Time", [], BOUNDS)
    assert "asked_total 0.0" in shown(counter)
    assert "wait_count 0.0" in shown(histogram)
    counter.inc()
    histogram.observe(2)
    assert "asked_total 1.0" in shown(counter)
    assert "wait_sum 2.0" in shown(histogram)

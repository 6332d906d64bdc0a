"""The forecast of an alarm: the delays that are published for it, and what a student gets wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.story import forecast
from distill.story.forecast import Delay, Seen, Terms
from gateway.contract.bundle import open_bundle
from tests.factories import CONFIDENT, UNSURE, tiny_bundle


def test_a_rise_from_two_to_six_percent_is_heard_as_soon_as_was_simulated_before() -> None:
    """Notes on routing: after 3,000 rows at the limit the median is 166 rows, B = 20,000."""
    found = forecast.delay(
        Terms(limit=0.02, bar=20_000.0, calm_rows=3000, calm_rate=0.02), Seen(10**6, 60_000)
    )
    assert found.median == pytest.approx(166, rel=0.2)
    assert found.late is not None
    assert found.late > 340  # what nine in ten took at most


def test_a_rate_far_below_the_limit_never_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_LONGEST", 100)  # rows, of 20,000 for which it would go on
    assert forecast.delay(Terms(limit=0.5, bar=1e6), Seen(10**6, 0)) == Delay(None, None)
    assert Delay(None, None).holds(10**9)


def test_a_delay_holds_up_to_its_quantile() -> None:
    due = Delay(median=20, late=50)
    assert due.holds(50)
    assert not due.holds(51)


def test_what_was_seen_of_few_rows_makes_the_forecast_wider() -> None:
    terms = Terms(limit=0.2, bar=40_000.0)
    few, many = (forecast.delay(terms, Seen(n, n // 2)) for n in (40, 40_000))
    assert few.late is not None
    assert many.late is not None
    assert few.late > many.late


def test_of_a_student_only_what_it_is_sure_of_counts(tmp_path: Path) -> None:
    """Of four texts it is sure of three, and the teacher says otherwise of one of these."""
    bundle = open_bundle(tiny_bundle(tmp_path))
    texts = [CONFIDENT, "refund it", "fraud", UNSURE]
    said = {CONFIDENT: "refund", "refund it": "other", "fraud": "fraud", UNSURE: "other"}
    found = forecast.audited_error(bundle, texts, said.__getitem__)
    assert found == Seen(rows=3, wrong=1)
    assert found.rate == pytest.approx(1 / 3)
    assert forecast.audited_error(bundle, [UNSURE], said.__getitem__).rate == 0.0

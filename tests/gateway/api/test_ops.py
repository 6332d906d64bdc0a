"""What /metrics says of certificates and budgets: it is asked anew at each scrape."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.contract import certificate
from gateway.succession.policies import fingerprint
from tests.conftest import Client, Opener
from tests.factories import TASK, tiny_bundle
from tests.gateway.contract.test_certificate import issued

OF_TASK = f'{{task="{TASK.name}"}}'


def scraped(client: Client, series: str) -> float | None:
    """A series of Understudy's by its name and labels; None where there is none."""
    lines = (line.rpartition(" ") for line in client.get("/metrics").text.splitlines())
    found = {name: float(value) for name, _, value in lines if not name.startswith("#")}
    return found.get(f"understudy_{series}")


@pytest.mark.parametrize(
    ("threshold", "valid"), [(None, 1.0), (0.95, 1.0), (0.85, None)], ids=["own", "above", "below"]
)
def test_a_threshold_below_the_certified_one_is_somebodys_choice_and_has_no_certificate(
    serve: Opener, threshold: float | None, valid: float | None
) -> None:
    client = serve(policy={} if threshold is None else {"threshold": threshold})
    assert scraped(client, f"certificate_valid{OF_TASK}") == valid
    assert scraped(client, f"certificate_expiry_timestamp_seconds{OF_TASK}") is None


def test_a_student_without_a_certified_threshold_is_not_certified(
    serve: Opener, tmp_path: Path
) -> None:
    client = serve(student=tiny_bundle(tmp_path / "bundles", threshold=None))
    assert scraped(client, f"certificate_valid{OF_TASK}") == 0.0


def test_the_policys_certificate_is_missing_then_holds_and_is_stale_in_the_end(
    serve: Opener, tmp_path: Path
) -> None:
    client = serve(policy={"certificate": "c.json"})
    assert scraped(client, f"certificate_valid{OF_TASK}") == 0.0
    cascade = client.gateway.tasks[TASK.name]
    assert cascade.rung.bundle is not None
    policy = client.gateway.settings.tasks[TASK.name].policy
    fresh = issued(
        student=cascade.rung.bundle.id,
        teacher=cascade.teacher.name,
        policy=fingerprint(policy, None, None),
        issued_at=datetime.now(UTC),
    )
    for given, valid in (
        (fresh, 1.0),
        (fresh.model_copy(update={"issued_at": fresh.issued_at - timedelta(days=90)}), 0.0),
    ):
        certificate.write(tmp_path / "c.json", given)
        assert client.post("/admin/v1/reload").status_code == 200
        assert scraped(client, f"certificate_valid{OF_TASK}") == valid
        expiry = scraped(client, f"certificate_expiry_timestamp_seconds{OF_TASK}")
        assert expiry == pytest.approx(given.expires_at.timestamp(), abs=1e-3)


def test_a_budget_is_shown_with_its_limit(serve: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.routing.budget._LOOK_S", 60.0)  # the disk may be slow
    client = serve(tickets={"prices": {"teacher_usd_per_1000": 2.0}, "budget": {"usd_per_day": 20}})
    of_window = f'{{task="{TASK.name}",window="day"}}'
    assert scraped(client, f"budget_limit_usd{of_window}") == 20.0
    assert scraped(client, f"budget_remaining_usd{of_window}") == 20.0
    client.post("/v1/predict", json={"input": "maybe refund my order"})
    assert scraped(client, f"budget_remaining_usd{of_window}") == pytest.approx(19.998)
    assert scraped(client, f"budget_limit_usd{of_window}") == 20.0


def test_rollbacks_are_counted_from_nothing_so_that_the_first_is_seen(client: Client) -> None:
    assert scraped(client, f'swaps_total{{result="rolled_back",task="{TASK.name}"}}') == 0.0

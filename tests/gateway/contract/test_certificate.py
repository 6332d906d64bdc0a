"""The certificate of a policy: what it is bound to, how it is kept, the walk that finds it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from gateway.contract import certificate
from gateway.contract.certificate import Fault, PolicyCertificate
from gateway.errors import SettingsError

STUDENT, POLICY = "5" * 64, "9" * 64


def issued(**changed: Any) -> PolicyCertificate:
    content = {
        "task": "tickets",
        "student": STUDENT,
        "teacher": "large",
        "policy": POLICY,
        "labels": "gold",
        "alpha": 0.02,
        "delta": 0.05,
        "rows": 500,
        "undetected_errors": 2,
        "upper_bound": 0.0125,
        "escalation": 0.25,
        "threshold": 0.75,
        "issued_at": datetime(2026, 1, 1, tzinfo=UTC),
        "valid_days": 90.0,
    }
    return PolicyCertificate.model_validate(content | changed)


def test_a_certificate_is_read_as_it_was_written(tmp_path: Path) -> None:
    certificate.write(tmp_path / "c.json", issued())
    assert certificate.read(tmp_path / "c.json") == issued()
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_it_is_void_from_its_last_day_on() -> None:
    assert issued().expires_at == datetime(2026, 4, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("serving", "fault"),
    [
        ({}, None),
        ({"student": "6" * 64}, Fault.OTHER_STUDENT),
        ({"teacher": "larger"}, Fault.OTHER_TEACHER),
        ({"policy": "6" * 64}, Fault.OTHER_POLICY),
    ],
)
def test_it_belongs_to_one_student_one_teacher_and_one_policy(
    serving: dict[str, str], fault: Fault | None
) -> None:
    wanted = {"student": STUDENT, "teacher": "large", "policy": POLICY} | serving
    assert issued().fault(**wanted) is fault


def test_a_certificate_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert certificate.read(tmp_path / "c.json") is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema_version": 2}'])
def test_what_is_no_certificate_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"c\.json is no certificate of a policy"):
        certificate.read(path)


@pytest.mark.parametrize("days", [0.0, 3650.1, 1e300])
def test_its_days_are_some_and_ten_years_at_most(days: float) -> None:
    with pytest.raises(ValidationError, match="valid_days"):
        issued(valid_days=days)


def test_one_from_the_future_is_refused(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    certificate.write(tmp_path / "c.json", issued(issued_at=now + timedelta(hours=23)))
    assert certificate.read(tmp_path / "c.json") is not None
    certificate.write(tmp_path / "c.json", issued(issued_at=now + timedelta(hours=25)))
    with pytest.raises(SettingsError, match=r"c\.json is from the future"):
        certificate.read(tmp_path / "c.json")


def test_a_folder_is_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is no certificate"):
        certificate.read(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere/c\.json"):
        certificate.write(tmp_path / "nowhere" / "c.json", issued())


@pytest.mark.parametrize(
    ("passing", "kept"), [(set(), None), ({1}, 1), ({1, 2}, 2), ({2, 3}, None), ({1, 3}, 1)]
)
def test_the_walk_ends_before_the_first_step_that_fails(
    passing: set[int], kept: int | None
) -> None:
    assert certificate.walk((1, 2, 3), passing.__contains__) == kept


def test_the_sequence_covers_two_percent_more_at_each_step() -> None:
    steps = certificate.coverages(np.linspace(0.0, 1.0, 101))
    assert len(steps) == 50
    assert steps[:2] == pytest.approx((0.98, 0.96))
    assert steps[-2:] == pytest.approx((0.02, 0.0))

"""The settings of records: where they are, and what is never shown of that."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import settings
from gateway.errors import SettingsError
from tests.factories import settings_file

URL = "postgresql://understudy:hunter2@db/records"


@pytest.fixture(autouse=True)
def _no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERSTUDY_RECORDS_URL", raising=False)


def test_records_are_in_a_file_unless_a_url_is_given(tmp_path: Path) -> None:
    assert settings.load(settings_file(tmp_path)).records.database == tmp_path / "records.db"
    path = settings_file(tmp_path, records={"url": URL})
    assert settings.load(path).records.database == URL


def test_the_environment_comes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_RECORDS_URL", URL)
    path = settings_file(tmp_path, records={"url": "postgresql://other/name"})
    assert settings.load(path).records.database == URL
    several = settings_file(tmp_path, server={"replicas": 2})  # they need a shared database
    assert settings.load(several).records.database == URL
    assert "UNDERSTUDY_RECORDS_URL" not in settings.environment_without_keys()


def test_a_wrong_section_is_named_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_RECORDS_URL", URL)
    with pytest.raises(SettingsError, match="records") as caught:
        settings.load(settings_file(tmp_path, records=["none"]))
    assert "hunter2" not in str(caught.value)


def test_settings_that_are_shown_hold_no_password(tmp_path: Path) -> None:
    loaded = settings.load(settings_file(tmp_path, records={"url": URL}))
    for shown in (repr(loaded), str(loaded.model_dump(mode="json")), loaded.model_dump_json()):
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    "keys",
    [
        {"ack": "maybe"},
        {"group_wait_ms": 0},
        {"strict_wait_ms": 60_001},
        {"queue_mb": 0},
        {"retention_days": 0},
    ],
)
def test_values_that_mean_nothing_are_refused(tmp_path: Path, keys: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=rf"records\.{next(iter(keys))}"):
        settings.load(settings_file(tmp_path, records=keys))


def test_records_may_be_kept_for_ever(tmp_path: Path) -> None:
    assert settings.load(settings_file(tmp_path)).records.retention_days == 30.0
    path = settings_file(tmp_path, records={"retention_days": None})
    assert settings.load(path).records.retention_days is None

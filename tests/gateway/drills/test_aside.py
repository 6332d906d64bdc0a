"""The gateway of a drill: the user's settings, and nothing of the user's files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml

from gateway import settings
from gateway.contract import certificate
from gateway.drills import aside
from gateway.errors import ServingError
from gateway.settings import Settings
from tests.factories import settings_file, tiny_bundle
from tests.gateway.contract.test_certificate import issued

URL = "http://127.0.0.1:9/v1"


def written(path: Path, folder: Path) -> Settings:
    """The settings that a drill makes of those."""
    folder.mkdir()
    return settings.load(aside.write(settings.load(path), "tickets", URL, folder))


def test_the_teacher_is_replaced_and_what_stands_around_it_is_kept(tmp_path: Path) -> None:
    teacher = {"bundle": str(tiny_bundle(tmp_path, role="teacher")), "timeout_s": 3.5, "retries": 2}
    path = settings_file(tmp_path / "own", teacher=teacher, policy={"threshold": 0.8})
    task = written(path, tmp_path / "aside").tasks["tickets"]
    assert task.teacher.bundle is None
    assert task.teacher.openai is not None
    assert task.teacher.openai.url == URL
    assert (task.teacher.timeout_s, task.teacher.retries) == (3.5, 2)
    assert task.policy.threshold == 0.8


def test_records_registry_keys_and_addresses_are_its_own(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path / "own",
        server={"host": "0.0.0.0", "port": 8099},  # noqa: S104  it is what has to go
        keys=[{"name": "one", "sha256": "0" * 64}],
        admin={"port": 8098},
        registry={"path": "mine"},
    )
    found = written(path, tmp_path / "aside")
    assert (found.server.host, found.server.port, found.server.replicas) == ("127.0.0.1", 0, 1)
    assert found.keys == ()
    assert found.admin is None
    assert found.records.database == tmp_path / "aside" / aside.DATABASE
    assert found.registry.path == tmp_path / "aside" / "students"


def test_no_money_is_counted_and_nothing_is_audited(tmp_path: Path) -> None:
    more = {
        "audit": {"share": 0.5},
        "budget": {"requests_per_second": 1.0},
    }
    task = written(settings_file(tmp_path / "own", tickets=more), tmp_path / "aside")
    assert task.tasks["tickets"].audit.share == 0.0
    assert task.tasks["tickets"].budget.requests_per_second is None


def test_files_are_found_from_wherever_the_drill_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle(tmp_path / "own" / "bundles")
    settings_file(tmp_path / "own", student=Path("bundles") / bundle.name)
    monkeypatch.chdir(tmp_path)
    task = written(Path("own/understudy.yaml"), tmp_path / "aside").tasks["tickets"]
    assert task.student.bundle == bundle
    policy = tmp_path / "own" / "policy.yaml"
    policy.write_text("certificate: promise.json\n")
    read = settings.read_policy(Path("own/policy.yaml"))
    assert read.certificate == policy.with_name("promise.json")


@pytest.mark.parametrize(("named", "holds"), [(None, 0.75), (0.6, 0.6)])
def test_a_certificate_lends_its_threshold_where_the_settings_name_none(
    tmp_path: Path, named: float | None, holds: float
) -> None:
    certificate.write(tmp_path / "promise.json", issued())
    policy = {"certificate": str(tmp_path / "promise.json"), "threshold": named}
    path = settings_file(tmp_path / "own", policy=policy)
    task = written(path, tmp_path / "aside").tasks["tickets"]
    assert (task.policy.threshold, task.policy.certificate) == (holds, None)


def test_other_tasks_stay_out_of_it(tmp_path: Path) -> None:
    path = settings_file(tmp_path / "own")
    content = yaml.safe_load(path.read_text())
    content["tasks"]["second"] = content["tasks"]["tickets"]
    path.write_text(yaml.safe_dump(content))
    assert list(written(path, tmp_path / "aside").tasks) == ["tickets"]


def test_a_gateway_that_does_not_start_says_why(tmp_path: Path) -> None:
    async def run() -> None:
        async with aside.running(tmp_path / "nowhere.yaml"):
            pass

    with pytest.raises(ServingError, match="did not start"):
        asyncio.run(run())

"""understudy.yaml and the environment: every mistake is named, nothing is guessed."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import settings
from gateway.errors import SettingsError
from gateway.routing.risk import LabelRule, MissingRule, RangeRule, TextRule, ValueRule
from gateway.settings import AdminSettings, KeySettings, RuleSettings, Settings
from gateway.types import Instance

HASH = "0" * 64
TASK = {"student": {"bundle": "bundles/student"}, "teacher": {"bundle": "bundles/teacher"}}
CHAT = {"url": "https://host.example/v1", "model": "m"}


@pytest.fixture(autouse=True)
def _no_keys_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERSTUDY_API_KEYS", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "understudy.yaml"


def load(path: Path, task: Mapping[str, Any] | None = None, **sections: Any) -> Settings:
    """Write the settings of one task and load them."""
    content = {"version": 1, "tasks": {"tickets": TASK | dict(task or {})}} | sections
    path.write_text(yaml.safe_dump(content))
    return settings.load(path)


def refused(path: Path, task: Mapping[str, Any] | None = None, **sections: Any) -> list[str]:
    """The lines that say why the settings are refused, without the file's name."""
    with pytest.raises(SettingsError) as problem:
        load(path, task, **sections)
    assert problem.value.mend
    lines = problem.value.message.splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def rule(**keys: Any) -> RuleSettings:
    return RuleSettings.model_validate({"name": "r", **keys})


def test_the_shortest_settings_are_safe(path: Path) -> None:
    loaded = load(path)
    assert loaded.server.host == "127.0.0.1"
    assert loaded.keys == ()
    task = loaded.tasks["tickets"]
    assert task.student.operating_point == "default"
    assert task.student.workers == "auto"
    assert task.policy.on_unavailable_high_risk == "abstain"
    assert task.policy.threshold is None
    assert task.audit.share == 0.02
    assert task.prices.prices().teacher_call is None  # unknown, not free
    assert loaded.records.text == "hash"


def test_paths_start_at_the_folder_of_the_file(path: Path, tmp_path: Path) -> None:
    loaded = load(path, records={"path": "data/records.db"})
    task = loaded.tasks["tickets"]
    assert task.student.bundle == tmp_path / "bundles" / "student"
    assert task.teacher.bundle == tmp_path / "bundles" / "teacher"
    assert loaded.records.path == tmp_path / "data" / "records.db"


def test_an_absolute_path_stays_as_it_is(path: Path) -> None:
    loaded = load(path, {"student": {"bundle": "/srv/student"}}, records={"path": "/srv/db"})
    assert loaded.tasks["tickets"].student.bundle == Path("/srv/student")
    assert loaded.records.path == Path("/srv/db")


def test_a_scripted_teacher_has_no_path(path: Path) -> None:
    teacher = (
        load(path, {"teacher": {"scripted": {"labels": {"a": "x", "b": ["y", "z"]}}}})
        .tasks["tickets"]
        .teacher
    )
    assert teacher.bundle is None
    assert teacher.scripted is not None
    assert teacher.scripted.labels == {"a": "x", "b": ("y", "z")}


def test_prices_are_exact(path: Path) -> None:
    task = load(path, {"prices": {"teacher_usd_per_1000": "0.15"}}).tasks["tickets"]
    assert task.prices.teacher_usd_per_1000 == Decimal("0.15")
    assert task.prices.prices().teacher_call == 150


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"studnet": {}}, "tasks.tickets.studnet: unknown key; did you mean 'student'?"),
        (
            {"student": {"bundel": "x"}},
            "tasks.tickets.student.bundel: unknown key; did you mean 'bundle'?",
        ),
        ({"student": {"bundle": "x", "workers": 1.5}}, "tasks.tickets.student.workers"),
        ({"student": {"bundle": "x", "workers": 0}}, "tasks.tickets.student.workers"),
        ({"student": {"bundle": "x", "workers": "all"}}, "tasks.tickets.student.workers"),
        ({"student": {"bundle": "x", "queue": 0}}, "tasks.tickets.student.queue"),
        ({"student": {"bundle": "x", "max_batch": 0}}, "tasks.tickets.student.max_batch"),
        ({"teacher": {}}, "tasks.tickets.teacher: name one kind of teacher: bundle, scripted, "),
        (
            {"teacher": {"bundle": "x", "scripted": {}}},
            "tasks.tickets.teacher: name one kind of teacher: bundle, scripted, ",
        ),
        ({"teacher": {"bundle": "x", "timeout_s": 0}}, "tasks.tickets.teacher.timeout_s"),
        ({"teacher": {"bundle": "x", "timeout_s": float("inf")}}, "tasks.tickets.teacher.time"),
        ({"teacher": {"bundle": "x", "concurrency": 0}}, "tasks.tickets.teacher.concurrency"),
        ({"teacher": {"bundle": "x", "workers": 0}}, "tasks.tickets.teacher.workers"),
        (
            {"teacher": {"scripted": {"fail_every": 0}}},
            "tasks.tickets.teacher.scripted.fail_every",
        ),
        (
            {"teacher": {"openai": {"url": "ftp://x", "model": "m"}}},
            "tasks.tickets.teacher.openai: url: not a plain URL",
        ),
        ({"teacher": {"openai": {"url": "http://x"}}}, "tasks.tickets.teacher.openai.model"),
        (
            {"teacher": {"openai": CHAT | {"samples": 3}}},
            "tasks.tickets.teacher.openai: samples of temperature 0 are all the same",
        ),
        (
            {"teacher": {"openai": CHAT | {"samples": 3, "temperature": 1, "logprobs": True}}},
            "tasks.tickets.teacher.openai: samples and logprobs are two ways to one end",
        ),
        (
            {"teacher": {"openai": CHAT | {"extra": {"stream": True}}}},
            "tasks.tickets.teacher.openai: extra.stream: the gateway writes this key itself",
        ),
        (
            {"teacher": {"openai": CHAT | {"structured": "yes"}}},
            "tasks.tickets.teacher.openai.structured",
        ),
        (
            {"teacher": {"openai": CHAT | {"input_usd_per_million": -1}}},
            "tasks.tickets.teacher.openai.input_usd_per_million",
        ),
        ({"policy": {"threshold": 1.1}}, "tasks.tickets.policy.threshold"),
        ({"policy": {"on_unavailable": "guess"}}, "tasks.tickets.policy.on_unavailable"),
        (
            {"policy": {"on_unavailable_high_risk": "student"}},
            "tasks.tickets.policy.on_unavailable_high_risk: a request of high risk is never",
        ),
        (
            {"policy": {"on_exhausted_high_risk": "student"}},
            "tasks.tickets.policy.on_exhausted_high_risk: a request of high risk is never",
        ),
        (
            {"budget": {"usd_per_day": 1}},
            "tasks.tickets: budget.usd_per_day cannot be kept, as it is not known what a call",
        ),
        (
            {"budget": {"usd_per_hour": 1, "usd_per_call": 0.01, "expiry_s": 10}},
            "tasks.tickets: budget.expiry_s 10 must be above teacher.timeout_s 10",
        ),
        ({"budget": {"requests_per_second": 0}}, "tasks.tickets.budget.requests_per_second"),
        ({"budget": {"audit_reserve": 1.1}}, "tasks.tickets.budget.audit_reserve"),
        ({"audit": {"share": 1.1}}, "tasks.tickets.audit.share"),
        ({"prices": {"teacher_usd_per_1000": -1}}, "tasks.tickets.prices.teacher_usd_per_1000"),
        ({"policy": {"rules": [{"name": "a b"}]}}, "tasks.tickets.policy.rules.0.name"),
    ],
)
def test_a_mistake_in_a_task_names_its_key(path: Path, task: dict[str, Any], message: str) -> None:
    assert any(line.startswith(message) for line in refused(path, task))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"version": 2}, "version: Input should be 1 (it is 2)"),
        ({"tasks": {}}, "tasks: "),
        ({"tasks": {"a/b": TASK}}, "tasks.a/b"),
        ({"sever": {}}, "sever: unknown key; did you mean 'server'?"),
        ({"server": {"port": 70_000}}, "server.port: "),
        ({"server": {"hots": "x"}}, "server.hots: unknown key; did you mean 'host'?"),
        ({"server": {"max_inputs": 0}}, "server.max_inputs: "),
        ({"server": {"drain_timeout_s": 0}}, "server.drain_timeout_s: "),
        ({"records": {"text": "some"}}, "records.text: "),
        ({"records": {"queue": 0}}, "records.queue: "),
        ({"logging": {"level": "loud"}}, "logging.level: "),
        ({"keys": [{"name": "a"}]}, "keys.0.sha256: this key is required"),
        ({"keys": [{"name": "a", "sha256": "xyz"}]}, "keys.0.sha256: "),
        ({"keys": [{"name": "alarm", "sha256": HASH}]}, "keys.0.name: alarm is who changes "),
        ({"keys": 5}, "keys: "),
        ({"keys": "abc"}, "keys: "),
        ({"keys": {"name": "a", "sha256": HASH}}, "keys: "),
    ],
)
def test_a_mistake_elsewhere_names_its_key(
    path: Path, sections: dict[str, Any], message: str
) -> None:
    assert any(line.startswith(message) for line in refused(path, **sections))


def test_the_largest_request_must_fit_in_the_queue(path: Path) -> None:
    server = {"max_inputs": 9}
    (line,) = refused(path, {"student": {"bundle": "x", "queue": 8}}, server=server)
    assert "server.max_inputs 9 is above tasks.tickets.student.queue 8" in line
    assert (
        load(path, {"student": {"bundle": "x", "queue": 9}}, server=server).server.max_inputs == 9
    )


def test_a_missing_version_is_a_mistake(path: Path) -> None:
    path.write_text(yaml.safe_dump({"tasks": {"tickets": TASK}}))
    with pytest.raises(SettingsError, match="version: this key is required"):
        settings.load(path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "gateway.internal", ""])  # noqa: S104
def test_a_host_that_others_reach_needs_a_key(path: Path, host: str) -> None:
    (line,) = refused(path, server={"host": host})
    assert "can be reached from other machines and there are no keys" in line
    loaded = load(path, server={"host": host}, keys=[{"name": "ops", "sha256": HASH}])
    assert loaded.server.host == host


def test_an_administration_that_others_reach_needs_a_key(path: Path) -> None:
    (line,) = refused(path, admin={"host": "0.0.0.0"})  # noqa: S104
    assert "admin.host '0.0.0.0' can be reached from other machines" in line


def test_the_administration_has_an_address_where_it_is_asked_for_and_where_it_must(
    path: Path,
) -> None:
    assert load(path).admin_of(0) is None
    assert load(path, admin={"port": 9000}).admin_of(0) == AdminSettings(port=9000)
    several = load(path, server={"replicas": 3}, records={"url": "postgresql://db/a"})
    assert [several.admin_of(number) for number in range(3)] == [
        AdminSettings(port=8081),
        AdminSettings(port=8082),
        AdminSettings(port=8083),
    ]
    free = load(path, admin={"port": 0}, records={"enabled": False}, server={"replicas": 2})
    assert free.admin_of(1) == AdminSettings(port=0)


def test_the_administration_of_the_last_replica_needs_a_port_too(path: Path) -> None:
    three = {"replicas": 3}
    (line,) = refused(path, server=three, admin={"port": 65_534}, records={"enabled": False})
    assert "admin.port 65534 is too high for server.replicas 3" in line
    fits = load(path, server=three, admin={"port": 65_533}, records={"enabled": False})
    assert fits.admin_of(2) == AdminSettings(port=65_535)


@pytest.mark.parametrize("port", [9000, 9002])
def test_the_server_has_no_port_that_its_administration_takes(path: Path, port: int) -> None:
    server = {"replicas": 3, "port": port}
    (line,) = refused(path, server=server, admin={"port": 9000}, records={"enabled": False})
    assert f"server.port {port} is one that the administration takes: admin.port 9000" in line
    for beside in ({"port": 9003}, {"port": 8999}, {"port": 0}, {"port": port, "host": "::1"}):
        several = {"replicas": 3, **beside}
        load(path, server=several, admin={"port": 9000}, records={"enabled": False})
    anywhere = {**server, "host": "0.0.0.0"}  # noqa: S104
    keys = [{"name": "ops", "sha256": HASH}]
    refused(path, server=anywhere, admin={"port": 9000}, records={"enabled": False}, keys=keys)


def test_several_replicas_need_records_that_they_share(path: Path) -> None:
    (line,) = refused(path, server={"replicas": 2})
    assert "server.replicas 2" in line
    assert "PostgreSQL" in line
    for records in ({"url": "postgresql://db/a"}, {"enabled": False}):
        assert load(path, server={"replicas": 2}, records=records).server.replicas == 2


@pytest.mark.parametrize(("cores", "workers"), [(8, 4), (3, 1), (1, 1)])
def test_replicas_divide_the_cores_that_nobody_gave_away(
    path: Path, cores: int, workers: int
) -> None:
    several: dict[str, Any] = {"server": {"replicas": 2}, "records": {"enabled": False}}
    assert load(path, **several).shared(cores).tasks["tickets"].student.workers == workers
    chosen = {"student": {"bundle": "b", "workers": 7}}
    assert load(path, chosen, **several).shared(cores).tasks["tickets"].student.workers == 7


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_loopback_host_needs_none(path: Path, host: str) -> None:
    assert load(path, server={"host": host}).keys == ()


def test_keys_of_the_environment_join_those_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_API_KEYS", f" ci:{'1' * 64}, app:{'2' * 64} ,")
    loaded = load(path, server={"host": "0.0.0.0"}, keys=[{"name": "ops", "sha256": HASH}])  # noqa: S104
    assert loaded.keys == (
        KeySettings(name="ops", sha256=HASH),
        KeySettings(name="ci", sha256="1" * 64),
        KeySettings(name="app", sha256="2" * 64),
    )


def test_keys_of_the_environment_are_enough(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_API_KEYS", f"ci:{HASH}")
    assert len(load(path, server={"host": "0.0.0.0"}).keys) == 1  # noqa: S104


@pytest.mark.parametrize("entry", ["secret", "ci:secret", f":{HASH}", f"a b:{HASH}", "ci:"])
def test_a_wrong_key_in_the_environment_is_named_and_not_shown(
    path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.setenv("UNDERSTUDY_API_KEYS", f"ok:{HASH},{entry}")
    with pytest.raises(
        SettingsError, match="UNDERSTUDY_API_KEYS: entry 2 is not name:sha256"
    ) as problem:
        load(path)
    assert "secret" not in str(problem.value)
    assert problem.value.__suppress_context__


def test_settings_cannot_be_changed(path: Path) -> None:
    loaded = load(path)
    with pytest.raises(ValueError, match="frozen"):
        setattr(loaded.server, "port", 1)  # noqa: B010  a frozen attribute


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"text": "lawyer"}, TextRule),
        ({"field": "amount", "above": 100}, RangeRule),
        ({"field": "amount", "below": 0, "above": 100}, RangeRule),
        ({"field": "tier", "values": ["gold", 7, True, None]}, ValueRule),
        ({"field": "consent", "missing": True}, MissingRule),
        ({"head": "flags", "labels": ["legal"]}, LabelRule),
    ],
)
def test_each_condition_becomes_its_rule(keys: dict[str, Any], kind: type) -> None:
    made = rule(**keys).rule()
    assert type(made) is kind
    assert made.name == "r"


def test_a_rule_holds_what_it_was_told() -> None:
    between = rule(field="amount", below=0, above=100).rule()
    assert between == RangeRule("r", "amount", above=100.0, below=0.0)
    assert rule(head="flags", labels=["a", "b"]).rule() == LabelRule(
        "r", "flags", frozenset(["a", "b"])
    )
    assert rule(text="(?i)LAWYER").rule().holds(Instance("my lawyer"), None)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "a rule looks at one of: text, field, head"),
        ({"text": "a", "field": "b", "missing": True}, "a rule looks at one of"),
        ({"text": "("}, "not an RE2 pattern"),
        ({"text": "(?=a)"}, "not an RE2 pattern"),  # RE2 has no lookahead
        ({"field": "amount"}, "needs one of: above/below, values, missing"),
        ({"field": "amount", "missing": False}, "needs one of"),
        ({"field": "amount", "above": 1, "missing": True}, "needs one of"),
        ({"field": "amount", "below": 1, "values": [1]}, "needs one of"),
        ({"field": "tier", "values": []}, "at least 1 item"),
        ({"head": "flags"}, "a rule on a head names its labels"),
        ({"head": "flags", "labels": []}, "a rule on a head names its labels"),
        ({"text": "a", "above": 5}, "a rule on a text does not read above"),
        ({"head": "flags", "labels": ["a"], "missing": True}, "a head does not read missing"),
        ({"field": "a", "missing": True, "labels": ["a"]}, "a field does not read labels"),
        ({"field": "amount", "above": float("nan")}, "finite"),
    ],
)
def test_a_rule_that_is_not_one_condition_is_refused(
    path: Path, keys: dict[str, Any], message: str
) -> None:
    (line,) = refused(path, {"policy": {"rules": [{"name": "r", **keys}]}})
    assert line.startswith("tasks.tickets.policy.rules.0")
    assert message in line


def test_the_environment_of_a_child_has_all_but_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_API_KEYS", f"ci:{HASH}")
    monkeypatch.setenv("UNDERSTUDY_OTHER", "kept")
    found = settings.environment_without_keys()
    assert "UNDERSTUDY_API_KEYS" not in found
    assert found["UNDERSTUDY_OTHER"] == "kept"

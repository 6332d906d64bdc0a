"""understudy.yaml and the environment -> frozen Settings. The only reader of the environment.

Paths in the file are relative to its folder. Secrets come from the environment alone:
`UNDERSTUDY_API_KEYS` holds keys as `name:sha256` (or `name:sha256:admin`), separated by commas,
beside those of the file; `UNDERSTUDY_RECORDS_URL` holds the database's URL with its password, in
place of the file's; `UNDERSTUDY_TEACHER_KEYS` holds what teachers want to be shown, as
`name:secret`, separated by commas. The file names those only, and no Settings hold them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from gateway import document
from gateway.errors import SettingsError
from gateway.settings.alarms import AlarmSettings, DriftSettings
from gateway.settings.audit import AuditSettings
from gateway.settings.environment import (
    Secrets,
    environment_without_keys,
    key_of_environment,
    keys_of_environment,
    teacher_key,
)
from gateway.settings.money import BudgetSettings, PriceSettings
from gateway.settings.part import Name, Part
from gateway.settings.policy import CriticalSettings, PolicySettings, SeveritySettings, read_policy
from gateway.settings.promotion import PromotionSettings, SafetyNetSettings, StepSettings
from gateway.settings.rule import RuleSettings
from gateway.settings.server import (
    AdminSettings,
    KeySettings,
    LogSettings,
    ServerSettings,
    is_loopback,
    meet,
)
from gateway.settings.shadow import GateSettings, ShadowSettings
from gateway.settings.stores import RecordSettings, RegistrySettings
from gateway.settings.student import StudentSettings
from gateway.settings.task import HeadSettings, TaskSettings
from gateway.settings.teacher import (
    BreakerSettings,
    CacheSettings,
    EnsembleSettings,
    HedgeSettings,
    MemberSettings,
    ScriptedSettings,
    SkillSettings,
    TeacherSettings,
)
from gateway.settings.upstream import ChatSettings, OipSettings, ShownSettings, UpstreamSettings

__all__ = [
    "FILE",
    "AdminSettings",
    "AlarmSettings",
    "AuditSettings",
    "BreakerSettings",
    "BudgetSettings",
    "CacheSettings",
    "ChatSettings",
    "CriticalSettings",
    "DriftSettings",
    "EnsembleSettings",
    "GateSettings",
    "HeadSettings",
    "HedgeSettings",
    "KeySettings",
    "LogSettings",
    "MemberSettings",
    "OipSettings",
    "PolicySettings",
    "PriceSettings",
    "PromotionSettings",
    "RecordSettings",
    "RegistrySettings",
    "RuleSettings",
    "SafetyNetSettings",
    "ScriptedSettings",
    "ServerSettings",
    "Settings",
    "SeveritySettings",
    "ShadowSettings",
    "ShownSettings",
    "SkillSettings",
    "StepSettings",
    "StudentSettings",
    "TaskSettings",
    "TeacherSettings",
    "UpstreamSettings",
    "environment_without_keys",
    "is_loopback",
    "key_of_environment",
    "load",
    "read_policy",
    "teacher_key",
]

FILE = "understudy.yaml"

_LAST_PORT = 65_535  # of TCP


class Settings(Part):
    """Everything that `understudy serve` reads."""

    version: Literal[1]
    server: ServerSettings = ServerSettings()
    admin: AdminSettings | None = None
    keys: tuple[KeySettings, ...] = ()
    tasks: dict[Name, TaskSettings] = Field(min_length=1)
    records: RecordSettings = RecordSettings()
    registry: RegistrySettings = RegistrySettings()
    logging: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _reachable_only_with_a_key(self) -> Self:
        hosts = {"server.host": self.server.host}
        if self.admin is not None:
            hosts["admin.host"] = self.admin.host
        for place, host in hosts.items():
            if not self.keys and not is_loopback(host):
                raise ValueError(
                    f"{place} {host!r} can be reached from other machines and there "
                    "are no keys; make one with `understudy key NAME`"
                )
        return self

    @model_validator(mode="after")
    def _a_budget_has_a_database(self) -> Self:
        """A budget that a restart forgets is none."""
        for name, task in self.tasks.items():
            budget = task.budget
            if not self.records.enabled and (budget.in_usd or budget.requests_per_second):
                raise ValueError(
                    f"tasks.{name}.budget is kept in the records' database, and records.enabled "
                    "is false; enable records (records.text: none keeps no text), or set no budget"
                )
        return self

    @model_validator(mode="after")
    def _people_judge_what_is_stored(self) -> Self:
        """A verdict finds its comparisons in the database."""
        for name, task in self.tasks.items():
            if not self.records.enabled and task.shadow.gates.losses is not None:
                raise ValueError(
                    f"tasks.{name}.shadow.gates.losses counts verdicts on stored answers, and "
                    "records.enabled is false; enable records, or leave the gate out"
                )
        return self

    @model_validator(mode="after")
    def _replicas_share_their_records(self) -> Self:
        """A SQLite file has one writing process, and so can serve one replica."""
        records = self.records
        if self.server.replicas > 1 and records.enabled and records.url is None:
            raise ValueError(
                f"server.replicas {self.server.replicas} need records that they share, and "
                "records.path is a SQLite file for one process; name a PostgreSQL database by "
                "records.url or UNDERSTUDY_RECORDS_URL, or serve one replica"
            )
        return self

    @model_validator(mode="after")
    def _every_replica_has_a_port(self) -> Self:
        """Each replica's administration has the port behind the one before."""
        place, server = self.admin_of(0), self.server
        if place is None or not place.port:
            return self
        last = place.port + server.replicas - 1
        if last > _LAST_PORT:
            raise ValueError(
                f"admin.port {place.port} is too high for server.replicas {server.replicas}: each "
                f"takes one from there on, and the last port is {_LAST_PORT}"
            )
        if place.port <= server.port <= last and meet(server.host, place.host):
            raise ValueError(
                f"server.port {server.port} is one that the administration takes: admin.port "
                f"{place.port} to {last}, for each of server.replicas {server.replicas}"
            )
        return self

    def admin_of(self, replica: int) -> AdminSettings | None:
        """Where that replica's metrics and administration are; None: at server.host and port."""
        if self.admin is None and self.server.replicas == 1:
            return None
        first = self.admin or AdminSettings()
        return first.model_copy(update={"port": first.port and first.port + replica})

    def shared(self, cores: int) -> Self:
        """The same for one of its replicas: threads that nobody chose divide the cores."""
        workers = max(1, cores // self.server.replicas)
        tasks = {
            name: task.model_copy(
                update={"student": task.student.model_copy(update={"workers": workers})}
            )
            for name, task in self.tasks.items()
            if task.student.workers == "auto"
        }
        return self.model_copy(update={"tasks": {**self.tasks, **tasks}})

    @model_validator(mode="after")
    def _one_request_fits_in_the_queue(self) -> Self:
        """A request of more texts than may wait would be refused for ever, as if only for now."""
        for name, task in self.tasks.items():
            if self.server.max_inputs > task.student.queue:
                raise ValueError(
                    f"server.max_inputs {self.server.max_inputs} is above "
                    f"tasks.{name}.student.queue {task.student.queue}: the largest request that "
                    "is allowed could never be served"
                )
        return self

    def anchored(self, folder: Path) -> Self:
        """The same with paths that no longer depend on the current folder."""
        return self.model_copy(
            update={
                "tasks": {name: task.anchored(folder) for name, task in self.tasks.items()},
                "records": self.records.anchored(folder),
                "registry": self.registry.anchored(folder),
            }
        )


def load(path: Path) -> Settings:
    """Read the settings file and the environment. Raises SettingsError."""
    content = document.load(path, SettingsError)
    keys = content.get("keys")
    if keys is None or isinstance(keys, list):
        content = content | {"keys": [*(keys or ()), *keys_of_environment()]}
    records, url = content.get("records", {}), Secrets().records_url
    if url is not None and isinstance(records, dict):
        content = content | {"records": records | {"url": url}}
    settings = document.validate(content, Settings, SettingsError, where=str(path))
    return settings.anchored(path.parent.absolute())

"""understudy.yaml and the environment -> frozen Settings. The only reader of the environment.

Paths in the file are relative to its folder. Secrets come from the environment alone:
`UNDERSTUDY_API_KEYS` holds keys as `name:sha256` (or `name:sha256:admin`), separated by commas,
beside those of the file; `UNDERSTUDY_RECORDS_URL` holds the database's URL with its password, in
place of the file's.
"""

from __future__ import annotations

import ipaddress
import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

import re2
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway import document
from gateway.errors import SettingsError
from gateway.routing.risk import LabelRule, MissingRule, RangeRule, Rule, TextRule, ValueRule
from gateway.telemetry.pricing import Prices
from gateway.types import FieldValue

FILE = "understudy.yaml"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$")]


_LAST_PORT = 65_535  # of TCP
_ANYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  hosts that stand for every other


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ServerSettings(_Part):
    """Where the gateway listens, what it accepts, how it leaves."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535, description="0: a free port")
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    max_inputs: int = Field(default=256, ge=1, le=10_000, description="texts in one request")
    max_characters: int = Field(default=100_000, ge=1, description="of one text")
    drain_delay_s: float = Field(default=0.0, ge=0.0, description="not ready, still serving")
    receipt_s: float = Field(
        default=10.0, gt=0.0, description="for a whole request, from its first byte"
    )
    send_s: float = Field(default=10.0, gt=0.0, description="for a client to take its reply")
    max_header_bytes: int = Field(default=32_768, ge=1024, description="request line included")
    max_headers: int = Field(default=100, ge=8, description="of one request")
    # Half of them held by one slow client still leave room; a proxy, whose address all its clients
    # share, needs more, or 0.
    max_connections_per_address: int = Field(default=1024, ge=0, description="0: no bound")
    replicas: int = Field(default=1, ge=1, le=256, description="processes on this one address")
    drain_timeout_s: float = Field(default=30.0, gt=0.0, description="for requests in flight")


class AdminSettings(_Part):
    """Where metrics and administration are, apart from answering."""

    host: str = "127.0.0.1"
    port: int = Field(default=8081, ge=0, le=65535, description="of the first replica; 0: free")


class KeySettings(_Part):
    """An API key, as `understudy key` prints it. The key itself is stored nowhere."""

    name: Name
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    role: Literal["client", "admin"] = Field(
        default="client", description="admin: may also change what serves"
    )


class StudentSettings(_Part):
    """The bundle that serves first."""

    bundle: Path
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="that answer at once; auto: as tuned, else the cores"
    )
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="of one ORT call; auto: as tuned, else 1"
    )
    run_in: Literal["processes", "threads"] = Field(
        default="processes", description="where its workers run"
    )
    tuning: Path = Field(
        default=Path("understudy.tuned.json"), description="what `understudy tune` found here"
    )
    operating_point: str = "default"
    queue: int = Field(default=4096, ge=1, description="texts that may wait")
    max_wait_ms: float = Field(
        default=500.0, gt=0.0, description="a request that would wait longer is refused"
    )
    max_batch: int = Field(default=32, ge=1, le=1024)
    max_batch_tokens: int = Field(default=1024, ge=1, description="estimated, in one batch")


class ScriptedSettings(_Part):
    """A teacher that does as it is told, for drills."""

    labels: dict[str, str | tuple[str, ...]] = {}
    delay_ms: float = Field(default=0.0, ge=0.0)
    fail_every: int | None = Field(default=None, ge=1)


class TeacherSettings(_Part):
    """The model that is asked when the student is not sure. `bundle` or `scripted`, not both."""

    bundle: Path | None = None
    scripted: ScriptedSettings | None = None
    timeout_s: float = Field(default=10.0, gt=0.0)
    concurrency: int = Field(default=64, ge=1)
    workers: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.bundle is None) == (self.scripted is None):
            raise ValueError("name either a bundle or a script")
        return self


# What a rule looks at -> the keys that say what it looks for there.
_CONDITIONS = {"text": (), "field": ("above", "below", "values", "missing"), "head": ("labels",)}


class RuleSettings(_Part):
    """A risk rule: a name and one condition, on the text, a field, or the student's labels."""

    name: Name
    text: str | None = Field(default=None, description="RE2 pattern, found anywhere in the text")
    field: str | None = None
    above: float | None = None
    below: float | None = None
    values: tuple[FieldValue, ...] | None = Field(
        default=None, min_length=1, description="of the field"
    )
    missing: bool = Field(default=False, description="the field is absent or null")
    head: str | None = None
    labels: tuple[str, ...] | None = Field(default=None, description="of the head")

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        self.rule()
        return self

    def rule(self) -> Rule:
        """The rule that this describes. Raises ValueError when it is not one condition."""
        subjects = [self.text is not None, self.field is not None, self.head is not None]
        if sum(subjects) != 1:
            raise ValueError("a rule looks at one of: text, field, head")
        subject = next(name for name in _CONDITIONS if getattr(self, name) is not None)
        if idle := self.model_fields_set - {"name", subject, *_CONDITIONS[subject]}:
            raise ValueError(f"a rule on a {subject} does not read {', '.join(sorted(idle))}")
        if self.text is not None:
            try:
                return TextRule(self.name, re2.compile(self.text))
            except re2.error as error:
                raise ValueError(f"not an RE2 pattern: {error}") from error
        if self.head is not None:
            if not self.labels:
                raise ValueError("a rule on a head names its labels")
            return LabelRule(self.name, self.head, frozenset(self.labels))
        return self._field_rule(str(self.field))

    def _field_rule(self, field: str) -> Rule:
        ranged = self.above is not None or self.below is not None
        if sum([ranged, self.values is not None, self.missing]) != 1:
            raise ValueError("a rule on a field needs one of: above/below, values, missing")
        if ranged:
            return RangeRule(self.name, field, self.above, self.below)
        if self.values is not None:
            return ValueRule(self.name, field, frozenset(self.values))
        return MissingRule(self.name, field)


class PolicySettings(_Part):
    """When the teacher is asked, and what happens when it cannot answer."""

    rules: tuple[RuleSettings, ...] = ()
    on_unavailable: Literal["student", "abstain"] = "student"
    on_unavailable_high_risk: Literal["student", "abstain"] = "abstain"
    threshold: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="replaces the certified threshold; only a higher one keeps the certificate",
    )


class AuditSettings(_Part):
    """The share of confident answers that also goes to the teacher, after the reply."""

    share: float = Field(default=0.02, ge=0.0, le=1.0)


class PriceSettings(_Part):
    """Money. Null is unknown, and is shown as unknown."""

    teacher_usd_per_1000: Decimal | None = Field(default=None, ge=0)
    instance_usd_per_hour: Decimal | None = Field(default=None, ge=0)

    def prices(self) -> Prices:
        """As the pricing room wants them."""
        return Prices(
            teacher_usd_per_1000=self.teacher_usd_per_1000,
            instance_usd_per_hour=self.instance_usd_per_hour,
        )


class TaskSettings(_Part):
    """One task: its student, its teacher, its policy."""

    student: StudentSettings
    teacher: TeacherSettings
    policy: PolicySettings = PolicySettings()
    audit: AuditSettings = AuditSettings()
    prices: PriceSettings = PriceSettings()
    deadline_ms: float | None = Field(
        default=None, gt=0.0, description="of a request that names none"
    )


class RecordSettings(_Part):
    """Where records go, what they keep and for how long, and what a reply waits for."""

    enabled: bool = True
    path: Path = Path("understudy.db")
    url: SecretStr | None = Field(default=None, description="PostgreSQL, in place of the file")
    text: Literal["none", "hash", "full"] = "hash"
    ack: Literal["async", "group", "strict"] = "async"
    group_wait_ms: float = Field(default=50.0, gt=0.0, le=10_000.0)
    strict_wait_ms: float = Field(default=2000.0, gt=0.0, le=60_000.0)
    queue: int = Field(default=20_000, ge=1, description="records that may wait to be written")
    queue_mb: int = Field(default=64, ge=1, description="the same in MiB")
    retention_days: float | None = Field(default=30.0, gt=0.0)

    @property
    def database(self) -> str | Path:
        """The URL, else the file. It may hold a password: it is for opening, never for showing."""
        return self.path if self.url is None else self.url.get_secret_value()


class RegistrySettings(_Part):
    """Where bundles lie that came while the gateway ran, and who serves."""

    path: Path = Path("students")
    max_bytes: int = Field(default=2**30, ge=1024, description="of one bundle, packed or not")


class LogSettings(_Part):
    """Logs go to standard error, without request text."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console", "auto"] = "auto"


class Settings(_Part):
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
        if place.port <= server.port <= last and _meet(server.host, place.host):
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


class _Secrets(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="UNDERSTUDY_", extra="ignore")

    api_keys: str = ""
    api_key: SecretStr = SecretStr("")
    records_url: SecretStr | None = None


def load(path: Path) -> Settings:
    """Read the settings file and the environment. Raises SettingsError."""
    content = document.load(path, SettingsError)
    keys = content.get("keys")
    if keys is None or isinstance(keys, list):
        content = content | {"keys": [*(keys or ()), *_keys_of_environment()]}
    records, url = content.get("records", {}), _Secrets().records_url
    if url is not None and isinstance(records, dict):
        content = content | {"records": records | {"url": url}}
    settings = document.validate(content, Settings, SettingsError, where=str(path))
    return _anchored(settings, path.parent)


def environment_without_keys() -> dict[str, str]:
    """The environment for a gateway that must not let in the keys of its parent."""
    prefix = _Secrets.model_config["env_prefix"]
    secret = {f"{prefix}{key}".upper() for key in _Secrets.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in secret}


def key_of_environment() -> str:
    """The key with which commands ask a gateway that runs; empty where there is none."""
    return _Secrets().api_key.get_secret_value()


def _keys_of_environment() -> list[KeySettings]:
    pairs = [pair.strip() for pair in _Secrets().api_keys.split(",") if pair.strip()]
    found = []
    for number, pair in enumerate(pairs, 1):
        name, digest, role = [*pair.split(":", 2), "", ""][:3]
        given = {"name": name, "sha256": digest, "role": role or "client"}
        try:
            found.append(KeySettings.model_validate(given))
        except ValidationError:  # it holds the entry, which may be a key in the clear
            raise SettingsError(
                f"UNDERSTUDY_API_KEYS: entry {number} is not name:sha256 or name:sha256:admin",
                mend="write the line that `understudy key NAME` prints",
            ) from None
    return found


def _anchored(settings: Settings, folder: Path) -> Settings:
    """The same settings with paths that no longer depend on the current folder."""
    tasks = {
        name: task.model_copy(
            update={
                "student": task.student.model_copy(
                    update={
                        "bundle": folder / task.student.bundle,
                        "tuning": folder / task.student.tuning,
                    }
                ),
                "teacher": task.teacher.model_copy(
                    update={"bundle": task.teacher.bundle and folder / task.teacher.bundle}
                ),
            }
        )
        for name, task in settings.tasks.items()
    }
    records = settings.records.model_copy(update={"path": folder / settings.records.path})
    registry = settings.registry.model_copy(update={"path": folder / settings.registry.path})
    return settings.model_copy(
        update={
            "tasks": tasks,
            "records": records,
            "registry": registry,
        }
    )


def _meet(one: str, other: str) -> bool:
    """Whether two listeners at these hosts cannot have the same port."""
    return one == other or not _ANYWHERE.isdisjoint({one, other})


def is_loopback(host: str) -> bool:
    """Whether that name or address is this machine's own, which no other can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

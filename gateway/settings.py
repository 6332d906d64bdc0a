"""understudy.yaml and the environment -> frozen Settings. The only reader of the environment.

Paths in the file are relative to its folder. Secrets come from the environment alone:
`UNDERSTUDY_API_KEYS` holds keys as `name:sha256`, separated by commas, beside those of the file.
"""

from __future__ import annotations

import ipaddress
import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

import re2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway import document
from gateway.errors import SettingsError
from gateway.routing.risk import LabelRule, MissingRule, RangeRule, Rule, TextRule, ValueRule
from gateway.telemetry.pricing import Prices
from gateway.types import FieldValue

FILE = "understudy.yaml"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$")]


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
    drain_timeout_s: float = Field(default=30.0, gt=0.0, description="for requests in flight")


class KeySettings(_Part):
    """An API key, as `understudy key` prints it. The key itself is stored nowhere."""

    name: Name
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class StudentSettings(_Part):
    """The bundle that serves first."""

    bundle: Path
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="threads; auto: the cores"
    )
    operating_point: str = "default"
    queue: int = Field(default=4096, ge=1, description="texts that may wait")
    max_batch: int = Field(default=32, ge=1, le=1024)


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


class RecordSettings(_Part):
    """Where records go, and what of the text they keep."""

    path: Path = Path("understudy.db")
    text: Literal["none", "hash", "full"] = "hash"
    queue: int = Field(default=20_000, ge=1, description="records that may wait to be written")


class LogSettings(_Part):
    """Logs go to standard error, without request text."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console", "auto"] = "auto"


class Settings(_Part):
    """Everything that `understudy serve` reads."""

    version: Literal[1]
    server: ServerSettings = ServerSettings()
    keys: tuple[KeySettings, ...] = ()
    tasks: dict[Name, TaskSettings] = Field(min_length=1)
    records: RecordSettings = RecordSettings()
    logging: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _reachable_only_with_a_key(self) -> Self:
        if not self.keys and not _is_loopback(self.server.host):
            raise ValueError(
                f"server.host {self.server.host!r} can be reached from other machines and there "
                "are no keys; make one with `understudy key NAME`"
            )
        return self

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


def load(path: Path) -> Settings:
    """Read the settings file and the environment. Raises SettingsError."""
    content = document.load(path, SettingsError)
    keys = content.get("keys")
    if keys is None or isinstance(keys, list):
        content = content | {"keys": [*(keys or ()), *_keys_of_environment()]}
    settings = document.validate(content, Settings, SettingsError, where=str(path))
    return _anchored(settings, path.parent)


def environment_without_keys() -> dict[str, str]:
    """The environment for a gateway that must not let in the keys of its parent."""
    prefix = _Secrets.model_config["env_prefix"]
    secret = {f"{prefix}{key}".upper() for key in _Secrets.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in secret}


def _keys_of_environment() -> list[KeySettings]:
    pairs = [pair.strip() for pair in _Secrets().api_keys.split(",") if pair.strip()]
    found = []
    for number, pair in enumerate(pairs, 1):
        name, _, digest = pair.partition(":")
        try:
            found.append(KeySettings(name=name, sha256=digest))
        except ValidationError:  # it holds the entry, which may be a key in the clear
            raise SettingsError(
                f"UNDERSTUDY_API_KEYS: entry {number} is not name:sha256",
                mend="write the line that `understudy key NAME` prints",
            ) from None
    return found


def _anchored(settings: Settings, folder: Path) -> Settings:
    """The same settings with paths that no longer depend on the current folder."""
    tasks = {
        name: task.model_copy(
            update={
                "student": task.student.model_copy(update={"bundle": folder / task.student.bundle}),
                "teacher": task.teacher.model_copy(
                    update={"bundle": task.teacher.bundle and folder / task.teacher.bundle}
                ),
            }
        )
        for name, task in settings.tasks.items()
    }
    records = settings.records.model_copy(update={"path": folder / settings.records.path})
    return settings.model_copy(update={"tasks": tasks, "records": records})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

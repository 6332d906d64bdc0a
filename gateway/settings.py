"""understudy.yaml and the environment -> frozen Settings. The only reader of the environment.

Paths in the file are relative to its folder. Secrets come from the environment alone:
`UNDERSTUDY_API_KEYS` holds keys as `name:sha256` (or `name:sha256:admin`), separated by commas,
beside those of the file; `UNDERSTUDY_RECORDS_URL` holds the database's URL with its password, in
place of the file's; `UNDERSTUDY_TEACHER_KEYS` holds what teachers want to be shown, as
`name:secret`, separated by commas. The file names those only, and no Settings hold them.
"""

from __future__ import annotations

import ipaddress
import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

import re2
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway import document
from gateway.errors import SettingsError
from gateway.routing.budget import Limits, Window
from gateway.routing.risk import LabelRule, MissingRule, RangeRule, Rule, TextRule, ValueRule
from gateway.routing.unavailable import ByRisk, Instead, Unavailable
from gateway.shadow.served import Audited
from gateway.teachers.destination import destination
from gateway.telemetry.pricing import Prices, micro_usd
from gateway.types import FieldValue

FILE = "understudy.yaml"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}$")]  # in a path


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


class UpstreamSettings(_Part):
    """Where a teacher is asked over HTTP."""

    url: str = Field(description="http or https, a host, maybe a port and a path")
    key: Name | None = Field(
        default=None, description="its name in UNDERSTUDY_TEACHER_KEYS; null: none is sent"
    )

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:  # of the whole part, as a message about url alone shows it
        try:
            destination(self.url)
        except ValueError as error:
            raise ValueError(f"url: {error}") from error
        return self


class OipSettings(UpstreamSettings):
    """A model behind the Open Inference Protocol, version 2, over REST."""

    model: ModelName
    version: ModelName | None = None
    input: str = Field(default="text", min_length=1, description="the tensor that takes the text")
    outputs: dict[str, str] = Field(default={}, description="head -> the tensor that answers it")
    scores: Literal["logits", "probabilities"] = Field(
        default="logits", description="what the numbers of a head's tensor are"
    )


class ShownSettings(_Part):
    """A text that a chat model is shown with its labels, as an example."""

    text: str
    labels: dict[str, str | tuple[str, ...]] = Field(description="of every head")
    fields: dict[str, FieldValue] = {}


# What the gateway itself writes into a request of a chat; it asks for one reply, in one piece.
_OF_A_CHAT = frozenset(
    {"model", "messages", "temperature", "max_tokens", "response_format", "logprobs", "n", "stream"}
)


class ChatSettings(UpstreamSettings):
    """A model behind an OpenAI-compatible chat endpoint, and the card that tells it the task."""

    model: str = Field(min_length=1)
    instructions: str = ""
    descriptions: dict[str, dict[str, str]] = Field(
        default={}, description="head -> label -> what it means"
    )
    examples: tuple[ShownSettings, ...] = ()
    structured: Literal["auto", "json_schema", "json_object", "none"] = "auto"
    temperature: float | None = Field(default=0.0, ge=0.0, description="null: not sent")
    max_tokens: int | None = Field(default=512, ge=1, description="of a reply; null: not sent")
    samples: int = Field(default=1, ge=1, le=64, description="replies that vote")
    logprobs: bool = False
    extra: dict[str, JsonValue] = Field(default={}, description="more keys of each request")
    input_usd_per_million: Decimal | None = Field(default=None, ge=0)
    output_usd_per_million: Decimal | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0.0:
            raise ValueError("samples of temperature 0 are all the same; name a temperature above")
        if self.samples > 1 and self.logprobs:
            raise ValueError("samples and logprobs are two ways to one end; name one of them")
        return self

    @model_validator(mode="after")
    def _extra_is_more(self) -> Self:
        if taken := sorted(self.extra.keys() & _OF_A_CHAT):
            raise ValueError(f"extra.{taken[0]}: the gateway writes this key itself")
        return self


class MemberSettings(_Part):
    """A teacher of one kind, as it may stand in an ensemble too. The guard's keys are not here."""

    bundle: Path | None = None
    scripted: ScriptedSettings | None = None
    openai: ChatSettings | None = None
    oip: OipSettings | None = None
    timeout_s: float = Field(default=10.0, gt=0.0)
    concurrency: int = Field(default=64, ge=1)
    workers: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [name for name in _KINDS if name in type(self).model_fields]
        if sum(getattr(self, name) is not None for name in kinds) != 1:
            raise ValueError(f"name one kind of teacher: {', '.join(kinds)}")
        return self

    def anchored(self, folder: Path) -> Self:
        """The same with paths that no longer depend on the current folder."""
        return self.model_copy(update={"bundle": self.bundle and folder / self.bundle})


_KINDS = ("bundle", "scripted", "openai", "oip", "ensemble")  # of teachers


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


class SkillSettings(_Part):
    """What a member of an ensemble is best at: the requests for which a rule holds."""

    member: Name
    when: RuleSettings

    @model_validator(mode="after")
    def _is_known_beforehand(self) -> Self:
        if self.when.head is not None:
            raise ValueError("a teacher is chosen by text or field: it is not told any labels")
        return self


class EnsembleSettings(_Part):
    """Several teachers as one: all of them vote, or one is chosen for each request."""

    members: dict[Name, MemberSettings] = Field(min_length=1)
    mode: Literal["vote", "first"] = "vote"
    weights: dict[Name, dict[str, Annotated[float, Field(ge=0.0)]]] = Field(
        default={}, description="member -> head -> its weight in the vote; 1 where none is named"
    )
    quorum: int = Field(default=1, ge=1, description="members that must have answered, to vote")
    skills: tuple[SkillSettings, ...] = ()
    default: Name | None = Field(default=None, description="who answers where no skill holds")

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        named = {*self.weights, *(skill.member for skill in self.skills), self.default} - {None}
        if unknown := sorted(str(name) for name in named - self.members.keys()):
            raise ValueError(f"{unknown[0]!r} is no member; name {', '.join(self.members)}")
        if self.mode == "first" and self.default is None:
            raise ValueError("mode first needs a default: who answers where no skill holds")
        idle = {"vote": {"skills", "default"}, "first": {"weights", "quorum"}}[self.mode]
        if unread := sorted(idle & self.model_fields_set):
            raise ValueError(f"mode {self.mode} does not read {', '.join(unread)}")
        if self.quorum > len(self.members):
            raise ValueError(f"quorum {self.quorum} is above the {len(self.members)} members")
        return self


class BreakerSettings(_Part):
    """When a teacher that fails or drags is left alone, and for how long."""

    failures: int = Field(default=5, ge=1, description="in a row")
    window_s: float = Field(default=30.0, gt=0.0, description="over which the shares count")
    calls: int = Field(
        default=20, ge=1, le=1024, description="of the window, before the shares count"
    )
    error_ratio: float = Field(default=0.5, gt=0.0, le=1.0)
    slow_ratio: float = Field(default=0.8, gt=0.0, le=1.0)
    slow_s: float | None = Field(
        default=None, gt=0.0, description="from when on a call is slow; null: 0.8 of timeout_s"
    )
    open_s: float = Field(default=10.0, gt=0.0, description="until one call may try, and the next")


class HedgeSettings(_Part):
    """A second call beside one that is late; the first good answer counts."""

    enabled: bool = False
    share: float = Field(default=0.05, gt=0.0, le=1.0, description="of the calls, at most")


class CacheSettings(_Part):
    """Answers that are kept, in memory, for the same input again."""

    enabled: bool = False
    answers: int = Field(default=10_000, ge=1, description="that are kept at most")
    ttl_s: float = Field(default=3600.0, gt=0.0, description="for so long")


class TeacherSettings(MemberSettings):
    """The model that is asked when the student is not sure: of one kind, with a guard around it."""

    ensemble: EnsembleSettings | None = None
    retries: int = Field(default=1, ge=0, le=10, description="of a call that failed")
    retry_share: float = Field(default=0.1, ge=0.0, le=1.0, description="of all calls, at most")
    coalesce: bool = Field(default=True, description="the same input at once is one call")
    breaker: BreakerSettings = BreakerSettings()
    hedge: HedgeSettings = HedgeSettings()
    cache: CacheSettings = CacheSettings()

    def anchored(self, folder: Path) -> Self:
        """The same with paths that no longer depend on the current folder."""
        anchored = super().anchored(folder)
        if self.ensemble is None:
            return anchored
        members = {name: member.anchored(folder) for name, member in self.ensemble.members.items()}
        ensemble = self.ensemble.model_copy(update={"members": members})
        return anchored.model_copy(update={"ensemble": ensemble})


def _not_the_student(chosen: Instead) -> Instead:
    if chosen is Instead.STUDENT:
        raise ValueError(
            "a request of high risk is never the student's to answer: name abstain or error"
        )
    return chosen


_NotStudent = Annotated[Instead, AfterValidator(_not_the_student)]


class SeveritySettings(_Part):
    """What mistakes cost. Heads that `costs` does not name cost 1 for a mistake."""

    costs: dict[str, Path | dict[str, dict[str, float]]] = Field(
        default={}, description="head -> a CSV, or true label -> said label -> units of loss"
    )
    teacher: dict[str, dict[str, Annotated[float, Field(ge=0.0)]]] = Field(
        default={}, description="head -> true label -> the teacher's expected loss there"
    )
    usd_per_unit: Decimal = Field(gt=0, description="what one unit of loss costs")
    right_may_cost: bool = Field(default=False, description="a right answer may have a cost too")


class CriticalSettings(_Part):
    """Labels that must not be missed."""

    labels: dict[str, tuple[str, ...]] = Field(min_length=1, description="head -> its labels")
    threshold: float | None = Field(
        default=None, ge=0.0, le=1.0, description="of their summed probability"
    )


class PolicySettings(_Part):
    """When the teacher is asked, and what happens when it cannot answer."""

    rules: tuple[RuleSettings, ...] = ()
    on_unavailable: Instead = Instead.STUDENT
    on_unavailable_high_risk: _NotStudent = Instead.ABSTAIN
    on_exhausted: Instead = Field(
        default=Instead.STUDENT, description="the same where the budget is used up"
    )
    on_exhausted_high_risk: _NotStudent = Instead.ABSTAIN
    threshold: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="replaces the certified threshold; of a bundle's certificate only a higher one "
        "keeps it, and a policy's own certificate holds for the one that it was issued with",
    )
    severity: SeveritySettings | None = None
    critical: CriticalSettings | None = None
    certificate: Path | None = Field(
        default=None, description="of the whole policy; without the file everything is escalated"
    )
    out_of_domain: Annotated[float, Field(gt=0.0, lt=1.0)] | Literal["auto"] | None = Field(
        default="auto",
        description="share of ordinary texts that may be escalated as strange; null: off; "
        "auto: 0.01 where the bundle can tell",
    )

    def unavailable(self) -> Unavailable:
        """As the routing room wants it."""
        return Unavailable(
            failed=ByRisk(self.on_unavailable, self.on_unavailable_high_risk),
            exhausted=ByRisk(self.on_exhausted, self.on_exhausted_high_risk),
        )


class AuditSettings(_Part):
    """The share of confident answers that also goes to the teacher, after the reply."""

    share: float = Field(default=0.02, ge=0.0, le=1.0, description="the same for all of them")
    targeted: float = Field(
        default=0.0, ge=0.0, le=1.0, description="more, most at a score of one half"
    )
    slices: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        default=(), max_length=8, description="fields by whose value errors are shown"
    )

    def audited(self) -> Audited:
        """As those who measure want it."""
        return Audited(
            uniform=self.share > 0.0,
            any=self.share > 0.0 or self.targeted > 0.0,
            fields=tuple(dict.fromkeys(self.slices)),
        )


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


class BudgetSettings(_Part):
    """What the teacher may cost, by live calls and audits together. Null: no limit.

    It is kept in the records' database, which replicas share.
    """

    usd_per_day: Decimal | None = Field(default=None, ge=0)
    usd_per_hour: Decimal | None = Field(default=None, ge=0)
    requests_per_second: float | None = Field(default=None, gt=0.0, le=1_000_000.0)
    usd_per_call: Decimal | None = Field(
        default=None, ge=0, description="the most that a call may cost; null: the task's price"
    )
    audit_reserve: float = Field(
        default=0.2, ge=0.0, le=1.0, description="the share of each limit that audits leave"
    )
    expiry_s: float = Field(
        default=120.0, gt=0.0, le=3600.0, description="of a reservation that nobody settles"
    )

    @property
    def in_usd(self) -> str | None:
        """A key that limits money; None: none does."""
        keys = ("usd_per_day", "usd_per_hour")
        return next((key for key in keys if getattr(self, key) is not None), None)

    def limits(self, prices: PriceSettings) -> Limits:
        """As the routing room wants them; money in micro-USD, what a call may cost rounded up."""
        usd = {Window.DAY: self.usd_per_day, Window.HOUR: self.usd_per_hour}
        call, thousand = self.usd_per_call, prices.teacher_usd_per_1000
        if call is None and thousand is not None:
            call = thousand / 1000
        return Limits(
            usd={window: micro_usd(limit) for window, limit in usd.items() if limit is not None},
            per_second=self.requests_per_second,
            call=None if call is None else micro_usd(call, up=True),
            audit_reserve=self.audit_reserve,
            expiry_s=self.expiry_s,
        )


class TaskSettings(_Part):
    """One task: its student, its teacher, its policy."""

    student: StudentSettings
    teacher: TeacherSettings
    policy: PolicySettings = PolicySettings()
    audit: AuditSettings = AuditSettings()
    prices: PriceSettings = PriceSettings()
    budget: BudgetSettings = BudgetSettings()
    deadline_ms: float | None = Field(
        default=None, gt=0.0, description="of a request that names none"
    )

    @property
    def limits(self) -> Limits:
        """What its teacher may cost."""
        return self.budget.limits(self.prices)

    @model_validator(mode="after")
    def _what_is_not_priced_has_no_budget(self) -> Self:
        """An unknown price is not 0, so that no sum of it can be held against a limit."""
        key = self.budget.in_usd
        if key and self.budget.usd_per_call is None and self.prices.teacher_usd_per_1000 is None:
            raise ValueError(
                f"budget.{key} cannot be kept, as it is not known what a call of the teacher may "
                "cost; set prices.teacher_usd_per_1000 or budget.usd_per_call, or limit only "
                "budget.requests_per_second"
            )
        return self

    @model_validator(mode="after")
    def _a_reservation_outlives_its_call(self) -> Self:
        """One that expired while its call ran would be spent twice."""
        if self.budget.in_usd and self.budget.expiry_s <= self.teacher.timeout_s:
            raise ValueError(
                f"budget.expiry_s {self.budget.expiry_s:g} must be above teacher.timeout_s "
                f"{self.teacher.timeout_s:g}: what is reserved for a call is held until it ends"
            )
        return self


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
    teacher_keys: SecretStr = SecretStr("")
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
    return _anchored(settings, path.parent.absolute())


def read_policy(path: Path) -> PolicySettings:
    """Read a file that holds what may stand under a task's `policy`. Raises SettingsError."""
    policy = document.read(path, PolicySettings, SettingsError)
    return _anchored_policy(policy, path.parent.absolute())


def environment_without_keys() -> dict[str, str]:
    """The environment for a gateway that must not let in the keys of its parent."""
    prefix = _Secrets.model_config["env_prefix"]
    secret = {f"{prefix}{key}".upper() for key in _Secrets.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in secret}


def key_of_environment() -> str:
    """The key with which commands ask a gateway that runs; empty where there is none."""
    return _Secrets().api_key.get_secret_value()


def teacher_key(name: str) -> SecretStr:
    """The key of that name which a teacher wants to be shown. Raises SettingsError."""
    for pair in _Secrets().teacher_keys.get_secret_value().split(","):
        known, _, secret = pair.strip().partition(":")
        if known == name and secret:
            return SecretStr(secret)
    raise SettingsError(
        f"UNDERSTUDY_TEACHER_KEYS holds no key of the name {name!r}",
        mend=f"let it hold {name}:SECRET; several are separated by commas",
    )


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
                "policy": _anchored_policy(task.policy, folder),
                "teacher": task.teacher.anchored(folder),
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


def _anchored_policy(policy: PolicySettings, folder: Path) -> PolicySettings:
    """The same policy; its files, too, no longer depend on the current folder."""
    severity = policy.severity and policy.severity.model_copy(
        update={
            "costs": {
                head: folder / costs if isinstance(costs, Path) else costs
                for head, costs in policy.severity.costs.items()
            }
        }
    )
    certificate = policy.certificate and folder / policy.certificate
    return policy.model_copy(
        update={
            name: value
            for name, value in (("severity", severity), ("certificate", certificate))
            if value is not None
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

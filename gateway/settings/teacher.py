"""The teacher of a task: of one kind, or several as one, with a guard around it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gateway.settings.part import Name, Part
from gateway.settings.rule import RuleSettings
from gateway.settings.upstream import ChatSettings, OipSettings


class ScriptedSettings(Part):
    """A teacher that does as it is told, for drills."""

    labels: dict[str, str | tuple[str, ...]] = Field(default={})
    delay_ms: float = Field(default=0.0, ge=0.0)
    fail_every: int | None = Field(default=None, ge=1)


class MemberSettings(Part):
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


class SkillSettings(Part):
    """What a member of an ensemble is best at: the requests for which a rule holds.

    A rule on a head looks at what the student said; where it failed, such a rule does not hold.
    """

    member: Name
    when: RuleSettings


class EnsembleSettings(Part):
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


class BreakerSettings(Part):
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


class HedgeSettings(Part):
    """A second call beside one that is late; the first good answer counts."""

    enabled: bool = False
    share: float = Field(default=0.05, gt=0.0, le=1.0, description="of the calls, at most")


class CacheSettings(Part):
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

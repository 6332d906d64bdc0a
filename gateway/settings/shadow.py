"""How new students are compared with live traffic, and what one must prove."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from gateway.settings.part import Part
from gateway.shadow.promotion import Gate, Terms

_Share = Annotated[float, Field(gt=0.0, lt=1.0)]
_Difference = Annotated[float, Field(gt=-1.0, lt=1.0)]
_TERMS = Terms()

_GATES = (
    Gate.DISAGREEMENT, Gate.NOISE, Gate.SERVING, Gate.LOSSES, Gate.CRITICAL, Gate.ESCALATION,
    Gate.LATENCY,
)  # fmt: skip


class GateSettings(Part):
    """What a candidate must prove; null: a gate that is not asked for."""

    disagreement: _Share | None = _TERMS.limits[Gate.DISAGREEMENT]
    noise: _Difference | None = Field(default=None, description="needs double_asked")
    serving: _Difference | None = _TERMS.limits[Gate.SERVING]
    losses: _Share | None = Field(default=None, description="needs records, and people's verdicts")
    critical: _Share | None = Field(default=None, description="needs policy.critical")
    escalation: _Difference | None = _TERMS.limits[Gate.ESCALATION]
    latency: _Difference | None = _TERMS.limits[Gate.LATENCY]
    latency_ms: float = Field(default=50.0, gt=0.0, description="above which an answer is slow")
    alpha: _Share = _TERMS.alpha
    minimum_s: float = Field(default=_TERMS.minimum_s, ge=0.0)
    cycle_s: float = Field(default=_TERMS.cycle_s, ge=0.0)
    cap: int = Field(default=_TERMS.cap, ge=1, description="rows of a gate")
    sequence: bool = Field(
        default=False, description="alpha is spent over all candidates that ever were"
    )

    @model_validator(mode="after")
    def _something_is_asked_for(self) -> Self:
        if all(getattr(self, gate.value) is None for gate in _GATES):
            raise ValueError(
                "no gate is asked for, so that every candidate would pass; give a limit to one "
                "at least, such as disagreement"
            )
        return self

    def terms(self) -> Terms:
        """As the shadow wants them."""
        limits = {gate: getattr(self, gate.value) for gate in _GATES}
        return Terms(
            limits={gate: limit for gate, limit in limits.items() if limit is not None},
            alpha=self.alpha,
            minimum_s=self.minimum_s,
            cycle_s=self.cycle_s,
            cap=self.cap,
        )


class ShadowSettings(Part):
    """On which share of the traffic candidates are tried, after the reply, and within what."""

    share: float = Field(default=0.1, ge=0.0, le=1.0, description="0: nothing is compared")
    double_asked: float = Field(
        default=0.0, ge=0.0, le=1.0, description="of the teacher's answers: it is asked again"
    )
    candidates: int = Field(default=3, ge=1, le=16, description="under test at once, at most")
    workers: int = Field(default=1, ge=1, le=64, description="processes of each candidate")
    queue: int = Field(default=256, ge=1, description="texts that may wait for one candidate")
    busy: float = Field(
        default=0.1,  # what answers shares caches and cores with it, however it stands back
        gt=0.0,
        le=1.0,
        description="share of its time that a process of a candidate works; then it rests",
    )
    limit_ms: float = Field(
        default=10_000.0,  # loading a page or two from a slow disk is not to hang
        gt=0.0,
        description="of a batch, while it has a processor; then it has hung",
    )
    audit_wait_s: float = Field(default=30.0, gt=0.0, description="for the audit of an answer")
    gates: GateSettings = GateSettings()

    @model_validator(mode="after")
    def _noise_is_measured(self) -> Self:
        if self.gates.noise is not None and not self.double_asked:
            raise ValueError(
                "gates.noise compares the teacher with itself, and double_asked is 0; set it to a "
                "share such as 0.02, or leave the gate out"
            )
        return self

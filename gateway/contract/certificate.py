"""The certificate of a whole policy: a JSON file that binds a promise to what it was proven for.

A bundle's own certificate speaks of its threshold alone. This one speaks of a student under a
policy with a teacher behind it, all gates included; with another student, teacher or policy, or
after its time, it is void. The walk by which thresholds are certified, here and offline, is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from gateway.contract.manifest import Hash, Positive, Share
from gateway.errors import SettingsError

SCHEMA_VERSION: Literal[1] = 1

_COVERAGES = 50  # steps of the fixed sequence; finer ones win no coverage, see docs/explanation
_AHEAD = timedelta(days=1)  # that the clock of the machine that issued it may be ahead of this one
_LIMIT = 100_000  # bytes; a certificate has some hundreds

_Step = TypeVar("_Step")


class Fault(StrEnum):
    """Why a certificate does not hold."""

    MISSING = "missing"
    OTHER_STUDENT = "other student"
    OTHER_TEACHER = "other teacher"
    OTHER_POLICY = "other policy"
    EXPIRED = "expired"
    STALE = "stale"  # traffic is no longer what it was issued on


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CriticalClaim(_Part):
    """P(answered by the student and missed | critical) <= alpha, with confidence 1 - delta."""

    alpha: Share
    rows: int = Field(ge=1, description="with a critical label")
    missed: int = Field(ge=0, description="of them, answered by the student and missed")
    upper_bound: Share
    threshold: Share = Field(description="of the critical labels' summed probability")


class SeverityClaim(_Part):
    """Mean loss of what the student answers <= alpha, with confidence 1 - delta.

    In units of the cost matrices, over all requests; what the teacher answers counts 0.
    """

    alpha: Positive
    largest: Positive = Field(description="the largest loss that one request can have")
    mean: Annotated[float, Field(ge=0.0)]
    upper_bound: Annotated[float, Field(ge=0.0)]


class PolicyCertificate(_Part):
    """P(answered by the student and wrong) <= alpha, with confidence 1 - delta, under one policy.

    Each claim has the confidence 1 - delta by itself. `labels` says against whom "wrong" was
    counted; `threshold` is the score from which on the student answers.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    task: str
    student: Hash = Field(description="id of the student's bundle")
    teacher: str = Field(description="the teacher's name, as the gateway shows it")
    policy: Hash = Field(description="of everything that the settings say of the decision")
    labels: Literal["gold", "teacher"]
    alpha: Share
    delta: Share
    rows: int = Field(ge=1)
    undetected_errors: int = Field(ge=0)
    upper_bound: Share = Field(description="exact upper bound of the undetected error, level delta")
    escalation: Share
    threshold: Share
    critical: CriticalClaim | None = None
    severity: SeverityClaim | None = None
    issued_at: AwareDatetime
    valid_days: Annotated[float, Field(gt=0.0, le=3650.0)]

    @property
    def expires_at(self) -> datetime:
        """From when on it is void."""
        return self.issued_at + timedelta(days=self.valid_days)

    def fault(self, *, student: str, teacher: str, policy: str) -> Fault | None:
        """What it was issued for and is not so; its time is not looked at."""
        if self.student != student:
            return Fault.OTHER_STUDENT
        if self.teacher != teacher:
            return Fault.OTHER_TEACHER
        return Fault.OTHER_POLICY if self.policy != policy else None


def read(path: Path) -> PolicyCertificate | None:
    """Read a certificate; None where there is no file. Raises SettingsError when it is none.

    Nor is one whose days have not come yet: it would hold for longer than it may.
    """
    try:
        raw = path.read_bytes()[: _LIMIT + 1]
        found = PolicyCertificate.model_validate_json(raw)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise SettingsError(
            f"{path} is no certificate of a policy: {_cause(error)}",
            mend="issue one with `understudy policy certify`",
        ) from error
    if found.issued_at > datetime.now(UTC) + _AHEAD:
        raise SettingsError(
            f"{path} is from the future: it was issued at {found.issued_at.isoformat()}",
            mend="set this machine's clock, or issue it again with `understudy policy certify`",
        )
    return found


def write(path: Path, certificate: PolicyCertificate) -> None:
    """Write a certificate; a reader sees the old file or the new one. Raises SettingsError."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(certificate.model_dump_json(indent=2) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise SettingsError(
            f"{path}: {error.strerror}", mend="name a file that this user may write"
        ) from error


def walk(steps: Iterable[_Step], passes: Callable[[_Step], bool]) -> _Step | None:
    """The last step before the first that does not pass: fixed-sequence testing.

    Learn-then-Test (Angelopoulos et al. 2021, arXiv 2110.01052): where the steps were fixed before
    the rows were seen, and each is tested at the level delta, what is kept breaks its promise with
    a probability of at most delta.
    """
    kept = None
    for kept in takewhile(passes, steps):  # noqa: B007
        pass
    return kept


def coverages(scores: NDArray[np.floating]) -> tuple[float, ...]:
    """The thresholds that cover 2 %, 4 % ... 100 % of these scores, the strictest first.

    The last is 0: the student answers everything.
    """
    shares = np.arange(1, _COVERAGES) / _COVERAGES
    quantiles = np.quantile(scores.astype(np.float64), 1.0 - shares)
    return (*(float(each) for each in quantiles), 0.0)


def _cause(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"
